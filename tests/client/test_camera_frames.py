"""Frames as cameras deliver them: the edge reads them in place, and the cloud is sent the same picture as RGB."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edge_sdk
from edge_sdk.client import HybridModel, PrivacyRule
from edge_sdk.errors import InputError
from edge_sdk.processing.device import to_rgb
from outside.pairs import with_policy

PATIENT = 20.0
HEIGHT, WIDTH = 24, 32

rng = np.random.default_rng(12)
COLOURS = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
FRAMES = {
    "bgr": np.ascontiguousarray(COLOURS[..., ::-1]),
    "nv12": rng.integers(16, 236, (HEIGHT * 3 // 2, WIDTH)).astype(np.uint8),
    "yuyv": rng.integers(16, 236, (HEIGHT, WIDTH, 2)).astype(np.uint8),
}
KINDS = sorted(FRAMES)


@pytest.fixture
def asking(pair, cloud, tmp_path: Path) -> Iterator[HybridModel]:
    """Return a model that asks about everything."""
    unsure = with_policy(pair.edge, tmp_path / "unsure.edge", cloud_digest=pair.cloud_digest, threshold=2.0)
    with edge_sdk.connect(unsure, cloud=cloud, deadline=PATIENT) as model:
        yield model


@pytest.mark.parametrize("kind", KINDS)
def test_the_cloud_answers_as_it_answers_the_same_picture_in_rgb(pair, asking: HybridModel, kind: str) -> None:
    frame = FRAMES[kind]
    answer = asking.predict(frame, pixels=kind, matrix="bt709")
    same = asking.predict(to_rgb(frame, kind, "bt709"))
    with edge_sdk.load(pair.cloud) as teacher:
        alone = teacher.predict(frame, pixels=kind, matrix="bt709")
    assert (answer.source, answer.reason, answer.certified) == ("cloud", "escalated", True)
    assert answer.scores == same.scores
    assert answer.scores == pytest.approx(alone.scores, abs=0.02), "but for what is rounded to grey levels"


@pytest.mark.parametrize("mode", ["hybrid", "prefer_cloud", "cloud", "edge"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_mode_takes_them(pair, cloud, kind: str, mode: str) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, mode=mode, deadline=PATIENT) as model:
        answer = model.predict(FRAMES[kind], pixels=kind)
        again = asyncio.run(model.apredict(FRAMES[kind], pixels=kind))
        (streamed,) = list(model.stream([FRAMES[kind]], pixels=kind))
    assert answer.scores == again.scores == streamed.scores
    if answer.source == "edge":
        with edge_sdk.load(pair.edge) as alone:
            assert answer.scores == alone.predict(FRAMES[kind], pixels=kind).scores


def test_a_stream_asks_its_source_what_its_frames_are(pair, cloud) -> None:
    class Source(list):
        pixels = "nv12"

    with edge_sdk.connect(pair.edge, cloud=cloud, mode="cloud", deadline=PATIENT) as model:
        (streamed,) = list(model.stream(Source([FRAMES["nv12"]])))
        assert streamed.scores == model.predict(FRAMES["nv12"], pixels="nv12").scores


def test_rules_and_the_cache_see_the_picture_in_rgb(pair, asking: HybridModel, cloud, tmp_path: Path) -> None:
    seen = []
    looks = PrivacyRule(when=lambda question: bool(seen.append(question.frame)))
    unsure = with_policy(pair.edge, tmp_path / "u.edge", cloud_digest=pair.cloud_digest, threshold=2.0)
    with edge_sdk.connect(unsure, cloud=cloud, deadline=PATIENT, privacy=[looks], cache=4) as model:
        assert model.predict(FRAMES["bgr"], pixels="bgr").source == "cloud"
        assert model.predict(COLOURS).source == "cache"
    np.testing.assert_array_equal(seen[0], COLOURS)


@pytest.mark.parametrize("mode", ["hybrid", "prefer_cloud", "cloud"])
@pytest.mark.parametrize(
    ("frame", "pixels"),
    [(FRAMES["yuyv"], "nv12"), (FRAMES["yuyv"], "bgr"), (COLOURS, "yuv"), (COLOURS, None), (b"\xff\xd8\xff", "bgr")],
)
def test_what_is_no_such_frame_is_refused(pair, cloud, mode: str, frame: object, pixels: object) -> None:
    options = {"cloud": cloud, "mode": mode, "deadline": PATIENT}
    with edge_sdk.connect(pair.edge, **options) as model, pytest.raises(InputError) as caught:
        model.predict(frame, pixels=pixels)
    assert "\n" not in str(caught.value)


def test_grey_levels_are_those_of_the_matrix() -> None:
    frame = np.full((HEIGHT, WIDTH, 2), 128, np.uint8)
    frame[..., 0] = np.linspace(16, 235, WIDTH).astype(np.uint8)
    wanted = np.rint((frame[..., :1].astype(float) - 16) * 255 / 219)
    np.testing.assert_array_equal(to_rgb(frame, "yuyv"), np.repeat(wanted, 3, axis=2))
    np.testing.assert_array_equal(to_rgb(FRAMES["bgr"], "bgr"), COLOURS)
