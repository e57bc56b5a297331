"""Metrics and statistics of a real server count what was asked of it."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from edge_sdk.protocol import add_input, messages, set_parameter
from outside.bundles import SIDE, TinyBundle
from outside.services import Service

PATIENT = 20.0


@pytest.fixture
def counting(tiny_edge_bundle: TinyBundle) -> Iterator[Service]:
    with Service("serve", tiny_edge_bundle.path, "--grpc-port", "0", "--metrics-port", "0") as process:
        yield process


def request(items: int, **parameters: object) -> object:
    message = messages.ModelInferRequest(model_name="tiny")
    add_input(message, "image", np.zeros((items, SIDE, SIDE, 3), np.float32))
    for name, value in parameters.items():
        set_parameter(message.parameters, name, value)
    return message


def scrape(process: Service) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    parser = pytest.importorskip("prometheus_client.parser")
    host, _, port = process.ready["metrics"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENT)
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found: dict[str, dict] = {}
    for family in parser.text_string_to_metric_families(response.read().decode()):
        assert family.documentation
        assert family.type in {"counter", "gauge", "histogram"}, family.name
        for sample in family.samples:
            # the parser appends what Triton's names of counters lack
            name = sample.name.removesuffix("_total") if sample.name.startswith("nv_") else sample.name
            found.setdefault(name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    connection.close()
    return found


def test_requests_items_batches_and_failures_are_counted_under_tritons_names(counting: Service) -> None:
    of_model = (("model", "tiny"), ("version", "1.0.0"))
    before = scrape(counting)
    assert before["nv_inference_request_success"][of_model] == 0
    with grpc.insecure_channel(counting.ready["grpc"]) as channel:
        takes, gives = messages.METHODS["ModelInfer"]
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", takes.SerializeToString, gives.FromString
        )
        for items in (1, 2, 4):
            infer(request(items), timeout=PATIENT)
        for bad in (request(1, timeout=1), request(1, edge_encoding="jpeg"), request(0)):
            with pytest.raises(grpc.RpcError):
                infer(bad, timeout=PATIENT)
        takes, gives = messages.METHODS["ModelStatistics"]
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelStatistics", takes.SerializeToString, gives.FromString
        )
        (said,) = ask(takes(name="tiny"), timeout=PATIENT).model_stats
        assert ask(takes(), timeout=PATIENT).model_stats[0].name == "tiny"
        with pytest.raises(grpc.RpcError) as caught:
            ask(takes(name="other"), timeout=PATIENT)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    after = scrape(counting)
    assert after["nv_inference_request_success"][of_model] == said.inference_stats.success.count == 3
    assert after["nv_inference_count"][of_model] == said.inference_count == 7
    assert after["nv_inference_exec_count"][of_model] == said.execution_count
    assert 3 <= said.execution_count <= 7  # what does not pay in a batch runs alone
    assert after["nv_inference_pending_request_count"][of_model] == 0
    assert said.last_inference > 1_600_000_000_000
    for name in ("request", "queue", "compute_input", "compute_infer", "compute_output"):
        assert after[f"nv_inference_{name}_duration_us"][of_model] >= 0
    assert after["nv_inference_compute_infer_duration_us"][of_model] > 0
    assert said.inference_stats.compute_infer.ns > 0
    sizes = {labels[2][1]: value for labels, value in _sorted(after["edge_batches_total"])}
    assert sum(int(size) * count for size, count in sizes.items()) == 7
    assert after["edge_request_seconds_count"][of_model] == 3
    buckets = {dict(labels)["le"]: value for labels, value in after["edge_request_seconds_bucket"].items()}
    assert buckets["+Inf"] == 3
    assert sorted(buckets.values()) == [value for _, value in sorted(buckets.items(), key=lambda b: float(b[0]))]
    (ready,) = after["edge_model_ready"].items()
    assert ready[1] == 1
    assert dict(ready[0])["digest"].startswith("sha256:")
    assert after["process_cpu_seconds_total"][()] > before["process_cpu_seconds_total"][()]
    assert after["process_resident_memory_bytes"][()] > 1e6


def _sorted(samples: dict) -> list:
    return [(tuple(sorted(labels, key=lambda label: label[0] == "size")), value) for labels, value in samples.items()]


def test_nothing_but_metrics_is_on_their_port(counting: Service) -> None:
    host, _, port = counting.ready["metrics"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENT)
    for path in ("/", "/v2", "/v2/models/tiny"):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert response.status == 404
    connection.close()
