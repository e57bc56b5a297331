"""A new version on trial in use: kept, or given up for the old one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import edge_sdk
from edge_sdk.client import HybridModel
from edge_sdk.errors import InputError
from edge_sdk.ota import Event, OtaAgent, Soak, Vitals, active, follow
from edge_sdk.ota.follower import Counted
from edge_sdk.ota.soak import read_vitals, write_vitals
from edge_sdk.ota.updates import Updates
from outside.bundles import SIDE
from outside.updates import Fleet, wait_for

TRIAL = Soak(seconds=0.2, requests=50, deadline=60.0)


@pytest.fixture
def device(fleet: Fleet) -> Callable[..., OtaAgent]:
    """Return a function that makes agents of a device which has version 1.0.0 and is assigned 2.0.0."""
    fleet.ship_version("1.0.0")
    fleet.check()
    fleet.ship_version("2.0.0")
    return fleet.agent


def seen(**counts: float) -> Callable[[str], Vitals]:
    return lambda digest: Vitals(digest, **counts)


def settle(agent: OtaAgent) -> str:
    """Look until the trial is over."""
    states = [agent.check()]
    wait_for(lambda: states[-1] != "soaking" or states.append(agent.check()))
    return states[-1]


def test_a_version_that_does_well_is_kept_and_only_then_reported(fleet: Fleet, device: Callable[..., OtaAgent]) -> None:
    counts = {"requests": 0}
    with device(soak=TRIAL, vitals=lambda digest: Vitals(digest, **counts)) as agent:
        assert agent.check() == "soaking"
        assert agent.active.version == "2.0.0"
        assert fleet.states()[-1] == ("soaking", "2.0.0")
        counts["requests"] = 100
        assert settle(agent) == "active"
    assert fleet.states().count(("active", "2.0.0")) == 1
    assert fleet.check() == "active"


@pytest.mark.parametrize(
    ("soak", "counts", "reason"),
    [
        (TRIAL, {"requests": 50, "errors": 25}, "25 errors in 50 requests; a share of 0.05 is allowed"),
        (Soak(0.1, 20, 60.0, max_escalation_rate=0.3), {"requests": 40, "escalated": 13}, "13 escalations in 40"),
        (Soak(0.1, 20, 60.0, min_confidence=0.6), {"requests": 40, "confidence": 0.5}, "a mean confidence of 0.5"),
        (
            Soak(0.1, 20, 60.0, max_confidence_drop=0.1),
            {"requests": 40, "confidence": 0.5, "reference": 0.9},
            "a mean confidence of 0.5, after 0.9",
        ),
        (Soak(0.1, 20, 0.2), {"requests": 3}, "3 answers were seen in"),
    ],
)
def test_a_version_that_does_badly_is_given_up_for_the_old_one(
    fleet: Fleet, device: Callable[..., OtaAgent], soak: Soak, counts: dict[str, float], reason: str
) -> None:
    with device(soak=soak, vitals=seen(**counts)) as agent:
        assert settle(agent) == "rolled_back"
        assert agent.active.version == "1.0.0"
        assert agent.check() == "refused"  # remembered, and nothing is fetched
    assert ("active", "2.0.0") not in fleet.states()
    [event] = [event for event in fleet.events if event.state == "rolled_back"]
    assert event.version == "1.0.0"
    assert reason in event.reason
    fleet.repository.assign("cam-1", "tiny-2.0.0")  # under another assignment it may be tried again
    assert fleet.check() == "active"


def test_a_rolling_back_that_a_full_disk_keeps_from_being_reported_is_reported_by_the_next_look(
    fleet: Fleet, device: Callable[..., OtaAgent]
) -> None:
    counts = {"requests": 0}
    journal = fleet.folder / "state" / "cam-1" / "outbox.db-journal"
    with device(soak=TRIAL, vitals=lambda digest: Vitals(digest, **counts)) as agent:
        assert agent.check() == "soaking"
        counts |= {"requests": 50, "errors": 50}
        journal.mkdir()  # nothing can be stored there now
        assert not agent._judge()  # it does not hurry to look, which would fail as well
        assert agent.active.version == "1.0.0"
        journal.rmdir()
        assert agent.check() == "refused"
    [event] = [event for event in fleet.events if event.state == "rolled_back"]
    assert "50 errors in 50 requests" in event.reason


def test_a_trial_goes_on_after_a_restart_and_ends_after_too_many(fleet: Fleet, device: Callable[..., OtaAgent]) -> None:
    for _ in range(4):  # the update, and three starts
        with device(soak=TRIAL, vitals=seen()) as agent:
            agent.start()
            assert agent.check() == "soaking"
    with device(soak=TRIAL, vitals=seen()) as agent:
        agent.start()
        assert agent.active.version == "1.0.0"
    assert "started more than 3 times" in fleet.events[-1].reason


def test_another_assignment_during_a_trial_does_not_cost_the_proven_version(
    fleet: Fleet, device: Callable[..., OtaAgent]
) -> None:
    with device(soak=TRIAL, vitals=seen()) as agent:
        assert agent.check() == "soaking"
        fleet.ship_version("3.0.0")
        assert agent.check() == "soaking"
        assert agent.active.version == "3.0.0"
        assert agent.model("")._installer.slots.sound_previous().version == "1.0.0"


def test_a_first_version_is_not_put_on_trial(fleet: Fleet) -> None:
    fleet.ship_version("1.0.0")
    assert fleet.check(soak=TRIAL) == "active"


def test_a_rolling_back_that_was_cut_off_before_its_report_is_reported_at_the_next_start(
    fleet: Fleet, device: Callable[..., OtaAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(model: Updates) -> None:
        if model._installer.left is not None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Updates, "_tell_left", cut)
        with pytest.raises(KeyboardInterrupt), device(soak=TRIAL, vitals=seen(requests=50, errors=25)) as agent:
            settle(agent)
    for _ in range(2):
        fleet.check()
    wait_for(lambda: [report["state"] for report in fleet.reports()].count("rolled_back") == 1)


def test_run_keeps_a_version_without_waiting_for_the_next_look(fleet: Fleet, device: Callable[..., OtaAgent]) -> None:
    with device(soak=Soak(0.3), poll_seconds=3600) as agent:
        worker = threading.Thread(target=agent.run)
        worker.start()
        wait_for(lambda: ("active", "2.0.0") in fleet.states())
        agent.stop()
        worker.join()


def test_an_app_that_follows_tells_the_agent_and_none_of_its_calls_fails(
    fleet: Fleet, device: Callable[..., OtaAgent]
) -> None:
    state = fleet.folder / "state" / "cam-1"
    frame, answers, stop = np.zeros((SIDE, SIDE, 3), np.uint8), list[object](), threading.Event()

    def use(model: HybridModel) -> None:
        try:
            while not stop.wait(0.002):
                answers.append(model.predict(frame).label)
        finally:
            stop.set()

    with (
        edge_sdk.connect(active(state), cloud="127.0.0.1:1", mode="edge") as model,
        follow(state, model, interval=0.02),
    ):
        user = threading.Thread(target=use, args=(model,))
        user.start()
        with device(soak=TRIAL) as agent:
            assert settle(agent) == "active"
        wait_for(lambda: model.edge.version == "2.0.0")
        assert not stop.is_set(), "a call failed"
        stop.set()
        user.join()
    assert len(answers) >= 50
    vitals = read_vitals(state, agent.active.digest)
    assert vitals.requests >= 50
    assert 1 / 3 <= vitals.confidence <= 1


def test_vitals_know_the_confidence_of_the_version_and_of_the_one_before() -> None:
    model = SimpleNamespace(bundle_digest="a")
    model.counters = {"outcomes": {"edge": {"confident": 10}}, "edge_confidence": 5.0}
    counted = Counted(model)
    model.counters = {"outcomes": {"edge": {"confident": 110}, "cloud": {"escalated": 90}}, "edge_confidence": 95.0}
    assert counted.vitals().confidence == pytest.approx(0.9)
    counted.begin()
    assert counted.vitals() == Vitals("a", reference=pytest.approx(0.9))
    model.counters = {"outcomes": {"edge": {"confident": 120}, "cloud": {"escalated": 90}}, "edge_confidence": 101.0}
    assert counted.vitals().confidence == pytest.approx(0.6)
    counted.begin()
    assert counted.vitals().reference is None  # ten answers are too few


def test_vitals_count_from_the_change_of_version(tmp_path: Path) -> None:
    model = SimpleNamespace(bundle_digest="a", counters={"outcomes": {"edge": {"confident": 90, "offline": 10}}})
    counted = Counted(model)
    model.bundle_digest = "b"
    counted.begin()
    model.counters = {"outcomes": {"edge": {"confident": 95, "offline": 12}, "none": {"forced": 1}}}
    assert counted.vitals() == Vitals("b", requests=8, errors=1, escalated=2)
    write_vitals(tmp_path, counted.vitals())
    assert read_vitals(tmp_path, "b").requests == 8
    assert read_vitals(tmp_path, "a") == Vitals("a")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format":1}', b'{"digest":"b","format":1,"requests":-1}', b"\xff"])
def test_damaged_vitals_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vitals.json").write_bytes(content)
    assert read_vitals(tmp_path, "b") == Vitals("b")


def test_early_in_a_trial_only_what_chance_does_not_explain_ends_it() -> None:
    soak = Soak(10, 1000, max_error_rate=0.05)
    assert soak.objection(Vitals("", 20, errors=3), 1.0) is None
    assert soak.objection(Vitals("", 20, errors=10), 1.0) is not None
    assert soak.objection(Vitals("", 1000, errors=51), 10.0) is not None
    assert soak.objection(Vitals("", 1000, errors=50), 10.0) is None


@pytest.mark.parametrize(
    "values",
    [
        *({"seconds": -1}, {"seconds": float("nan")}, {"seconds": float("inf")}, {"requests": 5}),
        *({"seconds": 2, "deadline": 1}, {"seconds": 2, "deadline": float("nan")}, {"max_error_rate": 2}),
    ],
)
def test_a_trial_that_makes_no_sense_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Soak(**values)


def test_events_of_a_trial_have_a_name() -> None:
    assert Event("cam-1", "soaking").to_dict()["state"] == "soaking"
