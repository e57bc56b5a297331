"""Addresses to listen on: tried early, with errors that say what is wrong."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from edge_sdk.errors import PortInUseError, ServiceError

__all__ = ["address_of", "check_address", "open_socket", "reserve"]


def address_of(host: str, port: int) -> str:
    """Return host and port as one text."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_address(host: str, port: int, option: str) -> None:
    """Try an address for somebody whose own errors do not say what is wrong; raise as `open_socket`."""
    with _bound(host, port, option):
        pass


def reserve(host: str, port: int, option: str) -> socket.socket:
    """Return a socket that holds a port for others of this user's processes, and does not listen.

    Parameters and errors are those of `open_socket`.
    """
    check_address(host, port, option)  # sharing would let in a port that another server shares, too
    try:
        with _bound(host, port, option, shared=True, again=False) as bound:
            return bound.dup()
    except PortInUseError:  # only by connections of a server that has gone
        with _bound(host, port, option, shared=True) as bound:
            return bound.dup()


def open_socket(host: str, port: int, option: str, *, shared: bool = False) -> socket.socket:
    """Return a socket that listens.

    Parameters
    ----------
    host, port
        The address; port 0 takes a free one.
    option
        Of the command line, for the message.
    shared
        Whether other sockets may listen there, too; each gets some of the connections.

    Raises
    ------
    PortInUseError
        The port is taken.
    ServiceError
        The address is none of this machine.
    """
    with _bound(host, port, option, shared=shared) as bound:
        bound.listen(1024)
        bound.setblocking(False)
        return bound.dup()


@contextmanager
def _bound(host: str, port: int, option: str, *, shared: bool = False, again: bool = True) -> Iterator[socket.socket]:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as bound:
            if again:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(address)
            yield bound
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} on {host} is in use: give another with {option}, or 0 for a free one"
            ) from error
        raise ServiceError(f"cannot listen on {address_of(host, port)}: {error.strerror or error}") from error
