"""What the demo makes of its records: figures, verdicts, a page. No process is started here."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from edge_sdk.cascade import binomial
from edge_sdk.errors import ServiceError
from edge_sdk.examples.demo import records, report
from edge_sdk.examples.demo.measure import Sweeps, percentiles, window
from edge_sdk.examples.demo.processes import Child

GOOD = {
    "data": "mnist",
    "n_test": 1000,
    "accuracy": {"edge": 0.94, "cloud": 0.98, "hybrid": 0.975},
    "local_share": 0.8,
    "certificate": {"max_accuracy_loss": 0.01, "confidence": 0.95, "n": 1000, "threshold": 0.9},
    "realised_loss": 0.004,
    "loss_lower_bound": 0.0005,
    "latency_ms": {mode: {"p50": 1.0, "p95": 2.0, "p99": 3.0} for mode in ("edge", "cloud", "hybrid")},
    "bytes_sent": {"edge": 0, "cloud": 800_000, "hybrid": 160_000},
    "sizes": {"teacher_bytes": 500_000, "student_bytes": 13_000, "bundle_bytes": 34_000},
    "ota": {"seconds": 0.5, "bytes": 39_000, "versions": ["1.0.0", "2.0.0"]},
    "faults": {
        "server_kill": {
            "outcome": "resumed",
            "unreachable": 50,
            "calls": 9,
            "answered": 9,
            "in_deadline": 9,
            "withheld": 0,
        },
        "update_while_running": {"outcome": "active", "calls": 9, "answered": 9, "in_deadline": 9, "withheld": 0},
        **{
            name: {
                "outcome": "refused",
                "reason": "<golden>",
                "versions": ["2.0.0"],
                "calls": 9,
                "answered": 9,
                "in_deadline": 9,
                "withheld": 0,
            }
            for name in ("bad_version", "tampered")
        },
    },
    "versions": {"python": "3.11"},
    "seconds": 60.0,
}


def changed(path: str, value: object) -> dict:
    """Return the good report with one value replaced."""
    result = copy.deepcopy(GOOD)
    *parents, last = path.split("/")
    place = result
    for key in parents:
        place = place[key]
    place[last] = value
    return result


def broken(result: dict) -> int:
    return sum(not promise.held for promise in report.promises(result))


def test_a_good_report_keeps_every_promise():
    assert broken(GOOD) == 0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("loss_lower_bound", 0.0101),
        ("ota/versions", []),
        ("faults/server_kill/answered", 8),
        ("faults/server_kill/in_deadline", 8),
        ("faults/server_kill/unreachable", 0),
        ("faults/server_kill/outcome", "not resumed"),
        ("faults/update_while_running/outcome", "rolled_back"),
        ("faults/update_while_running/answered", 8),
        ("faults/bad_version/outcome", "active"),
        ("faults/bad_version/versions", ["2.0.0", "3.0.0"]),
        ("faults/tampered/outcome", "active"),
        ("faults/tampered/in_deadline", 8),
    ],
)
def test_each_promise_can_be_broken(path, value):
    assert broken(changed(path, value)) == 1


def test_a_fault_without_a_call_proves_nothing():
    empty = {"calls": 0, "answered": 0, "in_deadline": 0, "withheld": 0}
    assert broken(changed("faults/tampered", GOOD["faults"]["tampered"] | empty)) == 1


def test_the_page_escapes_what_it_is_told():
    page = report.page(GOOD, [("Plot", "A caption", "<svg></svg>")])
    assert "&lt;golden&gt;" in page
    assert "<golden>" not in page


def test_a_broken_promise_shows_on_the_page():
    assert "Every promise held" in report.page(GOOD, [])
    assert "A promise was broken" in report.page(changed("ota/versions", []), [])


def rows(*calls: tuple[float, float, int, str, str]) -> np.ndarray:
    """Return records of (time, latency in ms, answer, source, reason)."""
    return np.array(
        [
            (at, ms, 0.0, n, index, records.SOURCES.index(source), records.REASONS.index(reason), 0.5, True, "2.0.0")
            for n, (at, ms, index, source, reason) in enumerate(calls)
        ],
        dtype=records.DTYPE,
    )


def test_harm_counts_what_was_kept_wrong_and_the_cloud_had_right_for_whatever_reason_it_was_kept():
    labels = np.array([0, 0, 0, 0, 0])
    edge = rows(*[(0.0, 1.0, i, "edge", "forced") for i in (0, 1, 1, 1, 1)])
    cloud = rows(*[(0.0, 1.0, i, "cloud", "forced") for i in (0, 0, 0, 1, 0)])
    hybrid = rows(
        (0.0, 1.0, 0, "edge", "confident"),
        (0.0, 1.0, 1, "edge", "confident"),  # harmed
        (0.0, 1.0, 1, "edge", "offline"),  # harmed: the network is no excuse
        (0.0, 1.0, 1, "edge", "confident"),  # the cloud is wrong, too
        (0.0, 1.0, 0, "cloud", "escalated"),
    )
    sweeps = Sweeps(edge, cloud, hybrid, labels)
    assert sweeps.harms == 2
    assert sweeps.loss()["realised_loss"] == pytest.approx(0.4)
    assert sweeps.loss()["lower_bound"] == binomial.lower_bound(2, 5, 0.999)
    assert sweeps.local.tolist() == [True, True, True, True, False]
    assert sweeps.accuracy == {"edge": 0.2, "cloud": 0.8, "hybrid": 0.4}


def test_a_window_counts_the_calls_that_began_in_it():
    calls = rows(
        (0.5, 1.0, 1, "edge", "confident"),
        (1.0, 300.0, 1, "edge", "deadline"),
        (1.5, 2.0, 1, "cloud", "escalated"),
        (2.0, 1.0, 1, "edge", "confident"),
    )
    calls["index"][1] = -1
    found = window(calls, 1.0, 2.0, deadline=0.25)
    assert (found["calls"], found["answered"], found["in_deadline"]) == (2, 1, 1)
    assert found["reasons"] == {"escalated": 1, "deadline": 1}
    assert found["versions"] == ["2.0.0"]


def test_a_call_has_longer_than_its_deadline_while_others_have_the_processor():
    calls = rows((1.0, 300.0, 1, "edge", "deadline"), (1.5, 300.0, 1, "edge", "deadline"))
    calls["withheld_ms"] = (49.0, 51.0)
    found = window(calls, 1.0, 2.0, deadline=0.25)
    assert (found["calls"], found["answered"], found["in_deadline"], found["withheld"]) == (2, 2, 1, 1)


def test_percentiles_are_of_the_latencies():
    assert percentiles(np.arange(101.0)) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}


def test_records_survive_their_file(tmp_path):
    written = [records.failed(1.0, 2.0, 0.5, 3, "1.0.0")]
    records.write(tmp_path / "run.npy", written)
    (read,) = records.read(tmp_path / "run.npy").tolist()
    assert read == written[0]


def test_a_process_that_ends_before_it_is_ready_is_told_by_its_last_words(tmp_path):
    with pytest.raises(ServiceError, match="no such fleet"):
        Child("agent", ["sh", "-c", "echo no such fleet >&2; exit 2"], tmp_path)


def test_a_process_that_says_something_else_than_ready_is_ended(tmp_path):
    with pytest.raises(ServiceError, match="instead of being ready"):
        Child("broker", ["sh", "-c", "echo hello; exec sleep 60"], tmp_path)
