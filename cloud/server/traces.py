"""OpenTelemetry traces of inference requests: a span each, below that of its caller, and below it where the time went.

A span is made when a request has ended, from what is known of it by then, so that nothing is done before and
nothing at all where traces are off. Needs ``edge-sdk[otel]``.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass

from edge_sdk.cloud.server.request_log import RequestLog
from edge_sdk.cloud.server.runs import Run
from edge_sdk.errors import InputError, MissingExtraError

__all__ = ["Traces", "traces_are_wanted"]

_CARRIED = ("traceparent", "tracestate")
_FLUSH_SECONDS = 2.0
_TEXT = 200  # characters of what a request says of itself
_log = logging.getLogger("edge_sdk.cloud.server")


@dataclass(slots=True)
class _Followed:
    """What is known of a request under way: what its caller sent of its trace, and how the model ran."""

    carrier: dict[str, str]
    run: Run | None = None


_followed: ContextVar[_Followed | None] = ContextVar("followed", default=None)


def traces_are_wanted() -> bool:
    """Tell whether OpenTelemetry's own environment variables name a collector of traces."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(os.environ.get(f"OTEL_EXPORTER_OTLP_{part}ENDPOINT") for part in ("", "TRACES_"))


class Traces:
    """Sends spans to a collector, in batches and from a thread of its own; what does not fit its queue is dropped.

    Takes the place of the `RequestLog`, which it keeps. Sampling, names of the service and the rest are set by
    OpenTelemetry's environment variables (``OTEL_TRACES_SAMPLER``, ``OTEL_SERVICE_NAME``, …).

    Parameters
    ----------
    endpoint
        The collector's address for OTLP over gRPC, such as ``http://127.0.0.1:4317``; None: that of the
        environment variables.
    log
        Where requests are noted beside it, or None.

    Raises
    ------
    InputError
        The endpoint is no such address.
    MissingExtraError
        OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str | None, log: RequestLog | None) -> None:
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise InputError(f"a collector's address is such as http://127.0.0.1:4317, not {endpoint[:80]!r}")
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind, Status, StatusCode
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise MissingExtraError(error.name or "opentelemetry-sdk", "otel") from error
        named = "OTEL_SERVICE_NAME" in os.environ or "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        self._provider = TracerProvider(
            resource=Resource.create({} if named else {"service.name": "edge-sdk"}), shutdown_on_exit=False
        )
        limit = None if "OTEL_EXPORTER_OTLP_TIMEOUT" in os.environ else _FLUSH_SECONDS
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=limit)))
        self._tracer = self._provider.get_tracer("edge_sdk.cloud.server")
        self._read, self._log = TraceContextTextMapPropagator().extract, log
        self._kind, self._failed = SpanKind, Status(StatusCode.ERROR)

    def follow(self, headers: Iterable[tuple[str, str | bytes]]) -> None:
        """Begin a request in the present context: keep what its caller sent of its trace."""
        carrier = {
            name.lower(): value for name, value in headers if name.lower() in _CARRIED and isinstance(value, str)
        }
        _followed.set(_Followed(carrier))

    def ran(self, run: Run) -> None:
        """Keep how the model ran for the request of the present context; of several runs, the first is its own."""
        followed = _followed.get()
        if followed is not None and followed.run is None:
            followed.run = run

    def note(self, front: str, request_id: str, model: str, version: str, status: str, arrived: float) -> None:
        """Make the spans of a request that has ended; parameters as for `RequestLog.note`."""
        if self._log is not None:
            self._log.note(front, request_id, model, version, status, arrived)
        followed = _followed.get() or _Followed({})
        _followed.set(None)
        ended = time.monotonic()
        to_ns = time.time_ns() - int(ended * 1e9)
        attributes = {
            "edge.front": front,
            "edge.model": model[:_TEXT],
            "edge.model_version": version[:_TEXT],
            "edge.request_id": request_id[:_TEXT],
            "edge.status": status,
        }
        span = self._tracer.start_span(
            "ModelInfer",
            self._read(followed.carrier),
            kind=self._kind.SERVER,
            attributes=attributes,
            start_time=to_ns + int(arrived * 1e9),
        )
        if status != "OK":
            span.set_status(self._failed)
        if followed.run is not None and span.is_recording():
            span.set_attribute("edge.cached", followed.run.cached)
            if not followed.run.cached:
                self._divide(span, followed.run, arrived, to_ns)
        span.end(to_ns + int(ended * 1e9))

    def close(self) -> None:
        """Send what is left, as far as that takes little time."""
        self._provider.shutdown()

    def _divide(self, whole: object, run: Run, arrived: float, to_ns: int) -> None:
        """Make the spans of a request's parts; a batch computes for all its requests at a time."""
        from opentelemetry.trace import Span, set_span_in_context

        assert isinstance(whole, Span)
        inside = set_span_in_context(whole)
        computing = max(arrived, run.done - run.compute)
        preparing = max(arrived, computing - run.prepare)
        parts = (("queue", arrived, preparing), ("prepare", preparing, computing), ("compute", computing, run.done))
        for name, start, end in parts:
            part = self._tracer.start_span(name, inside, start_time=to_ns + int(start * 1e9))
            if name == "compute":
                part.set_attribute("edge.batch_sizes", [size for size, _ in run.batch])
            part.end(to_ns + int(end * 1e9))
