"""Deciding whether an answer stays on the device: one policy, one row of probabilities."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import Case, Task

__all__ = ["tasks"]

Scores = NDArray[np.float32]
Call = Callable[[], Any]

THRESHOLD, TEMPERATURE = 0.4, 1.3
BARE = "no checks, no record"


def _ours(x: Scores, signal: str, temperature: float, weights: NDArray[np.float64] | None = None) -> Call:
    from edge_sdk.cascade import Head, Policy

    head = None if weights is None else Head(len(x), *(tuple(row) for row in weights.tolist()))
    return partial(Policy(THRESHOLD, temperature, signal, head=head).decide, x)


def _entropy(p: NDArray[Any]) -> Any:
    return 1.0 + (p * np.log(p)).sum() / np.log(p.size)


def _energy(p: NDArray[Any]) -> Any:
    floored = np.maximum(p, 1 / 512)
    return -np.log(floored / floored.sum()).mean() - np.log(p.size)


def _margin(p: NDArray[Any]) -> Any:
    second, first = np.partition(p, -2)[-2:]
    return first - second


NUMPY: dict[str, Callable[[NDArray[Any]], Any]] = {
    "max_probability": np.max,
    "margin": _margin,
    "entropy": _entropy,
    "energy": _energy,
}


def _numpy(x: Scores, signal: str) -> Call:
    value_of = NUMPY[signal]

    def call() -> tuple[bool, float]:
        p = x.astype(np.float64) ** (1.0 / TEMPERATURE)
        p /= p.sum()
        value = float(value_of(p))
        return value < THRESHOLD, value

    return call


def _numpy_head(x: Scores, weights: NDArray[np.float64]) -> Call:
    def call() -> tuple[bool, float]:
        p = x.astype(np.float64)
        order = np.argsort(-p, kind="stable")
        leading = np.zeros((2, p.size))
        leading[(0, 1), order[:2]] = 1.0
        parts = [np.log(np.maximum(p, 1 / 512)), np.sqrt(p), p[order[:5]], [_margin(p)], [_entropy(p)]]
        features = np.concatenate([*parts, leading.ravel(), [1.0]])
        right, cloud_right = 1.0 / (1.0 + np.exp(-(weights @ features)))
        value = float(right - cloud_right)
        return value < THRESHOLD, value

    return call


def _sedna(x: Scores) -> Call:
    def call() -> tuple[bool, float]:
        value = float(1.0 + (x * np.log(x)).sum() / np.log(len(x)))
        return value < THRESHOLD, value

    return call


def _distance(answer: Any, expected: Any) -> float:
    (escalate, value), (wanted, right) = (
        (one.escalate, one.value) if hasattr(one, "escalate") else one for one in (answer, expected)
    )
    return abs(value - right) if escalate == wanted else float("inf")


def _scores(classes: int) -> Scores:
    levels = np.exp(np.random.default_rng(0).normal(0, 2, classes))
    return np.asarray(levels / levels.sum(), np.float32)


def tasks() -> tuple[Task, ...]:
    """Return one task per signal and number of classes."""
    made = []

    def add(name: str, what: str, ours: Callable[[], Call], peer: str, theirs: Callable[[], Call]) -> None:
        cases = (
            Case("edge-sdk", ours, pip="edge-sdk", ours=True),
            Case(peer, theirs, module="numpy", pip="numpy", note=BARE),
        )
        made.append(Task(name, what, cases, tolerance=1e-6, distance=_distance))

    for classes in (10, 100, 1000):
        x = _scores(classes)
        for signal in NUMPY:
            what = f"{signal} of {classes} float32 probabilities at temperature {TEMPERATURE}, against a threshold"
            name = f"{signal.replace('_', '-')}-{classes}"
            add(name, what, partial(_ours, x, signal, TEMPERATURE), "numpy", partial(_numpy, x, signal))
    for classes in (10, 100):
        x = _scores(classes)
        weights = np.random.default_rng(1).normal(0, 0.1, (2, 4 * classes + 8))
        what = f"the learned head on {classes} float32 probabilities, against a threshold"
        ours = partial(_ours, x, "learned", TEMPERATURE, weights)
        add(f"learned-{classes}", what, ours, "numpy", partial(_numpy_head, x, weights))
    x = _scores(10)
    what = "entropy of 10 float32 probabilities, as KubeEdge Sedna's CrossEntropy filter takes it"
    add("sedna-10", what, partial(_ours, x, "entropy", 1.0), "Sedna's formula in numpy", partial(_sedna, x))
    return tuple(made)
