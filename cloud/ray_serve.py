"""Our models as a Ray Serve application: the REST part of the Open Inference Protocol, on Ray's own HTTP proxy.

    serve run edge_sdk.cloud.ray_serve:application path=/models/teacher-1.0.0.edge

For who runs Ray already and wants its scaling and routing. It has inference, metadata and readiness of models, with
batching and deadlines as in ``edge-sdk serve``; gRPC, callers, admin methods and metrics are that server's only.
Needs the extras ``cloud`` and ``ray``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_sdk.cloud.server.core import Core
from edge_sdk.cloud.server.descriptions import model_metadata, server_metadata
from edge_sdk.cloud.server.exchange import failure_of
from edge_sdk.cloud.server.rest_inference import answer_rest
from edge_sdk.cloud.server.rest_tensors import read_request
from edge_sdk.errors import InputError, MissingExtraError, UnknownModelError

__all__ = ["Replica", "application"]

_LENGTH = "inference-header-content-length"


class Replica:
    """One replica: the models, and an answer to each HTTP request.

    Parameters
    ----------
    path
        Bundle, model file or repository folder, as for ``edge-sdk serve``; the same on every machine.
    """

    def __init__(self, path: str) -> None:
        self._core = Core.load([Path(path)])

    async def __call__(self, request: Any) -> Any:
        """Answer a ``starlette.requests.Request`` with a ``starlette.responses.Response``."""
        from starlette.responses import JSONResponse, Response

        model = ""
        try:
            match request.method, [part for part in request.url.path.split("/") if part]:
                case "GET", ["v2"]:
                    return JSONResponse(server_metadata())
                case "GET", ["v2", "health", "live" | "ready"]:
                    return Response(status_code=200 if self._core.is_ready else 503)
                case "GET", ["v2", "models", model, *version]:
                    return self._describe(model, version)
                case "POST", ["v2", "models", model, "infer"]:
                    return await self._infer(model, "", request)
                case "POST", ["v2", "models", model, "versions", version, "infer"]:
                    return await self._infer(model, version, request)
            raise UnknownModelError(f"there is nothing at {request.method} {request.url.path[:200]}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it has its answer
            failure = failure_of(error, model)
            return JSONResponse({"error": failure.message}, status_code=failure.http)

    async def check_health(self) -> None:
        """Raise where a model hangs, so that Ray replaces this replica."""
        if not self._core.is_ready:
            raise RuntimeError("a model hangs")

    def _describe(self, model: str, rest: list[str]) -> Any:
        from starlette.responses import JSONResponse, Response

        version = rest[1] if len(rest) > 1 and rest[0] == "versions" else ""
        if rest[-1:] == ["ready"]:
            self._core.model(model, version)
            return Response(status_code=200 if self._core.answers(model, version) else 503)
        if rest not in ([], ["versions", version]):
            raise UnknownModelError(f"there is no {'/'.join(rest)[:80]!r} of a model here")
        return JSONResponse(model_metadata(self._core, model, version))

    async def _infer(self, model: str, version: str, request: Any) -> Any:
        from starlette.responses import Response

        arrived = time.monotonic()
        asked = read_request(await request.body(), _json_length(request.headers))
        content, length = await answer_rest(self._core, model, version, asked, arrived)
        headers = {} if length is None else {_LENGTH: str(length)}
        kind = "application/json" if length is None else "application/octet-stream"
        return Response(content, headers=headers, media_type=kind)


def application(args: Mapping[str, str]) -> Any:
    """Return the application for ``serve run``.

    Parameters
    ----------
    args
        ``path`` as for `Replica`; ``replicas`` and ``cpus``, how many and of how many cores each (1).

    Raises
    ------
    InputError
        There is no path, or something else is given.
    MissingExtraError
        Ray Serve is not installed.
    """
    given = dict(args)
    path, replicas, cpus = given.pop("path", None), given.pop("replicas", "1"), given.pop("cpus", "1")
    if path is None or given or not replicas.isdecimal():
        raise InputError(f"give path=PATH, and replicas=N or cpus=N where they are not 1; not {sorted(args)}")
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    options = {"num_replicas": int(replicas), "ray_actor_options": {"num_cpus": float(cpus)}}
    return serve.deployment(name="edge-sdk", max_ongoing_requests=256, **options)(Replica).bind(path)


def _json_length(headers: Mapping[str, str]) -> int | None:
    text = headers.get(_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"{_LENGTH} is a number of bytes, not {text[:40]!r}")
    return int(text)
