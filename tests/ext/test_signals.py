"""The kernel of the signals: true to its formulae, and the same bits for whoever computes them."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_sdk.errors import InputError
from edge_sdk.ext import signals
from edge_sdk.ext.pure import signals as twin
from edge_sdk.ext.signals import KINDS, Signal, check, features
from outside.sources import ROOT

PLAIN = KINDS[:-1]
TEMPERATURES = st.one_of(st.just(1.0), st.floats(0.05, 20), st.floats(1e-320, 1e308))
LEVELS = st.one_of(st.sampled_from([0.0, 0.0, 1.0, 1.0, 1e-30, 5e-324, 255.0]), st.floats(0, 1))


@st.composite
def probabilities(draw, most_classes=40):
    """Rows that sum to 1, with exact zeros, ties, certainties and numbers below the normal ones among them."""
    levels = draw(
        hnp.arrays(np.float64, (draw(st.integers(1, 5)), draw(st.integers(1, most_classes))), elements=LEVELS)
    )
    levels[levels.sum(axis=1) < 1e-3, 0] = 1.0
    scores = levels / levels.sum(axis=1, keepdims=True)
    return scores.astype(draw(st.sampled_from([np.float32, np.float64])))


def weights(classes, seed):
    return dict(zip(("edge", "cloud"), np.random.default_rng(seed).normal(0, 2, (2, twin_size(classes))), strict=True))


def twin_size(classes):
    return 4 * classes + min(5, classes) + 3


def random_scores(rows, classes, spread=4.0, seed=0):
    levels = np.exp(np.random.default_rng(seed).normal(0, spread, (rows, classes)))
    return levels / levels.sum(axis=1, keepdims=True)


def bits(array):
    return np.asarray(array, np.float64).view(np.int64).tolist()


@settings(max_examples=200, deadline=None)
@given(probabilities(), TEMPERATURES)
def test_the_twin_in_numpy_gives_the_same_bits(scores, temperature):
    for kind in PLAIN:
        ours, theirs = Signal(kind, temperature), twin.Signal(kind, temperature)
        assert bits(ours.values(scores)) == bits(theirs.values(scores)), kind
        assert ours.one(scores[0]) == theirs.one(scores[0])
    assert bits(features(scores)) == bits(twin.features(scores))
    head = weights(scores.shape[1], 0)
    ours, theirs = (
        module.Signal("learned", temperature, classes=scores.shape[1], **head) for module in (signals, twin)
    )
    assert bits(ours.values(scores)) == bits(theirs.values(scores))


@pytest.mark.parametrize("classes", [9, 1000, 1024, 1025, 3000])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_many_classes_give_the_same_bits_as_well(classes, temperature):
    scores = random_scores(5, classes)
    for kind in PLAIN:
        expected = twin.Signal(kind, temperature).values(scores)
        assert bits(Signal(kind, temperature).values(scores)) == bits(expected), kind
    assert bits(features(scores)) == bits(twin.features(scores))


@settings(max_examples=200, deadline=None)
@given(probabilities(), TEMPERATURES)
def test_one_row_and_many_float32_and_float64_and_any_layout_give_the_same_bits(scores, temperature):
    layouts = [
        scores,
        scores.astype(np.float64),
        np.asfortranarray(scores),
        np.repeat(scores, 2, axis=1)[:, ::2],
        np.frombuffer(b"?" + scores.tobytes(), scores.dtype, offset=1).reshape(scores.shape),
        scores.astype(scores.dtype.newbyteorder()),
    ]
    confidences = bits(Signal("max_probability", temperature).values(scores))
    for kind in KINDS:
        head = {"classes": scores.shape[1], **weights(scores.shape[1], 1)} if kind == "learned" else {}
        signal = Signal(kind, temperature, **head)
        values = bits(signal.values(scores))
        for layout in layouts:
            assert bits(signal.values(layout)) == values
            assert [(*map(bits, signal.one(row)),) for row in layout] == list(zip(values, confidences, strict=True))


# A last place that differs on another processor, compiler or version of NumPy would let a replay
# derive another decision. tools/signals_bits.c makes these bytes without Python.
BITS = "31b532634437bad1c4840edeab95791b99cde698cd62bf15b8c26c94259fb659"


def test_the_bits_are_those_of_every_other_machine():
    made = hashlib.sha256()
    for classes in (1, 2, 10, 100, 256, 1500):
        row, at = np.arange(8)[:, None], np.arange(classes)
        levels = (at * at * 31 + at * 7 + row * 13 + 1) % 251
        levels = np.where(at % 5 == 4, 0, levels**3)
        scores = levels / levels.sum(axis=1, keepdims=True)
        made_of = [Signal(kind, temperature) for temperature in (1.0, 0.3, 2.7) for kind in PLAIN]
        if classes <= signals.MOST_CLASSES:
            edge, cloud = np.split((np.arange(2 * twin_size(classes)) * 37 % 101 - 50) / 64, 2)
            made_of.append(Signal("learned", classes=classes, edge=edge, cloud=cloud))
        for signal in made_of:
            for x in (scores, scores.astype(np.float32)):
                made.update(signal.values(x).astype("<f8"))
    assert made.hexdigest() == BITS


@pytest.mark.parametrize(
    "command",
    [
        "gcc -O0",
        pytest.param("gcc -O3 -march=native", marks=pytest.mark.slow),
        pytest.param("clang -O3 -march=native", marks=pytest.mark.slow),
        pytest.param("aarch64-linux-gnu-gcc -O3 -mcpu=cortex-a53 -static", marks=pytest.mark.slow),
    ],
)
def test_any_compiler_at_hand_gives_the_bits(command, tmp_path):
    compiler, *options = command.split()
    emulator = ["qemu-aarch64-static"] if compiler.startswith("aarch64") and os.uname().machine != "aarch64" else []
    if not all(map(shutil.which, [compiler, *emulator])):
        pytest.skip(f"no {compiler}")
    sources = [ROOT / "tools/signals_bits.c", ROOT / "ext/src/signals_kernel.c"]
    always = ["-std=c11", "-ffp-contract=off", f"-I{ROOT}/ext/src", "-o", tmp_path / "bits"]
    subprocess.run([compiler, *options, *sources, *always, "-lm"], check=True, timeout=500)
    done = subprocess.run([*emulator, tmp_path / "bits"], capture_output=True, check=True, timeout=500)
    assert hashlib.sha256(done.stdout).hexdigest() == BITS


def longest(scores, temperature):
    """Return the signals of the scaled softmax, with all the digits there are."""
    p = np.where(scores > 0, scores.astype(np.longdouble), 1)
    logs = np.where(scores > 0, np.log(p / scores.max(axis=1, keepdims=True)) / np.longdouble(temperature), -np.inf)
    p = np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)
    two, classes = np.sort(p, axis=1)[:, -2:], np.longdouble(scores.shape[1])
    floored = np.maximum(p, np.longdouble(1) / 512)
    floored /= floored.sum(axis=1, keepdims=True)
    return {
        "max_probability": two[:, 1],
        "margin": two[:, 1] - two[:, 0],
        "entropy": 1 + (p * np.log(np.where(p > 0, p, 1))).sum(axis=1) / np.log(classes),
        "energy": -np.log(floored).mean(axis=1) - np.log(classes),
    }


@pytest.mark.parametrize("temperature", [1.0, 0.05, 0.7, 20.0])
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_values_are_off_by_a_few_last_places_only(temperature, spread):
    for classes in (2, 10, 1000):
        scores = random_scores(200, classes, spread)
        for kind, expected in longest(scores, temperature).items():
            largest = max(1.0, float(expected.max()))
            off = np.abs(Signal(kind, temperature).values(scores) - expected).max()
            assert off <= 8 * largest * np.finfo(float).eps, (kind, classes)


def test_features_are_what_they_are_called():
    scores = np.array([[0.5, 0.0, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]])
    made = features(scores)
    np.testing.assert_allclose(made[:, :4], np.log(np.maximum(scores, 1 / 512)), rtol=1e-15)
    np.testing.assert_array_equal(made[:, 4:8], np.sqrt(scores))
    assert made[:, 8:12].tolist() == [[0.5, 0.3, 0.2, 0.0], [0.25] * 4]
    assert made[:, 12].tolist() == pytest.approx([0.2, 0.0])
    assert made[1, 13] == 0.0
    assert made[:, 14:].tolist() == [[1, 0, 0, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1, 0, 0]], "of a tie the lower class"


def test_the_learned_signal_is_the_difference_of_two_logistic_regressions():
    scores, head = random_scores(50, 7), weights(7, 2)
    made = np.c_[features(scores), np.ones(50)]
    right, cloud_right = (1 / (1 + np.exp(-(made @ head[side]))) for side in ("edge", "cloud"))
    np.testing.assert_allclose(Signal("learned", classes=7, **head).values(scores), right - cloud_right, atol=1e-13)
    huge = {side: values * 1e3 for side, values in head.items()}
    assert (np.abs(Signal("learned", classes=7, **huge).values(scores)) <= 1).all()


def test_threads_give_equal_results():
    scores = random_scores(200, 100)
    signal = Signal("entropy", 1.3)
    expected = bits(signal.values(scores))
    with ThreadPoolExecutor(4) as pool:
        for values in pool.map(signal.values, [scores] * 40):
            assert bits(values) == expected


@pytest.mark.parametrize("module", [signals, twin], ids=["kernel", "twin"])
def test_a_signal_survives_pickling(module):
    signal = module.Signal("learned", 1.3, classes=3, **weights(3, 4))
    scores = random_scores(4, 3)
    assert bits(pickle.loads(pickle.dumps(signal)).values(scores)) == bits(signal.values(scores))


ROWS = [
    ([0.5, np.nan], "holds a NaN or an infinity"),
    ([np.inf, 0.0], "holds a NaN or an infinity"),
    ([-np.inf, 1.0], "holds a NaN or an infinity"),
    ([1.5, -0.5], "holds a negative probability"),
    ([0.0, 0.0], "sums to 0, not 1"),
    ([3.0, 1.0], "sums to 4, not 1; are these logits?"),
    ([1e308, 1e308], "sums to inf, not 1"),
    ([0.5, 0.511], "sums to 1.011, not 1"),
]


@pytest.mark.parametrize("module", [signals, twin], ids=["kernel", "twin"])
@pytest.mark.parametrize(("row", "why"), ROWS)
def test_a_row_that_is_no_probabilities_is_refused_by_number(module, row, why):
    signal, scores = module.Signal("margin"), np.array([[0.5, 0.5], row, [np.nan, -1.0]])
    with pytest.raises(InputError, match=rf"^scores: row 1 {why}"):
        signal.values(scores)
    with pytest.raises(InputError, match=rf"^mine: row 1 {why}"):
        module.check(scores, "mine")
    with pytest.raises(InputError, match=rf"^the row of scores {why}"):
        signal.one(scores[1])
    if np.isfinite(row).all() and min(row) >= 0 and sum(row) > 0:
        assert len(signal.values(scores[:2], normalized=False)) == 2
        assert len(module.features(scores[:2])) == 2
    else:
        with pytest.raises(InputError, match=rf"^scores: row 1 {why}"):
            signal.values(scores, normalized=False)


@pytest.mark.parametrize("module", [signals, twin], ids=["kernel", "twin"])
def test_other_shapes_and_arguments_are_refused_with_one_line(module):
    signal = module.Signal("energy")
    for wrong in ([], [[0.5, 0.5]], 0.5):
        with pytest.raises(InputError, match=r"^scores should have shape \[classes\] with at least one, not"):
            signal.one(wrong)
    for wrong in ([0.5, 0.5], np.empty((0, 2)), np.empty((2, 0))):
        with pytest.raises(InputError, match=r"^scores should have shape \[n, classes\] with at least one of each"):
            signal.values(wrong)
    with pytest.raises(InputError, match=r"^scores should be numbers, not list"):
        signal.one(["sure"])
    with pytest.raises(InputError, match=r"^kind: need one of max_probability, margin"):
        module.Signal("mood")
    for temperature in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(InputError, match=r"^temperature: need a finite number above 0"):
            module.Signal("margin", temperature)
    with pytest.raises(InputError, match=r"^temperature: need a number, not str"):
        module.Signal("margin", "warm")
    with pytest.raises(InputError, match=r"^classes: need 1 to 256, not 257"):
        module.Signal("learned", classes=257)
    with pytest.raises(InputError, match=r"^edge, cloud: need 18 weights each, not 3 and 0"):
        module.Signal("learned", classes=3, edge=[1.0] * 3)
    with pytest.raises(InputError, match=r"^edge, cloud: need 0 weights each"):
        module.Signal("margin", edge=[1.0])
    with pytest.raises(InputError, match=r"scores have 2 classes; the deferral head was fitted to 3"):
        module.Signal("learned", classes=3, **weights(3, 0)).one([0.5, 0.5])


def test_lists_and_whole_numbers_are_scores_as_well():
    assert Signal("margin").one([0, 1]) == (1.0, 1.0)
    check([[0.5, 0.5], [1, 0]])
