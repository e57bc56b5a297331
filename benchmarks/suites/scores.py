"""Everything a cascade asks of a classifier's scores: probabilities, top 5, margin, entropy, energy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import Case, Task, largest_difference

__all__ = ["tasks"]

Scores = NDArray[np.float32]
Call = Callable[[], tuple[Any, ...]]

TOP = 5
QUANTIZATION = (0.125, -20)


def _facts(probabilities: Any, energy: Any) -> tuple[Any, ...]:
    top = np.argpartition(probabilities, -TOP)[-TOP:]
    top = top[np.argsort(-probabilities[top])]
    entropy = -np.sum(probabilities * np.log(probabilities))
    return probabilities, top, probabilities[top[0]] - probabilities[top[1]], entropy, energy


def _ours(x: Scores) -> Call:
    from edge_sdk.ext.scores import summarize

    out = np.empty_like(x)

    def call() -> tuple[Any, ...]:
        return summarize(x, top=TOP, out=out)

    return call


def _numpy(x: Scores) -> Call:
    def call() -> tuple[Any, ...]:
        most = x.max()
        e = np.exp(x - most)
        total = e.sum()
        return _facts(e / total, -(most + np.log(total)))

    return call


def _scipy(x: Scores) -> Call:
    from scipy.special import logsumexp, softmax

    def call() -> tuple[Any, ...]:
        return _facts(softmax(x), -logsumexp(x))

    return call


def _ours_of_int8(q: NDArray[np.int8]) -> Call:
    from edge_sdk.ext.scores import summarize

    out = np.empty(q.shape, np.float32)

    def call() -> tuple[Any, ...]:
        return summarize(q, top=TOP, out=out, quantization=QUANTIZATION)

    return call


def _ours_in_two(q: NDArray[np.int8]) -> Call:
    from edge_sdk.ext.quantization import dequantize
    from edge_sdk.ext.scores import summarize

    real, out = np.empty(q.shape, np.float32), np.empty(q.shape, np.float32)

    def call() -> tuple[Any, ...]:
        return summarize(dequantize(q, *QUANTIZATION, real), top=TOP, out=out)

    return call


def _numpy_of_int8(q: NDArray[np.int8]) -> Call:
    scale, zero_point = np.float32(QUANTIZATION[0]), np.float32(QUANTIZATION[1])

    def call() -> tuple[Any, ...]:
        return _numpy((q.astype(np.float32) - zero_point) * scale)()

    return call


def _distance(answer: tuple[Any, ...], expected: tuple[Any, ...]) -> float:
    return max(largest_difference(a, b) for a, b in zip(answer, expected, strict=True))


def tasks() -> tuple[Task, ...]:
    """Return one task per number of classes."""
    made = []
    for classes in (10, 1000):
        x = np.random.default_rng(0).normal(0, 4, classes).astype(np.float32)
        made.append(
            Task(
                f"summary-{classes}",
                f"softmax, top {TOP}, margin, entropy and energy of {classes} float32 scores",
                (
                    Case("edge-sdk", partial(_ours, x), pip="edge-sdk", ours=True),
                    Case("numpy", partial(_numpy, x), module="numpy", pip="numpy"),
                    Case("scipy", partial(_scipy, x), module="scipy", pip="scipy"),
                ),
                tolerance=1e-5,
                distance=_distance,
            )
        )
        # no two of the best are equal: peers order equal ones as they like
        q = np.random.default_rng(0).integers(-128, 100, classes).astype(np.int8)
        q[np.random.default_rng(1).choice(classes, TOP, replace=False)] = np.arange(TOP) * 5 + 100
        made.append(
            Task(
                f"summary-{classes}-int8",
                f"the same of {classes} int8 scores",
                (
                    Case("edge-sdk", partial(_ours_of_int8, q), pip="edge-sdk", ours=True),
                    Case(
                        "edge-sdk, two calls",
                        partial(_ours_in_two, q),
                        pip="edge-sdk",
                        note="dequantize, then summarize",
                    ),
                    Case("numpy", partial(_numpy_of_int8, q), module="numpy", pip="numpy"),
                ),
                tolerance=1e-5,
                distance=_distance,
            )
        )
    return tuple(made)
