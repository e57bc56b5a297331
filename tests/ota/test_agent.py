"""The agent against a real repository service on a real broker."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import edge_sdk
from edge_sdk.bundle import Detector
from edge_sdk.cloud.ota.repository import Lifetimes, Repository
from edge_sdk.errors import BrokerError, InputError, StorageError, TrustError
from edge_sdk.ota import Event, OtaAgent, active
from edge_sdk.ota.packets import Message
from edge_sdk.ota.topics import Topics
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec
from outside.detectors import SIDE as DETECTOR_SIDE
from outside.detectors import yolo_onnx
from outside.network import MisbehavingNetwork
from outside.updates import Fleet, make_bundle, spoil_golden, wait_for

UPDATE = ["downloading", "verifying", "installing", "testing", "active"]


def test_a_device_installs_what_it_is_assigned_and_then_the_next_version(fleet: Fleet) -> None:
    fleet.ship_version("1.0.0")
    state_dir = fleet.folder / "state" / "cam-1"
    assert active(state_dir) is None
    with fleet.agent() as agent:
        worker = threading.Thread(target=agent.run)
        worker.start()
        wait_for(lambda: ("active", "1.0.0") in fleet.states())
        first = active(state_dir)
        fleet.ship_version("1.1.0")
        wait_for(lambda: ("active", "1.1.0") in fleet.states())
        assert agent.active.version == "1.1.0"
        wait_for(lambda: len(fleet.reports()) == 10)
    worker.join(60)
    assert fleet.states() == [(state, version) for version in ("1.0.0", "1.1.0") for state in UPDATE]
    second = active(state_dir)
    assert first != second
    with edge_sdk.load(second) as model:
        assert model.version == "1.1.0"
    last = fleet.reports()[-1]
    assert (last["state"], last["version"], last["device"]) == ("active", "1.1.0", "cam-1")
    assert last["digest"] == fleet.repository.bundles()["tiny-1.1.0"].bundle_digest
    assert last["bytes"] > fleet.repository.bundles()["tiny-1.1.0"].size


def test_a_device_installs_a_detector_that_answers_as_it_did_where_it_was_packed(fleet: Fleet) -> None:
    path = fleet.folder / "cells-1.0.0.edge"
    spec = ProcessingSpec.image(DETECTOR_SIDE, DETECTOR_SIDE, 3, order="NCHW")
    options = {"name": "cells", "version": "1.0.0", "labels": ("red", "green"), "processing": spec}
    pack(yolo_onnx(), runtime="onnx", path=path, task="detection", detection=Detector("yolo"), **options)
    fleet.ship(path)
    assert fleet.check() == "active"
    with edge_sdk.load(active(fleet.folder / "state" / "cam-1")) as model:
        assert model.predict(np.full((64, 64, 3), 255, np.uint8)).labels == ("red",) * 16


def test_a_second_look_installs_nothing_and_says_nothing_new(fleet: Fleet) -> None:
    fleet.ship_version("1.0.0")
    assert fleet.check() == "active"
    said = len(fleet.events)
    assert fleet.check() == "active"
    assert len(fleet.events) == said


def test_a_device_without_an_assignment_is_idle(fleet: Fleet) -> None:
    assert fleet.check() == "idle"
    assert fleet.events == []


def test_a_version_whose_golden_outputs_do_not_hold_is_refused_for_good(fleet: Fleet) -> None:
    fleet.ship_version("1.0.0")
    fleet.check()
    fleet.ship(spoil_golden(make_bundle(fleet.folder, "2.0.0")))
    assert fleet.check() == "refused"
    event = fleet.events[-1]
    assert (event.state, event.version) == ("refused", "2.0.0")
    assert "golden" in event.reason
    fleet.repository.assign("cam-1", "tiny-2.0.0")  # the same bytes again: refused without a download
    assert fleet.check() == "refused"
    assert fleet.states().count(("downloading", "2.0.0")) == 1
    with edge_sdk.load(active(fleet.folder / "state" / "cam-1")) as model:
        assert model.version == "1.0.0"
    wait_for(lambda: [r["state"] for r in fleet.reports()].count("refused") == 2)
    fleet.ship_version("3.0.0")
    assert fleet.check() == "active"
    assert fleet.states()[-1] == ("active", "3.0.0")


@pytest.mark.parametrize("damage", ["flip", "truncate", "splice"])
def test_a_bundle_changed_after_signing_is_refused_and_the_next_one_installs(fleet: Fleet, damage: str) -> None:
    fleet.ship_version("1.0.0")
    fleet.check()
    fleet.ship(make_bundle(fleet.folder, "2.0.0", golden_kib=200))
    stored = fleet.repository.target_file("tiny-2.0.0")
    data = bytearray(stored.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    stored.write_bytes({"flip": data, "truncate": data[:-100], "splice": data[:-1] + b"xx"}[damage])
    assert fleet.check() == "refused"
    assert "does not match its signed hash" in fleet.events[-1].reason
    assert "\n" not in fleet.events[-1].reason
    fleet.ship_version("3.0.0")
    assert fleet.check() == "active"


def test_a_lower_version_needs_an_assignment_that_says_so(fleet: Fleet) -> None:
    fleet.ship_version("2.0.0")
    fleet.check()
    fleet.ship_version("1.0.0")
    assert fleet.check() == "refused"
    assert "allows no downgrade" in fleet.events[-1].reason
    fleet.repository.assign("cam-1", "tiny-1.0.0", downgrade=True)
    assert fleet.check() == "active"
    assert fleet.states()[-1] == ("active", "1.0.0")


def test_an_expired_assignment_is_not_followed(fleet: Fleet) -> None:
    fleet.repository.add(make_bundle(fleet.folder, "1.0.0"))
    fleet.repository.assign("cam-1", "tiny-1.0.0", expires=timedelta(seconds=-1))
    assert fleet.check() == "refused"
    assert "expired" in fleet.events[-1].reason


def test_a_device_never_follows_the_assignment_of_another(fleet: Fleet) -> None:
    fleet.ship(make_bundle(fleet.folder, "1.0.0"), "cam-2")
    assert fleet.check("cam-1") == "idle"
    assert fleet.check("cam-2") == "active"


def test_a_damaged_active_slot_falls_back_to_the_previous_version_and_heals(fleet: Fleet) -> None:
    fleet.ship_version("1.0.0")
    fleet.check()
    fleet.ship_version("2.0.0")
    fleet.check()
    model = active(fleet.folder / "state" / "cam-1") / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    del fleet.events[:]
    assert fleet.check() == "active"
    assert fleet.states() == [("rolled_back", "1.0.0"), *[(state, "2.0.0") for state in UPDATE]]
    assert "model.onnx is damaged" in fleet.events[0].reason
    wait_for(lambda: [r["state"] for r in fleet.reports()].count("active") == 3)


def test_a_damaged_only_slot_is_fetched_again(fleet: Fleet) -> None:
    fleet.ship_version("1.0.0")
    fleet.check()
    (active(fleet.folder / "state" / "cam-1") / "manifest.json").unlink()
    assert fleet.check() == "active"
    assert ("rolled_back", "") in fleet.states()
    with edge_sdk.load(active(fleet.folder / "state" / "cam-1")) as model:
        assert model.version == "1.0.0"


@pytest.mark.parametrize("name", ["active.json", "memory.json", "outbox.db", "metadata/timestamp.json"])
def test_a_damaged_state_file_heals(fleet: Fleet, name: str) -> None:
    fleet.ship_version("1.0.0")
    fleet.check()
    (fleet.folder / "state" / "cam-1" / name).write_bytes(b"\xff damaged" * 100)
    fleet.ship_version("2.0.0")
    assert fleet.check() == "active"
    assert fleet.states()[-1] == ("active", "2.0.0")


def test_a_model_that_kills_the_agent_is_tried_three_times(fleet: Fleet) -> None:
    fleet.ship_version("1.0.0")

    def dies(bundle: object) -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), fleet.agent(probe=dies) as agent:
            agent.check()
    assert fleet.check() == "refused"
    assert "did not end in 3 trials" in fleet.events[-1].reason


def test_a_repository_of_another_root_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    fleet.ship_version("1.0.0")
    other = Repository.init(tmp_path / "other", bins=2)
    assert fleet.check(root=other.root_path) == "refused"
    assert "metadata is refused" in fleet.events[-1].reason
    assert active(fleet.folder / "state" / "cam-1") is None


def test_a_root_that_one_key_could_sign_is_refused(fleet: Fleet) -> None:
    from tuf.api.metadata import Metadata, Root

    from edge_sdk.cloud.ota.keys import KeyFolder

    root = Metadata[Root].from_file(str(fleet.repository.root_path))
    root.signed.roles["root"].threshold = 1
    root.sign(KeyFolder(fleet.repository.folder / "keys").load("root-1"))
    with pytest.raises(TrustError, match="that 2 keys sign"):
        fleet.agent(root=root.to_bytes())


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff" * 600_000])
def test_a_damaged_pinned_root_is_refused_with_one_line(fleet: Fleet, content: bytes) -> None:
    with pytest.raises(TrustError) as caught:
        fleet.agent(root=content)
    assert "\n" not in str(caught.value)


def test_metadata_older_than_what_was_seen_is_refused(fleet: Fleet) -> None:
    fleet.ship_version("1.0.0")
    metadata, old = fleet.repository.folder / "metadata", fleet.folder / "old"
    shutil.copytree(metadata, old)
    fleet.ship_version("2.0.0")
    assert fleet.check() == "active"
    shutil.rmtree(metadata)
    old.rename(metadata)
    assert fleet.check() == "refused"
    assert "metadata is refused" in fleet.events[-1].reason
    assert active(fleet.folder / "state" / "cam-1") is not None


def test_a_frozen_repository_is_refused(tmp_path: Path, broker: str) -> None:
    fleet = Fleet(tmp_path, broker, lifetimes=Lifetimes(timestamp=timedelta(seconds=-1)))
    fleet.serve()
    try:
        fleet.ship_version("1.0.0")
        assert fleet.check() == "refused"
        assert "expired" in fleet.events[-1].reason
    finally:
        fleet.stop()


def test_a_silent_repository_leaves_the_device_idle_and_the_reason_known(fleet: Fleet) -> None:
    fleet.stop()
    with fleet.agent(request_timeout=0.05) as agent:
        assert agent.check() == "idle"
        assert "did not answer" in agent.trouble
        assert agent.check() == "idle"
    assert fleet.states() == [("idle", "")]


def test_two_agents_in_one_folder_fail_clearly(fleet: Fleet) -> None:
    with fleet.agent(), pytest.raises(StorageError, match="another agent works in"):
        fleet.agent()
    fleet.agent().close()


def test_no_broker_is_one_line(fleet: Fleet) -> None:
    with fleet.agent(broker="mqtt://127.0.0.1:1") as agent, pytest.raises(BrokerError, match="no MQTT broker at"):
        agent.run()


def test_a_folder_that_cannot_be_made_is_one_line(fleet: Fleet, unmakeable_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot create the folder"):
        OtaAgent(unmakeable_path, fleet.broker, "f", "d", fleet.repository.root_path)


@pytest.mark.parametrize("seconds", [0.0, -5.0, float("nan"), float("inf")])
def test_looks_that_would_have_no_pause_or_no_end_of_one_are_refused(fleet: Fleet, seconds: float) -> None:
    with pytest.raises(InputError, match="say a number above 0"):
        fleet.agent(poll_seconds=seconds)


@pytest.mark.parametrize("device", ["", "../x", "a/b", "+", "#", "a" * 65])
def test_a_device_id_that_could_leave_its_topics_is_refused(fleet: Fleet, device: str) -> None:
    with pytest.raises(InputError):
        OtaAgent(fleet.folder / "s", fleet.broker, "f", device, fleet.repository.root_path)


def test_an_update_goes_on_after_the_broker_was_away(
    fleet: Fleet, network: Callable[[int], MisbehavingNetwork]
) -> None:
    proxy = network(int(fleet.broker.rsplit(":", 1)[1]))
    fleet.ship_version("1.0.0")
    with fleet.agent(broker=f"mqtt://{proxy.address}", poll_seconds=0.2, request_timeout=0.1) as agent:
        worker = threading.Thread(target=agent.run)
        worker.start()
        wait_for(lambda: ("active", "1.0.0") in fleet.states())
        proxy.set("refuse")
        fleet.ship_version("2.0.0")
        wait_for(lambda: any(event.state == "idle" for event in fleet.events))
        assert agent.active.version == "1.0.0"
        proxy.set("pass")
        wait_for(lambda: ("active", "2.0.0") in fleet.states())
        wait_for(lambda: any(r["state"] == "idle" for r in fleet.reports()))
    worker.join(60)


def test_a_full_disk_leaves_the_device_idle_and_says_so(fleet: Fleet, full_disk: Path) -> None:
    fleet.ship(make_bundle(fleet.folder, "1.0.0", golden_kib=300))
    options = {"on_event": fleet.events.append, "request_timeout": 0.5}
    with OtaAgent(full_disk, fleet.broker, fleet.name, "cam-1", fleet.repository.root_path, **options) as agent:
        assert agent.check() == "idle"
        assert "disk" in agent.trouble
        assert agent.check() == "idle"
    assert active(full_disk) is None


def test_the_callback_may_stop_the_agent(fleet: Fleet) -> None:
    fleet.ship_version("1.0.0")
    with fleet.agent() as agent:

        def stop(event: Event) -> None:
            if event.state == "active":
                agent.stop()

        agent._reporter._on_event = stop
        agent.run()
    assert active(fleet.folder / "state" / "cam-1") is not None


def test_a_bundle_that_would_fill_the_disk_is_not_begun(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.ship_version("1.0.0")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
        assert fleet.check() == "idle"
    assert "10000 are free" in fleet.events[-1].reason
    assert fleet.check() == "active"


def test_hints_without_an_end_take_a_bounded_part_of_memory(fleet: Fleet) -> None:
    fleet.ship_version("1.0.0")
    with fleet.agent() as agent:
        hint = Message(Topics(fleet.name, "cam-1").desired, b"", b"", {}, 0, 0)
        for _ in range(5000):
            agent._message(hint)
        assert agent._inbox.qsize() <= 1000
        assert agent.check() == "active"
