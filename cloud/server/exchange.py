"""What every front does with a request beside its own format: deadlines, outputs asked for, and failures."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from edge_sdk.cloud.server.asked import Answer
from edge_sdk.cloud.server.models import ServedModel
from edge_sdk.errors import (
    InputError,
    ModelError,
    NotReadyError,
    OverloadedError,
    ProcessingError,
    RateLimitError,
    UnknownCallerError,
    UnknownModelError,
    one_line,
)
from edge_sdk.protocol import datatype_of
from edge_sdk.protocol.names import (
    CLASSIFICATION_PARAMETER,
    DECISION_PARAMETER,
    ENCODING_PARAMETER,
    KEY_PARAMETER,
    LABELS_PROPERTY,
    PRIORITY_PARAMETER,
    TIMEOUT_PARAMETER,
)

__all__ = [
    "FAILURES",
    "Failure",
    "Wanted",
    "answered",
    "deadline_of",
    "encoding_of",
    "failure_of",
    "key_of",
    "priority_of",
    "wanted_outputs",
]

_log = logging.getLogger("edge_sdk.cloud.server")
_WRONG_TYPE = "invalid value type for '{}' parameter, expected int64_param"
Array = np.ndarray[Any, Any]

FAILURES = (
    UnknownModelError,
    UnknownCallerError,
    PermissionError,
    InputError,
    ProcessingError,
    OverloadedError,
    NotReadyError,
    TimeoutError,
    ModelError,
    MemoryError,
)
"""What a request can end with, and `failure_of` explains. Anything else is a fault of the server."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How a request that failed is answered.

    Attributes
    ----------
    status
        The gRPC status.
    http
        The HTTP status.
    message
        One line.
    retry_after
        Seconds after which another try may succeed; None where that is not known.
    request_id
        As the request says it, where that is known and asked for.
    """

    status: grpc.StatusCode
    http: int
    message: str
    retry_after: float | None = None
    request_id: str = ""

    @property
    def pushback_ms(self) -> int | None:
        """`retry_after` in whole milliseconds."""
        return None if self.retry_after is None else math.ceil(self.retry_after * 1e3)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Trailing metadata that tell gRPC clients when to try again."""
        return () if self.pushback_ms is None else (("grpc-retry-pushback-ms", str(self.pushback_ms)),)


def failure_of(error: BaseException, model_name: str) -> Failure:
    """Return how an error is answered, one of `FAILURES` or a fault; log it where the server is to blame."""
    line = one_line(error)
    match error:
        case UnknownModelError():
            return Failure(grpc.StatusCode.NOT_FOUND, 404, line)
        case UnknownCallerError():
            return Failure(grpc.StatusCode.UNAUTHENTICATED, 401, line)
        case PermissionError():
            return Failure(grpc.StatusCode.PERMISSION_DENIED, 403, line)
        case InputError() | ProcessingError():
            return Failure(grpc.StatusCode.INVALID_ARGUMENT, 400, line)
        case RateLimitError():  # of one caller: no sign that the server is unwell, as 503 would be to a balancer
            return Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, 429, line, error.retry_after)
        case OverloadedError():
            return Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, 503, line, error.retry_after)
        case NotReadyError():
            return Failure(grpc.StatusCode.UNAVAILABLE, 503, line)
        case TimeoutError():
            return Failure(grpc.StatusCode.DEADLINE_EXCEEDED, 504, line)
        case MemoryError():
            _log.warning("no memory for a request to model %s", model_name[:80])
            return Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, 503, "the server is out of memory for this request")
        case ModelError():
            _log.warning("model %s failed: %s", model_name[:80], line)
            return Failure(grpc.StatusCode.INTERNAL, 500, line)
        case _:
            _log.error("a request to model %s failed for a fault of the server", model_name[:80], exc_info=error)
            return Failure(grpc.StatusCode.INTERNAL, 500, "the server failed at this request; its log says more")


def deadline_of(arrived: float, time_remaining: float | None, timeout: object) -> float | None:
    """Return when a request's time is up, as a `time.monotonic` reading; None is never.

    Parameters
    ----------
    arrived
        `time.monotonic` reading of its arrival.
    time_remaining
        Seconds that the transport still gives it, or None.
    timeout
        Its parameter ``timeout`` in microseconds, or None. As in Triton, 0 is no timeout.

    Raises
    ------
    InputError
        The parameter is no number of microseconds.
    """
    ends = []
    if time_remaining is not None and math.isfinite(time_remaining):
        ends.append(arrived + time_remaining)
    if timeout is not None:
        if isinstance(timeout, bool) or not isinstance(timeout, int):
            raise InputError(f"{_WRONG_TYPE.format(TIMEOUT_PARAMETER)}, a number of microseconds")
        if timeout < 0:
            raise InputError(f"invalid value for {TIMEOUT_PARAMETER!r}, expected value >= 0 (microseconds)")
        if timeout > 0:
            ends.append(arrived + timeout / 1e6)
    return min(ends, default=None)


def encoding_of(parameters: Mapping[str, object]) -> str:
    """Return what a request's tensor holds.

    Raises
    ------
    InputError
        The parameter is no string.
    """
    encoding = parameters.get(ENCODING_PARAMETER, "tensor")
    if not isinstance(encoding, str):
        raise InputError(f"parameter {ENCODING_PARAMETER} is a string")
    return encoding


def priority_of(parameters: Mapping[str, object]) -> int:
    """Return a request's priority: 1 goes first, 0 is the model's default.

    Raises
    ------
    InputError
        The parameter is no such number.
    """
    priority = parameters.get(PRIORITY_PARAMETER, 0)
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise InputError(f"{_WRONG_TYPE.format(PRIORITY_PARAMETER)} or uint64_param: 1 goes first, 0 is the default")
    if priority < 0:
        raise InputError(f"invalid value for {PRIORITY_PARAMETER!r}, expected value >= 0")
    return priority


def key_of(parameters: Mapping[str, object], request_id: str) -> str:
    """Return what a request's version is chosen by: its key, else the device's name of it, else its id.

    Raises
    ------
    InputError
        The parameter is no string.
    """
    key = parameters.get(KEY_PARAMETER) or parameters.get(DECISION_PARAMETER) or request_id
    if not isinstance(key, str):
        raise InputError(f"parameters {KEY_PARAMETER} and {DECISION_PARAMETER} are strings")
    return key


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output of an answer: its tensor, or where ``classes`` is not 0, its so many highest classes."""

    name: str
    classes: int = 0


def wanted_outputs(asked: Iterable[tuple[str, Mapping[str, object]]], model: ServedModel) -> tuple[Wanted, ...]:
    """Return the outputs of an answer that are asked for; none is all.

    Parameters
    ----------
    asked
        Name and parameters of each output the request names.
    model
        The model.

    Raises
    ------
    InputError
        An output is unknown or named twice, or a parameter is.
    """
    there = [tensor.name for tensor in model.outputs]
    wanted: list[Wanted] = []
    for name, parameters in asked:
        if name not in there:
            raise InputError(f"unexpected inference output {name[:80]!r} for model {model.name!r}")
        if any(name == other.name for other in wanted):
            raise InputError(f"output {name[:80]!r} is asked for twice")
        classes = parameters.get(CLASSIFICATION_PARAMETER)
        if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int)):
            raise InputError(f"{_WRONG_TYPE.format(CLASSIFICATION_PARAMETER)}, a number of classes")
        if classes is not None and classes < 1:
            raise InputError(f"invalid value for {CLASSIFICATION_PARAMETER!r} parameter, expected 1 or more")
        # others are for other servers, but an answer that is waited for in shared memory would not come there
        if shared := sorted(key for key in parameters if key.startswith("shared_memory_")):
            raise InputError(f"output {name[:80]!r}: parameter {shared[0][:80]!r} is not supported")
        wanted.append(Wanted(name, classes or 0))
    return tuple(wanted)


def answered(said: Answer, wanted: tuple[Wanted, ...]) -> Mapping[str, Array]:
    """Return the outputs of an answer as they are wanted: as they are, or their highest classes.

    Raises
    ------
    InputError
        Classes are wanted of what has none.
    """
    if not any(output.classes for output in wanted):
        return said.outputs
    labels = json.loads(said.model.properties.get(LABELS_PROPERTY, "[]"))
    whole, outputs = said.model.batching == "whole", {}
    for output in wanted:
        array = said.outputs[output.name]
        if output.classes:  # without an axis of items, all is one item's
            array = _classify(array[np.newaxis] if whole else array, output.classes, labels, output.name)
            array = array[0] if whole else array
        outputs[output.name] = array
    return outputs


def _classify(scores: Array, classes: int, labels: list[str], name: str) -> Array:
    """Return the highest classes of an output as Triton's classification extension writes them.

    Parameters
    ----------
    scores
        Numbers [N, ...] of N items.
    classes
        How many of each item, at most.
    labels
        Names of the classes; may be fewer, or none.
    name
        Of the output, for messages.

    Returns
    -------
    numpy.ndarray
        object (bytes) [N, k]: ``score:index`` or ``score:index:label``, highest first.

    Raises
    ------
    InputError
        The output holds no numbers, or has no axis of items and one of classes.
    """
    if scores.dtype.kind not in "fiu" or scores.ndim < 2:
        kind = f"unsupported type {datatype_of(scores.dtype)!r}" if scores.ndim > 1 else f"shape {list(scores.shape)}"
        raise InputError(f"class result not available for output due to {kind}: {name[:80]!r}")
    flat = scores.reshape(len(scores), math.prod(scores.shape[1:]))
    # of equal scores the first; NaN comes last, whatever its sign
    keys = np.where(np.isnan(flat), -np.inf, flat) if flat.dtype.kind == "f" else flat.astype(object)
    order = np.argsort(-keys, axis=1, kind="stable")[:, :classes]
    write = (lambda score: f"{score:f}") if flat.dtype.kind == "f" else str
    best = np.empty(order.shape, object)
    for item, at in np.ndindex(*order.shape):
        index = int(order[item, at])
        label = f":{labels[index]}" if index < len(labels) else ""
        best[item, at] = f"{write(flat[item, index])}:{index}{label}".encode()
    return best
