"""Updates by delta: how little is fetched, and what becomes of it when a delta is not what it should be."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tuf.api.metadata import TargetFile

from edge_sdk.bundle import Bundle, archive
from edge_sdk.cloud.ota.deltas import block_hashes, make_delta
from edge_sdk.cloud.ota.gateway import Origin, Reply
from edge_sdk.errors import InstallError, TrustError
from edge_sdk.ota import active
from edge_sdk.ota.delta import ADD8, BASE_BYTES, HEADER, MAGIC, MATCH, PIECE_BYTES, Base, unpatch
from edge_sdk.ota.records import Delta
from edge_sdk.ota.topics import BLOCK_BYTES
from outside.updates import Fleet, make_bundle

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def next_version(path: Path, version: str) -> Path:
    """Write the bundle again under a higher version: the least that can change."""
    bundle = Bundle.open(path)
    made = path.with_name(f"tiny-{version}.edge")
    bundle.rewrite(made, version=version)
    return made


def bundle_file(weights: np.ndarray, note: bytes = b"") -> bytes:
    return archive.encode(
        {"manifest.json": b"{}" + note, "golden/a.npy": bytes(200), "model.tflite": weights.tobytes()}
    )


def unpacked(data: bytes, folder: Path) -> Path:
    for name, member in archive.decode(data).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(member)
    return folder


def applied(delta: bytes, base: bytes, size: int, folder: Path) -> bytes:
    with Base(unpacked(base, folder), hashlib.sha256(base).hexdigest()) as opened:
        return b"".join(unpatch(io.BytesIO(delta), opened, size))


RNG = np.random.default_rng(0)
WEIGHTS = (RNG.normal(size=300_000) * 0.05).astype("<f4")
TUNED = WEIGHTS + (RNG.normal(size=WEIGHTS.size) * 0.0005).astype("<f4")
LAST_LAYER = np.concatenate([WEIGHTS[:-30_000], TUNED[:30_000]])


def int8(weights: np.ndarray) -> np.ndarray:
    return np.clip(np.round(weights / 0.0015), -127, 127).astype(np.int8)


@pytest.mark.parametrize(
    ("old", "new", "share"),
    [
        (WEIGHTS, LAST_LAYER, 0.11),
        (WEIGHTS, TUNED, 0.72),
        (int8(WEIGHTS), int8(LAST_LAYER), 0.11),
        (int8(WEIGHTS), int8(TUNED), 0.2),
    ],
    ids=["float32 last layer", "float32 all", "int8 last layer", "int8 all"],
)
def test_a_delta_is_a_part_of_the_file_and_makes_its_bytes(
    tmp_path: Path, old: np.ndarray, new: np.ndarray, share: float
) -> None:
    base, result = bundle_file(old), bundle_file(new, b" ")
    delta, data = make_delta(base, result)
    assert len(data) < share * len(result)
    assert applied(data, base, len(result), tmp_path / "slot") == result
    assert (delta.size, delta.blocks) == (len(data), block_hashes(data))


def test_a_file_of_several_pieces_that_moved_within_is_made(tmp_path: Path) -> None:
    weights = np.resize(WEIGHTS, PIECE_BYTES // 4 + 20_000)
    base, result = bundle_file(weights), bundle_file(np.concatenate([WEIGHTS[7:77], weights]))
    delta, data = make_delta(base, result)
    assert delta.size < len(result) / 100
    assert applied(data, base, len(result), tmp_path / "slot") == result


def test_weights_trained_anew_have_no_delta() -> None:
    other = (RNG.normal(size=WEIGHTS.size) * 0.05).astype("<f4")
    assert make_delta(bundle_file(WEIGHTS), bundle_file(other)) is None


@settings(deadline=None, max_examples=30)
@given(
    old=st.dictionaries(st.sampled_from(["a", "b.bin", "golden/d"]), st.binary(max_size=300), max_size=3),
    new=st.dictionaries(st.sampled_from(["a", "b.bin", "golden/d"]), st.binary(max_size=300), max_size=3),
    copies=st.integers(1, 900),
)
def test_whatever_changed_a_delta_makes_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, old: dict[str, bytes], new: dict[str, bytes], copies: int
) -> None:
    base = archive.encode({"manifest.json": b"{}", **{name: data * copies for name, data in old.items()}})
    result = archive.encode({"manifest.json": b"{ }", **{name: data * copies for name, data in new.items()}})
    made = make_delta(base, result)
    if made is not None:
        assert applied(made[1], base, len(result), tmp_path_factory.mktemp("slot")) == result


def piece(kind: int, content: bytes, made: int, *, start: int = 0, length: int = 0) -> bytes:
    frame = zstd.compress(content)
    return HEADER.pack(kind, start, length, made, len(frame)) + frame


BOMB = zstd.compress(bytes(64 << 20))
DAMAGED = {
    "nothing": b"",
    "another form": b"EDGEDLT9" + piece(MATCH, b"x" * 100, 100),
    "no pieces": MAGIC,
    "an endless piece": MAGIC + HEADER.pack(MATCH, 0, 0, 100, len(BOMB)) + BOMB,
    "a piece larger than pieces may be": MAGIC + HEADER.pack(MATCH, 0, 0, PIECE_BYTES + 1, len(BOMB)) + BOMB,
    "a base larger than it may be": MAGIC + piece(MATCH, b"x" * 100, 100, length=BASE_BYTES + 1),
    "a base behind the end": MAGIC + piece(MATCH, b"x" * 100, 100, start=1 << 40, length=8),
    "a kind that is not known": MAGIC + piece(77, b"x" * 100, 100),
    "differences of another length": MAGIC + piece(ADD8, b"x" * 100, 100, length=99),
    "no frame": MAGIC + HEADER.pack(MATCH, 0, 0, 100, 40) + b"x" * 40,
    "a cut header": MAGIC + piece(MATCH, b"x" * 40, 40) + b"\1\0\0",
    "a cut frame": (MAGIC + piece(MATCH, bytes(range(100)), 100))[:-10],
    "fewer bytes": MAGIC + piece(MATCH, b"x" * 40, 40),
    "more bytes": MAGIC + piece(MATCH, b"x" * 90, 90) + piece(MATCH, b"x" * 90, 90),
    "a piece of fewer bytes": MAGIC + piece(MATCH, b"x" * 40, 100),
    "empty pieces without an end": MAGIC + piece(MATCH, b"", 0) * 1000,
    "a base read again for each byte": MAGIC + piece(MATCH, b"x", 1, length=100) * 1100,
    "a window larger than it may be": MAGIC + HEADER.pack(MATCH, 0, 0, 100, 10) + b"\x28\xb5\x2f\xfd\x00\xf8\x01\0\0x",
}
SIZES = {"a base read again for each byte": 1100}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_delta_that_breaks_its_form_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TrustError):
        applied(DAMAGED[name], bundle_file(WEIGHTS[:100]), SIZES.get(name, 100), tmp_path)


def test_a_folder_that_is_not_what_a_delta_was_made_from_is_told(tmp_path: Path) -> None:
    data = bundle_file(WEIGHTS[:1000])
    folder = unpacked(data, tmp_path / "slot")
    (folder / "model.tflite").write_bytes(WEIGHTS[1:1001].tobytes())
    with pytest.raises(InstallError, match="does not hold the bundle"):
        Base(folder, hashlib.sha256(data).hexdigest())


def test_any_part_of_an_unpacked_bundle_is_read_as_of_its_file(tmp_path: Path) -> None:
    data = bundle_file(WEIGHTS[:1000])
    with Base(unpacked(data, tmp_path / "slot"), hashlib.sha256(data).hexdigest()) as base:
        assert len(base) == len(data)
        for start, length in ((0, len(data)), (0, 1), (len(data) - 1, 9), (40, 300), (250, 0), (len(data), 5)):
            assert base.read(start, length) == data[start : start + length]


# devices


class Counting(Origin):
    """Counts the blocks of bundles and of deltas that are asked for, and lies about some."""

    def __init__(self, folder: Path, lies: Callable[[str, int], Reply | None] = lambda name, block: None) -> None:
        super().__init__(folder)
        self.asked: list[str] = []
        self._lies = lies

    def answer(self, device: str, request: bytes) -> Reply:
        document = json.loads(request)
        name = document.get("target", "")
        self.asked.append(Path(name).suffix)
        return self._lies(name, document.get("block", 0)) or super().answer(device, request)

    def blocks(self, suffix: str) -> int:
        return self.asked.count(suffix)


def listen(fleet: Fleet, lies: Callable[[str, int], Reply | None] = lambda name, block: None) -> Counting:
    origin = Counting(fleet.repository.folder, lies)
    fleet.gateway._origin = origin
    return origin


@pytest.fixture
def ready(fleet: Fleet) -> Path:
    """Return the bundle that the fleet's device runs."""
    bundle = make_bundle(fleet.folder, "1.0.0", golden_kib=500)
    fleet.ship(bundle)
    assert fleet.check() == "active"
    return bundle


def runs(fleet: Fleet) -> str:
    return Bundle.open(active(fleet.folder / "state" / "cam-1")).manifest.version


def test_a_device_fetches_the_delta_and_not_the_file(fleet: Fleet, ready: Path) -> None:
    fleet.ship(next_version(ready, "1.1.0"))
    [(base, size)] = fleet.repository.deltas("tiny-1.1.0").items()
    assert base == "tiny-1.0.0"
    assert size < BLOCK_BYTES
    origin = listen(fleet)
    assert fleet.check() == "active"
    assert runs(fleet) == "1.1.0"
    assert (origin.blocks(".delta"), origin.blocks(".edge")) == (1, 0)
    assert list((fleet.folder / "state" / "cam-1" / "delta").iterdir()) == []
    assert not any(event.reason for event in fleet.events)


def test_a_device_that_runs_another_version_fetches_the_file(fleet: Fleet, ready: Path) -> None:
    fleet.repository.add(next_version(ready, "1.1.0"))
    third = next_version(ready, "1.2.0")
    fleet.repository.add(third, deltas=["tiny-1.1.0"])
    fleet.repository.assign("cam-1", "tiny-1.2.0")
    origin = listen(fleet)
    assert fleet.check() == "active"
    assert (origin.blocks(".delta"), origin.blocks(".edge")) == (0, len(block_hashes(third.read_bytes())))


def sign_delta(fleet: Fleet, base: Path, result: Path, data: bytes, says: str | None = None) -> None:
    """Put these bytes into the place of the delta between two bundles, with the stolen key of the publisher."""
    old, new = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (base, result))
    digest = hashlib.sha256(data).hexdigest()
    delta = Delta(says or old, f"bundles/{old}-{new}.delta", digest, len(data), BLOCK_BYTES, block_hashes(data))
    file = TargetFile(delta.size, {"sha256": digest}, delta.path, {"custom": delta.custom()})
    fleet.repository._put("bundles", [(file, data)])


def other_bytes(fleet: Fleet, base: Path, result: Path) -> None:
    """A delta of another target."""
    sign_delta(fleet, base, result, make_delta(base.read_bytes(), next_version(base, "7.7.7").read_bytes())[1])


def other_base(fleet: Fleet, base: Path, result: Path) -> None:
    """A delta from another base than it says."""
    foreign = make_bundle(fleet.folder, "6.6.6", golden_kib=500).read_bytes()
    near = next_version(fleet.folder / "tiny-6.6.6.edge", "6.6.7").read_bytes()
    sign_delta(fleet, base, result, make_delta(foreign, near)[1])


def named_base(fleet: Fleet, base: Path, result: Path) -> None:
    """A delta that says to be from another base than its name."""
    sign_delta(fleet, base, result, make_delta(base.read_bytes(), result.read_bytes())[1], says="0" * 64)


def bomb(fleet: Fleet, base: Path, result: Path) -> None:
    """A delta of a few kilobytes that makes 64 MiB."""
    sign_delta(fleet, base, result, MAGIC + HEADER.pack(MATCH, 0, 0, 1000, len(BOMB)) + BOMB)


def many_pieces(fleet: Fleet, base: Path, result: Path) -> None:
    """A delta whose pieces make more and more."""
    frame = zstd.compress(bytes(PIECE_BYTES))
    sign_delta(fleet, base, result, MAGIC + (HEADER.pack(MATCH, 0, 0, PIECE_BYTES, len(frame)) + frame) * 200)


def unsigned(fleet: Fleet, base: Path, result: Path) -> None:
    """A delta that the target names and nobody signed."""
    old, new = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (base, result))
    repository, path = fleet.repository, f"bundles/{old}-{new}.delta"
    name = repository._files.bin("bundles", path)
    metadata = repository._read_signed(name)
    del metadata.signed.targets[path]
    repository._files.publish({name: metadata}, lambda role: repository._keys.load(_key(role)))


def _key(role: str) -> str:
    return "publisher" if role.startswith("bundles") else "online"


def not_stored(fleet: Fleet, base: Path, result: Path) -> None:
    """A delta that the repository has lost."""
    [stored] = (fleet.repository.folder / "targets" / "bundles").glob("*.delta")
    stored.unlink()


def changed(fleet: Fleet, base: Path, result: Path) -> None:
    """A delta that was changed after it was signed."""
    listen(fleet, lambda name, block: Reply(200, bytes(5000), 5000) if name.endswith(".delta") else None)


ALWAYS = [other_bytes, other_base, bomb, unsigned]
WRONG = [
    *ALWAYS,
    *(pytest.param(wrong, marks=pytest.mark.slow) for wrong in (named_base, many_pieces, not_stored, changed)),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_delta_is_refused_and_the_whole_file_installed(
    fleet: Fleet, ready: Path, wrong: Callable[[Fleet, Path, Path], None]
) -> None:
    result = next_version(ready, "1.1.0")
    fleet.ship(result)
    wrong(fleet, ready, result)
    assert fleet.check() == "active", fleet.events[-1].reason
    assert runs(fleet) == "1.1.0"
    said = [event.reason for event in fleet.events if event.reason]
    assert len(said) == 1
    assert said[0].startswith("the delta from 1.0.0 cannot be used, the file is fetched: ")
    assert said[0] in [report["reason"] for report in fleet.reports()]
    listen(fleet)
    fleet.ship(next_version(ready, "1.2.0"))  # and by a delta again
    assert fleet.check() == "active"
    assert len([event.reason for event in fleet.events if event.reason]) == 1


def test_a_delta_that_failed_is_not_tried_again_when_the_download_goes_on(fleet: Fleet, ready: Path) -> None:
    result = next_version(ready, "1.1.0")
    fleet.ship(result)
    other_bytes(fleet, ready, result)
    cut = listen(fleet, lambda name, block: Reply(404) if name.endswith(".edge") and block == 3 else None)
    assert fleet.check() == "idle"
    assert cut.blocks(".delta") > 0
    whole = listen(fleet)
    assert fleet.check() == "active"
    assert whole.blocks(".delta") == 0
    assert 0 < whole.blocks(".edge") < len(block_hashes(result.read_bytes()))


def test_a_delta_that_was_cut_goes_on_where_it_was(fleet: Fleet, ready: Path) -> None:
    bundle = Bundle.open(ready)
    members = {name: bundle.read(name) for name in bundle.manifest.files}
    notes = np.random.default_rng(1).bytes(3 * BLOCK_BYTES)
    made = ready.with_name("tiny-1.1.0.edge")
    bundle.rewrite(made, version="1.1.0", members={**members, "notes.bin": notes})
    fleet.ship(made)
    assert len(fleet.repository.deltas("tiny-1.1.0")) == 1
    listen(fleet, lambda name, block: Reply(404) if name.endswith(".edge") or block == 3 else None)
    assert fleet.check() == "idle"
    origin = listen(fleet)
    assert fleet.check() == "active"
    assert (origin.blocks(".delta"), origin.blocks(".edge")) == (1, 0)


def test_no_delta_is_fetched_where_the_file_has_no_room(
    fleet: Fleet, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.ship(next_version(ready, "1.1.0"))
    origin = listen(fleet)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * BLOCK_BYTES))
        assert [fleet.check(), fleet.check()] == ["idle", "idle"]
    assert (origin.blocks(".delta"), origin.blocks(".edge")) == (0, 0)
    assert fleet.check() == "active"
    assert (origin.blocks(".delta"), origin.blocks(".edge")) == (1, 0)


def test_nothing_of_a_delta_that_did_not_come_is_kept_after_the_update(fleet: Fleet, ready: Path) -> None:
    fleet.ship(next_version(ready, "1.1.0"))
    listen(fleet, lambda name, block: Reply(404) if name.endswith(".delta") else None)
    assert fleet.check() == "active"
    assert list((fleet.folder / "state" / "cam-1" / "delta").iterdir()) == []


def test_a_slot_that_was_changed_is_no_base(fleet: Fleet, ready: Path) -> None:
    fleet.ship(next_version(ready, "1.1.0"))
    with fleet.agent() as agent:
        agent.start()
        [golden] = (active(fleet.folder / "state" / "cam-1") / "golden").glob("input-001.npy")
        data = bytearray(golden.read_bytes())
        data[-1] ^= 1
        golden.write_bytes(data)
        assert agent.check() == "active"
    assert "does not hold the bundle that a delta was made from" in "".join(event.reason for event in fleet.events)
    assert runs(fleet) == "1.1.0"


def test_deltas_are_made_from_what_is_assigned_or_named_or_not_at_all(fleet: Fleet, ready: Path) -> None:
    repository = fleet.repository
    repository.add(next_version(ready, "1.1.0"), deltas=[])
    assert repository.deltas("tiny-1.1.0") == {}
    repository.add(next_version(ready, "1.1.0"))  # once more, and from what is assigned
    assert list(repository.deltas("tiny-1.1.0")) == ["tiny-1.0.0"]
    repository.add(next_version(ready, "1.2.0"), deltas=["tiny-1.1.0", "tiny-1.0.0"])
    assert set(repository.deltas("tiny-1.2.0")) == {"tiny-1.0.0", "tiny-1.1.0"}
    assert set(repository.bundles()) == {"tiny-1.0.0", "tiny-1.1.0", "tiny-1.2.0"}
    repository.remove("tiny-1.2.0")
    assert not [file for file in repository._files.all("bundles") if file.path.endswith(_end_of(ready, "1.2.0"))]


def _end_of(path: Path, version: str) -> str:
    return hashlib.sha256(path.with_name(f"tiny-{version}.edge").read_bytes()).hexdigest() + ".delta"
