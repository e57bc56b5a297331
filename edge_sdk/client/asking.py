"""Asking the cloud on behalf of a hybrid model: what may leave, what is known already, and the call itself.

Everything of an input that leaves the device goes through `Asking.ask`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from edge_sdk.client.cache import Cache, digest_of_input
from edge_sdk.client.cloud import Cloud
from edge_sdk.client.counters import Counters
from edge_sdk.client.escalation import CloudLink
from edge_sdk.client.outcomes import Escalation, Gate, Outcome
from edge_sdk.client.payload import Capture
from edge_sdk.client.privacy import Question, judge
from edge_sdk.client.rewards import Rewards
from edge_sdk.client.rungs import DEFAULT_LADDER, Ladder, Pilot
from edge_sdk.client.watch import Made, Watch
from edge_sdk.encodings import WHOLE, Reduction

__all__ = ["Asking"]

_KEPT = Outcome(None, "privacy", detail="a privacy rule keeps this input on the device")


class Asking:
    """A link to the cloud behind privacy rules and a cache; thread-safe.

    Parameters
    ----------
    cloud
        Where it is, and how it is asked.
    cache
        Where answers are kept, or None.
    counters
        Where is counted what rules kept or reduced.
    gate
        Asked before anything is sent.
    pilot
        Chooses between encodings; None takes the best.

    Raises
    ------
    InputError
        As `CloudLink` does.

    Attributes
    ----------
    rewards
        What servers are told of their answers; None where they are told nothing.
    """

    def __init__(
        self,
        cloud: Cloud,
        *,
        cache: Cache | None,
        counters: Counters,
        gate: Gate,
        pilot: Pilot | None = None,
    ) -> None:
        self._cache, self._counters, self._gate, self._encoding = cache, counters, gate, cloud.encoding
        self._pilot = pilot
        self._link = CloudLink(cloud, on_sent=counters.message)
        self.rewards = Rewards() if cloud.feedback else None

    @property
    def described(self) -> bool:
        """True where the server's model is known, so that `ask` does not wait."""
        return self._link.described

    @property
    def is_answering(self) -> bool:
        """True where the last call was answered."""
        return self._link.is_answering

    @staticmethod
    def may_leave(
        capture: Capture, watch: Watch, made: Made | None, context: Mapping[str, Any] | None
    ) -> Reduction | None:
        """Return what must be taken off an input before it is sent; None where it may not be sent at all.

        Parameters
        ----------
        capture
            The input.
        watch
            Whose rules count where the edge has not answered.
        made
            The edge's answer; its own model's rules count then.
        context
            What the app said of this call.
        """
        rules = watch.rules if made is None else made.watch.rules
        if not rules:
            return WHOLE
        pixels = capture.pixels.view()
        pixels.flags.writeable = False  # predicates look, and do not touch
        label = None if made is None else made.model.labels[int(made.scored.probabilities.argmax())]
        return judge(rules, Question(pixels, label, context or {}))

    def ask(
        self,
        capture: Capture,
        reduction: Reduction | None,
        watch: Watch,
        ends_at: float | None,
        *,
        audit: bool = False,
        gate: Gate | None = None,
        decision_id: str | None = None,
        priority: int | None = None,
        confidence: float = 0.0,
    ) -> Escalation:
        """Ask the cloud about what may leave of an input.

        Parameters
        ----------
        capture
            The input.
        reduction
            What `may_leave` returned for it.
        watch
            Of the edge model, whose labels count.
        ends_at
            `time.perf_counter` reading at which the answer must be there; None waits.
        audit
            Whether the cloud itself has to say, whatever it said before.
        gate
            Asked in place of the usual one.
        decision_id
            Sent with the input, by which a server can tell what comes again.
        priority
            In place of the link's; see `edge_sdk.client.Cloud`.
        confidence
            Probability that the edge's answer is right, by which bytes are spared; 0 spares none.
        """
        if reduction is None:
            self._counters.privacy("kept")
            return Escalation(lambda: _KEPT, under_way=False)
        capture = capture.reduced(reduction)
        caches = self._cache is not None and not audit
        known = self._cache.get(self._key(capture, watch)) if caches and self._cache is not None else None
        if known is not None:
            return Escalation(lambda: known, under_way=False)
        call = self._link.begin(
            capture,
            ends_at,
            labels=watch.model.labels,
            edge_spec=watch.model.processor.spec,
            gate=gate or self._gate,
            ladder=self._ladder(watch, confidence),
            decision_id=decision_id,
            audit=audit,
            priority=priority,
        )
        if not caches and reduction == WHOLE:
            return call
        return Escalation(lambda: self._learn(call.wait(), capture, watch, caches=caches), under_way=call.under_way)

    def _ladder(self, watch: Watch, confidence: float) -> Ladder:
        """Return what may be sent: what the certificate names, and anything where it names nothing."""
        encodings, accuracies = watch.encodings
        return Ladder(encodings or DEFAULT_LADDER, self._pilot, accuracies, confidence)

    def _learn(self, outcome: Outcome, capture: Capture, watch: Watch, *, caches: bool) -> Outcome:
        if outcome.bytes_sent and capture.reduction != WHOLE:
            self._counters.privacy("reduced")
        if caches and self._cache is not None and outcome.probabilities is not None and outcome.expected:
            key = self._key(capture, watch)  # anew: before, the cloud's model may not have been known
            if key is not None and key[0] == outcome.digest:
                outcome.probabilities.flags.writeable = False
                self._cache.put(key, replace(outcome, bytes_sent=0, cached=True))
        return outcome

    def _key(self, capture: Capture, watch: Watch) -> tuple[Hashable, ...] | None:
        """Return all that the cloud's answer depends on, the cloud's model first; None where that is not known."""
        known = self._link.known
        if known is None or not known.digest or (known.labels is not None and known.labels != watch.model.labels):
            return None
        # of a model that is gone, answers are given on only if it is the one that the certificate names
        if not self._link.is_answering and watch.is_foreign(known.digest):
            return None
        spec = watch.model.processor.spec if known.processing is None else known.processing
        sent_as = f"{self._encoding}{capture.reduction}"
        return known.digest, watch.model.bundle_digest, spec.digest, sent_as, digest_of_input(capture)

    def snapshot(self) -> dict[str, dict[str, int]]:
        """Return what the cache has done, and what servers were told; see `Cache.counters` and `Rewards.counters`."""
        cache = {"hits": 0, "misses": 0, "entries": 0} if self._cache is None else self._cache.counters
        return {"cache": cache} if self.rewards is None else {"cache": cache, "feedback": self.rewards.counters}

    def streaming(self) -> AbstractContextManager[None]:
        """Return a context in which requests share one call for each server."""
        return self._link.streaming()

    def forget(self) -> None:
        """Forget what the cloud answered."""
        if self._cache is not None:
            self._cache.clear()

    def close(self) -> None:
        """Close the link."""
        if self.rewards is not None:
            self.rewards.close()
        self._link.close()
