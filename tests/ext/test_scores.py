"""The softmax kernel."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edge_sdk.errors import InputError
from edge_sdk.ext.scores import softmax

LARGEST = float(np.finfo(np.float32).max)


def exact(x, temperature=1.0):
    x = x.astype(np.float64) / temperature
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@settings(derandomize=True, deadline=None)
@given(
    arrays(np.float32, array_shapes(min_dims=1, max_dims=2), elements=st.floats(-LARGEST, LARGEST, width=32)),
    st.floats(0.01, 100),
)
def test_it_agrees_with_float64_on_any_finite_logits(x, temperature):
    p = softmax(x, temperature=temperature)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p, exact(x, temperature), rtol=2e-6, atol=1e-37)
    np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-5)


def test_small_gaps_between_large_logits_survive_a_low_temperature():
    x = np.array([16777216, 16777214], np.float32)
    np.testing.assert_allclose(softmax(x, temperature=2.0), exact(x, 2.0), rtol=1e-6)


def test_minus_infinity_has_probability_zero():
    p = softmax(np.array([0, -np.inf, 0], np.float32))
    np.testing.assert_array_equal(p, np.array([0.5, 0, 0.5], np.float32))


def test_one_class_is_certain():
    assert softmax(np.array([-3e38], np.float32)) == 1


@pytest.mark.parametrize("row", [[np.nan, 1], [1, np.nan], [np.inf, 1], [-np.inf, -np.inf]])
def test_a_row_without_a_finite_largest_value_is_refused_by_number(row):
    with pytest.raises(InputError, match="row 1 has no finite largest value"):
        softmax(np.array([[0, 1], row], np.float32))


def test_out_is_filled_and_may_be_the_input():
    x = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    expected = softmax(x)
    out = np.empty_like(x)
    assert softmax(x, out) is out
    np.testing.assert_array_equal(out, expected)
    assert softmax(x, x) is x
    np.testing.assert_array_equal(x, expected)


def test_out_may_overlap_the_input():
    memory = np.random.default_rng(2).normal(size=12).astype(np.float32)
    expected = softmax(memory[:10].copy())
    softmax(memory[:10], memory[2:])
    np.testing.assert_array_equal(memory[2:], expected)


def test_strided_logits_are_read_in_place():
    x = np.random.default_rng(3).normal(size=(6, 8)).astype(np.float32)
    np.testing.assert_array_equal(softmax(x[::2, ::-2]), softmax(x[::2, ::-2].copy()))
    np.testing.assert_array_equal(softmax(x.T), softmax(x.T.copy()))


def test_threads_give_equal_results():
    x = np.random.default_rng(4).normal(size=(64, 100)).astype(np.float32)
    with ThreadPoolExecutor(4) as pool:
        for p in pool.map(softmax, [x] * 40):
            np.testing.assert_array_equal(p, softmax(x))


@pytest.mark.parametrize(
    "x",
    [
        [0.0, 1.0],
        np.zeros(3),
        np.zeros((1, 2, 3), np.float32),
        np.zeros((), np.float32),
        np.zeros((2, 0), np.float32),
        np.zeros((0, 2), np.float32),
    ],
    ids=["list", "float64", "rank 3", "rank 0", "no classes", "no rows"],
)
def test_wrong_logits_are_refused_with_one_line(x):
    with pytest.raises(InputError, match=r"^x: need float32 .*$"):
        softmax(x)


@pytest.mark.parametrize("temperature", [0, -1, np.nan, np.inf, "hot", None])
def test_a_wrong_temperature_is_refused_with_one_line(temperature):
    with pytest.raises(InputError, match=r"^temperature: need .*$"):
        softmax(np.zeros(2, np.float32), temperature=temperature)


@pytest.mark.parametrize(
    "out",
    [
        [0, 0],
        np.zeros(2),
        np.zeros(3, np.float32),
        np.zeros(4, np.float32)[::2],
        np.broadcast_to(np.float32(0), (2,)),
    ],
    ids=["list", "float64", "shape", "strided", "read-only"],
)
def test_a_mismatched_out_is_refused_with_one_line(out):
    with pytest.raises(InputError, match=r"^out: need .*$"):
        softmax(np.zeros(2, np.float32), out)
