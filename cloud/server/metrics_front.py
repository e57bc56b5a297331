"""Prometheus' metrics over HTTP, on a port of their own."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web

from edge_sdk.cloud.server.access import Access
from edge_sdk.cloud.server.families import CONTENT_TYPE, Family, as_text
from edge_sdk.cloud.server.http_server import caller_of
from edge_sdk.errors import RateLimitError, UnknownCallerError

__all__ = ["MetricsFront"]


class MetricsFront:
    """Metrics at ``/metrics``.

    Parameters
    ----------
    collect
        Returns them.
    access
        Who may see them, by the method ``metrics``; None is everybody.
    """

    def __init__(self, collect: Callable[[], Awaitable[Iterable[Family]]], access: Access | None = None) -> None:
        self._collect, self._access = collect, access

    def application(self) -> web.Application:
        """Return what an `aiohttp.web.AppRunner` runs."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        if self._access is not None:
            try:
                self._access.admit(caller_of(self._access, request), "metrics", "")
            except UnknownCallerError as error:
                return web.Response(status=401, text=f"{error}\n", headers={"WWW-Authenticate": "Bearer"})
            except PermissionError as error:
                return web.Response(status=403, text=f"{error}\n")
            except RateLimitError as error:
                headers = {"Retry-After": str(math.ceil(error.retry_after))}
                return web.Response(status=429, text=f"{error}\n", headers=headers)
        return web.Response(body=as_text(await self._collect()).encode(), headers={"Content-Type": CONTENT_TYPE})
