"""What a core is asked, and what it says of requests and of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edge_sdk.cloud.server.models import ServedModel

__all__ = ["Answer", "ModelState", "Request", "State"]

Array = np.ndarray[Any, Any]
State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


@dataclass(frozen=True, slots=True)
class Request:
    """One inference request.

    Attributes
    ----------
    model, version
        Which model; an empty version is as its `Routing` says, or the highest that is ready.
    inputs
        Tensors by name.
    encoding
        What the tensor holds: one of `edge_sdk.protocol.ENCODINGS`.
    deadline
        `time.monotonic` reading after which no one waits for the answer; None is never.
    priority
        1 goes first; 0 is the model's default.
    outputs
        Names of the outputs that are wanted; none is all, in the model's order.
    key
        What a version is chosen by; empty is chance.
    """

    model: str
    version: str
    inputs: Mapping[str, Array]
    encoding: str
    deadline: float | None
    priority: int = 0
    outputs: tuple[str, ...] = ()
    key: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said.

    Attributes
    ----------
    model
        The model and version that answered.
    outputs
        Its output tensors by name, those that were wanted.
    compute
        Seconds that the model took, for the batch that the request was in.
    cached
        The answer to an equal request.
    """

    model: ServedModel
    outputs: Mapping[str, Array]
    compute: float
    cached: bool = False


@dataclass(frozen=True, slots=True)
class ModelState:
    """What has become of a version of a model, as Triton's repository index has it."""

    name: str
    version: str
    state: State
    reason: str = ""
