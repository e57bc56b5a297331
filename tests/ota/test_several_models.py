"""Several models on one device: one agent, one connection and one trust, and each updated for itself."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edge_sdk.bundle import Bundle
from edge_sdk.cloud.ota.gateway import Origin, Reply
from edge_sdk.cloud.ota.reports import last_reports
from edge_sdk.errors import InputError
from edge_sdk.ota import OtaAgent, Soak, Vitals, active
from edge_sdk.ota.link import Broker, Link
from edge_sdk.ota.topics import Topics
from outside.updates import Fleet, make_bundle, spoil_golden, wait_for

MODELS = ("faces", "sound")


def ship(fleet: Fleet, version: str, names: Sequence[str] = MODELS, *, bad: Sequence[str] = ()) -> None:
    """Add a version of each model and assign it."""
    for name in names:
        bundle = make_bundle(fleet.folder, version, name=name)
        fleet.ship(spoil_golden(bundle) if name in bad else bundle, f"cam-1/{name}")


def runs(fleet: Fleet) -> dict[str, str | None]:
    """Return what an app finds of each model."""
    folders = {name: active(fleet.folder / "state" / "cam-1" / "models" / name) for name in MODELS}
    return {name: folder and Bundle.open(folder).manifest.version for name, folder in folders.items()}


def test_each_model_gets_what_it_is_assigned_and_is_reported_for_itself(fleet: Fleet) -> None:
    ship(fleet, "1.0.0", ["faces"])
    with fleet.agent(models=MODELS) as agent:
        assert agent.check() == "idle"  # nothing is assigned to the other
        assert runs(fleet) == {"faces": "1.0.0", "sound": None}
        ship(fleet, "2.0.0", ["sound"])
        assert agent.check() == "active"
        said = len(fleet.events)
        assert agent.check() == "active"
        assert len(fleet.events) == said
        assert agent.flush()
        assert agent.models == MODELS
        assert agent.model("sound").active.version == "2.0.0"
        with pytest.raises(InputError, match="it keeps: faces, sound"):
            _ = agent.active
    assert runs(fleet) == {"faces": "1.0.0", "sound": "2.0.0"}
    assert {(event.model, event.name) for event in fleet.events} == {("faces", "faces"), ("sound", "sound")}
    wait_for(lambda: len(fleet.reports()) == said)
    last = last_reports(fleet.repository.folder)
    assert {place: report["version"] for place, report in last.items()} == {
        "cam-1/faces": "1.0.0",
        "cam-1/sound": "2.0.0",
    }


def test_what_fails_of_one_model_leaves_the_other_alone(fleet: Fleet) -> None:
    ship(fleet, "1.0.0")
    with fleet.agent(models=MODELS) as agent:
        assert agent.check() == "active"
        ship(fleet, "2.0.0", bad=["faces"])
        assert agent.check() == "refused"
        assert runs(fleet) == {"faces": "1.0.0", "sound": "2.0.0"}
        ship(fleet, "3.0.0")
        assigned = fleet.repository.folder / "targets" / "assignments"
        for path in assigned.glob("*.cam-1~faces.json"):
            path.unlink()
        assert agent.check() == "idle"
        assert agent.trouble.startswith("faces: ")
        assert runs(fleet) == {"faces": "1.0.0", "sound": "3.0.0"}
        fleet.repository.assign("cam-1/faces", "faces-3.0.0")
        assert agent.check() == "active"
    assert runs(fleet) == {"faces": "3.0.0", "sound": "3.0.0"}
    damaged = active(fleet.folder / "state" / "cam-1" / "models" / "faces") / "manifest.json"
    damaged.unlink()
    del fleet.events[:]
    with fleet.agent(models=MODELS) as agent:
        agent.start()
        assert [(e.state, e.model, e.version) for e in fleet.events] == [("rolled_back", "faces", "1.0.0")]
        assert agent.model("sound").active.version == "3.0.0"


def test_a_trial_that_one_model_loses_is_not_the_others(fleet: Fleet) -> None:
    ship(fleet, "1.0.0")
    trial = Soak(seconds=0.1, requests=50, deadline=600.0)

    def vitals(digest: str) -> Vitals:
        bad = digest == fleet.repository.bundles()["faces-2.0.0"].bundle_digest
        return Vitals(digest, requests=100, errors=50 if bad else 0)

    fleet.check(models=MODELS)
    ship(fleet, "2.0.0")
    with fleet.agent(models=MODELS, soak=trial, vitals=vitals) as agent:
        agent.check()
        wait_for(lambda: agent.check() == "refused" and not agent.model("sound")._installer.soaking)
    assert runs(fleet) == {"faces": "1.0.0", "sound": "2.0.0"}
    ended = [(e.state, e.model) for e in fleet.events if e.state in ("rolled_back", "active") and e.counter != 1]
    assert sorted(ended) == [("active", "sound"), ("rolled_back", "faces")]


def test_a_trial_is_judged_on_time_while_the_repository_is_silent(fleet: Fleet) -> None:
    ship(fleet, "1.0.0")
    trial, bad = Soak(seconds=0.1, requests=50, deadline=600.0), []

    def vitals(digest: str) -> Vitals:
        lost = digest == fleet.repository.bundles()["faces-2.0.0"].bundle_digest
        return Vitals(digest, requests=100 * len(bad), errors=50 * len(bad) * lost)

    fleet.check(models=MODELS)
    ship(fleet, "2.0.0")
    with fleet.agent(models=MODELS, soak=trial, vitals=vitals) as agent:
        assert agent.check() == "soaking"
    fleet.stop()
    del fleet.events[:]
    with fleet.agent(models=MODELS, soak=trial, vitals=vitals, request_timeout=600.0) as agent:
        working = threading.Thread(target=agent.run)
        working.start()
        assert runs(fleet) == {"faces": "2.0.0", "sound": "2.0.0"}
        bad.append(1)
        wait_for(lambda: len(fleet.events) == 2)
        agent.stop()
        working.join()
    assert [(e.state, e.model, e.version) for e in fleet.events] == [
        ("rolled_back", "faces", "1.0.0"),
        ("active", "sound", "2.0.0"),
    ]
    assert runs(fleet) == {"faces": "1.0.0", "sound": "2.0.0"}
    fleet.serve()
    with fleet.agent(models=MODELS, soak=trial, vitals=vitals) as agent:
        assert agent.check() == "refused"
        assert agent.flush()
    wait_for(lambda: {r["state"] for r in fleet.reports()} >= {"rolled_back", "active", "refused"})
    said = [(e.state, e.model) for e in fleet.events]
    assert said == [("rolled_back", "faces"), ("active", "sound"), ("refused", "faces")]


def test_a_silent_repository_is_waited_for_once_not_for_each_model(fleet: Fleet) -> None:
    fleet.stop()
    topics, asked = Topics(fleet.name, "cam-1"), []
    broker, filters = Broker.parse(fleet.broker), [(topics.get, 0)]
    listener = Link(broker, f"{fleet.name}-listener", subscriptions=filters, on_message=asked.append, session_expiry=0)
    listener.connect()
    with fleet.agent(models=MODELS, request_timeout=0.2) as agent:
        assert agent.check() == "idle"
        listener.publish(topics.get, b"the last")
        wait_for(lambda: bool(asked) and asked[-1].payload == b"the last")
        assert len(asked) <= 4 + 1, "each model asked"
        reason = "the repository did not answer within 4 attempts; is `edge-sdk ota serve` running?"
        assert agent.trouble == f"faces: {reason}; sound: {reason}"
        fleet.serve()
        ship(fleet, "1.0.0")
        assert agent.check() == "active"
        assert agent.trouble == ""
    listener.close()


def test_a_folder_of_one_model_stays_as_it_was_when_the_agent_keeps_several(fleet: Fleet) -> None:
    fleet.ship_version("1.0.0")
    assert fleet.check() == "active"
    ship(fleet, "2.0.0")
    assert fleet.check(models=MODELS) == "active"
    assert runs(fleet) == {"faces": "2.0.0", "sound": "2.0.0"}
    assert Bundle.open(active(fleet.folder / "state" / "cam-1")).manifest.version == "1.0.0"
    fleet.ship_version("1.1.0")
    assert fleet.check() == "active"
    assert Bundle.open(active(fleet.folder / "state" / "cam-1")).manifest.version == "1.1.0"


class Swapped(Origin):
    """Serves for one model the assignment that was signed for another."""

    def __init__(self, folder: Path, asked: str, given: bytes) -> None:
        super().__init__(folder)
        self._asked, self._given = asked, given

    def answer(self, device: str, request: bytes) -> Reply:
        if json.loads(request).get("target", "").endswith(self._asked):
            return Reply(200, self._given, len(self._given))
        return super().answer(device, request)


def test_an_assignment_of_one_model_is_never_followed_for_another(fleet: Fleet) -> None:
    ship(fleet, "1.0.0")
    with fleet.agent(models=MODELS) as agent:
        assert agent.check() == "active"
        ship(fleet, "2.0.0")
        faces = fleet.repository.assignments()["cam-1/faces"]
        truth = fleet.gateway._origin
        fleet.gateway._origin = Swapped(fleet.repository.folder, ".cam-1~sound.json", faces.to_bytes())
        assert agent.check() == "refused"  # not the bytes that were signed for this path
        assert runs(fleet) == {"faces": "2.0.0", "sound": "1.0.0"}
        fleet.gateway._origin = truth
        for path in ("assignments/cam-1~sound.json", "assignments/cam-1.json"):  # with the stolen key
            fleet.repository._put_assignment(path, replace(faces, counter=faces.counter + 7))
        assert agent.check() == "refused"
        assert "sound: the assignment is for the model faces, not for sound" in agent.trouble
        assert runs(fleet) == {"faces": "2.0.0", "sound": "1.0.0"}
        ship(fleet, "3.0.0", ["sound"])
        assert agent.check() == "active"
        assert runs(fleet) == {"faces": "2.0.0", "sound": "3.0.0"}


def test_a_model_is_assigned_only_what_has_its_name_and_can_be_assigned_nothing_more(fleet: Fleet) -> None:
    ship(fleet, "1.0.0")
    with pytest.raises(InputError, match="cam-1/sound runs bundles named sound, which faces-1"):
        fleet.repository.assign("cam-1/sound", "faces-1.0.0")
    for place in ("cam-1/", "cam-1/Faces", "cam-1/a/b", "cam-1/..", "cam-1~faces", "/faces"):
        with pytest.raises(InputError):
            fleet.repository.assign(place, "faces-1.0.0")
    fleet.repository.withdraw("cam-1/faces")
    assert fleet.check(models=MODELS) == "refused"
    assert runs(fleet) == {"faces": None, "sound": "1.0.0"}


@pytest.mark.parametrize("models", ["faces", ["faces", "faces"], [""], ["../faces"], ["a~b"], [7]])
def test_names_that_no_bundle_can_have_are_refused(fleet: Fleet, models: object) -> None:
    with pytest.raises(InputError):
        OtaAgent(fleet.folder / "s", fleet.broker, "f", "cam-1", fleet.repository.root_path, models=models)
    assert not (fleet.folder / "s").exists()


def test_the_command_keeps_the_models_of_its_file_and_status_shows_each(fleet: Fleet, tmp_path: Path) -> None:
    ship(fleet, "1.0.0")
    config = tmp_path / "agent.toml"
    lines = {"state": tmp_path / "s", "broker": fleet.broker, "fleet": fleet.name, "device": "cam-1"}
    lines["root"] = fleet.repository.root_path
    text = "".join(f'{key} = "{value}"\n' for key, value in lines.items())
    config.write_text(text + 'models = ["faces", "sound"]\n')
    command = [sys.executable, "-P", "-m", "edge_sdk"]
    done = subprocess.run(
        [*command, "agent", "--config", config, "--once"], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "active=faces-none,sound-none\n" in done.stdout
    assert runs_in(tmp_path / "s") == {"faces": "1.0.0", "sound": "1.0.0"}
    wait_for(lambda: sum(report["state"] == "active" for report in fleet.reports()) == 2)
    shown = subprocess.run(
        [*command, "ota", "status", fleet.repository.folder], capture_output=True, text=True, timeout=500, check=True
    )
    for name in MODELS:
        assert f"device       cam-1/{name}: {name}-1.0.0 (counter 1); active 1.0.0" in shown.stdout
    config.write_text(text + 'models = "faces"\n')
    done = subprocess.run(
        [*command, "agent", "--config", config, "--once"], capture_output=True, text=True, timeout=500, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "models cannot be 'faces'" in done.stderr


def runs_in(state: Path) -> dict[str, str]:
    """Return what runs in a state folder, by model."""
    return {name: Bundle.open(active(state / "models" / name)).manifest.version for name in MODELS}
