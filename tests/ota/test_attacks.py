"""Attacks on a real agent over a real broker: each is refused, what runs stays, and the next update arrives.

The attacker owns the broker and everything that is served, and where it is said, keys as well.
"""

from __future__ import annotations

import io
import itertools
import json
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from edge_sdk.bundle import Bundle
from edge_sdk.cloud.ota.gateway import Origin, Reply
from edge_sdk.cloud.ota.keys import KeyFolder
from edge_sdk.cloud.ota.repository import Lifetimes, Repository
from edge_sdk.ota import OtaAgent, active
from edge_sdk.ota.clock import TrustedTime
from edge_sdk.ota.records import Target
from edge_sdk.ota.topics import BLOCK_BYTES, Topics
from outside.tuf_server import signer
from outside.updates import Fleet, make_bundle

ESCAPED = "escaped-from-an-archive"


class Liar(Origin):
    """Serves other bytes than those that are there: by the name of the metadata or target asked for."""

    def __init__(self, folder: Path, lies: Callable[[str], bytes | Reply | None]) -> None:
        super().__init__(folder)
        self._lies = lies

    def answer(self, device: str, request: bytes) -> Reply:
        document = json.loads(request)
        told = self._lies(document.get("metadata") or document["target"])
        if told is None:
            return super().answer(device, request)
        if isinstance(told, Reply):
            return told
        start = document["block"] * BLOCK_BYTES
        return Reply(200, told[start : start + BLOCK_BYTES], len(told))


class Story:
    """One device that lives through all attacks, each between two versions."""

    def __init__(self, folder: Path, broker: str) -> None:
        self.fleet = Fleet(folder, broker)
        self.fleet.serve()
        self.agent: OtaAgent = self.fleet.agent(request_timeout=0.2)
        self.repository = self.fleet.repository
        self.metadata = self.repository.folder / "metadata"
        self.keys = KeyFolder(self.repository.folder / "keys")
        self._numbers = itertools.count(1)
        self._origin = self.fleet.gateway._origin
        self.update()

    def add(self) -> str:
        """Add the next version, and return its target's name."""
        target = self.repository.add(make_bundle(self.fleet.folder, f"1.{next(self._numbers)}.0", golden_kib=150))
        return f"{target.name}-{target.version}"

    def update(self) -> None:
        """Ship the next version and see the device take it."""
        target = self.add()
        self.repository.assign("cam-1", target)
        assert self.agent.check() == "active", self.agent.trouble or self.fleet.events[-1].reason
        assert self.runs() == target.partition("-")[2]

    def runs(self) -> str:
        """Return the version that the device runs."""
        return Bundle.open(active(self.fleet.folder / "state" / "cam-1")).manifest.version

    def lie(self, lies: Callable[[str], bytes | Reply | None]) -> None:
        """Let the service lie until `end`."""
        self.fleet.gateway._origin = Liar(self.repository.folder, lies)

    def resigned(self, path: Path, key: str, change: Callable[[Any], None]) -> bytes:
        """Return metadata changed and signed with a key that was stolen."""
        metadata: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
        change(metadata.signed)
        metadata.sign(self.keys.load(key))
        return metadata.to_bytes()

    def newest(self, role: str) -> Path:
        """Return the newest file of a role."""
        return max(self.metadata.glob(f"*.{role}.json"), key=lambda path: int(path.name.split(".")[0]))

    def end(self) -> None:
        """Serve the truth again."""
        self.fleet.gateway._origin = self._origin

    def close(self) -> None:
        self.agent.close()
        self.fleet.stop()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, broker: str) -> Iterator[Story]:
    """Return a device that runs a version."""
    made = Story(tmp_path_factory.mktemp("attacks"), broker)
    yield made
    made.close()


Attack = Callable[[Story], Callable[[], None] | None]
ATTACKS: dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    ATTACKS[function.__name__] = function
    return function


@attack
def rollback(story: Story) -> None:
    """Serves the metadata of the past."""
    past = {path.name: path.read_bytes() for path in story.metadata.iterdir()}
    story.update()
    story.lie(past.get)


@attack
def freeze(story: Story) -> None:
    """Serves a timestamp past its end."""
    Repository.open(story.repository.folder, lifetimes=Lifetimes(timestamp=timedelta(seconds=-1))).publish()


@attack
def mix_and_match(story: Story) -> None:
    """Serves a bin of another state beside the newest snapshot."""
    [bin_] = [name for name in ("bundles-bin-0", "bundles-bin-1") if story.newest(name).name.startswith("2.")] or [
        "bundles-bin-0"
    ]
    story.repository.assign("cam-1", story.add())
    old, newest = (
        (story.metadata / f"1.{bin_}.json").read_bytes(),
        {story.newest(f"bundles-bin-{n}").name for n in "01"},
    )
    story.lie(lambda name: old if name in newest else None)


@attack
def one_root_key(story: Story) -> None:
    """Makes a root of its own keys, signed by one stolen key of the root."""
    path = story.newest("root")
    root = Metadata[Root].from_bytes(path.read_bytes())
    root.signed.version += 1
    for role in ("timestamp", "snapshot", "targets"):
        for keyid in list(root.signed.roles[role].keyids):
            root.signed.revoke_key(keyid, role)
        root.signed.add_key(deepcopy(signer("attacker").public_key), role)
    root.sign(story.keys.load("root-1"))
    root.sign(signer("attacker"), append=True)
    data, version = root.to_bytes(), root.signed.version
    story.lie(lambda name: data if name == f"{version}.root.json" else None)


@attack
def online_key_signs_a_bundle(story: Story) -> None:
    """Puts a bundle into a bin with the stolen key of snapshot and timestamp."""
    target = story.add()
    story.repository.assign("cam-1", target)
    name = story.repository._files.bin("bundles", f"bundles/{target}.edge")
    path = story.newest(name)

    def change(bin_: Targets) -> None:
        bin_.targets[f"bundles/{target}.edge"].hashes["sha256"] = "0" * 64

    data = story.resigned(path, "online", change)
    story.lie(lambda asked: data if asked == path.name else None)


@attack
def another_devices_assignment(story: Story) -> None:
    """Replays to one device what was signed for another."""
    target = story.add()
    story.repository.assign("cam-2", target)
    story.repository.assign("cam-1", target)
    [other] = (story.repository.folder / "targets" / "assignments").glob("*.cam-2.json")
    data = other.read_bytes()
    story.lie(lambda name: data if name.startswith("assignments/") else None)


@attack
def another_devices_assignment_under_its_name(story: Story) -> None:
    """Signs, with the stolen key of assignments, what names another device."""
    last = story.repository.assignments()["cam-1"]
    story.repository._put_assignment("assignments/cam-1.json", replace(last, device="cam-9", counter=last.counter + 1))


@attack
def older_counter(story: Story) -> Callable[[], None]:
    """Signs, with the stolen key of assignments, a lower counter."""
    last = story.repository.assignments()["cam-1"]
    assert last.counter > 1
    story.repository._put_assignment("assignments/cam-1.json", replace(last, counter=1))
    return lambda: story.repository._put_assignment("assignments/cam-1.json", last)


@attack
def expired_assignment(story: Story) -> None:
    """Lets an assignment that has ended stand."""
    story.repository.assign("cam-1", story.add(), expires=timedelta(seconds=-1))


@attack
def path_traversal(story: Story) -> None:
    """Signs an assignment that leads out of the folder."""
    last = story.repository.assignments()["cam-1"]
    for target in ("../../etc/passwd", "bundles/../../x.edge", "bundles/a/../b.edge", "/bundles/x.edge"):
        moved = replace(last, counter=last.counter + 1, target=target)
        story.repository._put_assignment("assignments/cam-1.json", moved)


def sign_bundle(story: Story, version: str, data: bytes) -> None:
    """Sign these bytes as a bundle, with the stolen key of the publisher, and assign them."""
    import hashlib

    blocks = [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]
    digest = hashlib.sha256(data).hexdigest()
    target = Target(
        name="tiny",
        version=version,
        path=f"bundles/tiny-{version}.edge",
        sha256=digest,
        size=len(data),
        block_bytes=BLOCK_BYTES,
        blocks=tuple(hashlib.sha256(block).hexdigest() for block in blocks),
        bundle_digest=f"sha256:{'1' * 64}",
    )
    file = TargetFile(len(data), {"sha256": digest}, target.path, {"custom": target.custom()})
    story.repository._put("bundles", [(file, data)])
    story.repository.assign("cam-1", f"tiny-{version}")


@attack
def decompression_bomb(story: Story) -> None:
    """Signs an archive that is small and unpacks to a gigabyte."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("manifest.json", "w") as member:
            for _ in range(64):
                member.write(bytes(1 << 20))
        archive.writestr(f"../../{ESCAPED}", b"x")
    sign_bundle(story, "77.0.0", stream.getvalue())


@attack
def path_traversal_in_an_archive(story: Story) -> None:
    """Signs an archive with a member outside of its folder."""
    stream = io.BytesIO(make_bundle(story.fleet.folder, "78.0.0").read_bytes())
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(f"../../{ESCAPED}", b"x")
    sign_bundle(story, "78.0.0", stream.getvalue())


@attack
def oversize_metadata(story: Story) -> None:
    """Serves a timestamp without an end."""
    story.lie(lambda name: Reply(200, bytes(BLOCK_BYTES), 1 << 40) if name == "timestamp.json" else None)


@attack
def oversize_assignment(story: Story) -> None:
    """Serves more bytes of an assignment than were signed."""
    story.repository.assign("cam-1", story.add())
    story.lie(lambda name: bytes(1 << 20) if name.startswith("assignments/") else None)


@attack
def endless_roots(story: Story) -> None:
    """Serves the same root as the next, and the next."""
    data = story.newest("root").read_bytes()
    story.lie(lambda name: data if name.endswith(".root.json") else None)


@attack
def nonsense(story: Story) -> None:
    """Answers everything with what is no metadata."""
    story.lie(lambda name: b'{"signed": [], "signatures": 5}' + b"[" * 5000)


@attack
def changed_blocks(story: Story) -> None:
    """Serves other bytes of a bundle than were signed."""
    story.repository.assign("cam-1", story.add())
    story.lie(lambda name: bytes(200_000) if name.startswith("bundles/") else None)


@attack
def forged_time(story: Story) -> Callable[[], None]:
    """Sets the device's clock fourteen years ahead."""
    path = story.fleet.folder / "state" / "cam-1" / "metadata" / "time"
    truth = story.agent._trust.time
    story.agent._trust.time = TrustedTime(path, clock=lambda: datetime.now(UTC) + timedelta(days=5000))
    return lambda: setattr(story.agent._trust, "time", truth)


ALWAYS = {"rollback", "freeze", "mix_and_match", "one_root_key", "another_devices_assignment", "forged_time"}


@pytest.mark.parametrize(
    "name", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in ATTACKS]
)
def test_an_attack_is_refused_and_the_device_updates_afterwards(story: Story, name: str) -> None:
    undo = ATTACKS[name](story)
    runs = story.runs()
    if name == "endless_roots":  # nothing worse than a refusal can come of it, whichever way it ends
        assert story.agent.check() in {"refused", "idle"}
    else:
        assert story.agent.check() == "refused", name
    assert story.runs() == runs
    story.end()
    if undo is not None:
        undo()
    story.repository.publish()
    story.update()
    assert list(story.fleet.folder.parent.rglob(ESCAPED)) == []


def test_versions_run_far_ahead_with_a_stolen_key_end_with_the_key(story: Story) -> None:
    snapshot = story.resigned(story.newest("snapshot"), "online", lambda signed: setattr(signed, "version", 10**6))

    def change(timestamp: Any) -> None:
        timestamp.version = 10**6
        timestamp.snapshot_meta.version = 10**6

    timestamp = story.resigned(story.metadata / "timestamp.json", "online", change)
    story.lie({"timestamp.json": timestamp, "1000000.snapshot.json": snapshot}.get)
    assert story.agent.check() == "active"
    story.end()
    story.repository.assign("cam-1", story.add())
    assert story.agent.check() == "refused"
    story.repository.rotate("online")
    story.update()


def test_a_counter_run_far_ahead_with_a_stolen_key_ends_with_the_key(story: Story) -> None:
    last = story.repository.assignments()["cam-1"]
    story.repository._put_assignment("assignments/cam-1.json", replace(last, counter=1 << 62))
    assert story.agent.check() == "active"
    story.repository._put_assignment("assignments/cam-1.json", last)
    assert story.agent.check() == "refused"
    story.repository.rotate("assignments")
    story.update()


def test_a_broker_that_invents_hints_and_answers_delays_nothing(story: Story) -> None:
    topics = Topics(story.fleet.name, "cam-1")
    for payload in (b"", b"{", b"\xff" * 1000, b'{"counter":99999}'):
        story.fleet.gateway._link.publish(topics.desired, payload, retain=True)
        for correlation in (b"", b"x" * 64):
            story.fleet.gateway._link.publish(
                topics.reply, payload, qos=0, correlation=correlation, properties={"status": "200", "size": "-5"}
            )
    story.update()
