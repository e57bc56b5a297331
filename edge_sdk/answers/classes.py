"""Class scores to a `Classification`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.answers.base import Scored, Times, check_scale, real, spent
from edge_sdk.errors import ModelError
from edge_sdk.ext.scores import softmax
from edge_sdk.types import Classification, TensorSpec

if TYPE_CHECKING:
    from edge_sdk.cascade.policy import Decision

__all__ = ["Classes"]


class Classes:
    """Class scores [1, classes] in the first output."""

    def __init__(self, who: str, labels: tuple[str, ...], holds: str, outputs: tuple[TensorSpec, ...]) -> None:
        self._who, self._labels, self._holds, self._output = who, labels, holds, outputs[0]
        gives = self._output.shape
        if not gives or gives[0] not in (1, -1) or math.prod(gives[1:]) != len(labels):
            raise ModelError(
                f"{who}: the model's output is {list(gives)}; for {len(labels)} labels it should be [1, {len(labels)}]"
            )
        check_scale(who, self._output)

    def probabilities(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """Return float32 [n, classes] of an output [n, …]."""
        scores = real(raw.reshape(len(raw), -1), self._output)
        if raw.dtype.itemsize > 1 and not np.isfinite(scores).all():
            raise ModelError(f"{self._who}: the model answered with a NaN or an infinity")
        if self._holds == "logits":
            return softmax(scores)
        return scores if self._output.scale is None else _normalized(scores)

    def read(self, raw: Sequence[NDArray[Any]], shape: tuple[int, ...] | None, times: Times) -> Scored:
        """Return the probabilities."""
        return Scored(self.probabilities(raw[0])[0], *spent(times))

    def answer(self, scored: Scored, decision: Decision | None, **common: Any) -> Classification:
        """Name the likeliest class."""
        index = int(scored.probabilities.argmax())
        return Classification(
            index=index,
            label=self._labels[index],
            confidence=float(scored.probabilities[index]) if decision is None else decision.confidence,
            scores=tuple(scored.probabilities.tolist()),
            **common,
        )

    def golden(self, raw: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """Return the probabilities."""
        return (self.probabilities(raw[0])[0],)


def _normalized(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take the rounding of a quantized softmax out of its sum; where all classes were rounded to 0, none leads."""
    totals = scores.sum(axis=1, keepdims=True)
    if not totals.all():
        empty = totals[:, 0] == 0
        scores[empty], totals[empty] = 1.0, scores.shape[1]
    return np.asarray(scores / totals)
