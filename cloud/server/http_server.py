"""What all fronts over HTTP have in common: how they are run, and who calls them."""

from __future__ import annotations

import socket
import ssl

from aiohttp import web

from edge_sdk.cloud.server.access import Access, Caller

__all__ = ["IDLE_SECONDS", "caller_of", "start"]

IDLE_SECONDS = 30.0
"""How long a connection may be silent, or take to send the head of a request."""


async def start(
    application: web.Application, listening: socket.socket, tls: ssl.SSLContext | None, grace_seconds: float
) -> web.AppRunner:
    """Serve an application on a socket that listens; ``cleanup`` of what is returned ends it."""
    runner = web.AppRunner(
        application,
        access_log=None,
        handler_cancellation=True,  # a request whose client has gone is not run
        keepalive_timeout=IDLE_SECONDS,
        shutdown_timeout=grace_seconds,
    )
    await runner.setup()
    await web.SockSite(runner, listening, ssl_context=tls).start()
    return runner


def caller_of(access: Access, request: web.Request) -> Caller:
    """Return who is calling; raise `UnknownCallerError` where it is nobody who is known."""
    return access.identify(request.headers.get("authorization"), _certificate_names(request))


def _certificate_names(request: web.Request) -> list[str]:
    """Return the names in the certificate that a connection was made with; none where there was none."""
    transport = request.transport
    shown = (transport and transport.get_extra_info("peercert")) or {}
    names = [value for _, value in shown.get("subjectAltName", ())]
    return names or [value for part in shown.get("subject", ()) for key, value in part if key == "commonName"]
