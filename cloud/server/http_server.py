"""What all fronts over HTTP have in common: how they are run, and who calls them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from edge_sdk.cloud.server.access import Access, Caller
from edge_sdk.cloud.server.entrance import HTTP1_REFUSAL, Entrance, Visitors

__all__ = ["IDLE_SECONDS", "HttpServer", "caller_of", "start"]

IDLE_SECONDS = 30.0
"""How long a connection may be silent, or take to send the head of a request."""

_SETTLE_SECONDS = 0.5  # that those have to come in whom the end of the server meets at the door


@dataclass(frozen=True, slots=True)
class HttpServer:
    """An application that is served.

    Attributes
    ----------
    visitors
        What is counted of its connections.
    """

    visitors: Visitors
    _runner: web.AppRunner
    _site: _Site

    def leave(self) -> None:
        """Take no more connections, and end those that are there with their next answer."""
        self._site.leave()

    async def end(self) -> None:
        """Finish what runs, and end it."""
        await self._runner.cleanup()


async def start(
    application: web.Application,
    listening: socket.socket,
    tls: Callable[[], ssl.SSLContext] | None,
    grace_seconds: float,
    *,
    name: str,
    max_connections: int,
) -> HttpServer:
    """Serve an application on a socket that listens.

    Parameters
    ----------
    application, listening, tls
        What, where, and with which certificate.
    grace_seconds
        How long requests may go on when it ends.
    name
        Of the front.
    max_connections
        Open at a time; more get status 503 and are closed.
    """
    leaving: list[bool] = []

    async def answer(_: web.Request, response: web.StreamResponse) -> None:
        if leaving:
            response.force_close()
            response.headers["Connection"] = "close"  # aiohttp has written its headers already

    application.on_response_prepare.append(answer)
    runner = web.AppRunner(
        application,
        access_log=None,
        handler_cancellation=True,  # a request whose client has gone is not run
        keepalive_timeout=IDLE_SECONDS,
        shutdown_timeout=grace_seconds,
    )
    await runner.setup()
    server = runner.server
    assert server is not None
    visitors = Visitors(name, lambda: len(server.connections))

    def enter() -> Entrance:
        return Entrance(listening, server, visitors, most=max_connections, refusal=HTTP1_REFUSAL, tls=tls)

    site = _Site(runner, enter, name, leaving)
    await site.start()
    return HttpServer(visitors, runner, site)


class _Site(web.BaseSite):
    """Where an entrance is, to a runner."""

    __slots__ = ("_entrance", "_leaving", "_name", "_open")

    def __init__(self, runner: web.AppRunner, open_it: Callable[[], Entrance], name: str, leaving: list[bool]) -> None:
        super().__init__(runner)
        self._open, self._name, self._leaving = open_it, name, leaving

    @property
    def name(self) -> str:
        return self._name

    async def start(self) -> None:
        await super().start()
        self._entrance = self._open()

    def leave(self) -> None:
        self._leaving.append(True)
        self._entrance.close()

    async def stop(self) -> None:
        self._entrance.close()
        await self._entrance.settle(_SETTLE_SECONDS)
        await super().stop()


def caller_of(access: Access, request: web.Request) -> Caller:
    """Return who is calling; raise `UnknownCallerError` where it is nobody who is known."""
    return access.identify(request.headers.get("authorization"), _certificate_names(request))


def _certificate_names(request: web.Request) -> list[str]:
    """Return the names in the certificate that a connection was made with; none where there was none."""
    transport = request.transport
    shown = (transport and transport.get_extra_info("peercert")) or {}
    names = [value for _, value in shown.get("subjectAltName", ())]
    return names or [value for part in shown.get("subject", ()) for key, value in part if key == "commonName"]
