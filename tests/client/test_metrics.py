"""Counters as text: what Prometheus reads of a model is what it did."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import hypothesis.strategies as st
import pytest
from hypothesis import given
from prometheus_client.parser import text_string_to_metric_families

import edge_sdk
from edge_sdk.client.counters import BYTES, SECONDS, Histogram
from edge_sdk.client.metrics import exposition
from edge_sdk.errors import EscalationError
from outside.network import free_port
from outside.odd import OddCloud

PATIENT = 20.0

NAMES = {
    "edge_sdk_info": "gauge",
    "edge_sdk_requests": "counter",
    "edge_sdk_certified_answers": "counter",
    "edge_sdk_request_duration_seconds": "histogram",
    "edge_sdk_cloud_duration_seconds": "histogram",
    "edge_sdk_upload_size_bytes": "histogram",
    "edge_sdk_extra_requests": "counter",
    "edge_sdk_escalations": "counter",
    "edge_sdk_failed_uploads": "counter",
    "edge_sdk_extra_bytes": "counter",
    "edge_sdk_waves": "counter",
    "edge_sdk_wave_inputs": "counter",
    "edge_sdk_foreign_answers": "counter",
    "edge_sdk_privacy_inputs": "counter",
    "edge_sdk_audits": "counter",
    "edge_sdk_audit_disagreements": "counter",
    "edge_sdk_certificate_void": "gauge",
    "edge_sdk_expected_round_trip_seconds": "gauge",
    "edge_sdk_expected_bandwidth_bytes_per_second": "gauge",
    "edge_sdk_journal_records": "counter",
    "edge_sdk_cache_lookups": "counter",
    "edge_sdk_cache_entries": "gauge",
}


def samples(text: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def value(text: str, name: str, **labels: str) -> float:
    (found,) = [number for sample, has, number in samples(text) if sample == name and has == labels]
    return found


def test_names_and_types_stay_as_documented(pair, cloud) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT) as model:
        model.predict(pair.hard[0])
        families = {family.name: family for family in text_string_to_metric_families(model.metrics())}
    assert {name: family.type for name, family in families.items()} == NAMES
    assert all(family.documentation for family in families.values())
    (info,) = families["edge_sdk_info"].samples
    assert info.labels == {
        "model": "student",
        "version": "1.0.0",
        "digest": model.bundle_digest,
        "mode": "hybrid",
    }


def test_every_request_is_in_the_text_once_and_failed_uploads_apart(pair) -> None:
    with OddCloud("nan") as odd, edge_sdk.connect(pair.edge, cloud=odd.address, deadline=PATIENT) as model:
        for frame in [*pair.easy[:7], *pair.hard[:4]]:
            model.predict(frame)
        text, counters = model.metrics(), model.counters
    requests = [(labels, n) for name, labels, n in samples(text) if name == "edge_sdk_requests_total"]
    assert sum(n for _, n in requests) == counters["requests"] == 11
    assert ({"source": "edge", "reason": "confident"}, 7) in requests
    assert ({"source": "edge", "reason": "rejected"}, 4) in requests
    assert value(text, "edge_sdk_request_duration_seconds_count", source="edge") == 11
    assert value(text, "edge_sdk_upload_size_bytes_count", result="failed") == counters["failed_uploads"] == 4
    assert value(text, "edge_sdk_upload_size_bytes_sum", result="failed") == counters["bytes_failed"]
    assert value(text, "edge_sdk_upload_size_bytes_count", result="answered") == 0
    assert value(text, "edge_sdk_failed_uploads_total", encoding="tensor") == 4
    assert counters["failed_encodings"] == {"tensor": 4}


def test_what_the_cloud_answers_is_timed_and_weighed(pair, cloud) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT, cache=8) as model:
        answers = [model.predict(frame) for frame in [*pair.hard[:3], pair.hard[0]]]
        text, counters = model.metrics(), model.counters
    assert [answer.source for answer in answers] == ["cloud"] * 3 + ["cache"]
    total = sum(answer.timing.cloud_ms for answer in answers[:3]) / 1e3
    assert value(text, "edge_sdk_cloud_duration_seconds_sum") == pytest.approx(total)
    assert value(text, "edge_sdk_upload_size_bytes_sum", result="answered") == counters["bytes_sent"]
    assert value(text, "edge_sdk_request_duration_seconds_count", source="cache") == 1
    assert value(text, "edge_sdk_cache_lookups_total", result="hits") == 1


def test_a_request_that_ends_in_an_error_has_no_source(pair) -> None:
    with edge_sdk.connect(pair.edge, cloud=f"127.0.0.1:{free_port()}", mode="cloud", deadline=PATIENT) as model:
        with pytest.raises(EscalationError):
            model.predict(pair.easy[0])
        text = model.metrics()
    assert value(text, "edge_sdk_requests_total", source="none", reason="offline") == 1
    assert value(text, "edge_sdk_request_duration_seconds_count", source="none") == 1


def test_the_mode_edge_counts_too(pair) -> None:
    with edge_sdk.connect(pair.edge, cloud="127.0.0.1:1", mode="edge") as model:
        model.predict(pair.easy[0])
        text = model.metrics()
    assert value(text, "edge_sdk_requests_total", source="edge", reason="confident") == 1
    assert "cache" not in {name.split("_")[2] for name, _, _ in samples(text)}


def test_counters_are_plain_values(pair, cloud) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT) as model:
        model.predict(pair.hard[0])
        counters = model.counters
    assert json.loads(json.dumps(counters)) == counters


@given(st.lists(st.floats(0, 100), max_size=30), st.sampled_from([SECONDS, BYTES]))
def test_buckets_hold_what_is_at_most_their_bound(values: list[float], bounds: tuple[float, ...]) -> None:
    histogram = Histogram(bounds)
    for one in values:
        histogram.observe(one)
    counts = histogram.snapshot()["counts"]
    for n, bound in enumerate(bounds):
        assert sum(counts[: n + 1]) == sum(one <= bound for one in values)
    assert sum(counts) == len(values)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e")))
def test_any_name_can_be_read_again(name: str) -> None:
    nothing = {
        "outcomes": {},
        "certified": 0,
        "audits": dict.fromkeys(("answered", "missing", "disagreed"), 0),
        "network": {"round_trip_ms": 0.0, "bytes_per_second": None},
        "certificate_void": None,
        "histograms": {"request_seconds": {}, "cloud_seconds": Histogram(SECONDS).snapshot(), "upload_bytes": {}},
        "encodings": {},
        "failed_encodings": {},
        "extra_calls": 0,
        "bytes_extra": 0,
        "waves": {"sent": 0, "inputs": 0},
        "foreign_model": 0,
        "privacy": {},
        "journal": {},
    }
    text = exposition(nothing, {"model": name})
    assert value(text, "edge_sdk_info", model=name) == 1
    assert "bandwidth_bytes_per_second" not in {
        sample.removeprefix("edge_sdk_expected_") for sample, _, _ in samples(text)
    }
