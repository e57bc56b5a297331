"""Who is let in, and by which certificate the server is known: read from what it is started with."""

from __future__ import annotations

import logging

from edge_sdk.cloud.server.access import KINDS, Access, Caller, read_token
from edge_sdk.cloud.server.certificates import Certificates
from edge_sdk.cloud.server.config import ServerConfig
from edge_sdk.cloud.server.rates import SharedRates
from edge_sdk.errors import InputError

__all__ = ["secured", "warn_of_tokens"]

_log = logging.getLogger("edge_sdk.cloud.server")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def secured(config: ServerConfig, shared: SharedRates | None = None) -> tuple[Access | None, Certificates | None]:
    """Return who may do what, and the certificates; None where everybody may do all, and where there is no TLS.

    Parameters
    ----------
    config
        How to serve.
    shared
        As for `Access`.

    Raises
    ------
    InputError, StorageError
        A certificate or token file is missing or unusable, or one option needs another.
    """
    return _access(config, shared), _certificates(config)


def warn_of_tokens(config: ServerConfig, access: Access | None, certificates: Certificates | None) -> None:
    """Log it where tokens can be read on their way."""
    if access and certificates is None and config.host not in _LOOPBACK:
        _log.warning("tokens travel unencrypted: give --tls-cert and --tls-key, or encrypt in front of this server")


def _access(config: ServerConfig, shared: SharedRates | None) -> Access | None:
    callers = list(config.serving.callers)
    if any(caller.certificates for caller in callers) and config.tls_client_ca is None:
        raise InputError("callers known by certificates need --tls-client-ca")
    if config.token_file is not None:
        callers.append(Caller(name="--token-file", tokens=(read_token(config.token_file),), methods=KINDS))
    return Access(callers, shared=shared) if callers else None


def _certificates(config: ServerConfig) -> Certificates | None:
    if config.tls_cert is not None and config.tls_key is not None:
        return Certificates(config.tls_cert, config.tls_key, config.tls_client_ca)
    if config.tls_cert is not None or config.tls_key is not None:
        raise InputError("give both --tls-cert and --tls-key, or none")
    if config.tls_client_ca is not None:
        raise InputError("--tls-client-ca needs --tls-cert and --tls-key")
    return None
