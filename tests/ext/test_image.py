"""The fused image kernel: what it computes and what it refuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edge_sdk.errors import InputError
from edge_sdk.ext.image import image_to_tensor

RNG = np.random.default_rng(20)


def constants(channels, mean=0.0, gain=1.0):
    return {"mean": np.full(channels, mean, np.float32), "gain": np.full(channels, gain, np.float32)}


def frame(height, width, channels=3):
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_the_same_size_gives_the_pixels_themselves():
    x = frame(5, 7)
    out = image_to_tensor(x, np.empty((5, 7, 3), np.float32), **constants(3))
    np.testing.assert_array_equal(out, x)


def test_the_array_passed_in_is_filled_and_returned():
    out = np.empty((4, 4, 3), np.float32)
    assert image_to_tensor(frame(8, 8), out, **constants(3)) is out


def test_halving_averages_four_pixels():
    x = frame(6, 8, 1)
    out = image_to_tensor(x, np.empty((3, 4, 1), np.float32), **constants(1))
    np.testing.assert_allclose(out[..., 0], x[..., 0].reshape(3, 2, 4, 2).mean(axis=(1, 3)), rtol=1e-6)


def test_doubling_weighs_neighbours_three_to_one_and_clamps_the_edges():
    x = np.array([[0, 100]], np.uint8)
    out = image_to_tensor(x, np.empty((1, 4, 1), np.float32), **constants(1))
    np.testing.assert_allclose(out.ravel(), [0, 25, 75, 100])


def test_a_single_pixel_fills_any_size():
    out = image_to_tensor(np.full((1, 1, 3), 9, np.uint8), np.empty((3, 5, 3), np.float32), **constants(3))
    np.testing.assert_array_equal(out, 9)


def test_planes_hold_the_same_values_as_interleaved_channels():
    x = frame(31, 17)
    rows = image_to_tensor(x, np.empty((8, 9, 3), np.float32), **constants(3, 3.0, 0.5))
    planes = image_to_tensor(x, np.empty((3, 8, 9), np.float32), planar=True, **constants(3, 3.0, 0.5))
    np.testing.assert_array_equal(np.moveaxis(planes, 0, 2), rows)


def test_shrinking_far_gives_the_same_as_the_dense_path():
    """From five times on only the columns that are read are blended."""
    x = frame(60, 50)
    rows, columns = np.arange(60), np.arange(50)
    out = image_to_tensor(x, np.empty((12, 10, 3), np.float32), **constants(3))
    np.testing.assert_array_equal(out, x[rows[2::5]][:, columns[2::5]])


def test_grey_becomes_three_equal_channels():
    x = frame(6, 6, 1)
    out = image_to_tensor(x, np.empty((6, 6, 3), np.float32), **constants(3))
    np.testing.assert_array_equal(out, np.repeat(x, 3, axis=2))


def test_a_frame_without_a_channel_axis_is_grey():
    x = frame(6, 5, 1)
    a = image_to_tensor(x, np.empty((3, 3, 1), np.float32), **constants(1))
    b = image_to_tensor(x[:, :, 0], np.empty((3, 3, 1), np.float32), **constants(1))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_becomes_bt601_luma_without_alpha(channels):
    x = frame(4, 5, channels)
    out = image_to_tensor(x, np.empty((4, 5, 1), np.float32), **constants(1))
    np.testing.assert_allclose(out[..., 0], x[..., :3] @ np.array([0.299, 0.587, 0.114]), rtol=1e-6)


def test_alpha_is_dropped():
    x = frame(9, 9, 4)
    with_alpha = image_to_tensor(x, np.empty((4, 4, 3), np.float32), **constants(3))
    without = image_to_tensor(x[..., :3].copy(), np.empty((4, 4, 3), np.float32), **constants(3))
    np.testing.assert_array_equal(with_alpha, without)


def test_integers_round_half_to_even_and_saturate():
    x = np.array([[0, 1, 2, 3, 4, 5, 6, 255]], np.uint8)
    out = image_to_tensor(x, np.empty((1, 8, 1), np.int8), **constants(1, 0.0, 0.5))
    np.testing.assert_array_equal(out.ravel(), [0, 0, 1, 2, 2, 2, 3, 127])
    out = image_to_tensor(x, np.empty((1, 8, 1), np.uint8), zero_point=10, **constants(1, 3.0, 4.0))
    np.testing.assert_array_equal(out.ravel(), [0, 2, 6, 10, 14, 18, 22, 255])


@pytest.mark.parametrize("zero_point", [-128, -1, 0, 127])
def test_the_zero_point_shifts_levels_into_int8(zero_point):
    x = np.arange(256, dtype=np.uint8).reshape(16, 16)
    out = image_to_tensor(x, np.empty((16, 16, 1), np.int8), zero_point=zero_point, **constants(1))
    np.testing.assert_array_equal(out[..., 0], np.clip(x.astype(int) + zero_point, -128, 127))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::-1],
        lambda x: x[::2],
        lambda x: x[3:20, 4:11],
        lambda x: np.broadcast_to(x[:1], x.shape),
    ],
    ids=["upside down", "every other row", "window", "one row repeated"],
)
def test_rows_may_have_any_stride(view):
    x = view(frame(24, 20))
    x.flags.writeable = False
    out = image_to_tensor(x, np.empty((7, 7, 3), np.float32), **constants(3))
    same = image_to_tensor(x.copy(), np.empty((7, 7, 3), np.float32), **constants(3))
    np.testing.assert_array_equal(out, same)


def test_threads_give_equal_results():
    frames = [frame(120 + i, 90) for i in range(8)]

    def run(x):
        return image_to_tensor(x, np.empty((3, 48, 40), np.float32), planar=True, **constants(3, 1.5, 0.7))

    alone = [run(x) for x in frames]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, frames * 20))
    for i, out in enumerate(together):
        np.testing.assert_array_equal(out, alone[i % 8])


GOOD = {"frame": frame(4, 4), "out": np.empty((2, 2, 3), np.float32), **constants(3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": [[1, 2]]}, "frame: need a uint8 array, not list"),
        ({"frame": frame(4, 4).astype(np.float32)}, "frame: need a uint8 array, not float32"),
        ({"frame": frame(4, 4, 2)}, r"frame: need shape .* not \(4, 4, 2\)"),
        ({"frame": frame(4, 4)[None]}, "frame: need shape"),
        ({"frame": frame(4, 4)[:0]}, "frame: is empty"),
        ({"frame": frame(4, 4)[:, ::2]}, "pixels of a row are not contiguous"),
        ({"frame": frame(4, 4)[:, :, ::-1]}, "pixels of a row are not contiguous"),
        ({"out": None}, "out: need an array of rank 3"),
        ({"out": np.empty((1, 2, 2, 3), np.float32)}, "out: need an array of rank 3"),
        ({"out": np.empty((2, 0, 3), np.float32)}, "that is not empty"),
        ({"out": np.empty((2, 2, 3), np.float64)}, "out: need dtype float32, float16, int8 or uint8, not float64"),
        ({"out": np.empty((2, 4, 3), np.float32)[:, ::2]}, "C-contiguous"),
        ({"out": np.broadcast_to(np.float32(0), (2, 2, 3))}, "writeable"),
        ({"out": np.empty((2, 2, 4), np.float32)}, "out: need 1 or 3 channels, not 4"),
        ({"planar": True}, "out: need 1 or 3 channels, not 2"),
        ({"mean": np.zeros(1, np.float32)}, r"mean: need float32 of shape \(3,\)"),
        ({"gain": np.zeros(3)}, "gain: need float32"),
        ({"out": np.empty((2, 2, 3), np.int8), "zero_point": 128}, "zero_point: 128 is not within -128..127"),
        ({"out": np.empty((2, 2, 3), np.uint8), "zero_point": -1}, "zero_point: -1 is not within 0..255"),
    ],
)
def test_bad_input_is_refused_with_one_line(change, message):
    with pytest.raises(InputError, match=message) as caught:
        image_to_tensor(**{**GOOD, **change})
    assert "\n" not in str(caught.value)
