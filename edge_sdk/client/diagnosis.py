"""From what gRPC says of a failed call to a reason, and to words that say what is wrong and what to do."""

from __future__ import annotations

import re
from typing import Any

import grpc

from edge_sdk.client.cloud import Cloud
from edge_sdk.client.failures import Failed

__all__ = ["failure_of", "limit_in"]

# what gRPC's details hold, the kind of trouble, and what is said of it; the first that fits
_TROUBLES = (
    ("certificate has expired", "tls", "its certificate has expired: renew it there, and check this device's clock"),
    ("certificate is not yet valid", "tls", "its certificate is not valid yet: check this device's clock"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "tls",
        "its certificate is not signed by an authority in tls_ca: give the authority that signed it",
    ),
    (
        "Hostname Verification Check failed",
        "tls",
        "its certificate is for another name: connect by that name, or give it as server_name",
    ),
    ("WRONG_VERSION_NUMBER", "tls", "it does not speak TLS: leave tls_ca away, or give the server a certificate"),
    ("handshake failed", "tls", "the TLS handshake failed"),
    ("Trying to connect an http1.x server", "protocol", "a web server answers there, and no gRPC: check the port"),
    ("Failed parsing HTTP/2", "protocol", "something else than gRPC answers there: check the port"),
    ("lookup", "name", "its name is not known: check the endpoint and this device's DNS"),
)
# what gRPC itself says of connections: with other details, UNAVAILABLE is what the server said
_OF_CONNECTIONS = re.compile(
    r"connect|Stream removed|Socket closed|Cancelling all calls|Broken pipe|GOAWAY|ping|recvmsg|sendmsg|[Tt]ransport|"
    r"resol|DNS|channel"
)
# as gRPC says it in C, Python and Go, and in Java
_TOO_LARGE = re.compile(r"RESOURCE_EXHAUSTED.* (?:larger than max \(\d+ vs\. |exceeds maximum size )(\d{1,12})")


def failure_of(error: Any, target: str, cloud: Cloud) -> tuple[str, Failed]:
    """Return the kind of trouble, and the failure that callers see.

    Parameters
    ----------
    error
        The ``grpc.RpcError`` of a call that was neither cancelled here nor out of time.
    target
        ``host:port`` of the server.
    cloud
        How it was asked.

    Returns
    -------
    kind
        ``tls``, ``token``, ``protocol``, ``name``, ``closed`` or ``down`` where it cannot be reached; ``unready``
        where it says itself that it cannot answer now;
        ``overload``, or the name of the status, where it refused.
    failed
        Of the reason ``offline`` or ``rejected``.
    """
    code, detail = error.code(), " ".join(str(error.details()).split())
    if code is grpc.StatusCode.UNAVAILABLE:
        kind, why = _trouble(detail, cloud)
        if kind == "down" and detail and not _OF_CONNECTIONS.search(detail):
            return "unready", Failed("offline", f"{target} is there, and cannot answer now: {detail}")
        return kind, Failed("offline", f"{target} cannot be reached: {why}")
    if code is grpc.StatusCode.CANCELLED:
        return "unready", Failed("offline", f"{target} is there, and cancelled the call: it ends, or cannot keep up")
    if code is grpc.StatusCode.UNAUTHENTICATED:
        said = "the token is not accepted" if cloud.has_token else "the server wants a token: give token or token_file"
        return "token", Failed("rejected", f"{target} refused: {code.name}: {said} ({detail})")
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return "token", Failed(
            "rejected", f"{target} refused: {code.name}: what this device shows has not the right ({detail})"
        )
    kind = "overload" if code is grpc.StatusCode.RESOURCE_EXHAUSTED else code.name
    return kind, Failed("rejected", f"{target} refused: {code.name}: {detail}")


def limit_in(detail: str) -> int | None:
    """Return how many bytes a message may have for a server that found one too large; else None.

    Parameters
    ----------
    detail
        Of a failure of `failure_of`.
    """
    found = _TOO_LARGE.search(detail)
    return None if found is None else int(found[1])


def _trouble(detail: str, cloud: Cloud) -> tuple[str, str]:
    for needle, kind, why in _TROUBLES:
        if needle in detail:
            return kind, f"{why} ({detail})"
    if "Socket closed" in detail and "failed to connect" in detail:
        if cloud.tls_ca is None:
            return "closed", f"it hangs up: if it speaks TLS, give tls_ca ({detail})"
        shown = "another one" if cloud.tls_cert is not None else "tls_cert and tls_key"
        return "closed", f"it hangs up: if it asks devices for a certificate, give {shown} ({detail})"
    return "down", detail
