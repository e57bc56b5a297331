"""Traces: a span for each request below that of its caller, at a collector over OTLP."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from edge_sdk.protocol import add_input, messages
from outside.bundles import SIDE, TinyBundle
from outside.services import Service
from outside.services import edge_sdk as run_edge_sdk

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

PATIENT = 20.0
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = f"00-{TRACE}-{PARENT}-01"


class Collector:
    """A collector of traces, on loopback."""

    def __init__(self) -> None:
        self.spans: list = []
        self.services: set[str] = set()
        self._changed = threading.Condition()
        self._server = grpc.server(ThreadPoolExecutor(2))
        export = grpc.unary_unary_rpc_method_handler(
            self._export,
            request_deserializer=trace_service.ExportTraceServiceRequest.FromString,
            response_serializer=trace_service.ExportTraceServiceResponse.SerializeToString,
        )
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": export}),))
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _export(self, request, _):
        with self._changed:
            for resource in request.resource_spans:
                self.services |= {
                    one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
                }
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
            self._changed.notify_all()
        return trace_service.ExportTraceServiceResponse()

    def named(self, name: str) -> list:
        return [span for span in self.spans if span.name == name]

    def close(self) -> None:
        self._server.stop(None)


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


def attributes(span) -> dict:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def ask_all(process: Service) -> None:
    """Ask over gRPC as part of a trace, wrongly, on a stream, and over REST as part of the trace."""
    message = messages.ModelInferRequest(model_name="tiny", id="5")
    add_input(message, "image", np.zeros((1, SIDE, SIDE, 3), np.float32))
    takes, gives = messages.METHODS["ModelInfer"]
    path, metadata = "/inference.GRPCInferenceService/Model", (("traceparent", CALLER),)
    with grpc.insecure_channel(process.ready["grpc"]) as channel:
        infer = channel.unary_unary(f"{path}Infer", takes.SerializeToString, gives.FromString)
        assert infer(message, metadata=metadata, timeout=PATIENT).outputs
        with pytest.raises(grpc.RpcError):
            infer(messages.ModelInferRequest(model_name="other", id="6"), timeout=PATIENT)
        stream = channel.stream_stream(
            f"{path}StreamInfer", takes.SerializeToString, messages.ModelStreamInferResponse.FromString
        )
        assert len(list(stream(iter([message] * 3), metadata=metadata, timeout=PATIENT))) == 3
    host, _, port = process.ready["http"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENT)
    entry = {"name": "image", "datatype": "FP32", "shape": [1, SIDE, SIDE, 3], "data": [0] * (SIDE * SIDE * 3)}
    body = json.dumps({"id": "7", "inputs": [entry]})
    connection.request("POST", "/v2/models/tiny/infer", body, {"Traceparent": CALLER})
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize(("by", "front"), [("option", "grpc"), ("environment", "fast")])
def test_every_request_is_a_span_below_that_of_its_caller(
    collector: Collector, tiny_edge_bundle: TinyBundle, tmp_path: Path, monkeypatch, by: str, front: str
) -> None:
    if by == "environment":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "fallback")
    option = ("--otlp", collector.url) if by == "option" else ()
    log = tmp_path / "requests.log"
    ports = ("--grpc-port", "0", "--http-port", "0", "--front", front)
    with Service("serve", tiny_edge_bundle.path, *ports, "--log-requests", log, *option) as process:
        ask_all(process)
        assert process.stop() == 0  # what is left is sent
    assert len(log.read_text().splitlines()) == 6, "the log goes on"
    assert collector.services == {"edge-sdk" if by == "option" else "fallback"}
    requests = collector.named("ModelInfer")
    assert sorted((attributes(span)["edge.front"], attributes(span)["edge.request_id"]) for span in requests) == [
        ("grpc", "5"), ("grpc", "6"), ("http", "7"), ("stream", "5"), ("stream", "5"), ("stream", "5"),
    ]  # fmt: skip
    for span in requests:
        said = attributes(span)
        assert span.start_time_unix_nano < span.end_time_unix_nano
        if said["edge.request_id"] == "6":
            assert (said["edge.status"], span.status.code) == ("NOT_FOUND", 2)
            assert span.trace_id.hex() != TRACE
            assert not span.parent_span_id
            continue
        assert (said["edge.status"], said["edge.model"], span.status.code) == ("OK", "tiny", 0)
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        parts = [one for one in collector.spans if one.parent_span_id == span.span_id]
        assert [one.name for one in parts] == ["queue", "prepare", "compute"] or not parts
        at = span.start_time_unix_nano
        for part in parts:
            assert at <= part.start_time_unix_nano <= part.end_time_unix_nano <= span.end_time_unix_nano
            at = part.end_time_unix_nano
    assert collector.named("compute"), "where a request was not run at once, it is said where its time went"


def test_a_collector_that_is_not_there_harms_nobody(tiny_edge_bundle: TinyBundle, monkeypatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    ports = ("--grpc-port", "0", "--http-port", "0", "--otlp", "http://127.0.0.1:9")
    with Service("serve", tiny_edge_bundle.path, *ports) as process:
        ask_all(process)
        assert process.stop() == 0


def test_what_is_no_address_of_a_collector_ends_in_one_line(tiny_edge_bundle: TinyBundle) -> None:
    done = run_edge_sdk("serve", tiny_edge_bundle.path, "--grpc-port", "0", "--otlp", "collector:4317")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "http://127.0.0.1:4317" in done.stderr


def run_python(program: str) -> str:
    command = [sys.executable, "-P", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=True).stdout.strip()


def test_nothing_of_it_is_loaded_where_it_is_off() -> None:
    program = "import sys, edge_sdk.cloud.server.service; print([n for n in sys.modules if 'opentelemetry' in n])"
    assert run_python(program) == "[]"


def test_where_it_is_not_installed_it_is_said_how_to() -> None:
    program = """
import sys
sys.modules["opentelemetry"] = None
from edge_sdk.cloud.server.traces import Traces
from edge_sdk.errors import MissingExtraError
try:
    Traces("http://127.0.0.1:9", None)
except MissingExtraError as error:
    print(error)
"""
    assert "pip install 'edge-sdk[otel]'" in run_python(program)
