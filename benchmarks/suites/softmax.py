"""Scores to probabilities: what follows every classification."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from harness import Case, Task

__all__ = ["tasks"]

Scores = NDArray[np.float32]
Call = Callable[[], Scores]


def _numpy(x: Scores) -> Call:
    def call() -> Scores:
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        e /= e.sum(axis=-1, keepdims=True)
        return cast("Scores", e)

    return call


def _scipy(x: Scores) -> Call:
    from scipy.special import softmax

    def call() -> Scores:
        return cast("Scores", softmax(x, axis=-1))

    return call


def _ours(x: Scores) -> Call:
    from edge_sdk.ext.scores import softmax

    out = np.empty_like(x)

    def call() -> Scores:
        return softmax(x, out)

    return call


def tasks() -> tuple[Task, ...]:
    """Return one task per size: one answer of a small and of a large model, and a batch."""
    made = []
    for rows, classes in ((1, 10), (1, 1000), (256, 100)):
        x = np.random.default_rng(0).normal(0, 4, (rows, classes)).astype(np.float32)
        made.append(
            Task(
                f"{rows}x{classes}",
                f"softmax of {rows} × {classes} float32 scores",
                (
                    Case("edge-sdk", partial(_ours, x), pip="edge-sdk", ours=True),
                    Case("numpy", partial(_numpy, x), module="numpy", pip="numpy"),
                    Case("scipy", partial(_scipy, x), module="scipy", pip="scipy"),
                ),
                tolerance=1e-6,
            )
        )
    return tuple(made)
