"""Whoever carries blocks and lies about them delays an update; the device takes it when they are right, by itself."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from edge_sdk.cloud.ota.gateway import Origin, Reply
from edge_sdk.errors import TrustError
from edge_sdk.ota.patience import Patience
from edge_sdk.ota.ranges import Ranges
from outside.updates import Fleet, make_bundle, wait_for

PAUSES = (0.02, 0.05)


class Wrong(Origin):
    """Serves zeros for some blocks of every bundle, and no delta; counts what is asked for."""

    def __init__(self, folder: Path, *, first: int = 0, lost: str = "") -> None:
        super().__init__(folder)
        self.asked: list[str] = []
        self._first, self._lost = first, lost

    def answer(self, device: str, request: bytes) -> Reply:
        document = json.loads(request)
        name = document.get("target", "")
        self.asked.append(Path(name).suffix)
        if self._lost and name.endswith(self._lost):
            return Reply(404)
        if name.endswith(".edge") and document["block"] >= self._first:
            return Reply(200, bytes(5000), 5000)
        return super().answer(device, request)


@pytest.mark.parametrize("restarted", [False, True])
def test_after_a_broker_that_lied_for_rounds_the_device_updates_by_itself(fleet: Fleet, restarted: bool) -> None:
    fleet.ship(make_bundle(fleet.folder, "1.0.0", golden_kib=300))
    honest = fleet.gateway._origin
    fleet.gateway._origin = liar = Wrong(fleet.repository.folder, first=1)
    with fleet.agent(pauses=PAUSES) as agent:
        wait_for(lambda: agent.check() == "refused" and fleet.states().count(("refused", "1.0.0")) >= 4)
        assert agent.active is None
        assert liar.asked.count(".edge") > 12
        fleet.gateway._origin = honest
        if not restarted:
            wait_for(lambda: agent.check() == "active")
    if restarted:
        with fleet.agent(pauses=PAUSES) as agent:
            wait_for(lambda: agent.check() == "active")
    assert fleet.states()[-1] == ("active", "1.0.0")
    assert not (fleet.folder / "state" / "cam-1" / "pause.json").exists()


def test_nothing_is_asked_for_during_a_pause_and_after_a_restart_in_it(fleet: Fleet) -> None:
    fleet.ship_version("1.0.0")
    fleet.gateway._origin = liar = Wrong(fleet.repository.folder)
    assert fleet.check() == "refused"
    asked = liar.asked.count(".edge")
    assert [fleet.check(), fleet.check()] == ["refused", "refused"]
    assert liar.asked.count(".edge") == asked
    assert fleet.states().count(("refused", "1.0.0")) == 1
    assert "it is asked for again in" in fleet.events[-1].reason


def test_where_the_web_server_lies_the_blocks_come_over_the_broker(fleet: Fleet) -> None:
    class Lying(Ranges):
        def fetch(self, requests):
            return enumerate(Wrong(fleet.repository.folder).answer("cam-1", json.dumps(r).encode()) for r in requests)

    fleet.ship_version("1.0.0")
    assert fleet.check(repository=Lying("http://127.0.0.1:1")) == "active"


class Never:
    """A download whose bytes are never the signed ones."""

    def fetch(self, source: object) -> Path:
        raise TrustError("wrong")


def test_pauses_grow_to_a_limit_and_outlive_a_clock_that_is_set_back(tmp_path: Path) -> None:
    now, seen = 1e9, []

    def clock() -> float:
        return now

    for _ in range(12):
        patience = Patience(tmp_path / "pause.json", (60.0, 3600.0), clock)
        with pytest.raises(TrustError):
            patience.fetch(Never(), "a" * 64, [None])
        begun = now
        while patience.pause("a" * 64) is not None:
            now += 10
        seen.append(now - begun)
    assert all(min(3600, 60 * 2**n) / 2 - 10 <= pause <= min(3600, 60 * 2**n) + 10 for n, pause in enumerate(seen))
    with pytest.raises(TrustError):
        patience.fetch(Never(), "a" * 64, [None])
    now = time.time() - 40 * 365 * 86400
    assert Patience(tmp_path / "pause.json", (60.0, 3600.0), clock).pause("a" * 64) is None
    (tmp_path / "pause.json").write_bytes(b"\xff")
    assert Patience(tmp_path / "pause.json", (60.0, 3600.0)).rounds("a" * 64) == 0


@pytest.mark.slow
def test_a_delta_smaller_than_a_file_of_one_block_is_taken_and_one_that_does_not_come_is_asked_for_once(
    fleet: Fleet,
) -> None:
    from edge_sdk.bundle import Bundle

    bundle = make_bundle(fleet.folder, "1.0.0")
    fleet.ship(bundle)
    assert fleet.check() == "active"
    for version in ("1.1.0", "1.2.0"):
        Bundle.open(bundle).rewrite(bundle.with_name(f"tiny-{version}.edge"), version=version)
    fleet.ship(bundle.with_name("tiny-1.1.0.edge"))
    fleet.gateway._origin = counting = Wrong(fleet.repository.folder, first=10**6)
    assert fleet.check() == "active"
    assert (counting.asked.count(".delta"), counting.asked.count(".edge")) == (1, 0)
    fleet.ship(bundle.with_name("tiny-1.2.0.edge"))
    fleet.gateway._origin = Wrong(fleet.repository.folder, lost=".delta")
    with fleet.agent(pauses=PAUSES) as agent:
        wait_for(lambda: agent.check() == "refused" and fleet.states().count(("refused", "1.2.0")) >= 2)
    assert len([event for event in fleet.events if "cannot be used" in event.reason]) == 1
