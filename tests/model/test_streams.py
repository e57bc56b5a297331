"""Frames from a source, answers as they come."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edge_sdk
from edge_sdk.errors import BundleFormatError, InputError, MissingExtraError
from edge_sdk.sources import Camera, Folder
from edge_sdk.streams import Stream


@pytest.fixture
def model(tiny_edge_bundle):
    with edge_sdk.load(tiny_edge_bundle.path) as loaded:
        yield loaded


@pytest.fixture
def folder(tmp_path, tiny_edge_bundle):
    """Return a folder of ten pictures, one in a folder below, and a text."""
    (tmp_path / "below").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    for n, image in enumerate(tiny_edge_bundle.images[:10]):
        Image.fromarray(image).save(tmp_path / ("below/9.png" if n == 9 else f"{n}.png"))
    return tmp_path


class Live:
    """A source that does not wait; each frame is taken when the test says so."""

    live = True

    def __init__(self, frames):
        self.frames, self.taken = frames, threading.Event()

    def __iter__(self):
        yield from self.frames
        self.taken.set()


def test_a_stream_answers_every_picture_of_a_folder_in_its_order(model, folder):
    answers = list(model.stream(Folder(folder)))
    alone = [model.predict(file) for file in Folder(folder).files]
    assert [answer.index for answer in answers] == [answer.index for answer in alone]
    assert len(answers) == 10


def test_a_stream_takes_any_iterable_of_frames(model, tiny_edge_bundle):
    answers = list(model.stream(iter(tiny_edge_bundle.images[:5])))
    assert len(answers) == 5


def test_a_folder_can_be_replayed_for_ever(model, folder):
    stream = iter(model.stream(Folder(folder, loop=True)))
    assert len([next(stream) for _ in range(25)]) == 25


def test_a_live_source_keeps_only_its_newest_frame_while_an_answer_is_made():
    source = Live(range(100))
    answered = []

    def answer(frame):
        source.taken.wait(60)
        answered.append(frame)
        return frame

    stream = Stream(answer, source)
    assert list(stream) == answered
    assert answered[-1] == 99
    assert len(answered) <= 2
    assert stream.dropped == 100 - len(answered)


def test_nothing_is_dropped_of_a_source_that_waits():
    stream = Stream(lambda frame: frame, range(100))
    assert list(stream) == list(range(100))
    assert stream.dropped == 0


def test_what_a_live_source_raises_is_raised_where_its_frames_are_answered():
    def unplugged():
        yield 1
        raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        list(Stream(lambda frame: frame, unplugged(), live=True))


def test_leaving_a_live_stream_ends_its_thread():
    gate = threading.Event()

    def endless():
        while True:
            gate.wait(0.001)
            yield 0

    for _ in Stream(lambda frame: frame, endless(), live=True):
        break
    for thread in threading.enumerate():
        if thread.name == "edge-sdk-source":
            thread.join(60)
            assert not thread.is_alive()


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no picture"):
        Folder(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        Folder(tmp_path / "nowhere")


def test_apredict_gives_the_same_answers_while_the_loop_goes_on(model, tiny_edge_bundle):
    frames = tiny_edge_bundle.images[:8]

    async def together():
        return await asyncio.gather(*(model.apredict(frame) for frame in frames))

    answers = asyncio.run(together())
    assert [answer.index for answer in answers] == [model.predict(frame).index for frame in frames]


def test_a_hybrid_model_streams_and_awaits_too(tiny_edge_bundle):
    with edge_sdk.connect(tiny_edge_bundle.path, cloud="127.0.0.1:1", mode="edge") as hybrid:
        assert len(list(hybrid.stream(tiny_edge_bundle.images[:3]))) == 3
        assert asyncio.run(hybrid.apredict(tiny_edge_bundle.images[0])).source == "edge"


def test_warming_up_runs_the_model_and_tells_its_time(model):
    assert model.warmup(5) > 0
    with pytest.raises(InputError, match="n is 0"):
        model.warmup(0)


def test_a_camera_without_opencv_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"edge-sdk\[camera\]"):
        Camera(0)


def test_a_video_is_read_as_rgb_frames(tmp_path):
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed")
    for n in range(3):
        red = np.zeros((16, 16, 3), np.uint8)
        red[..., 0] = 200 + n
        Image.fromarray(red).save(tmp_path / f"{n:02d}.png")
    with Camera(str(tmp_path / "%02d.png")) as video:
        frames = list(video)
    assert [int(frame[0, 0, 0]) for frame in frames] == [200, 201, 202]
    assert not frames[0][..., 1:].any()
    with pytest.raises(InputError, match="can be opened"):
        Camera(str(tmp_path / "nothing.avi"))
    assert cv2.__version__


def test_a_stream_reads_the_frames_of_a_video_as_the_video_says_they_are(model, tmp_path, tiny_edge_bundle):
    pytest.importorskip("cv2", reason="opencv is not installed")
    for n, image in enumerate(tiny_edge_bundle.images[:5]):
        Image.fromarray(image).save(tmp_path / f"{n:02d}.png")
    pattern = str(tmp_path / "%02d.png")
    with Camera(pattern, pixels="bgr") as video:
        assert np.array_equal(next(iter(video))[..., ::-1], tiny_edge_bundle.images[0])
    with Camera(pattern) as rgb, Camera(pattern, pixels="bgr") as bgr:
        answers = [answer.scores for answer in model.stream(bgr)]
        assert answers == [answer.scores for answer in model.stream(rgb)]
    assert len(answers) == 5
    assert len(set(answers)) == 5


def test_a_camera_without_yuyv_is_refused(tmp_path):
    pytest.importorskip("cv2", reason="opencv is not installed")
    Image.new("RGB", (16, 16)).save(tmp_path / "00.png")
    with pytest.raises(InputError, match=r"delivers no YUYV; use pixels='bgr'"):
        Camera(str(tmp_path / "%02d.png"), pixels="yuyv")
    with pytest.raises(InputError, match=r"pixels is 'nv12'"):
        Camera(0, pixels="nv12")


def test_a_bundle_is_loaded_from_a_path_from_bytes_and_from_an_open_file(tiny_edge_bundle):
    path, frame = tiny_edge_bundle.path, tiny_edge_bundle.images[0]
    with path.open("rb") as file:
        models = [edge_sdk.load(path), edge_sdk.load(str(path)), edge_sdk.load(path.read_bytes()), edge_sdk.load(file)]
    answers = {model.predict(frame).scores for model in models}
    assert len(answers) == 1
    with pytest.raises(BundleFormatError):
        edge_sdk.load(b"not a bundle")


@pytest.mark.slow
def test_memory_stays_flat_over_a_hundred_thousand_predictions(model, tiny_edge_bundle):
    frames = tiny_edge_bundle.images[:16]

    def resident_kib():
        status = Path("/proc/self/status")
        if not status.exists():
            pytest.skip("there is no /proc to read the resident memory from")
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read_text())[1])

    for n in range(5_000):
        model.predict(frames[n % 16])
    before = resident_kib()
    for n in range(100_000):
        model.predict(frames[n % 16])
    assert resident_kib() - before < 2_048


def test_a_deeper_stream_keeps_the_newest_frames():
    source = Live(range(100))

    def answer(frame):
        source.taken.wait(60)
        return frame

    stream = Stream(answer, source, depth=5)
    answers = list(stream)
    assert answers[-5:] == [95, 96, 97, 98, 99]
    assert stream.dropped == 100 - len(answers)


def test_a_stream_without_room_is_refused():
    for wrong in (0, 1.5, "2"):
        with pytest.raises(InputError, match=f"depth is {wrong!r}"):
            Stream(lambda frame: frame, [], depth=wrong)


def test_answers_can_be_handed_to_a_callback(model, folder):
    answers = []
    running = model.stream(Folder(folder)).start(answers.append)
    assert running.wait(60)
    assert [answer.index for answer in answers] == [model.predict(file).index for file in Folder(folder).files]


def test_a_frame_that_cannot_be_answered_does_not_end_a_started_stream():
    errors, answers = [], []

    def answer(frame):
        if frame == 1:
            raise InputError("no picture")
        return frame

    def on_answer(frame):
        answers.append(frame)
        if frame == 2:
            raise ValueError("of the app")

    assert Stream(answer, range(4)).start(on_answer, on_error=errors.append).wait(60)
    assert answers == [0, 2, 3]
    assert [str(error) for error in errors] == ["no picture", "of the app"]


def test_what_a_source_raises_is_reported_and_ends_a_started_stream(caplog):
    def source():
        yield 1
        raise OSError("unplugged")

    for live in (False, True):
        errors = []
        assert Stream(lambda frame: frame, source(), live=live).start(lambda _: None, on_error=errors.append).wait(60)
        assert [str(error) for error in errors] == ["unplugged"]
    assert Stream(lambda frame: frame, source()).start(lambda _: None).wait(60)
    assert "unplugged" in caplog.text


def test_a_started_stream_stops_when_told_even_by_its_own_callback():
    answers = []
    with Stream(lambda frame: frame, iter(int, 1)).start(answers.append) as running:
        assert running.running
    assert not running.running

    def once(_):
        seen.append(running.stop())

    seen, started = [], threading.Event()
    running = Stream(lambda frame: started.wait(60), iter(int, 1)).start(once)
    started.set()
    assert running.wait(60)
    assert seen == [True]
