"""What a hybrid model counts, as text that Prometheus reads; names and meaning: ``docs/metrics.md``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Labels = Mapping[str, str]
_Samples = Iterable[tuple[_Labels, float | None]]


def exposition(counters: Mapping[str, Any], info: _Labels) -> str:
    """Return counters in Prometheus' text format, version 0.0.4.

    Parameters
    ----------
    counters
        As `edge_sdk.client.HybridModel.counters` gives them.
    info
        What describes the model: labels of a gauge that is always 1.
    """
    return "".join(f"{line}\n" for line in _lines(counters, info))


def _lines(counters: Mapping[str, Any], info: _Labels) -> Iterator[str]:
    outcomes = (
        ({"source": source, "reason": reason}, count)
        for source, reasons in counters["outcomes"].items()
        for reason, count in reasons.items()
    )
    audits, network, cache = counters["audits"], counters["network"], counters.get("cache")
    round_trip, void = network["round_trip_ms"] / 1e3, counters["certificate_void"] is not None
    histograms = counters["histograms"]
    yield from _family("info", "gauge", "The model in use now.", [(info, 1)])
    yield from _family("requests_total", "counter", "Requests by who answered and why.", outcomes)
    yield from _family(
        "certified_answers_total", "counter", "Answers under a certificate.", [({}, counters["certified"])]
    )
    yield from _histogram(
        "request_duration_seconds", "Time from the call to its answer.", "source", histograms["request_seconds"]
    )
    yield from _histogram(
        "cloud_duration_seconds", "Time of asking the cloud that gave an answer.", "", {"": histograms["cloud_seconds"]}
    )
    yield from _histogram("upload_size_bytes", "Requests handed to the network.", "result", histograms["upload_bytes"])
    yield from _family(
        "escalations_total",
        "counter",
        "Requests that the cloud answered, by what it saw.",
        _by("encoding", counters["encodings"]),
    )
    yield from _family(
        "failed_uploads_total",
        "counter",
        "Requests handed to the network without a useful answer, by what the cloud would have seen.",
        _by("encoding", counters["failed_encodings"]),
    )
    for what, name in (("requests", "extra_calls"), ("bytes", "bytes_extra")):
        yield from _family(f"extra_{what}_total", "counter", f"Copies of requests: {what}.", [({}, counters[name])])
    waves = counters["waves"]
    yield from _family("waves_total", "counter", "Messages that carried several inputs.", [({}, waves["sent"])])
    yield from _family("wave_inputs_total", "counter", "Inputs in them.", [({}, waves["inputs"])])
    yield from _family(
        "foreign_answers_total",
        "counter",
        "Useful answers of another cloud model than the certificate names.",
        [({}, counters["foreign_model"])],
    )
    yield from _family(
        "privacy_inputs_total",
        "counter",
        "Inputs that privacy rules kept on the device, or reduced.",
        _by("action", counters["privacy"]),
    )
    yield from _family(
        "audits_total",
        "counter",
        "Audits of confident answers by what came of them.",
        _by("result", {name: audits[name] for name in ("answered", "missing")}),
    )
    yield from _family(
        "audit_disagreements_total",
        "counter",
        "Audits in which the cloud named another class.",
        [({}, audits["disagreed"])],
    )
    yield from _family("certificate_void", "gauge", "1 while the certificate is void.", [({}, int(void))])
    yield from _family(
        "expected_round_trip_seconds", "gauge", "What the next call is expected to take.", [({}, round_trip)]
    )
    yield from _family(
        "expected_bandwidth_bytes_per_second",
        "gauge",
        "What the way to the cloud carries; absent where size makes no difference.",
        [({}, network["bytes_per_second"])],
    )
    yield from _family(
        "journal_records_total", "counter", "Records of the journal.", _by("result", counters["journal"])
    )
    if cache is not None:
        lookups = {name: cache[name] for name in ("hits", "misses")}
        yield from _family("cache_lookups_total", "counter", "Inputs that were to be sent.", _by("result", lookups))
        yield from _family("cache_entries", "gauge", "Answers kept now.", [({}, cache["entries"])])
    if (feedback := counters.get("feedback")) is not None:
        ended = {name: count for name, count in feedback.items() if name != "waiting"}
        yield from _family("rewards_total", "counter", "True labels, by who heard of them.", _by("result", ended))
        yield from _family("rewards_waiting", "gauge", "Rewards that are to be told.", [({}, feedback["waiting"])])
    if (outbox := counters.get("outbox")) is not None:
        ended = {name: count for name, count in outbox.items() if name not in ("waiting", "bytes")}
        yield from _family("outbox_inputs_total", "counter", "Inputs that have left it.", _by("result", ended))
        yield from _family("outbox_waiting", "gauge", "Inputs that wait in it.", [({}, outbox["waiting"])])
        yield from _family("outbox_bytes", "gauge", "Bytes that they take.", [({}, outbox["bytes"])])


def _by(label: str, counts: Mapping[str, float]) -> _Samples:
    return [({label: name}, count) for name, count in counts.items()]


def _family(name: str, kind: str, what: str, samples: _Samples) -> Iterator[str]:
    yield f"# HELP edge_sdk_{name} {what}"
    yield f"# TYPE edge_sdk_{name} {kind}"
    for labels, value in samples:
        if value is not None:
            yield _sample(name, labels, value)


def _histogram(name: str, what: str, label: str, by: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield from _family(name, "histogram", what, ())
    for key, one in by.items():
        labels = {label: key} if label else {}
        counts = list(accumulate(one["counts"]))
        for bound, count in zip((*map(_number, one["bounds"]), "+Inf"), counts, strict=True):
            yield _sample(f"{name}_bucket", {**labels, "le": bound}, count)
        yield _sample(f"{name}_sum", labels, one["sum"])
        yield _sample(f"{name}_count", labels, counts[-1])


def _sample(name: str, labels: _Labels, value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"edge_sdk_{name}{'{' + inside + '}' if inside else ''} {_number(value)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
