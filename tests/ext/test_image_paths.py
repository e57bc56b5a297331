"""Every path of the image kernel gives the same bits, within 3/256 grey level of its twin in NumPy and float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_sdk.errors import InputError
from edge_sdk.ext import image
from edge_sdk.ext.pure import image as twin

BOUND = 3 / 256 + 1e-4
YUV = (16.0, 255 / 219, 255 / 224 * 1.402, -255 / 224 * 0.344136, -255 / 224 * 0.714136, 255 / 224 * 1.772)


@pytest.fixture(autouse=True)
def _same_path_afterwards():
    before = image.path()
    yield
    image.use_path(before)


@st.composite
def parts(draw, height, width):
    """Any rectangle within a size."""
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return top, left, draw(st.integers(1, height - top)), draw(st.integers(1, width - left))


@st.composite
def jobs(draw):
    """Any frame and job."""
    kind = draw(st.sampled_from(["rgb", "rgb", "bgr", "nv12", "yuyv"]))
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 150))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    edges = draw(st.booleans())

    def plane(*shape):
        x = rng.integers(0, 256, shape, dtype=np.uint8)
        x = (x & 128) // 128 * np.uint8(255) if edges else x
        padded = np.zeros((shape[0] * 2, shape[1] + 3, *shape[2:]), np.uint8)  # rows with a stride of their own
        padded[::2, : shape[1]] = x
        return padded[::2, : shape[1]]

    if kind == "rgb":
        frame = plane(height, width, draw(st.sampled_from([1, 3, 4])))
    elif kind == "bgr":
        frame = plane(height, width, draw(st.sampled_from([3, 4])))
    elif kind == "nv12":
        frame = (plane(height, width), plane((height + 1) // 2, (width + 1) // 2, 2))
    else:
        width += width % 2
        frame = plane(height, width, 2)
    out_height, out_width = draw(st.integers(1, 40)), draw(st.integers(1, 70))
    return frame, {
        "format": kind,
        "size": (height, width),
        "window": draw(st.one_of(st.just((0, 0, height, width)), parts(height, width))),
        "inner": draw(st.one_of(st.just((0, 0, out_height, out_width)), parts(out_height, out_width))),
        "out": (out_height, out_width),
        "nearest": draw(st.booleans()),
        "channels": draw(st.sampled_from([1, 3])),
        "planar": draw(st.booleans()),
        "dtype": draw(st.sampled_from([np.float32, np.float16, np.int8, np.uint8])),
        "fill": draw(st.integers(0, 255)),
        "gain": draw(st.sampled_from([1.0, 1 / 58.395, -0.7])),
        "mean": draw(st.sampled_from([0.0, 117.25])),
    }


def run(kernel, frame, job, dtype=None):
    shape = (job["channels"], *job["out"]) if job["planar"] else (*job["out"], job["channels"])
    return kernel(
        frame,
        np.full(shape, 77, dtype or job["dtype"]),
        mean=np.full(job["channels"], job["mean"], np.float32),
        gain=np.full(job["channels"], job["gain"], np.float32),
        planar=job["planar"],
        zero_point=3 if np.dtype(job["dtype"]).kind in "iu" else 0,
        pixels=job["format"],
        window=job["window"],
        inner=job["inner"],
        fill=job["fill"],
        nearest=job["nearest"],
        yuv=np.array(YUV, np.float32),
    )


@settings(derandomize=True, deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(jobs())
def test_every_path_gives_the_same_bits_and_is_close_to_float64(case):
    frame, job = case
    outs = []
    for path in image.paths():
        image.use_path(path)
        outs.append(run(image.image_to_tensor, frame, job))
    for out in outs[1:]:
        assert out.tobytes() == outs[0].tobytes()

    exact = run(twin.image_to_tensor, frame, job, np.float32).astype(np.float64)
    allowed = BOUND * (4 if job["format"] in ("nv12", "yuyv") else 1) * abs(job["gain"])
    if job["dtype"] == np.float16:
        allowed += np.abs(exact) * 2.0**-11 + 2.0**-25
    elif job["dtype"] != np.float32:
        info = np.iinfo(job["dtype"])
        exact = np.clip(exact + 3, info.min, info.max)
        allowed += 0.5
    assert np.all(np.abs(outs[0] - exact) <= allowed)


@pytest.mark.parametrize(
    ("kind", "channels"), [("rgb", 1), ("rgb", 3), ("rgb", 4), ("bgr", 3), ("bgr", 4), ("nv12", 1), ("yuyv", 2)]
)
def test_every_path_gives_the_same_bits_however_far_the_columns_are_apart(kind, channels):
    rng = np.random.default_rng(5)
    for width in range(4, 260, 2):
        frame = rng.integers(0, 256, (4, width) if channels == 1 else (4, width, channels), dtype=np.uint8)
        if kind == "nv12":
            frame = (frame, rng.integers(0, 256, (2, width // 2, 2), dtype=np.uint8))
        place = {"window": (0, 0, 4, width), "inner": (0, 0, 3, 30), "out": (3, 30), "nearest": False}
        for planar in (False, True):
            job = {**place, "format": kind, "channels": 3, "planar": planar, "dtype": np.float32}
            job = {**job, "fill": 0, "gain": 1.0, "mean": 0.0}
            outs = []
            for path in image.paths():
                image.use_path(path)
                outs.append(run(image.image_to_tensor, frame, job))
            for got in outs[1:]:
                np.testing.assert_array_equal(got, outs[0])


def test_a_plan_fills_from_frames_like_the_one_it_was_made_for_and_says_no_to_others():
    rng = np.random.default_rng(6)
    constants = {"mean": np.zeros(3, np.float32), "gain": np.ones(3, np.float32)}
    frame, out = rng.integers(0, 256, (8, 20, 3), dtype=np.uint8), np.empty((4, 5, 3), np.float32)
    plan = image.ImagePlan(frame, out, **constants)
    apart = np.zeros((16, 30, 3), np.uint8)[::2, :20]
    apart[:] = frame[::-1]
    assert plan.fill(apart, out)
    np.testing.assert_array_equal(out, image.image_to_tensor(apart, np.empty_like(out), **constants))
    assert image.ImagePlan(frame, out[None], **constants).fill(frame, out[None])
    np.testing.assert_array_equal(out, image.image_to_tensor(frame, np.empty_like(out), **constants))

    read_only = out.copy()
    read_only.flags.writeable = False
    before = out.copy()
    for other in (frame[:7], frame[:, :19], frame[:, :, :1], frame[:, ::-1], frame.astype(np.int8), (frame,), None):
        assert not plan.fill(other, out)
    for other in (out[:3], out.astype(np.float16), read_only, np.empty((5, 4, 3), np.float32).transpose(1, 0, 2)):
        assert not plan.fill(frame, other)
    assert not plan.fill(frame, out[None])
    np.testing.assert_array_equal(out, before)


def test_a_plan_for_nv12_takes_one_array_or_two_planes():
    whole = np.random.default_rng(7).integers(0, 256, (12, 10), dtype=np.uint8)
    planes = (whole[:8], whole[8:].reshape(4, 5, 2))
    out = np.empty((4, 4, 3), np.float32)
    constants = {"mean": np.zeros(3, np.float32), "gain": np.ones(3, np.float32), "yuv": np.array(YUV, np.float32)}
    expected = image.image_to_tensor(whole, out.copy(), pixels="nv12", **constants)
    for made_for in (whole, planes):
        plan = image.ImagePlan(made_for, out, pixels="nv12", **constants)
        for frame in (whole, planes):
            out[:] = 0
            assert plan.fill(frame, out)
            np.testing.assert_array_equal(out, expected)
        for other in (planes[0], planes[:1], (planes[0], whole), (planes[1], planes[0]), (*planes, planes[1])):
            assert not plan.fill(other, out)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("path", image.paths())
def test_half_precision_is_the_rounded_float32_on_every_path(path, planar):
    frame = np.arange(256, dtype=np.uint8).reshape(8, 32)
    image.use_path(path)
    for gain in (1.0, 300.0, 1e-4, 3.3e-7, 1e-9, 1e30):
        constants = {"mean": np.full(3, 100.5, np.float32), "gain": np.full(3, gain, np.float32), "planar": planar}
        shape = (3, 8, 32) if planar else (8, 32, 3)
        single = image.image_to_tensor(frame, np.empty(shape, np.float32), **constants)
        half = image.image_to_tensor(frame, np.empty(shape, np.float16), **constants)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(half, single.astype(np.float16))


def test_nv12_may_be_one_array_or_two_planes():
    rng = np.random.default_rng(1)
    whole = rng.integers(0, 256, (12, 10), dtype=np.uint8)
    constants = {"mean": np.zeros(3, np.float32), "gain": np.ones(3, np.float32), "yuv": np.array(YUV, np.float32)}
    one = image.image_to_tensor(whole, np.empty((4, 4, 3), np.float32), pixels="nv12", **constants)
    planes = (whole[:8], whole[8:].reshape(4, 5, 2))
    two = image.image_to_tensor(planes, np.empty((4, 4, 3), np.float32), pixels="nv12", **constants)
    np.testing.assert_array_equal(one, two)


def test_black_white_and_grey_of_video_are_those_of_pictures():
    constants = {"mean": np.zeros(3, np.float32), "gain": np.ones(3, np.float32), "yuv": np.array(YUV, np.float32)}
    frame = np.full((2, 6, 2), 128, np.uint8)
    frame[:, :, 0] = [16, 16, 235, 235, 126, 126]
    out = image.image_to_tensor(frame, np.empty((2, 6, 3), np.float32), pixels="yuyv", **constants)
    np.testing.assert_allclose(out[0, :, 0], [0, 0, 255, 255, 128.08, 128.08], atol=0.01)
    np.testing.assert_allclose(out - out[:, :, :1], 0, atol=0.01)


@pytest.mark.parametrize("planar", [False, True])
def test_antialias_gives_the_same_bits_on_every_path(planar):
    rng = np.random.default_rng(2)
    for height, width, out_height, out_width in ((90, 133, 7, 31), (3, 5, 8, 9), (64, 1, 1, 3), (200, 3, 1, 1)):
        frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        outs = []
        for path in image.paths():
            image.use_path(path)
            out = np.empty((3, out_height, out_width) if planar else (out_height, out_width, 3), np.float32)
            constants = {"mean": np.full(3, 9.5, np.float32), "gain": np.full(3, 0.3, np.float32)}
            outs.append(image.image_to_tensor(frame, out, planar=planar, antialias=True, **constants).tobytes())
        assert len(set(outs)) == 1


def test_an_unknown_path_is_refused_with_the_names_of_those_there_are():
    with pytest.raises(InputError, match=f"path: there are .*{image.path()}.* here, not 'mmx'"):
        image.use_path("mmx")


FRAME = np.zeros((4, 4, 3), np.uint8)
PLANE = FRAME[:, :, 0].copy()
GOOD = {
    "frame": FRAME,
    "out": np.empty((2, 2, 3), np.float32),
    "mean": np.zeros(3, np.float32),
    "gain": np.ones(3, np.float32),
    "yuv": np.array(YUV, np.float32),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": "i420"}, "pixels: need rgb, bgr, nv12 or yuyv, not 'i420'"),
        ({"pixels": []}, r"pixels: need rgb, bgr, nv12 or yuyv, not \[\]"),
        ({"pixels": np.array(["rgb", "bgr"])}, "pixels: need rgb, bgr, nv12 or yuyv, not array"),
        ({"window": (0.5, 0, 2, 2)}, r"window: need \(top, left, height, width\) in whole pixels"),
        ({"pixels": "bgr", "frame": PLANE}, r"frame: need shape \(H, W, 3\|4\), not \(4, 4\)"),
        ({"pixels": "yuyv"}, r"frame: need shape \(H, W, 2\) with an even W, not \(4, 4, 3\)"),
        ({"pixels": "yuyv", "frame": np.zeros((4, 3, 2), np.uint8)}, "even W"),
        ({"pixels": "nv12"}, r"frame: need shape \(H \* 3/2, W\)"),
        ({"pixels": "nv12", "frame": PLANE}, r"even H and W, or a pair Y, UV, not \(4, 4\)"),
        ({"pixels": "nv12", "frame": (PLANE, PLANE)}, r"frame\[1\]: need shape \(2, 2, 2\), not \(4, 4\)"),
        ({"pixels": "nv12", "frame": (FRAME, PLANE)}, r"frame\[0\]: need shape \(H, W\)"),
        ({"pixels": "nv12", "frame": (PLANE, None)}, r"frame\[1\]: need a uint8 array, not NoneType"),
        ({"pixels": "nv12", "frame": (PLANE, np.zeros((2, 2, 2), np.uint8)), "yuv": None}, "yuv: need float32"),
        ({"antialias": True, "nearest": True}, "antialias: is for bilinear sampling"),
        ({"window": (0, 0, 5, 4)}, r"window: \(0, 0, 5, 4\) is not within 4 x 4"),
        ({"window": (-1, 0, 2, 2)}, "window: .* is not within"),
        ({"window": (0, 0, 0, 2)}, "window: .* is not within"),
        ({"window": (0, 0)}, r"window: need \(top, left, height, width\)"),
        ({"window": 3}, r"window: need \(top, left, height, width\)"),
        ({"inner": (1, 1, 2, 1)}, r"inner: \(1, 1, 2, 1\) is not within 2 x 2"),
    ],
)
def test_bad_input_is_refused_with_one_line(change, message):
    with pytest.raises(InputError, match=message) as caught:
        image.image_to_tensor(**{**GOOD, **change})
    assert "\n" not in str(caught.value)
