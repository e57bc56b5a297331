"""Telling servers how good their answers were, behind the app's back.

A thread tells it over the connections that requests go over, one at a time. What a server cannot hear now waits,
within bounds, and holds up nothing that others are to hear. One that has no such service, as every server but ours,
is not told anything for a while; nothing depends on it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import grpc

from edge_sdk.client.failures import Complaints, Failed
from edge_sdk.protocol.feedback import RewardRequest

if TYPE_CHECKING:
    from edge_sdk.client.endpoint import Endpoint
    from edge_sdk.client.outcomes import Outcome

__all__ = ["Rewards"]

_MOST_ANSWERS = 10_000  # that are remembered until somebody knows whether they were right
_MOST_WAITING = 1_000
_SECONDS = 2.0  # for one call
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds in which a server that could not hear is told nothing
_DEAF_SECONDS = 60.0
_LATER = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)

_Result = Literal["sent", "unsupported", "refused", "later"]
_Told = tuple[str, "_Answer", float]


@dataclass(frozen=True, slots=True)
class _Answer:
    """Who gave an answer, and which class it names."""

    endpoint: Endpoint
    model: str
    version: str
    label: str


class Rewards:
    """Remembers the cloud's answers, and tells who gave them whether they were right; thread-safe.

    The thread is started when it is first needed.
    """

    def __init__(self) -> None:
        self._answers: dict[str, _Answer] = {}
        self._waiting: deque[_Told] = deque()
        self._counts = dict.fromkeys(("sent", "unsupported", "refused", "unknown", "lost"), 0)
        self._deaf: dict[Endpoint, float] = {}
        self._pauses: dict[Endpoint, tuple[float, float]] = {}  # until when, and how long it is
        self._complaints = Complaints()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closes = False

    def note(self, decision_id: str, outcome: Outcome, label: str) -> None:
        """Remember that the cloud's answer to an input names a class; the latest of them are kept."""
        origin = outcome.origin
        if origin is None or outcome.cached:
            return
        with self._wake:
            self._answers[decision_id] = _Answer(origin.endpoint, origin.model, origin.version, label)
            if len(self._answers) > _MOST_ANSWERS:
                del self._answers[next(iter(self._answers))]

    def put(self, decision_id: str, label: str) -> None:
        """Have it told which class was the true one; does not wait."""
        with self._wake:
            answer = self._answers.pop(decision_id, None)
            if answer is None:
                self._counts["unknown"] += 1
            elif self._closes:
                self._counts["lost"] += 1
            else:
                if len(self._waiting) >= _MOST_WAITING:  # the oldest is of a server that may never be back
                    self._waiting.popleft()
                    self._counts["lost"] += 1
                self._waiting.append((decision_id, answer, float(answer.label == label)))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="edge-sdk-rewards", daemon=True)
                    self._thread.start()
                self._wake.notify()

    @property
    def counters(self) -> dict[str, int]:
        """What became of labels.

        ``sent``; ``waiting`` to be; ``unsupported`` or ``refused`` by servers; ``lost`` for want of room or at the end;
        ``unknown``: of no answer of the cloud that is remembered.
        """
        with self._wake:
            return {**self._counts, "waiting": len(self._waiting)}

    def close(self) -> None:
        """Tell what can be told in a moment, and end the thread; what is left is lost."""
        with self._wake:
            self._closes = True
            self._pauses.clear()
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(_SECONDS)
        with self._wake:
            self._counts["lost"] += len(self._waiting)
            self._waiting.clear()

    def _run(self) -> None:
        while True:
            with self._wake:
                told = self._next()
            if told is None:
                return
            result, endpoint = self._tell(*told), told[1].endpoint
            with self._wake:
                if told not in self._waiting:  # given up meanwhile
                    continue
                self._waiting.remove(told)
                if result != "later":
                    self._counts[result] += 1
                    self._pauses.pop(endpoint, None)
                    continue
                self._waiting.append(told)
                _, before = self._pauses.get(endpoint, (0.0, 0.0))
                pause = min(max(_FIRST_PAUSE, 2.0 * before), _LONGEST_PAUSE)
                self._pauses[endpoint] = time.monotonic() + pause, pause

    def _next(self) -> _Told | None:
        """Wait for what can be told now, and return it; None at the end. The lock is held."""
        while True:
            now, again_at = time.monotonic(), math.inf
            for told in self._waiting:
                paused_until, _ = self._pauses.get(told[1].endpoint, (0.0, 0.0))
                if paused_until <= now:
                    return told
                again_at = min(again_at, paused_until)
            if self._closes:
                return None
            self._wake.wait(None if again_at == math.inf else again_at - now)

    def _tell(self, decision_id: str, answer: _Answer, reward: float) -> _Result:
        endpoint = answer.endpoint
        if self._deaf.get(endpoint, 0.0) > time.monotonic():
            return "unsupported"
        request = RewardRequest(
            model_name=answer.model, model_version=answer.version, decision_id=decision_id, reward=reward
        )
        try:
            endpoint.start("Reward", request, time.perf_counter() + _SECONDS).result(timeout=2.0 * _SECONDS)
        except (Failed, grpc.FutureTimeoutError, grpc.FutureCancelledError):
            return "later"
        except grpc.RpcError as error:
            return self._failed(endpoint, error)
        return "sent"

    def _failed(self, endpoint: Endpoint, error: grpc.RpcError) -> _Result:
        code = error.code()
        if code in _LATER:
            return "later"
        if code is grpc.StatusCode.UNIMPLEMENTED:
            self._deaf[endpoint] = time.monotonic() + _DEAF_SECONDS
            return "unsupported"
        self._complaints.say(
            f"reward {endpoint.target}", f"{endpoint.target} takes no reward: {code.name}: {error.details()}"
        )
        return "refused"
