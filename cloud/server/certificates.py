"""Certificate, key and client authorities of the server, taken anew when their files change."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_sdk.errors import InputError, StorageError

__all__ = ["Certificates", "read_file"]

_log = logging.getLogger("edge_sdk.cloud.server")
_REFRESH_SECONDS = 1.0
_LETTING_GO = 0.1  # seconds


class Certificates:
    """The server's PEM files, for gRPC and for HTTP.

    New connections are given what `refresh` found last; those that are open stay. What cannot be
    used is logged, and what was there before stays in use.

    Parameters
    ----------
    cert, key
        Certificate chain and private key.
    client_ca
        Authorities of clients' certificates, which are then asked for; None asks for none.

    Raises
    ------
    InputError
        A file is missing, or cert and key do not belong together.
    StorageError
        A file cannot be read.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._stamp = self._look()
        self._pem = self._read()
        self._serves_grpc = False
        self._next: Any = None  # what gRPC has not taken yet
        self._contexts: dict[tuple[str, ...], ssl.SSLContext] = {}

    def refresh(self) -> None:
        """Look whether the files have changed, and take them if so."""
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            self._stamp = stamp  # what is wrong is said once
            pem = self._read()
            # anew, as an authority cannot be taken out of one
            self._contexts = {protocols: self._context(protocols) for protocols in self._contexts}
        except (InputError, StorageError) as error:
            _log.warning("the certificate in use stays: %s", error)
        else:
            self._pem = pem
            if self._serves_grpc:
                self._next = _grpc_configuration(pem)
            _log.info("a new certificate is in use")

    async def keep_fresh(self) -> None:
        """Look again and again; ends when it is cancelled."""
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            self.refresh()

    def grpc_credentials(self) -> Any:
        """Return credentials for a gRPC server."""
        import grpc  # metrics need none

        self._serves_grpc = True
        return grpc.dynamic_ssl_server_credentials(
            _grpc_configuration(self._pem), self._changed, require_client_authentication=self._client_ca is not None
        )

    def _changed(self) -> Any:
        """Return what gRPC, which asks before each handshake, has not taken yet; None where there is nothing new.

        Whatever it is given, it lets go of what it had, even where another handshake is about to use that, and
        crashes then. So it is given what is new only once, and those who are about to use the old one get the time.
        """
        configuration, self._next = self._next, None
        if configuration is not None:
            time.sleep(_LETTING_GO)
        return configuration

    def tls(self, *protocols: str) -> Callable[[], ssl.SSLContext]:
        """Return what gives the context for a new connection.

        Parameters
        ----------
        *protocols
            That clients may choose of, such as ``h2``; none leaves it to them.
        """
        self._contexts[protocols] = self._context(protocols)
        return lambda: self._contexts[protocols]

    def _context(self, protocols: tuple[str, ...]) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        if protocols:
            context.set_alpn_protocols(protocols)
        self._fill(context)
        return context

    def _look(self) -> tuple[object, ...]:
        stamps: list[object] = []
        for path in (self._cert, self._key, self._client_ca):
            if path is not None:
                try:
                    found = path.stat()
                except OSError:
                    stamps.append(None)  # reading it says what is wrong
                else:
                    stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(stamps)

    def _read(self) -> tuple[bytes, bytes, bytes | None]:
        """Return key, chain and authorities."""
        # gRPC would say what is wrong only in a log of its own, and only at a handshake
        self._fill(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        authorities = None if self._client_ca is None else read_file(self._client_ca)
        return read_file(self._key), read_file(self._cert), authorities

    def _fill(self, context: ssl.SSLContext) -> None:
        for path in (self._cert, self._key):
            read_file(path)
        try:
            context.load_cert_chain(self._cert, self._key, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise InputError(
                f"{self._cert} and {self._key} are not a certificate and its key in PEM: {error}"
            ) from error
        if self._client_ca is not None:
            try:
                context.load_verify_locations(cadata=read_file(self._client_ca).decode("ascii", errors="replace"))
            except (ssl.SSLError, ValueError) as error:
                raise InputError(f"{self._client_ca} holds no certificates in PEM: {error}") from error


def _grpc_configuration(pem: tuple[bytes, bytes, bytes | None]) -> Any:
    import grpc

    key, chain, authorities = pem
    return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)


def read_file(path: Path) -> bytes:
    """Return a small file's content.

    Raises
    ------
    InputError
        There is none.
    StorageError
        It cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from error
