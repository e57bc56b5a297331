"""The power fails at every moment of an update: every state that a disk may then be in, given to the agent."""

from __future__ import annotations

import functools
import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_sdk.bundle import Bundle
from edge_sdk.errors import BrokerError
from edge_sdk.ota import OtaAgent, active
from edge_sdk.ota.slots import Memory
from outside.powercut import Cut, Disk, Tree, lay_out, read_tree
from outside.syscalls import CHANGES, SENDS, UNTRACEABLE, kill_at, read_calls, record
from outside.updates import Fleet, make_bundle, spoil_golden, wait_for

pytestmark = pytest.mark.skipif(UNTRACEABLE is not None, reason=str(UNTRACEABLE))

NOBODY = "mqtt://127.0.0.1:1"
SUCCESS = b'"state":"active"'
NEW = "1.1.0"

RECOVER = """
import sys
from edge_sdk.errors import BrokerError
from edge_sdk.ota import OtaAgent

for folder in sys.argv[2:]:
    with OtaAgent(folder, "mqtt://127.0.0.1:1", "f", "cam-1", sys.argv[1]) as agent:
        try:
            agent.start()
        except BrokerError:
            pass
"""


@dataclass(frozen=True)
class Recording:
    """One update by a real process.

    Attributes
    ----------
    state
        The agent's state folder; the recording is of its parent.
    start
        What the disk held before.
    log
        The calls.
    old
        The version that ran before.
    healthy
        Whether the new version is one that should be committed.
    """

    fleet: Fleet
    state: Path
    start: Tree
    log: Path
    old: str | None
    healthy: bool

    def states(self, *, most: int) -> Iterator[tuple[Cut, Tree]]:
        """Yield each state of the disk once for each thing that had been said when the power failed."""
        met = set()
        for cut in Disk(self.state.parent, self.start).cuts(read_calls(self.log), most=most):
            for tree in cut.trees:
                key = (frozenset(tree.items()), cut.said, SUCCESS in cut.sent, acknowledgements(cut.heard))
                if key not in met:
                    met.add(key)
                    yield cut, tree

    def agent(self, folder: Path) -> OtaAgent:
        """Return an agent that finds no broker."""
        return OtaAgent(folder / "state", NOBODY, self.fleet.name, "cam-1", self.fleet.repository.root_path)

    def faults(self, tree: Tree, cut: Cut, folder: Path) -> list[str]:
        """Start the agent on a state of the disk; return what may not be."""
        lay_out(tree, folder)
        try:
            return self._faults(cut, folder)
        finally:
            shutil.rmtree(folder)

    def _faults(self, cut: Cut, folder: Path) -> list[str]:
        found = []
        reported = SUCCESS in cut.sent
        allowed = {NEW} if reported else {self.old, NEW} if self.healthy else {self.old}
        seen = active(folder / "state")  # by an app that starts before the agent does
        running = None if seen is None else Bundle.open(seen).manifest.version
        if running not in allowed:
            found.append(f"an app runs {running}, not one of {allowed}")
        with self.agent(folder) as agent:
            with pytest.raises(BrokerError):
                agent.start()
            now = agent.active.version if agent.active else None
            kept = [json.loads(report.payload)["state"] for report in agent._reporter._outbox.pending()]
        if now != running:
            found.append(f"the agent runs {now}, an app {running}")
        if "active" in kept and now != NEW:
            found.append("a success waits to be reported that is not there")
        told = [json.loads(line)["state"] for line in cut.said.splitlines() if line.startswith(b"{")]
        due = told[max(0, acknowledgements(cut.heard) - 1) :]  # the first is that of `status`
        if any(state not in kept for state in due):
            found.append(f"told {due}, kept {kept}")
        if (folder / "state" / "outbox.db.damaged").exists():
            found.append("the outbox was thrown away")
        memory, assigned = Memory(folder / "state" / "memory.json"), self.fleet.repository.assignments()["cam-1"]
        counter = folder / "state" / "metadata" / "assignment"
        if told and not (counter.exists() and json.loads(counter.read_bytes())["counter"] == assigned.counter):
            found.append("the highest counter is forgotten")
        if "refused" in told and memory.failure(assigned.sha256.removeprefix("sha256:"), 10**6) is None:
            found.append("the failure is forgotten")
        return found


@functools.lru_cache(maxsize=16)
def acknowledgements(sockets: tuple[bytes, ...]) -> int:
    """Count the PUBACK packets in what a broker said."""
    [heard] = [stream for stream in sockets if stream[0] == 0x20] or [b""]
    count = position = 0
    while position + 1 < len(heard):
        kind, length, shift = heard[position] >> 4, 0, 0
        while position + 1 < len(heard):
            position += 1
            length |= (heard[position] & 127) << shift
            shift += 7
            if heard[position] < 128:
                break
        position += 1 + length
        count += kind == 4 and position <= len(heard)
    return count


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """Return a folder in memory, where an fsync costs nothing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def agent_command(fleet: Fleet, state: Path) -> list[object]:
    """Return the command of an agent that looks once."""
    arguments = ["--state", state, "--broker", fleet.broker, "--fleet", fleet.name, "--device", "cam-1", "--once"]
    return [sys.executable, "-P", "-m", "edge_sdk", "agent", *arguments, "--json", "--root", fleet.repository.root_path]


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory, scratch: Path, broker: str
) -> Iterator[Callable[..., Recording]]:
    """Return a function that records the update of a device which has some versions to one more."""
    made: dict[object, Recording] = {}

    def make(*versions: str, healthy: bool = True, delta: bool = False) -> Recording:
        if (versions, healthy, delta) in made:
            return made[versions, healthy, delta]
        folder, place = tmp_path_factory.mktemp("recording"), Path(tempfile.mkdtemp(dir=scratch))
        fleet = Fleet(folder, broker)
        fleet.serve()
        for version in versions:
            fleet.ship(make_bundle(folder, version, golden_kib=250 if delta else 0))
            fleet.check()
        if versions:
            shutil.copytree(folder / "state" / "cam-1", place / "state")
        if delta:
            bundle = folder / f"tiny-{NEW}.edge"
            Bundle.open(folder / f"tiny-{versions[-1]}.edge").rewrite(bundle, version=NEW)
        else:
            bundle = make_bundle(folder, NEW, golden_kib=250)
        fleet.ship(bundle if healthy else spoil_golden(bundle))
        assert bool(fleet.repository.deltas(f"tiny-{NEW}")) == delta
        start = read_tree(place)
        done = record(agent_command(fleet, place / "state"), folder / "calls")
        assert done.returncode == (0 if healthy else 1), done.stderr
        assert "cannot be used" not in done.stdout
        old = versions[-1] if versions else None
        recording = Recording(fleet, place / "state", start, folder / "calls", old, healthy)
        made[versions, healthy, delta] = recording
        return recording

    yield make
    for recording in made.values():
        recording.fleet.stop()


def test_the_model_knows_what_a_disk_may_do_to_who_does_not_sync(tmp_path: Path) -> None:
    program = """
import os, sys
for name, sync in (("synced", True), ("unsynced", False)):
    with open(sys.argv[1] + "/new", "wb") as file:
        file.write(name.encode() * 2000)
        file.flush()
        sync and os.fsync(file.fileno())
    os.rename(sys.argv[1] + "/new", f"{sys.argv[1]}/{name}")
"""
    place = tmp_path / "place"
    place.mkdir()
    assert record([sys.executable, "-I", "-c", program, place], tmp_path / "calls").returncode == 0
    last = list(Disk(place, {}).cuts(read_calls(tmp_path / "calls")))[-1]
    assert {len(tree["synced"]) for tree in last.trees if "synced" in tree} == {12_000}
    assert {len(tree["unsynced"]) for tree in last.trees if "unsynced" in tree} == {0, 7680, 16_000}
    assert {frozenset(tree) for tree in last.trees} >= {frozenset(), frozenset({"unsynced"}), frozenset({"synced"})}


UPDATES = {
    "third version": {"versions": ("1.0.0", "1.0.1")},
    "refused version": {"versions": ("1.0.0",), "healthy": False},
    "first version": {"versions": ()},
    "delta": {"versions": ("1.0.0",), "delta": True},
}


def recording_of(recorded: Callable[..., Recording], name: str) -> Recording:
    """Return the recording of one of `UPDATES`."""
    options = dict(UPDATES[name])
    return recorded(*options.pop("versions"), **options)


def check(recording: Recording, states: list[tuple[Cut, Tree]], scratch: Path) -> None:
    """Fail if any state of the disk is one that may not be."""
    for cut, tree in states:
        found = recording.faults(tree, cut, scratch / "cut")
        assert not found, f"cut {cut.number}, after {cut.call}: {found}; there were {sorted(tree)}"


@pytest.mark.parametrize(("name", "sample"), [("third version", 120), ("delta", 40)])  # all of them below
def test_a_power_cut_leaves_the_old_version_or_the_new_one_and_every_report(
    recorded: Callable[..., Recording], scratch: Path, name: str, sample: int
) -> None:
    recording = recording_of(recorded, name)
    states = list(recording.states(most=8))
    assert len(states) > 500
    check(recording, random.Random(8).sample(states, sample), scratch)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", UPDATES)
def test_every_state_after_a_power_cut(recorded: Callable[..., Recording], scratch: Path, name: str) -> None:
    recording = recording_of(recorded, name)
    most, cuts, whole, count = int(os.environ.get("EDGE_SDK_CUTS", "2048")), set(), set(), 0
    for cut, tree in recording.states(most=most):
        check(recording, [(cut, tree)], scratch)
        count += 1
        cuts.add(cut.number)
        if cut.possible <= most:
            whole.add(cut.number)
    print(f"{count} states of {len(cuts)} cuts; all there are at {len(whole)} of them")


def test_a_second_power_cut_during_recovery_is_no_worse_than_the_first(
    recorded: Callable[..., Recording], scratch: Path, tmp_path: Path
) -> None:
    recording = recorded("1.0.0", "1.0.1")
    again(recording, random.Random(9).sample(list(recording.states(most=8)), 12), scratch, tmp_path, most=8, limit=100)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_state_after_a_second_power_cut(
    recorded: Callable[..., Recording], scratch: Path, tmp_path: Path
) -> None:
    recording = recorded("1.0.0", "1.0.1")
    chosen = random.Random(10).sample(
        list(recording.states(most=64)), int(os.environ.get("EDGE_SDK_SECOND_CUTS", "500"))
    )
    print(again(recording, chosen, scratch, tmp_path, most=256, limit=10**9), "states")


def again(
    recording: Recording, first: list[tuple[Cut, Tree]], scratch: Path, folder: Path, *, most: int, limit: int
) -> int:
    """Let the agent recover from each state, and cut the power while it does."""
    places = [lay_out(tree, scratch / f"first-{number}") for number, (_, tree) in enumerate(first)]
    program = [sys.executable, "-P", "-c", RECOVER, recording.fleet.repository.root_path]
    done = record([*program, *(place / "state" for place in places)], folder / "calls", timeout=1200)
    assert done.returncode == 0, done.stderr
    calls = list(read_calls(folder / "calls"))
    seconds = []
    for place, (cut, tree) in zip(places, first, strict=True):
        shutil.rmtree(place)
        for second in Disk(place, tree).cuts(calls, most=most):
            seconds += [(cut, left) for left in second.trees if left != tree]
    assert seconds
    check(recording, random.Random(11).sample(seconds, min(limit, len(seconds))), scratch)
    return min(limit, len(seconds))


@pytest.mark.parametrize(("name", "sample"), [("third version", 4), ("delta", 2)])
def test_after_a_power_cut_the_update_goes_on_to_its_end_and_is_reported(
    recorded: Callable[..., Recording], scratch: Path, name: str, sample: int
) -> None:
    recording = recording_of(recorded, name)
    goes_on(recording, random.Random(12).sample(list(recording.states(most=8)), sample), scratch)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ["third version", "first version", "delta"])
def test_after_many_power_cuts_the_update_goes_on_to_its_end(
    recorded: Callable[..., Recording], scratch: Path, name: str
) -> None:
    recording = recording_of(recorded, name)
    goes_on(recording, random.Random(13).sample(list(recording.states(most=64)), 500), scratch)


def has_success(fleet: Fleet, after: int) -> bool:
    return any(report["state"] == "active" for report in fleet.reports()[after:])


def goes_on(recording: Recording, states: list[tuple[Cut, Tree]], scratch: Path) -> None:
    """Let the agent do what is left to do, on each of these states."""
    fleet, state = recording.fleet, recording.fleet.folder / "state" / "cut"
    shutil.rmtree(state.parent, ignore_errors=True)
    for cut, tree in states:
        lay_out(tree, state.parent)
        if "state" in tree:
            (state.parent / "state").rename(state)
        fleet.gateway.reports._known.clear()  # it has had the recording's reports
        reports = len(fleet.reports())
        root = fleet.repository.root_path
        with OtaAgent(state, fleet.broker, fleet.name, "cam-1", root, request_timeout=1.0) as agent:
            assert agent.check() == "active"
            assert agent.active.version == NEW
            assert agent.flush()
        assert Bundle.open(active(state)).manifest.version == NEW
        assert not list(state.rglob(".*")), "what a cut left behind is not cleared away"
        if SUCCESS not in cut.sent:
            wait_for(functools.partial(has_success, fleet, reports))
        shutil.rmtree(state.parent)


STEPS = tuple(name for name in CHANGES if name not in ("open", "openat", "creat")) + SENDS
"""Between two of these nothing happens to a disk that can be seen; a run opens hundreds of files to read."""


def killed(recording: Recording, number: int, place: Path) -> bool:
    """Kill the agent before its ``number``-th step and let it start again; return False if it was done by then."""
    fleet, state = recording.fleet, place / "state"
    lay_out(recording.start, place)
    before = len(fleet.reports())
    done = kill_at(agent_command(fleet, state), STEPS, number)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{") and line.endswith("}")]
    reported = any(report["state"] == "active" for report in fleet.reports()[before:])
    running = Bundle.open(active(state)).manifest.version
    assert running in ({NEW} if reported else {recording.old, NEW}), f"{running} runs after step {number}"
    root = fleet.repository.root_path
    with OtaAgent(state, fleet.broker, fleet.name, "cam-1", root, request_timeout=1.0) as agent:
        assert agent.active.version == running
        assert agent.check() == "active", f"after step {number}"
        assert agent.active.version == NEW
        assert agent.flush()
    said = [(event["state"], event["time"]) for event in told]
    wait_for(lambda: set(said) <= {(report["state"], report["time"]) for report in fleet.reports()[before:]})
    wait_for(lambda: sum(report["state"] == "active" for report in fleet.reports()[before:]) == 1)
    shutil.rmtree(place)
    return done.returncode != 0


def first_step(recording: Recording) -> int:
    """Return the number of the step that says that the agent is ready."""
    steps = [call for call in read_calls(recording.log) if call.name in STEPS]
    [ready] = [n for n, call in enumerate(steps) if call.arguments[0] == "1" and b"ready" in call.arguments[1]]
    return ready


def test_an_agent_killed_at_some_steps_of_an_update_leaves_nothing_undone(
    recorded: Callable[..., Recording], scratch: Path
) -> None:
    recording = recorded("1.0.0", "1.0.1")
    start = first_step(recording)
    for offset in random.Random(14).sample(range(120), 2):
        killed(recording, start + offset, scratch / "killed")


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ["third version", "delta"])
def test_an_agent_killed_at_every_step_of_an_update_leaves_nothing_undone(
    recorded: Callable[..., Recording], scratch: Path, name: str
) -> None:
    recording = recording_of(recorded, name)
    number = first = max(1, first_step(recording) - 20)
    while killed(recording, number, scratch / "killed"):
        number += 1
    print(f"killed before each of {number - first} steps")
    assert number - first > 150


TWO = ("faces", "sound")


def runs(state: Path) -> dict[str, str | None]:
    """Return what an app finds of each of two models."""
    folders = {name: active(state / "models" / name) for name in TWO}
    return {name: folder and Bundle.open(folder).manifest.version for name, folder in folders.items()}


def other_slot(state: Path) -> str:
    """Return the slot that no app runs."""
    folder = active(state)
    return "b" if folder and folder.name == "a" else "a"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, scratch: Path, broker: str) -> Iterator[Recording]:
    """Record the update of two models of one device, one after the other."""
    folder, place = tmp_path_factory.mktemp("recording"), Path(tempfile.mkdtemp(dir=scratch))
    fleet = Fleet(folder, broker)
    fleet.serve()
    for version in ("1.0.0", NEW):
        for name in TWO:
            fleet.ship(make_bundle(folder, version, name=name), f"cam-1/{name}")
        if version != NEW:
            fleet.check(models=TWO)
    shutil.copytree(folder / "state" / "cam-1", place / "state")
    start = read_tree(place)
    models = [argument for name in TWO for argument in ("--model", name)]
    done = record([*agent_command(fleet, place / "state"), *models], folder / "calls")
    assert done.returncode == 0, done.stderr
    yield Recording(fleet, place / "state", start, folder / "calls", "1.0.0", healthy=True)
    fleet.stop()


def check_two(recording: Recording, states: list[tuple[Cut, Tree]], scratch: Path) -> None:
    """Fail if an agent of both models finds any state of the disk in which one has not the old version or the new."""
    root = recording.fleet.repository.root_path
    for cut, tree in states:
        state = lay_out(tree, scratch / "two") / "state"
        found, where = runs(state), f"cut {cut.number}, after {cut.call}"
        for name, version in found.items():
            reported = re.search(rb'"model":"%b"[^{}]*"state":"active"' % name.encode(), cut.sent)
            assert version in ({NEW} if reported else {"1.0.0", NEW}), f"{where}: {found}"
        assert found["sound"] == "1.0.0" or found["faces"] == NEW, f"{where}: {found}"  # one after the other
        with OtaAgent(state, NOBODY, recording.fleet.name, "cam-1", root, models=TWO) as agent:
            with pytest.raises(BrokerError):
                agent.start()
            assert {name: agent.model(name).active.version for name in TWO} == found, where
            kept = [json.loads(report.payload) for report in agent._reporter._outbox.pending()]
        assert all(found[report["model"]] == NEW for report in kept if report["state"] == "active"), where
        fillable = [state / "models" / name / "slots" / other_slot(state / "models" / name) for name in TWO]
        left = [path for path in state.rglob(".*") if not any(path.is_relative_to(slot) for slot in fillable)]
        assert not left, where  # a slot that is not active is cleared when an update fills it
        shutil.rmtree(scratch / "two")


def test_a_power_cut_leaves_each_of_two_models_its_old_version_or_its_new_one(two: Recording, scratch: Path) -> None:
    states = list(two.states(most=4))
    assert len(states) > 500
    check_two(two, random.Random(15).sample(states, 60), scratch)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_power_cut_leaves_each_of_two_models_its_old_version_or_its_new_one(
    two: Recording, scratch: Path
) -> None:
    states = list(two.states(most=64))
    check_two(two, states, scratch)
    print(len(states), "states")
