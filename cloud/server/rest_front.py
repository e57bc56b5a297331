"""The HTTP front: the Open Inference Protocol as REST.

For curl, dashboards and clients without gRPC. Each path is in ``openapi.json``, which it serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

from aiohttp import web

from edge_sdk.cloud.server.access import Access, Caller, Kind
from edge_sdk.cloud.server.admin import Admin
from edge_sdk.cloud.server.core import Core
from edge_sdk.cloud.server.descriptions import (
    all_statistics,
    model_config,
    model_metadata,
    repository_index,
    server_metadata,
)
from edge_sdk.cloud.server.exchange import Failure, failure_of
from edge_sdk.cloud.server.http_server import caller_of
from edge_sdk.cloud.server.openapi import openapi
from edge_sdk.cloud.server.request_log import Notes
from edge_sdk.cloud.server.rest_inference import answer_rest
from edge_sdk.cloud.server.rest_tensors import read_object, read_request
from edge_sdk.cloud.server.traces import Traces
from edge_sdk.errors import InputError, one_line

__all__ = ["RestFront"]

BODY_SECONDS = 30.0
"""How long a body may take to arrive."""

_LENGTH = "Inference-Header-Content-Length"
_INLINE_BYTES = 65_536  # bodies beyond are parsed beside the event loop
_log = logging.getLogger("edge_sdk.cloud.server")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_CALLER = web.RequestKey("caller", Caller)
_ID = web.RequestKey("id", str)


class RestFront:
    """The REST service over one `Core`.

    Parameters
    ----------
    core
        The models.
    access
        Who may do what, or None: everybody may do all. Health checks are for all.
    max_bytes
        Largest body.
    max_concurrent
        Inference requests at work or queued at a time; more are refused.
    allow_admin
        Whether clients may load and unload models.
    log
        Where each inference request is noted, or None.
    traces
        What is told by whom a request was traced, or None.
    """

    def __init__(
        self,
        core: Core,
        *,
        access: Access | None,
        max_bytes: int,
        max_concurrent: int,
        allow_admin: bool = False,
        log: Notes | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._traces = traces
        self._admin, self._log = Admin(core, allowed=allow_admin), log
        self._core, self._max_bytes = core, max_bytes
        self._access = access
        self._free = max_concurrent

    def application(self) -> web.Application:
        """Return what an `aiohttp.web.AppRunner` runs."""
        app = web.Application(client_max_size=self._max_bytes, middlewares=[self._guard])
        app.router.add_get("/v2/health/live", self._live)
        app.router.add_get("/v2/health/ready", self._ready)
        app.router.add_get("/v2", self._say(lambda request: server_metadata()))
        app.router.add_get("/openapi.json", self._say(lambda request: openapi()))
        app.router.add_get("/v2/models/stats", self._describe(lambda _, sees: all_statistics(self._core, "", "", sees)))
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            app.router.add_get(path, self._describe(lambda r, _: model_metadata(self._core, *_model(r))))
            app.router.add_get(f"{path}/ready", self._model_ready)
            app.router.add_get(f"{path}/config", self._describe(lambda r, _: model_config(self._core, *_model(r))))
            app.router.add_get(f"{path}/stats", self._describe(lambda r, _: all_statistics(self._core, *_model(r))))
            app.router.add_post(f"{path}/infer", self._infer)
        app.router.add_post("/v2/models/{model}/feedback", self._feedback)
        app.router.add_post("/v2/repository/index", self._index)
        app.router.add_post("/v2/repository/models/{model}/{action:load|unload}", self._do)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Ask who it is, and say in JSON what went wrong."""
        try:
            if self._access is not None and not request.path.startswith("/v2/health/"):
                request[_CALLER] = caller_of(self._access, request)
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            return _error(error.status, f"{error.reason}: {request.method} {request.raw_path[:200]}", allow)
        except ConnectionError:
            raise  # nobody is there to be told
        except Exception as error:  # noqa: BLE001 - a fault of the server, too, has its answer
            return _refusal(failure_of(error, request.match_info.get("model", "")))

    @staticmethod
    def _say(say: Callable[[web.Request], Any]) -> _Handler:
        """Return a handler for what anybody who is known may know."""

        async def handle(request: web.Request) -> web.StreamResponse:
            return web.json_response(say(request))

        return handle

    def _describe(self, say: Callable[[web.Request, Callable[[str], bool]], Any]) -> _Handler:
        """Return a handler for what is said of a model, or of those that the caller sees."""

        async def handle(request: web.Request) -> web.StreamResponse:
            said = say(request, self._admit(request, "describe"))
            return web.json_response(await said if isawaitable(said) else said)

        return handle

    def _admit(self, request: web.Request, kind: Kind) -> Callable[[str], bool]:
        """Raise where the caller may not do what it asks for; return which models it sees."""
        if self._access is None:
            return bool
        caller: Caller = request[_CALLER]
        self._access.admit(caller, kind, request.match_info.get("model", ""))
        return caller.sees

    async def _live(self, _: web.Request) -> web.StreamResponse:
        return web.Response()

    async def _ready(self, _: web.Request) -> web.StreamResponse:
        return web.Response(status=200 if self._core.is_ready else 503)

    async def _model_ready(self, request: web.Request) -> web.StreamResponse:
        model, version = _model(request)
        self._admit(request, "describe")
        self._core.model(model, version)
        return web.Response(status=200 if self._core.answers(model, version) else 503)

    async def _index(self, request: web.Request) -> web.StreamResponse:
        sees = self._admit(request, "describe")
        asked = read_object(await _body(request))
        return web.json_response(repository_index(self._core, ready=asked.get("ready") is True, sees=sees))

    async def _feedback(self, request: web.Request) -> web.StreamResponse:
        self._admit(request, "infer")
        said = read_object(await _body(request))
        version = said.get("version")
        decision, known = said.get("decision_id", ""), {"version", "reward", "decision_id"}
        if not (isinstance(version, str) and version and isinstance(decision, str) and "reward" in said) or (
            said.keys() - known
        ):
            raise InputError('feedback is {"version": TEXT, "reward": NUMBER}, and perhaps "decision_id": TEXT')
        await self._core.take_reward(request.match_info["model"], version, said["reward"], decision)
        return web.json_response({})

    async def _do(self, request: web.Request) -> web.StreamResponse:
        self._admit(request, "admin")
        parameters = read_object(await _body(request)).get("parameters", {})
        if not isinstance(parameters, dict):
            raise InputError("parameters is a JSON object")
        act = self._admin.load if request.match_info["action"] == "load" else self._admin.unload
        who = f"http:{request.remote}" if self._access is None else f"{request[_CALLER].name} (http:{request.remote})"
        await act(request.match_info["model"], who, parameters)
        return web.json_response({})

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        arrived = time.monotonic()
        if request.content_length is not None and request.content_length > self._max_bytes:
            raise web.HTTPRequestEntityTooLarge(self._max_bytes, request.content_length)
        if not self._free:
            return _error(503, "too many requests are at work", {"Retry-After": "1"})
        self._free -= 1
        status = "CANCELLED"
        if self._traces is not None:
            self._traces.follow(request.headers.items())
        try:
            self._admit(request, "infer")
            response = await self._answer(request, arrived)
            status = "OK"
            return response
        except web.HTTPException as error:
            status = f"HTTP {error.status}"
            raise
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - as in `_guard`
            failure = failure_of(error, request.match_info["model"])
            status = failure.status.name
            return _refusal(failure)
        finally:
            self._free += 1
            if self._log is not None:
                self._log.note("http", request.get(_ID, ""), *_model(request), status, arrived)

    async def _answer(self, request: web.Request, arrived: float) -> web.StreamResponse:
        name, version = _model(request)
        self._core.model(name, version)  # before a body is read for what is not there
        body = await _body(request)
        length = _json_length(request)
        if len(body if length is None else body[:length]) <= _INLINE_BYTES:
            asked = read_request(body, length)
        else:
            asked = await asyncio.to_thread(read_request, body, length)
        request[_ID] = asked.request_id
        content, length = await answer_rest(self._core, name, version, asked, arrived)
        if length is None:
            return web.Response(body=content, content_type="application/json")
        return web.Response(body=content, content_type="application/octet-stream", headers={_LENGTH: str(length)})


def _model(request: web.Request) -> tuple[str, str]:
    return request.match_info["model"], request.match_info.get("version", "")


async def _body(request: web.Request) -> bytes:
    """Return all of a body.

    Raises
    ------
    aiohttp.web.HTTPException
        It is too large, or too slow.
    InputError
        It is not compressed as it says.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(reason=f"a body longer than {BODY_SECONDS:g} s on its way") from None
    except web.RequestPayloadError as error:
        raise InputError(f"the body is unreadable: {one_line(error, 200)}") from None


def _json_length(request: web.Request) -> int | None:
    text = request.headers.get(_LENGTH)
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        if text.isascii() and text.isdigit():
            return int(text)
    raise InputError(f"{_LENGTH} is a number of bytes, not {text[:40]!r}")


def _refusal(failure: Failure) -> web.Response:
    headers = {} if failure.retry_after is None else {"Retry-After": str(math.ceil(failure.retry_after))}
    if failure.http == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _error(failure.http, failure.message, headers)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": " ".join(message.split())}, status=status, headers=headers)
