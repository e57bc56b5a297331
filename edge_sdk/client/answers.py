"""The cloud's answer: from the tensor that came to the record that apps get."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.client.watch import Made, Watch
from edge_sdk.errors import InputError
from edge_sdk.ext.quantization import dequantize
from edge_sdk.ext.scores import softmax
from edge_sdk.model import new_decision_id
from edge_sdk.types import Classification, Reason, Timing

if TYPE_CHECKING:
    from edge_sdk.client.outcomes import Outcome
    from edge_sdk.client.payload import Contract

__all__ = ["answer_of_cloud", "read_all_probabilities", "read_probabilities"]

_ADDS_UP = 1e-3  # so close to 1 is the sum of what must be probabilities, where a server does not say
_ADDS_UP_LOOSELY = 0.05  # what packing allows


def answer_of_cloud(
    outcome: Outcome, watch: Watch, made: Made | None, reason: Reason, started: float
) -> Classification:
    """Return the answer of an outcome that has one.

    Parameters
    ----------
    outcome
        How asking the cloud ended.
    watch
        Of the edge model, whose labels and certificate count.
    made
        What the edge said, or None where it was not asked.
    reason
        Why the cloud answers.
    started
        ``time.perf_counter()`` at the start of the call.
    """
    assert outcome.probabilities is not None
    scores = tuple(outcome.probabilities.tolist())
    confidence = max(scores)
    index = scores.index(confidence)  # argmax lets go of the GIL, and many threads may wait for it
    scored = None if made is None else made.scored
    return Classification(
        index=index,
        label=watch.model.labels[index],
        confidence=confidence,
        scores=scores,
        source="cache" if outcome.cached else "cloud",
        reason=reason,
        certified=watch.certifies(outcome),
        timing=Timing(
            *((0.0, 0.0, 0.0) if scored is None else (scored.pre_ms, scored.infer_ms, scored.post_ms)),
            cloud_ms=outcome.elapsed_ms,
            total_ms=(time.perf_counter() - started) * 1e3,
        ),
        decision_id=new_decision_id() if made is None else made.decision_id,
        model_digest=outcome.digest,
    )


def read_probabilities(output: NDArray[Any], contract: Contract, classes: int) -> NDArray[np.float32]:
    """Return float32 [classes] from the first output tensor of one item; strict about what it is."""
    if output.dtype == object or output.size != classes or output.shape[:1] not in ((1,), (classes,)):
        raise InputError(f"the cloud's answer has shape {list(output.shape)}, not [1, {classes}]")
    scores: NDArray[np.float32] = _read(output.reshape(1, -1), contract)[0]
    return scores


def read_all_probabilities(output: NDArray[Any], contract: Contract, classes: int) -> NDArray[np.float32] | None:
    """Return float32 [n, classes] from the first output tensor of several items; None where one may be of no use."""
    if output.dtype == object or output.ndim < 2 or output.size != len(output) * classes:
        return None
    try:
        return _read(output.reshape(-1, classes), contract)
    except InputError:  # which of them it is, each finds out by itself
        return None


def _read(output: NDArray[Any], contract: Contract) -> NDArray[np.float32]:
    """Return float32 [n, classes]; raise `InputError` where one of the rows is no answer."""
    classes = output.shape[1]
    if contract.quantization is not None:
        output = dequantize(output, *contract.quantization)
    elif output.dtype.kind != "f":
        raise InputError(f"the cloud's answer is {output.dtype}, and its quantization is not said")
    scores = np.ascontiguousarray(output, np.float32)
    if not np.isfinite(scores).all():
        raise InputError("the cloud's answer holds NaN or infinity")
    if contract.outputs == "logits":
        return np.asarray(softmax(scores), np.float32)
    tolerance = _ADDS_UP_LOOSELY if contract.quantization is None else classes * contract.quantization[0]
    if contract.outputs is None:
        tolerance = _ADDS_UP
    inside = (scores.min(axis=1) >= -tolerance) & (np.abs(scores.sum(axis=1, dtype=np.float64) - 1.0) <= tolerance)
    if inside.all():
        return scores
    if contract.outputs is None:  # another server does not say which it gives
        return np.where(inside[:, np.newaxis], scores, softmax(scores))
    raise InputError("the cloud's answer should be probabilities and does not add up to 1")
