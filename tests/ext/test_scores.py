"""The softmax kernel."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edge_sdk.errors import InputError
from edge_sdk.ext.pure import scores as twin
from edge_sdk.ext.quantization import dequantize
from edge_sdk.ext.scores import softmax, summarize

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
    with pytest.raises(InputError, match=r"^x: need float32, int8 or uint8 .*$"):
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


def facts(x, temperature):
    """Margin, entropy and energy in float64."""
    p = exact(x, temperature)
    top = x.max(axis=-1).astype(np.float64)
    ordered = np.sort(p, axis=-1)
    margin = ordered[..., -1] - ordered[..., -2] if x.shape[-1] > 1 else np.ones(x.shape[:-1])
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1)
    total = np.exp((x.astype(np.float64) - top[..., None]) / temperature).sum(axis=-1)
    return margin, entropy, -(top + temperature * np.log(total))


@settings(derandomize=True, deadline=None)
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=1, max_dims=2, max_side=150),
        elements=st.one_of(st.floats(-80, 80, width=32), st.sampled_from([0.0, 1.0, -np.inf])),
    ).filter(lambda x: np.isfinite(x.max(axis=-1)).all()),
    st.floats(0.1, 10),
    st.integers(1, 12),
)
def test_a_summary_agrees_with_float64_and_with_softmax(x, temperature, top):
    got = summarize(x, top=top, temperature=temperature)
    np.testing.assert_array_equal(got.probabilities, softmax(x, temperature=temperature))
    named = min(top, x.shape[-1])
    np.testing.assert_array_equal(got.indices, np.argsort(-x, axis=-1, kind="stable")[..., :named])
    margin, entropy, energy = facts(x, temperature)
    np.testing.assert_allclose(got.margin, margin, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(got.entropy, entropy, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.energy, energy, rtol=1e-5, atol=1e-5)


def test_exponentials_are_within_0_6_units_in_the_last_place():
    gaps = np.linspace(-103, -20, 40000).astype(np.float32)  # so small that the sum they are divided by rounds to 1
    x = np.stack([np.zeros_like(gaps), gaps], axis=1)
    true = exact(x)[:, 1]
    ulp = np.spacing(true.astype(np.float32)).astype(np.float64)
    assert np.all(np.abs(softmax(x)[:, 1] - true) <= 0.6 * ulp)


def test_a_summary_of_many_classes_finds_the_largest_wherever_they_are():
    rng = np.random.default_rng(6)
    for classes in (31, 32, 33, 64, 1000, 1024):
        x = rng.normal(size=classes).astype(np.float32)
        best = rng.choice(classes, 3, replace=False)
        x[best] = [30, 20, 10]
        np.testing.assert_array_equal(summarize(x, top=3).indices, best)


def test_equal_scores_are_named_in_order():
    np.testing.assert_array_equal(summarize(np.zeros(40, np.float32), top=4).indices, [0, 1, 2, 3])


@pytest.mark.parametrize("top", [0, -1, 1.0, True, "3", None])
def test_a_wrong_number_of_top_classes_is_refused_with_one_line(top):
    with pytest.raises(InputError, match=r"^top: need an integer of at least 1, not .*$"):
        summarize(np.zeros(3, np.float32), top=top)


def test_a_summary_refuses_what_softmax_refuses_and_shared_memory():
    x = np.zeros((2, 4), np.float32)
    assert summarize(x[:, ::2]).probabilities.shape == (2, 2)
    out = np.empty_like(x)
    assert summarize(x, out=out).probabilities is out
    for bad in (x, np.empty((2, 8), np.float32)[:, ::2], np.broadcast_to(np.float32(0), (2, 4)), np.zeros((2, 4))):
        with pytest.raises(InputError, match=r"^out: need .*$"):
            summarize(x, out=bad)
    with pytest.raises(InputError, match="row 1 has no finite"):
        summarize(np.array([[0, 1], [np.nan, 0]], np.float32))
    with pytest.raises(InputError, match="x: need float32"):
        summarize([1.0])


@settings(derandomize=True, deadline=None)
@given(
    st.sampled_from([np.int8, np.uint8]),
    st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 7, 100, 1023, 1024, 1500])),
    st.integers(0, 2**32),
    st.floats(1e-3, 1) | st.floats(1e-44, 1e35),
    st.integers(0, 255),
    st.floats(0.01, 100),
)
def test_integers_give_the_bits_that_their_float32_values_give(dtype, shape, seed, scale, shift, temperature):
    info = np.iinfo(dtype)
    random = np.random.default_rng(seed)
    x = random.integers(info.min, info.max + 1, shape).astype(dtype)
    given_scale = (scale, info.min + shift)
    real = dequantize(x, *given_scale)
    for ours, expected in zip(
        summarize(x, top=7, temperature=temperature, quantization=given_scale),
        summarize(real, top=7, temperature=temperature),
        strict=True,
    ):
        assert np.asarray(ours).tobytes() == np.asarray(expected).tobytes()
    probabilities = softmax(x[0], temperature=temperature, quantization=given_scale)
    assert probabilities.tobytes() == softmax(real[0], temperature=temperature).tobytes()
    reference = twin.softmax(x[0], temperature=temperature, quantization=given_scale)
    np.testing.assert_allclose(probabilities, reference, rtol=3e-6, atol=1e-37)


Q = np.zeros(3, np.int8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: softmax(Q), "quantization: int8 needs a pair"),
        (lambda: summarize(Q, quantization=0.5), "quantization: int8 needs a pair"),
        (lambda: softmax(Q, quantization=(0.0, 0)), "quantization: need a scale above 0"),
        (lambda: softmax(Q, quantization=(1e38, 0)), "quantization: need a scale above 0"),
        (lambda: softmax(Q, quantization=(0.1, 128)), "quantization: zero point 128 is not within -128..127 of int8"),
        (lambda: softmax(Q.view(np.uint8), quantization=(0.1, -1)), "zero point -1 is not within 0..255 of uint8"),
        (lambda: softmax(np.zeros(3, np.float32), quantization=(0.1, 0)), "quantization: float32 has none"),
        (lambda: softmax(Q.astype(np.int16), quantization=(0.1, 0)), "x: need float32, int8 or uint8"),
    ],
)
def test_a_wrong_quantization_is_refused_with_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call()
