"""How asking the cloud ends, or is still to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.types import Reason

if TYPE_CHECKING:
    from edge_sdk.client.endpoint import Endpoint

__all__ = ["Escalation", "Gate", "Origin", "Outcome"]

Gate = Callable[[int, float | None], Reason | None]
"""Says of a request of so many bytes, whose answer must be there in so many seconds, why it may not be sent."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who gave an answer: a server, and the model and version that it named."""

    endpoint: Endpoint
    model: str
    version: str


@dataclass(slots=True)  # not frozen: one is made for every request, in half the time
class Outcome:
    """How asking the cloud ended.

    Attributes
    ----------
    probabilities
        Float32 [classes], or None where there is no usable answer.
    digest
        Digest of the model that answered; empty where the server does not say.
    reason
        ``escalated``, or why there is no answer: ``deadline``, ``offline``, ``breaker``, ``budget``,
        ``privacy``, ``rejected``.
    detail
        One line about a failure.
    bytes_sent
        Size of the request that was handed to the network; 0 where none was.
    elapsed_ms
        Wall time spent.
    encoding
        What the cloud's model saw, or would have seen (see `edge_sdk.encodings`); empty where nothing was made.
    reduced
        True where privacy rules had something taken off before.
    cached
        True where the answer was given before.
    expected
        False where another model answered than the request was made for.
    extra_calls, extra_bytes
        Copies of the request beside the one that was answered, and their size together: to another endpoint,
        once more, or hedges.
    outputs
        The model's output tensors by name, where they and not probabilities were asked for.
    origin
        Who answered; None where that is of no use.
    """

    probabilities: NDArray[np.float32] | None
    reason: Reason
    digest: str = ""
    detail: str = ""
    bytes_sent: int = 0
    elapsed_ms: float = 0.0
    encoding: str = ""
    reduced: bool = False
    cached: bool = False
    expected: bool = True
    extra_calls: int = 0
    extra_bytes: int = 0
    outputs: Mapping[str, NDArray[Any]] | None = None
    origin: Origin | None = None


class Escalation:
    """One call under way; `wait` ends it.

    Attributes
    ----------
    under_way
        False where the outcome was there at once, so that nobody has to be waited for.
    """

    def __init__(self, finish: Callable[[], Outcome], *, under_way: bool = True) -> None:
        self.under_way = under_way
        self._finish = finish
        self._started = time.perf_counter()

    def wait(self) -> Outcome:
        """Return the outcome, at the latest when the call's time is up."""
        outcome = self._finish()
        if not self.under_way:  # it may be others' as well
            outcome = replace(outcome)
        outcome.elapsed_ms = (time.perf_counter() - self._started) * 1e3
        return outcome
