"""Addresses to listen on: tried early, with errors that say what is wrong."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from edge_sdk.errors import PortInUseError, ServiceError

__all__ = ["address_of", "check_address", "open_socket"]


def address_of(host: str, port: int) -> str:
    """Return host and port as one text."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_address(host: str, port: int, option: str) -> None:
    """Try an address for somebody whose own errors do not say what is wrong; raise as `open_socket`."""
    with _bound(host, port, option):
        pass


def open_socket(host: str, port: int, option: str) -> socket.socket:
    """Return a socket that listens.

    Parameters
    ----------
    host, port
        The address; port 0 takes a free one.
    option
        Of the command line, for the message.

    Raises
    ------
    PortInUseError
        The port is taken.
    ServiceError
        The address is none of this machine.
    """
    with _bound(host, port, option) as bound:
        bound.listen(128)
        bound.setblocking(False)
        return bound.dup()


@contextmanager
def _bound(host: str, port: int, option: str) -> Iterator[socket.socket]:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            yield bound
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} on {host} is in use: give another with {option}, or 0 for a free one"
            ) from error
        raise ServiceError(f"cannot listen on {address_of(host, port)}: {error.strerror or error}") from error
