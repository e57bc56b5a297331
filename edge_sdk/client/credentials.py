"""Certificates, keys and tokens: read from files, and read again when the files change.

What is secret is in no text that leaves this module but for gRPC.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from edge_sdk.client.cloud import Cloud, is_token
from edge_sdk.errors import InputError

__all__ = ["Credentials"]

_LOOK_SECONDS = 5.0
_LEAST_SECONDS = 1.0  # between two looks, though calls are refused
_AUTHORITIES = (  # where systems keep them in one file: Debian, Fedora, SUSE, Alpine and macOS
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class Credentials:
    """What a link shows a server, and what it believes; thread-safe.

    Parameters
    ----------
    cloud
        Says where they are.
    complain
        Told in one line of files that became unusable; what was read before stays in force.
    clock
        Monotonic seconds.

    Attributes
    ----------
    version
        Changes where connections have to be made anew.
    metadata
        What goes with every call.

    Raises
    ------
    InputError
        A file cannot be read, or does not hold what it should.
    """

    def __init__(
        self, cloud: Cloud, complain: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._token = cloud.token
        self._token_file = cloud.token_file
        authorities = _system_authorities() if cloud.tls_ca == "system" else cloud.tls_ca
        self._tls = tuple(path for path in (authorities, cloud.tls_key, cloud.tls_cert) if path is not None)
        self._complain, self._clock = complain, clock
        self._lock = threading.Lock()
        self._files = [Path(path) for path in (*self._tls, self._token_file) if path is not None]
        self._stamp = self._look()
        self._pem = self._read_tls()
        self.version = 0
        self.metadata = self._read_token()
        self._look_at = clock() + _LOOK_SECONDS

    def channel(self) -> Any:
        """Return the credentials of a new channel; None is no TLS."""
        pem = self._pem
        return grpc.ssl_channel_credentials(*pem) if pem else None

    def refresh(self, *, doubted: bool = False) -> None:
        """Read files again that have changed, looking only now and then.

        Parameters
        ----------
        doubted
            True where a server or this end did not accept them: look sooner.
        """
        if not self._files:
            return
        now = self._clock()
        if now < self._look_at - (_LOOK_SECONDS - _LEAST_SECONDS if doubted else 0.0):
            return
        with self._lock:
            if now < self._look_at - (_LOOK_SECONDS - _LEAST_SECONDS if doubted else 0.0):
                return
            self._look_at = now + _LOOK_SECONDS
            try:
                stamp = self._look()
                if stamp == self._stamp:
                    return
                metadata, pem = self._read_token(), self._read_tls()
            except InputError as error:  # perhaps half written: the stamp is not taken, so that it is read again
                self._complain(f"{error}; what was read before stays in force")
                return
            self._stamp, self.metadata = stamp, metadata
            if pem != self._pem:
                self._pem, self.version = pem, self.version + 1

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        try:
            return tuple((s.st_mtime_ns, s.st_size, s.st_ino) for s in (path.stat() for path in self._files))
        except OSError as error:
            raise InputError(f"cannot read {error.filename}: {error.strerror or error}") from error

    def _read_token(self) -> tuple[tuple[str, str], ...]:
        token = self._token
        if self._token_file is not None:
            token = _read(Path(self._token_file)).decode("latin-1").strip()
            if not is_token(token):
                raise InputError(f"{self._token_file} should hold a token: one line of printable ASCII")
        return (("authorization", f"Bearer {token}"),) if token is not None else ()

    def _read_tls(self) -> tuple[bytes, ...]:
        """Return the contents of the authorities, the key and the certificate, tried out together."""
        if not self._tls:
            return ()
        import ssl  # here, for most devices start without it

        paths = [Path(path) for path in self._tls]
        pem = tuple(_read(path) for path in paths)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(cadata=pem[0].decode("ascii", "ignore"))  # comments may be in any language
        except (ssl.SSLError, ValueError) as error:
            raise InputError(f"tls_ca {paths[0]} holds no certificate in PEM format") from error
        if len(paths) == 3:
            try:
                context.load_cert_chain(paths[2], paths[1], password=lambda: b"")
            except (ssl.SSLError, OSError, ValueError) as error:
                raise InputError(
                    f"tls_cert {paths[2]} and tls_key {paths[1]} are no certificate and its key, in PEM format and "
                    "without a password"
                ) from error
        return pem


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _system_authorities() -> str:
    """Return the file of the authorities that this system trusts: ``SSL_CERT_FILE``, OpenSSL's or the system's."""
    import ssl

    # not gRPC's own, which it takes where it is given none: those do not know what a company has added
    for path in (ssl.get_default_verify_paths().cafile, *_AUTHORITIES):
        if path is not None and Path(path).is_file():
            return path
    raise InputError(
        "tls_ca is 'system', and this system has no file of authorities: install ca-certificates, or give a file"
    )
