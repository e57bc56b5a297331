"""Sending what has waited: from an outbox to the cloud when the link is back, and the answers into the journal.

One thread sends one input at a time, and rests between two so that escalations that somebody waits for find
the link and the budget free. An input leaves the outbox only when its answer is durable in the journal. A
process may die between the two; then the journal has the answer and the outbox the input, and the next
process looks there before it sends anything. So every input has one answer in the journal, however often
it was sent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_sdk.cascade.journal import CloudAnswer, LateAnswer
from edge_sdk.client.depot import Entry
from edge_sdk.client.failures import Complaints
from edge_sdk.client.journal import Journal, late_answers
from edge_sdk.client.outbox import Outbox
from edge_sdk.client.parcels import Parcel, kind_of, plain
from edge_sdk.client.payload import Capture
from edge_sdk.client.privacy import Question, judge
from edge_sdk.encodings import WHOLE, Reduction, SentAs
from edge_sdk.errors import EdgeSdkError
from edge_sdk.frames import as_frame
from edge_sdk.types import Reason

if TYPE_CHECKING:
    from edge_sdk.client.asking import Asking
    from edge_sdk.client.outcomes import Outcome
    from edge_sdk.client.oversight import Oversight
    from edge_sdk.client.watch import Made, Watch

__all__ = ["Forwarder"]

_log = logging.getLogger("edge_sdk.client")

_PATIENCE = 30.0  # seconds for one answer: nobody waits for it
_MOST_TURNS = 10_000
_PRIORITY = 1000  # behind all that somebody waits for
_IDLE = 1.0  # seconds until the outbox is looked into again
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # seconds after an input that could not be sent
# seconds until an input has its turn again that others should not wait for: it may be its own fault
_LONGEST_TURN: dict[Reason, float] = {"rejected": 3600.0, "deadline": 60.0}


class Forwarder:
    """Sends what an outbox holds; begins at once.

    Parameters
    ----------
    outbox
        What is to be sent, or its folder; closed with this if it was opened here.
    journal
        Where the answers go.
    asking
        The way to the cloud.
    oversight
        Of which the budget is asked.
    watch
        Returns that of the edge model in use.

    Raises
    ------
    InputError
        Another model sends what this outbox holds.
    StorageError
        As `Outbox` does.
    """

    def __init__(
        self,
        outbox: str | Path | Outbox,
        journal: Journal,
        asking: Asking,
        oversight: Oversight,
        watch: Callable[[], Watch],
    ) -> None:
        self._owns = not isinstance(outbox, Outbox)
        self._outbox = outbox if isinstance(outbox, Outbox) else Outbox(outbox)
        self._outbox.claim()
        self._journal, self._asking, self._oversight, self._watch = journal, asking, oversight, watch
        self._doubtful = {entry.id for entry in self._outbox.waiting()}  # may have an answer already
        self._tries: dict[str, int] = {}
        self._turns: dict[str, float] = {}  # of what failed by itself: when its turn comes again
        self._unwritten: tuple[Entry, LateAnswer] | None = None  # that the journal did not take
        self._complaints = Complaints()
        self._failures = 0
        self._closing = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-sdk-forwarder", daemon=True)
        self._thread.start()

    def put(
        self, capture: Capture, reduction: Reduction | None, made: Made, context: Mapping[str, Any] | None, now: float
    ) -> None:
        """Keep an input that the cloud was to see; nothing where it may not leave.

        Parameters
        ----------
        capture, reduction
            The input, and what must be taken off it; None where it may not leave.
        made
            The edge's answer.
        context
            What the app said of the call.
        now
            Seconds since 1970.
        """
        if reduction is None:
            return
        index, decision = int(made.scored.probabilities.argmax()), made.decision
        self._outbox.put(
            Parcel(
                id=made.decision_id,
                time=now,
                kind=kind_of(made.model.labels, made.model.processor.spec),
                model=made.model.digest,
                index=index,
                confidence=float(made.scored.probabilities[index]) if decision is None else decision.confidence,
                propensity=1.0 if decision is None else decision.propensity,
                context=plain(context),
                reduction=reduction,
                jpeg=capture.jpeg,
                pixels=capture.pixels,
            )
        )

    def notice(self) -> None:
        """Take note that the cloud has just answered somebody."""
        if self._failures:
            self._failures = 0
            self._wake.set()

    @property
    def counters(self) -> dict[str, int]:
        """Those of the outbox."""
        return self._outbox.counters

    def stop(self) -> None:
        """Begin nothing new; what is under way ends with the link."""
        self._closing = True
        self._wake.set()

    def close(self, timeout: float = 10.0) -> None:
        """Wait until what is under way has ended, and close the outbox if it was opened here."""
        self.stop()
        self._thread.join(timeout)
        self._outbox.release()
        if self._owns:
            self._outbox.close()

    def _run(self) -> None:
        while not self._closing:
            try:
                pause = self._step()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next input is sent
                self._complaints.say(type(error).__name__, f"{self._outbox} cannot send now: {error}")
                pause = self._fail()
            self._wake.clear()
            if not self._closing and pause > 0.0:
                self._wake.wait(pause)

    def _step(self) -> float:
        """Send one input; return how many seconds to rest."""
        if self._doubtful:
            self._reconcile()
        if self._unwritten is not None:
            return 0.0 if self._store(*self._unwritten) else self._fail()
        now = time.monotonic()
        watch = self._watch()
        kind = kind_of(watch.model.labels, watch.model.processor.spec)
        entry = self._outbox.take(kind, lambda entry: self._turns.get(entry.id, 0.0) > now)
        if entry is None:
            return _IDLE
        if not self._oversight.has_room(self._outbox.share):
            return _IDLE
        try:
            return self._send(entry, watch)
        except Exception:
            self._postpone(entry, "rejected")  # whatever it is, it may be this input's fault
            raise

    def _send(self, entry: Entry, watch: Watch) -> float:
        parcel = self._outbox.read(entry)
        if parcel is None:
            return 0.0
        try:
            capture = _capture(parcel)
        except EdgeSdkError as error:
            _log.warning("%s: %s is passed over: %s", self._outbox, entry.path.name, error)
            self._outbox.remove(entry, "damaged")
            return 0.0
        if not _may_leave(parcel, capture, watch):
            self._outbox.remove(entry, "refused")
            return 0.0
        audit = parcel.propensity < 1.0
        outcome = self._asking.ask(
            capture,
            WHOLE,  # what was to be taken off is gone already
            watch,
            time.perf_counter() + _PATIENCE,
            audit=audit,
            confidence=0.0 if audit else parcel.confidence,
            gate=lambda size, remaining: self._oversight.gate(size, remaining, share=self._outbox.share),
            decision_id=parcel.id,
            priority=_PRIORITY,
        ).wait()
        if outcome.probabilities is None:
            return self._unanswered(entry, outcome)
        if self._asking.rewards is not None:
            label = watch.model.labels[int(outcome.probabilities.argmax())]
            self._asking.rewards.note(parcel.id, outcome, label)
        self._failures = 0
        if not self._store(entry, _answer(parcel, outcome)):
            return self._fail()
        rest = outcome.elapsed_ms / 1e3 * (1.0 / self._outbox.share - 1.0)
        return max(rest, self._oversight.floor / self._outbox.share)

    def _unanswered(self, entry: Entry, outcome: Outcome) -> float:
        if outcome.reason == "budget":
            return _IDLE
        if outcome.reason in _LONGEST_TURN:
            self._postpone(entry, outcome.reason)
        return self._fail()

    def _postpone(self, entry: Entry, reason: Reason) -> None:
        """Let others go first for a while, longer each time."""
        tries = self._tries[entry.id] = self._tries.get(entry.id, 0) + 1
        self._turns[entry.id] = time.monotonic() + min(_LONGEST_TURN[reason], 2.0 ** min(tries, 20))
        if len(self._turns) > _MOST_TURNS:
            self._turns.clear()
            self._tries.clear()

    def _fail(self) -> float:
        self._failures += 1
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))

    def _store(self, entry: Entry, answer: LateAnswer) -> bool:
        """Write an answer into the journal and remove its input, in this order; false where the first failed."""
        self._unwritten = None
        if not self._is_durable(self._journal.append(answer)):
            self._unwritten = entry, answer
            self._doubtful.add(entry.id)
            return False
        self._outbox.remove(entry, "sent")
        self._tries.pop(entry.id, None)
        self._turns.pop(entry.id, None)
        return True

    def _is_durable(self, written: Future[bool]) -> bool:
        while True:
            try:
                return written.result(timeout=_IDLE)
            except TimeoutError:  # a slow disk: as long as nobody knows, it may not be sent again
                if self._closing:
                    return False

    def _reconcile(self) -> None:
        """Remove what the journal has the answers of: a process died, or a disk failed, in between."""
        found = late_answers(self._journal.folder, self._doubtful)
        for entry in self._outbox.waiting():
            if entry.id in found:
                self._outbox.remove(entry, "sent")
        if self._unwritten is not None and self._unwritten[0].id in found:
            self._unwritten = None
        self._doubtful.clear()


def _answer(parcel: Parcel, outcome: Outcome) -> LateAnswer:
    assert outcome.probabilities is not None
    index, seen = int(outcome.probabilities.argmax()), outcome.encoding
    if parcel.quality is not None and seen == f"captured{parcel.reduction}":  # every pixel that was kept
        seen = str(SentAs(parcel.quality, parcel.reduction))
    said = CloudAnswer(index, float(outcome.probabilities[index]), outcome.digest, seen)
    return LateAnswer(parcel.id, time.time(), said)


def _capture(parcel: Parcel) -> Capture:
    if parcel.jpeg is not None:
        return Capture(as_frame(parcel.jpeg), parcel.jpeg, parcel.reduction)
    assert parcel.pixels is not None
    return Capture(parcel.pixels, None, parcel.reduction)


def _may_leave(parcel: Parcel, capture: Capture, watch: Watch) -> bool:
    """Tell whether the rules of now take nothing off that was not taken off before."""
    if not watch.rules:
        return True
    pixels = capture.pixels.view()
    pixels.flags.writeable = False
    wanted = judge(watch.rules, Question(pixels, watch.model.labels[parcel.index], parcel.context))
    if wanted is None:
        return False
    (top, left, bottom, right), (y0, x0, y1, x1) = wanted.region, parcel.reduction.region
    inside = top <= y0 and left <= x0 and bottom >= y1 and right >= x1
    return inside and (wanted.max_side is None or max(pixels.shape[:2]) <= wanted.max_side)
