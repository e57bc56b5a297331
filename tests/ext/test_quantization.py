"""The quantize and dequantize kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edge_sdk.errors import InputError
from edge_sdk.ext.pure import quantization as twin
from edge_sdk.ext.quantization import dequantize, quantize

TYPES = [np.int8, np.uint8]
SCALES = st.floats(1e-30, 1e30).map(np.float32)


@settings(derandomize=True, deadline=None)
@given(
    arrays(np.float32, array_shapes(max_dims=3), elements=st.floats(width=32, allow_nan=False)),
    SCALES,
    st.sampled_from(TYPES),
    st.integers(0, 255),
)
def test_quantize_rounds_half_to_even_and_saturates(x, scale, dtype, shift):
    zero_point = np.iinfo(dtype).min + shift
    q = quantize(x, scale, zero_point, dtype=dtype)
    assert q.dtype == dtype
    np.testing.assert_array_equal(q, twin.quantize(x, scale, zero_point, dtype=dtype))


def test_ties_go_to_the_even_step_before_the_zero_point_is_added():
    x = np.array([-1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    np.testing.assert_array_equal(quantize(x, 1.0, 1), [-1, 1, 1, 3, 3])


def test_infinities_saturate():
    x = np.array([-np.inf, np.inf], np.float32)
    np.testing.assert_array_equal(quantize(x, 0.1, 3), [-128, 127])


@settings(derandomize=True, deadline=None)
@given(SCALES, st.sampled_from(TYPES), st.integers(0, 255))
def test_every_step_survives_the_way_there_and_back(scale, dtype, shift):
    info = np.iinfo(dtype)
    zero_point = info.min + shift
    steps = np.arange(info.min, info.max + 1).astype(dtype)
    real = dequantize(steps, scale, zero_point)
    assert real.dtype == np.float32
    np.testing.assert_array_equal(real, (steps.astype(np.float32) - zero_point) * scale)
    np.testing.assert_array_equal(quantize(real, scale, zero_point, dtype=dtype), steps)


@st.composite
def tensors_with_channels(draw):
    """An array of float32, an axis of it, and a scale and a zero point for each index of that axis."""
    shape = draw(array_shapes(max_dims=4, max_side=9))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    seed, dtype = draw(st.integers(0, 2**32)), draw(st.sampled_from(TYPES))
    random = np.random.default_rng(seed)
    scales = random.uniform(0.01, 2, shape[axis]).astype(np.float32)
    info = np.iinfo(dtype)
    zero_points = random.integers(info.min, info.max + 1, shape[axis])
    return random.normal(0, 50, shape).astype(np.float32), axis, scales, zero_points, dtype


@settings(derandomize=True, deadline=None)
@given(tensors_with_channels())
def test_each_channel_has_the_scale_and_zero_point_of_its_own(case):
    x, axis, scales, zero_points, dtype = case
    q = quantize(x, scales, zero_points, dtype=dtype, axis=axis)
    real = dequantize(q, scales, zero_points, axis=axis)
    for c, (scale, zero_point) in enumerate(zip(scales, zero_points, strict=True)):
        part, steps, back = (np.take(a, [c], axis) for a in (x, q, real))
        np.testing.assert_array_equal(steps, quantize(part, scale, int(zero_point), dtype=dtype))
        np.testing.assert_array_equal(back, dequantize(steps, scale, int(zero_point)))
    np.testing.assert_array_equal(q, twin.quantize(x, scales, zero_points, dtype=dtype, axis=axis))
    assert real.tobytes() == twin.dequantize(q, scales, zero_points, axis=axis).tobytes()


def test_one_zero_point_serves_all_channels():
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_array_equal(quantize(x, [0.1] * 4, 0, axis=1), quantize(x, 0.1, 0))


@settings(derandomize=True, deadline=None)
@given(arrays(np.int32, array_shapes(max_dims=2)), SCALES, st.integers(-(2**31), 2**31 - 1), st.booleans())
def test_biases_of_int32_are_rounded_to_float32_once(q, scale, zero_point, per_channel):
    options = {"axis": -1} if per_channel else {}
    scale = [scale] * q.shape[-1] if per_channel else scale
    real = dequantize(q, scale, zero_point, **options)
    with np.errstate(over="ignore"):
        exact = ((q.astype(np.float64) - zero_point) * np.float64(np.max(scale))).astype(np.float32)
    assert real.tobytes() == exact.tobytes() == twin.dequantize(q, scale, zero_point, **options).tobytes()


def test_out_is_filled_and_returned_and_fixes_the_type():
    x = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    q = np.empty((2, 3), np.uint8)
    assert quantize(x, 1 / 255, 0, q) is q
    real = np.empty((2, 3), np.float32)
    assert dequantize(q, 1 / 255, 0, real) is real
    np.testing.assert_allclose(real, x, atol=0.5 / 255)


def test_strided_arrays_and_scalars_keep_their_shape():
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(quantize(x[::-1, ::2], 1.0, 0), x[::-1, ::2])
    assert quantize(np.array(3.0, np.float32), 1.0, 0).shape == ()


def test_nan_has_no_quantized_value():
    with pytest.raises(InputError, match="x: holds NaN"):
        quantize(np.array([0, np.nan], np.float32), 1.0, 0)


F32, I8 = np.zeros(3, np.float32), np.zeros(3, np.int8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantize([1.0], 1.0, 0), "x: need an array of float32"),
        (lambda: quantize(F32.astype(np.float64), 1.0, 0), "x: need an array of float32"),
        (lambda: quantize(F32[:0], 1.0, 0), "not empty"),
        (lambda: quantize(F32, 0.0, 0), "scale: need"),
        (lambda: quantize(F32, -1.0, 0), "scale: need"),
        (lambda: quantize(F32, np.nan, 0), "scale: need"),
        (lambda: quantize(F32, 1e-60, 0), "scale: need"),
        (lambda: quantize(F32, 1e60, 0), "scale: need"),
        (lambda: quantize(F32, None, 0), "scale: need a number"),
        (lambda: quantize(F32, 1.0, 128), "zero_point: 128 is not within -128..127 of int8"),
        (lambda: quantize(F32, 1.0, -1, dtype=np.uint8), "zero_point: -1 is not within 0..255 of uint8"),
        (lambda: quantize(F32, 1.0, 0.5), "zero_point: need an integer"),
        (lambda: quantize(F32, 1.0, 0, dtype=np.int16), "dtype: need int8 or uint8, not int16"),
        (lambda: quantize(F32, 1.0, 0, dtype="bytes of mine"), "dtype: need int8 or uint8"),
        (lambda: quantize(F32, 1.0, 0, F32.copy()), "out: need an array of int8 or uint8"),
        (lambda: quantize(F32, 1.0, 0, np.zeros(4, np.int8)), r"out: need shape \(3,\), not \(4,\)"),
        (lambda: quantize(F32, 1.0, 0, np.zeros(6, np.int8)[::2]), "C-contiguous"),
        (lambda: quantize(F32, 1.0, 0, F32.view(np.int8)[:3]), "shares memory"),
        (lambda: quantize(F32, [1.0] * 2, 0, axis=0), r"scale: need 3 along axis, not shape \(2,\)"),
        (lambda: quantize(F32, 1.0, 0, axis=0), r"scale: need 3 along axis, not shape \(\)"),
        (lambda: quantize(F32, [1.0, 0.0, 1.0], 0, axis=0), "scale: need finite float32 above 0 for every channel"),
        (lambda: quantize(F32, [1.0, np.nan, 1.0], 0, axis=0), "scale: need finite float32 above 0"),
        (lambda: quantize(F32, [1.0, "b", 1.0], 0, axis=0), "scale: need numbers"),
        (lambda: quantize(F32, [1.0] * 3, [0] * 2, axis=0), "zero_point: need 3 integers along axis"),
        (lambda: quantize(F32, [1.0] * 3, [0.5] * 3, axis=0), "zero_point: need 3 integers along axis"),
        (lambda: quantize(F32, [1.0] * 3, [0, 128, 0], axis=0), "zero_point: 0..128 is not within -128..127 of int8"),
        (lambda: quantize(F32, [1.0] * 3, 0, axis=1), "axis: 1 is not one of the 1 axes of x"),
        (lambda: quantize(F32, [1.0] * 3, 0, axis=0.5), "axis: need an integer, not float"),
        (lambda: dequantize(F32, 1.0, 0), "x: need an array of int8 or uint8 or int32"),
        (lambda: dequantize(I8, 1.0, 0, I8.copy()), "out: need an array of float32"),
        (lambda: dequantize(I8, 1.0, 300), "zero_point: 300 is not within -128..127"),
    ],
)
def test_bad_input_is_refused_with_one_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
