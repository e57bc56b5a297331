"""The device executor computes what the float64 reference computes, on anything a frame can be."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edge_sdk.errors import InputError
from edge_sdk.processing import (
    Box,
    Cast,
    Color,
    Crop,
    DeviceProcessor,
    Layout,
    Letterbox,
    Normalize,
    ProcessingSpec,
    Quantize,
    Resize,
    check_skew,
    reference,
)

SIDES = st.integers(1, 40)
VIEWS = [
    lambda a: a,
    lambda a: a[::-1],
    lambda a: a[:, ::-1],
    lambda a: a[::2, ::3],
    np.asfortranarray,
    lambda a: a.swapaxes(0, 1),
]


@st.composite
def specs(draw):
    """Any valid specification."""
    steps = []
    mode = draw(st.sampled_from(["rgb", "grey", None]))
    channels = {"rgb": 3, "grey": 1, None: draw(st.sampled_from([1, 3]))}[mode]
    if mode is not None:
        steps.append(Color(mode))
    if draw(st.booleans()):
        steps.append(Crop(draw(st.sampled_from([1.0, 0.875, 0.1]))))
    target = draw(st.sampled_from(["resize", "resize", "nearest", "antialias", "letterbox"]))
    if target == "letterbox":
        steps.append(Letterbox(draw(SIDES), draw(SIDES), draw(st.floats(0, 255))))
    else:
        method = "nearest" if target == "nearest" else "bilinear"
        steps.append(Resize(draw(SIDES), draw(SIDES), method, target == "antialias"))
    std = 1.0
    if mode is None or draw(st.booleans()):
        means = draw(st.lists(st.floats(-300, 300), min_size=channels, max_size=channels))
        stds = draw(st.lists(st.floats(0.25, 300), min_size=channels, max_size=channels))
        std = min(stds)
        steps.append(Normalize(tuple(means), tuple(stds)))
    if draw(st.booleans()):
        steps.append(Layout(draw(st.sampled_from(["NHWC", "NCHW"]))))
    if draw(st.booleans()):
        dtype, low = draw(st.sampled_from([("int8", -128), ("uint8", 0)]))
        # steps of at least 1/16 grey level: a frame cannot say anything finer
        steps.append(Quantize(dtype, draw(st.floats(1 / 16, 16)) / std, low + draw(st.integers(0, 255))))
    elif draw(st.booleans()):
        steps.append(Cast("float16"))
    return ProcessingSpec(tuple(steps))


@st.composite
def frames(draw, spec):
    """A frame that fits the specification: noise or hard edges, contiguous or a view."""
    channels = draw(st.sampled_from([c for c in (1, 3, 4) if spec.accepts(c)]))
    shape = (draw(st.integers(1, 90)), draw(st.integers(1, 90)), channels)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.integers(0, 256, shape, dtype=np.uint8)
    if draw(st.booleans()):
        x = (x & 128) // 128 * np.uint8(255)
    if channels == 1 and draw(st.booleans()):
        x = x[:, :, 0]
    return draw(st.sampled_from(VIEWS))(x)


@settings(derandomize=True, deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_device_and_reference_agree_on_any_specification_and_frame(data):
    spec = data.draw(specs())
    frame = data.draw(frames(spec))
    report = check_skew(spec, [frame])
    assert report.frames == 1
    if spec.output_dtype == np.float32:  # a float16 is rounded on top
        assert report.device_error < 3 / 256 + 1e-4
    assert ProcessingSpec.from_json(spec.to_json()) == spec


@settings(derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_device_and_reference_agree_on_any_camera_format_and_region(data):
    spec = data.draw(specs().filter(lambda spec: spec.accepts(3) and spec.output_dtype == np.float32))
    pixels = data.draw(st.sampled_from(["rgb", "bgr", "nv12", "yuyv"]))
    if pixels in ("nv12", "yuyv"):
        assume(not spec.fold().antialias)
    matrix = data.draw(st.sampled_from(["bt601", "bt601-full", "bt709"]))
    height, width = data.draw(st.integers(1, 60)), 2 * data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))

    def plane(*shape):
        return rng.integers(0, 256, shape, dtype=np.uint8)

    frame = {
        "rgb": lambda: plane(height, width, 3),
        "bgr": lambda: plane(height, width, data.draw(st.sampled_from([3, 4]))),
        "nv12": lambda: (plane(height, width), plane((height + 1) // 2, width // 2, 2)),
        "yuyv": lambda: plane(height, width, 2),
    }[pixels]()
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    region = (top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    options = {"pixels": pixels, "matrix": matrix, "roi": data.draw(st.sampled_from([None, region]))}
    got = DeviceProcessor(spec)(frame, **options)
    exact = reference(spec, frame, **options)
    levels = 3 / 256 * (4 if pixels in ("nv12", "yuyv") else 1) + 1e-3
    allowed = levels * spec.fold().gain.reshape((1, -1, 1, 1) if spec.order == "NCHW" else (1, 1, 1, -1))
    assert np.all(np.abs(got - exact) <= allowed + 2 * np.spacing(np.abs(exact).astype(np.float32)))


def test_a_region_is_the_frame_cut_out():
    frame = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    run = DeviceProcessor(ProcessingSpec.image(8, 8, 3))
    np.testing.assert_array_equal(run(frame, roi=(4, 5, 10, 20)), run(frame[4:14, 5:25]))
    for bad in ((4, 5, 17, 2), (-1, 0, 2, 2), (0, 0, 0, 2), (0, 0), 5, (0.5, 0, 2, 2), (math.inf, 0, 2, 2)):
        with pytest.raises(InputError, match=r"^roi: "):
            run(frame, roi=bad)


def test_bgr_gives_what_rgb_gives():
    frame = np.random.default_rng(4).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    run = DeviceProcessor(ProcessingSpec.image(8, 9, 3))
    flipped = np.ascontiguousarray(frame[:, :, ::-1])
    np.testing.assert_array_equal(run(flipped, pixels="bgr"), run(frame))
    np.testing.assert_array_equal(run.batch([flipped], pixels="bgr"), run(frame))
    with pytest.raises(InputError, match="pixels: bgr has colours"):
        DeviceProcessor(ProcessingSpec((Resize(2, 2), Normalize((0.0,), (1.0,)))))(flipped, pixels="bgr")


def test_antialias_halves_by_weights_of_one_three_three_one():
    spec = ProcessingSpec((Color("grey"), Resize(1, 4, antialias=True)))
    row = np.array([[0, 0, 0, 80, 0, 0, 0, 0]], np.uint8)
    np.testing.assert_allclose(DeviceProcessor(spec)(row).ravel(), [0, 30, 10, 0], rtol=1e-6)
    for run in (DeviceProcessor(spec), lambda *given, **more: reference(spec, *given, **more)):
        with pytest.raises(InputError, match="antialias: is for bilinear sampling of rgb and bgr frames"):
            run(np.zeros((2, 8, 2), np.uint8), pixels="yuyv")


def test_a_letterbox_keeps_the_shape_and_boxes_find_their_way_back():
    spec = ProcessingSpec((Color("rgb"), Letterbox(64, 64, fill=7)))
    frame = np.full((30, 60, 3), 200, np.uint8)
    out = DeviceProcessor(spec)(frame)
    np.testing.assert_array_equal(out[0, 16:48], 200)
    np.testing.assert_array_equal(out[0, :16], 7)
    np.testing.assert_array_equal(out[0, 48:], 7)
    placement = spec.place(30, 60)
    assert placement.inner == Box(16, 0, 32, 64)
    boxes = np.array([[3.0, 6.0, 30.0, 15.0]])
    np.testing.assert_allclose(placement.to_frame(placement.to_tensor(boxes)), boxes)
    np.testing.assert_allclose(placement.to_frame([[0, 0, 64, 64]]), [[0, 0, 60, 30]])
    with pytest.raises(InputError, match="boxes: need shape"):
        placement.to_frame([1, 2])


def test_a_crop_is_centred_and_has_the_shape_of_the_tensor():
    spec = ProcessingSpec((Color("grey"), Crop(0.5), Resize(10, 20)))
    assert spec.place(100, 100).window == Box(37, 25, 25, 50)
    assert spec.place(100, 100, (10, 20, 40, 80)).window == Box(20, 40, 20, 40)
    assert spec.place(1, 1).window == Box(0, 0, 1, 1)


def test_a_common_specification_gives_the_numbers_worked_out_by_hand():
    spec = ProcessingSpec.image(1, 2, 3, mean=(10, 20, 30), std=(2, 4, 5), order="NCHW")
    frame = np.array([[[10, 20, 30], [20, 40, 50], [30, 60, 80], [50, 100, 130]]], np.uint8)
    by_hand = np.array([[[[2.5, 15]], [[2.5, 15]], [[2, 15]]]])
    np.testing.assert_allclose(reference(spec, frame), by_hand)
    np.testing.assert_allclose(DeviceProcessor(spec)(frame), by_hand, rtol=1e-6)


def test_integers_are_the_rounded_and_saturated_reference():
    spec = ProcessingSpec.image(16, 16, 1, mean=0, std=1).with_quantize("int8", 1.0, -100)
    frame = np.arange(256, dtype=np.uint8).reshape(16, 16)
    real = reference(spec, frame)
    np.testing.assert_array_equal(real.ravel(), np.arange(256) - 100.0)
    np.testing.assert_array_equal(DeviceProcessor(spec)(frame), np.clip(real, -128, 127))


def test_each_call_returns_an_array_of_its_own_unless_one_is_given():
    rng = np.random.default_rng(5)
    run = DeviceProcessor(ProcessingSpec.image(4, 4, 3))
    frame = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    first, second = run(frame), run(frame)
    assert not np.shares_memory(first, second)
    out = np.empty((1, 4, 4, 3), np.float32)
    assert run(frame, out) is out
    np.testing.assert_array_equal(out, first)


def test_a_batch_holds_frames_of_different_sizes():
    run = DeviceProcessor(ProcessingSpec.image(4, 5, 3, order="NCHW"))
    rng = np.random.default_rng(6)
    frames = [rng.integers(0, 256, (7 + i, 9, 3), dtype=np.uint8) for i in range(3)]
    batch = run.batch(frames)
    np.testing.assert_array_equal(batch, np.concatenate([run(frame) for frame in frames]))
    out = np.empty_like(batch)
    assert run.batch(frames, out) is out
    np.testing.assert_array_equal(out, batch)


def test_a_frame_is_not_changed_and_may_be_read_only():
    frame = np.random.default_rng(7).integers(0, 256, (9, 9, 4), dtype=np.uint8)
    frame.flags.writeable = False
    before = frame.copy()
    DeviceProcessor(ProcessingSpec.image(4, 4, 1))(frame)
    np.testing.assert_array_equal(frame, before)


def test_frames_of_many_sizes_and_formats_may_alternate():
    rng = np.random.default_rng(9)
    spec = ProcessingSpec.image(8, 8, 3, 127.5, 127.5)
    run = DeviceProcessor(spec)
    frames = [rng.integers(0, 256, (10 + n % 7, 12 + n % 5, 3), dtype=np.uint8) for n in range(35)]
    for frame in [*frames, *frames]:
        for seen in (frame, frame[:, ::-1]):  # the other direction is copied
            np.testing.assert_array_equal(run(seen), DeviceProcessor(spec)(seen))
            np.testing.assert_array_equal(run.batch([seen, seen])[1:], run(seen))
        np.testing.assert_array_equal(run(frame, pixels="bgr"), DeviceProcessor(spec)(frame, pixels="bgr"))


def test_a_processor_that_knows_a_size_still_refuses_what_is_wrong():
    frame = np.zeros((10, 12, 3), np.uint8)
    run = DeviceProcessor(ProcessingSpec.image(8, 8, 3))
    out = run(frame)
    with pytest.raises(InputError, match=r"frame: need .*, not int8 of shape"):
        run(frame.astype(np.int8))
    with pytest.raises(
        InputError, match=r"out: need float32 of shape \(1, 8, 8, 3\), not float32 of shape \(8, 8, 3\)"
    ):
        run(frame, out[0])
    out.flags.writeable = False
    with pytest.raises(InputError, match="out: need a writeable"):
        run(frame, out)
    with pytest.raises(InputError, match="pixels: need rgb"):
        run(frame, pixels="grb")
    with pytest.raises(InputError, match=r"matrix: need bt601"):
        run(frame[:, :, :2].copy(), pixels="yuyv", matrix="bt2020")
    for odd in ([], {}, np.array(["rgb", "bgr"])):
        for roi in (None, (0, 0, 4, 4)):
            with pytest.raises(InputError, match="pixels: need rgb"):
                run(frame, pixels=odd, roi=roi)
            with pytest.raises(InputError, match="matrix: need bt601"):
                run(frame, matrix=odd, roi=roi)
        with pytest.raises(InputError, match="pixels: need rgb"):
            run.batch([frame], pixels=odd)


def test_threads_share_one_processor():
    run = DeviceProcessor(ProcessingSpec.image(32, 32, 3).with_quantize("int8", 1 / 255, -128))
    rng = np.random.default_rng(8)
    frames = [rng.integers(0, 256, (50 + i, 60, 3), dtype=np.uint8) for i in range(6)]
    alone = [run(frame) for frame in frames]
    with ThreadPoolExecutor(6) as pool:
        for i, out in enumerate(pool.map(run, frames * 30)):
            np.testing.assert_array_equal(out, alone[i % 6])


RGB = ProcessingSpec.image(4, 4, 3)
AS_CAPTURED = ProcessingSpec((Resize(4, 4), Normalize((0.0,) * 3, (1.0,) * 3)))
GOOD = np.zeros((6, 6, 3), np.uint8)


@pytest.mark.parametrize("executor", [DeviceProcessor, lambda spec: lambda frame: reference(spec, frame)])
@pytest.mark.parametrize(
    ("spec", "frame", "message"),
    [
        (RGB, "cat.jpg", "frame: need uint8 of shape .* not str"),
        (RGB, GOOD.tolist(), "not list"),
        (RGB, GOOD.astype(np.float32), r"not float32 of shape \(6, 6, 3\)"),
        (
            RGB,
            GOOD[:, :, :2],
            r"frame: need uint8 of shape \(H, W\) or \(H, W, 1\|3\|4\), .* not uint8 of shape \(6, 6, 2\)",
        ),
        (RGB, GOOD[None], r"not uint8 of shape \(1, 6, 6, 3\)"),
        (RGB, GOOD[:0], r"not empty, not uint8 of shape \(0, 6, 3\)"),
        (RGB, GOOD[0, 0], r"not uint8 of shape \(3,\)"),
        (AS_CAPTURED, GOOD[:, :, 0], r"frame: need uint8 of shape \(H, W, 3\), not empty, not uint8 of shape \(6, 6\)"),
        (AS_CAPTURED, np.zeros((6, 6, 4), np.uint8), r"need uint8 of shape \(H, W, 3\)"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused_with_one_line(executor, spec, frame, message):
    with pytest.raises(InputError, match=message) as caught:
        executor(spec)(frame)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "out",
    [
        np.empty((4, 4, 3), np.float32),
        np.empty((1, 4, 4, 3), np.float64),
        np.empty((2, 4, 4, 3), np.float32),
        [1],
    ],
    ids=["rank", "dtype", "shape", "list"],
)
def test_an_out_that_does_not_fit_is_refused_with_one_line(out):
    with pytest.raises(InputError, match=r"^out: need float32 of shape \(1, 4, 4, 3\), not .*$"):
        DeviceProcessor(RGB)(GOOD, out)


def test_an_empty_batch_is_refused():
    with pytest.raises(InputError, match="frames: need at least one"):
        DeviceProcessor(RGB).batch([])
