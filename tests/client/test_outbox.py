"""The outbox's files: durable, bounded, nobody waits for them, and what a disk gives back is trusted with nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.client import Outbox
from edge_sdk.client.parcels import Parcel, plain
from edge_sdk.encodings import Reduction
from edge_sdk.errors import InputError, StorageError
from outside.disk import limited_file_size
from outside.pictures import SECRET, picture

KIND = "0" * 16


def parcel(n: int, **fields: object) -> Parcel:
    """Return the n-th input: a row of numbers, a little below a block of the disk with what is said of it."""
    made = {"id": f"{n:016x}", "time": time.time(), "kind": KIND, "model": "sha256:m", "index": 1, "confidence": 0.5}
    return Parcel(**{**made, "propensity": 1.0, "pixels": np.full(400, n, np.float64), **fields})


def put(outbox: Outbox, *numbers: int) -> None:
    for n in numbers:
        outbox.put(parcel(n))
    assert outbox.flush()


def waiting(outbox: Outbox) -> list[int]:
    return [int(entry.id, 16) for entry in outbox.waiting()]


def taken(outbox: Outbox) -> Parcel:
    entry = outbox.take(KIND, lambda entry: False)
    assert entry is not None
    found = outbox.read(entry)
    assert found is not None
    return found


def test_what_was_put_is_there_in_another_process_in_the_same_order(tmp_path):
    with Outbox(tmp_path) as outbox:
        put(outbox, 3, 1, 2)
        assert waiting(outbox) == [3, 1, 2]
    code = "import sys; from edge_sdk.client import Outbox; o = Outbox(sys.argv[1]); print([e.id for e in o.waiting()])"
    done = subprocess.run([sys.executable, "-P", "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([f"{n:016x}" for n in (3, 1, 2)])
    with Outbox(tmp_path) as outbox:
        put(outbox, 0)
        assert waiting(outbox) == [3, 1, 2, 0]
        found = taken(outbox)
        assert (found.id, found.index, found.pixels.tolist()) == (f"{3:016x}", 1, [3.0] * 400)


def test_only_its_user_may_read_it(tmp_path):
    with Outbox(tmp_path / "new") as outbox:
        put(outbox, 1)
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()} == {0o600}


def test_a_caller_may_fill_its_array_anew(tmp_path):
    frame = np.full(400, 7.0)
    with Outbox(tmp_path) as outbox:
        outbox.put(parcel(1, pixels=frame))
        frame[:] = 0
        assert outbox.flush()
        assert taken(outbox).pixels.tolist() == [7.0] * 400


def test_files_are_kept_without_their_metadata(tmp_path):
    with Outbox(tmp_path) as outbox:
        outbox.put(parcel(1, jpeg=picture(), pixels=None))
        outbox.put(parcel(2, jpeg=picture()[:-200], pixels=None))  # not to be read to its end
        outbox.put(parcel(3, jpeg=picture(), pixels=None, reduction=Reduction(5)))
        outbox.put(parcel(4, jpeg=b"no picture", pixels=None))
        assert outbox.flush()
        kept = [outbox.read(entry) for entry in outbox.waiting()]
        assert outbox.counters["lost"] == 4 - len(kept)
    assert kept[0].jpeg is not None
    assert kept[-1].pixels.shape == (3, 5, 3)
    assert not any(SECRET in path.read_bytes() for path in tmp_path.iterdir())


def test_the_oldest_leave_where_there_is_no_room(tmp_path):
    with Outbox(tmp_path, max_bytes=5 * 4096) as outbox:
        put(outbox, *range(8))
        assert waiting(outbox) == [3, 4, 5, 6, 7]
        assert (outbox.counters["lost"], outbox.counters["bytes"]) == (3, 5 * 4096)
        put(outbox, *range(8, 10))
        assert waiting(outbox) == [5, 6, 7, 8, 9]
        outbox.put(parcel(10, pixels=np.zeros(4096)))
        assert outbox.flush()
        assert waiting(outbox) == [5, 6, 7, 8, 9], "what can never fit takes no room from others"
    with Outbox(tmp_path, max_items=3) as outbox:
        put(outbox, 11)
        assert waiting(outbox) == [8, 9, 11]
    assert len(list(tmp_path.glob("*.parcel"))) == 3


def test_what_is_being_sent_does_not_leave_for_want_of_room(tmp_path):
    with Outbox(tmp_path, max_items=2) as outbox:
        put(outbox, 1, 2)
        assert taken(outbox).id == f"{1:016x}"
        put(outbox, 3)
        assert waiting(outbox) == [1, 3]


def test_what_is_too_old_leaves(tmp_path):
    with Outbox(tmp_path, max_age=1.5) as outbox:
        put(outbox, 1, 2)
        time.sleep(1.6)
        assert outbox.take(KIND, lambda entry: False) is None
        put(outbox, 3)
        put(outbox, 4)
        assert waiting(outbox)[-1] == 4
        assert outbox.counters["expired"] >= 2
    with Outbox(tmp_path, max_age=3600) as outbox:
        outbox.put(parcel(5, time=time.time() - 7200))
        assert outbox.flush()
        assert waiting(outbox)[-1] == 5, "put now, whatever its time says"
    with Outbox(tmp_path, max_age=3600) as outbox:
        assert outbox.take(KIND, lambda entry: entry.id != f"{5:016x}") is None, "found, and its time counts"


@pytest.mark.parametrize("at", [0.0, 86_400.0, 4e9, 1e11], ids=["1970", "1970 and a day", "2096", "far"])
def test_a_clock_that_was_wrong_makes_no_input_old_or_young_for_ever(tmp_path, at):
    with Outbox(tmp_path) as outbox:
        put(outbox, 1)
        outbox.put(parcel(2, time=at))
        put(outbox, 3)
    with Outbox(tmp_path, max_age=60) as outbox:
        assert waiting(outbox) == [1, 2, 3]
        assert outbox.take(KIND, lambda entry: entry.id != f"{2:016x}") is not None
        ages = [time.monotonic() - entry.born for entry in outbox.waiting()]
        assert all(0.0 <= age < 60.0 for age in ages)


def test_memory_for_what_waits_for_the_disk_is_bounded(tmp_path):
    with Outbox(tmp_path, queue_bytes=10_000) as outbox:
        for n in range(2000):
            outbox.put(parcel(n, pixels=np.zeros(1200)))
        assert outbox.flush()
        counts = outbox.counters
        assert counts["waiting"] + counts["lost"] == 2000
        assert counts["lost"] > 0
        outbox.put(parcel(9999, pixels=np.zeros(1300)))
        assert outbox.counters["lost"] == counts["lost"] + 1
    outbox.put(parcel(10_000))
    assert outbox.counters["lost"] == counts["lost"] + 2, "after closing, too"


def test_a_disk_that_takes_no_more_loses_inputs_and_nothing_else(tmp_path):
    with Outbox(tmp_path) as outbox:
        put(outbox, 1)
        with limited_file_size(1000):
            put(outbox, 2, 3)
        put(outbox, 4)
        assert waiting(outbox) == [1, 4]
        assert outbox.counters["lost"] == 2
        assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".parcel", ".parcel"]


def test_a_full_disk_is_no_error_of_the_caller_and_is_over_when_there_is_room(full_disk):
    with Outbox(full_disk / "outbox") as outbox:
        put(outbox, *range(30))
        kept = waiting(outbox)
        assert 0 < len(kept) < 30
        assert outbox.counters["lost"] == 30 - len(kept)
        for entry in outbox.waiting()[:3]:
            outbox.remove(entry, "sent")
        put(outbox, 31)
        assert waiting(outbox) == [*kept[3:], 31]
        assert all(outbox.read(entry) is not None for entry in outbox.waiting())


def test_a_folder_that_vanishes_costs_inputs_only(tmp_path):
    folder = tmp_path / "outbox"
    with Outbox(folder) as outbox:
        put(outbox, 1)
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        put(outbox, 2)
        assert outbox.counters["lost"] == 1
        entry = outbox.take(KIND, lambda entry: False)
        assert outbox.read(entry) is None
        assert (outbox.counters["damaged"], outbox.counters["waiting"]) == (1, 0)


def test_what_was_begun_and_never_finished_is_cleared_away_and_what_is_not_ours_is_left(tmp_path):
    with Outbox(tmp_path) as outbox:
        put(outbox, 1)
    (tmp_path / f".{5:016d}").write_bytes(b"half")
    (tmp_path / "notes.txt").write_bytes(b"mine")
    with Outbox(tmp_path) as outbox:
        assert waiting(outbox) == [1]
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".parcel") == ["notes.txt", "outbox"]


def test_two_cannot_have_one_folder(tmp_path):
    with Outbox(tmp_path), pytest.raises(StorageError, match="is in use: give every process"):
        Outbox(tmp_path)
    code = "import sys; from edge_sdk.client import Outbox; o = Outbox(sys.argv[1]); print(1, flush=True); input()"
    command = [sys.executable, "-P", "-c", code, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"1\n"
        with pytest.raises(StorageError, match="is in use"):
            Outbox(tmp_path)
        process.kill()
        process.wait(10)
    Outbox(tmp_path).close()  # a process that was killed holds nothing


def test_a_child_that_was_forked_does_not_keep_the_folder(tmp_path):
    code = (
        "import os, sys, time; from edge_sdk.client import Outbox; o = Outbox(sys.argv[1])\n"
        "os.fork(); print(os.getpid(), flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-P", "-W", "ignore", "-c", code, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout.readline() != process.stdout.readline(), "parent and child are there"
            process.kill()
            process.wait(10)
            Outbox(tmp_path).close()
        finally:
            os.killpg(process.pid, 9)


@pytest.mark.parametrize("content", [b"edge-sdk outbox 2\n", b"", b"\xff" * 1000])
def test_a_folder_of_another_version_is_refused_and_left_as_it_is(tmp_path, content):
    with Outbox(tmp_path) as outbox:
        put(outbox, 1)
    (tmp_path / "outbox").write_bytes(content)
    with pytest.raises(StorageError, match="this SDK reads 'edge-sdk outbox 1'"):
        Outbox(tmp_path)
    assert len(list(tmp_path.glob("*.parcel"))) == 1


def test_a_folder_that_cannot_be_made_is_said_in_one_line(unmakeable_path, read_only_folder):
    for folder in (unmakeable_path, read_only_folder):
        with pytest.raises(StorageError, match=r"cannot "):
            Outbox(folder)


@pytest.mark.parametrize("encoding", ["jpeg:0", "tensor", "", "captured+side:5"])
def test_an_encoding_that_nothing_can_be_kept_in_is_refused(tmp_path, encoding):
    with pytest.raises(InputError, match=r"encoding|quality"):
        Outbox(tmp_path, encoding=encoding)


@pytest.mark.parametrize("option", ["max_bytes", "max_items", "max_age", "queue_bytes", "share"])
def test_limits_that_make_no_sense_are_refused(tmp_path, option):
    with pytest.raises(InputError, match=f"outbox's {option} is 0"):
        Outbox(tmp_path, **{option: 0})


def test_of_a_context_is_kept_what_has_a_plain_form():
    context = {"a": 1, "b": "x", "c": None, "d": True, "e": 0.5, "f": float("nan"), "g": object(), "h": [1], 1: 2}
    assert plain(context) == {"a": 1, "b": "x", "c": None, "d": True, "e": 0.5}
    assert plain(None) == plain({"a": "x" * 20_000}) == plain({"a": "\ud800"}) == plain({"a": float("inf")}) == {}


arrays = st.sampled_from(["uint8", "int16", "float32", "float64"]).flatmap(
    lambda dtype: st.lists(st.integers(1, 4), min_size=1, max_size=4).map(
        lambda shape: np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    )
)
values = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
contexts = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), values | st.text(max_size=5), max_size=3)


@given(arrays, contexts, st.floats(0, 1), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_a_parcel_comes_back_as_it_was_and_nothing_else_for_it(pixels, context, share, flips, random):
    made = parcel(1, time=1.7e9, pixels=pixels, context=plain(context), propensity=share, reduction=Reduction(9))
    data = made.to_bytes()
    found = Parcel.from_bytes(data)
    assert found.to_bytes() == data
    assert (found.pixels.dtype, found.pixels.tolist()) == (pixels.dtype, pixels.tolist())
    assert (found.context, found.propensity, found.reduction) == (made.context, share, Reduction(9))
    damaged = bytearray(data)
    if flips:
        damaged[random.randrange(len(data))] ^= 1 << random.randrange(8)
    else:
        at = random.randrange(len(data))
        damaged[at:] = random.randbytes(random.randrange(3)) if random.random() < 0.5 else b""
    with pytest.raises(InputError):
        Parcel.from_bytes(bytes(damaged))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_header_that_somebody_wrote_by_hand_is_read_with_care(data):
    """With a digest that fits: what is refused is refused for what it says."""
    import hashlib
    import json

    header = json.loads(parcel(1).to_bytes().split(b"\n")[1])
    strange = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=300), st.lists(st.integers()))
    for name in data.draw(st.lists(st.sampled_from(sorted(header)), max_size=3)):
        header[name] = data.draw(strange | st.just(data.draw(st.floats())))
    if data.draw(st.booleans()):
        header.pop(data.draw(st.sampled_from(sorted(header))))
    body = data.draw(st.sampled_from([b"", b"x", bytes(3200)]))
    text = b"edge-sdk parcel 1\n" + json.dumps(header).encode() + b"\n" + body
    try:
        found = Parcel.from_bytes(text + hashlib.sha256(text).digest())
    except InputError:
        return
    assert found.nbytes == len(body)
    assert Parcel.from_bytes(found.to_bytes()).to_bytes() == found.to_bytes()
