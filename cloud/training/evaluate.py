"""How good a model is: accuracy with an interval, and a digest that names its weights."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edge_sdk.canonical import dumps

__all__ = ["accuracy", "logits_of", "model_digest"]

Z95 = 1.959963984540054  # two-sided 95 %


def accuracy(scores: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Share of right answers, with Wilson's 95 % interval (Wilson, 1927).

    Parameters
    ----------
    scores
        ``[n, classes]``; the largest of a row is the answer.
    labels
        int64 ``[n]``.

    Returns
    -------
    dict
        ``value``, ``low``, ``high``, ``confidence`` and ``n``.
    """
    n = len(labels)
    share = float(np.mean(np.argmax(scores, axis=1) == labels))
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return {"value": share, "low": max(centre - half, 0.0), "high": min(centre + half, 1.0), "confidence": 0.95, "n": n}


def logits_of(model: keras.Model, inputs: npt.NDArray[Any], *, batch: int = 256) -> npt.NDArray[np.float32]:
    """Run a model over an array; float32 ``[n, classes]``."""
    return np.asarray(model.predict(inputs, batch_size=batch, verbose=0), dtype=np.float32)


def model_digest(model: keras.Model) -> str:
    """``sha256:<hex>`` of shapes, dtypes and values of all weights, in order.

    Two saves of one model differ as files (they hold times), but not in this.
    """
    hasher = hashlib.sha256()
    for value in model.get_weights():
        hasher.update(dumps([str(value.dtype), list(value.shape)]))
        hasher.update(np.ascontiguousarray(value).tobytes())
    return f"sha256:{hasher.hexdigest()}"
