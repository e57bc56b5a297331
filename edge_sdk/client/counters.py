"""What a hybrid model did, counted: each request once, failed uploads apart."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

from edge_sdk.types import Reason, Source

__all__ = ["BYTES", "SECONDS", "Counters", "Histogram"]

SECONDS = (*(float(f"{digits}e{power}") for power in range(-4, 1) for digits in (1, 2.5, 5)), 10.0)
"""Upper bounds of buckets of time: three a decade, from 100 µs to 10 s."""

BYTES = tuple(float(4**power) for power in range(4, 14))
"""Upper bounds of buckets of size: powers of 4, from 256 bytes to 64 MiB."""


class Histogram:
    """Counts of values by fixed buckets; not thread-safe by itself.

    Parameters
    ----------
    bounds
        Largest value of each bucket, ascending; one more bucket takes what is larger.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def snapshot(self) -> dict[str, Any]:
        """Return ``bounds``, ``counts`` (one more than bounds), and the ``sum`` of all values."""
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": self.total}


class Counters:
    """Thread-safe counts; see `snapshot` for what they mean."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[tuple[Source | None, Reason], int] = {}
        self._durations: dict[Source | None, Histogram] = {
            source: Histogram(SECONDS) for source in (*get_args(Source), None)
        }
        self._uploads = {True: Histogram(BYTES), False: Histogram(BYTES)}  # by whether they were answered usefully
        self._round_trips = Histogram(SECONDS)
        self._confidence = 0.0  # of the edge's answers, in sum
        self._certified = self._foreign = self._extra_calls = self._extra_bytes = 0
        self._privacy: Counter[str] = Counter()
        self._encodings: Counter[str] = Counter()
        self._failed_encodings: Counter[str] = Counter()
        self._waves = self._wave_inputs = 0

    def request(
        self,
        source: Source | None,
        reason: Reason,
        seconds: float,
        *,
        certified: bool = False,
        confidence: float = 0.0,
    ) -> None:
        """Count one finished request, and what it took; ``source`` is None where it ended in an error."""
        key = source, reason
        with self._lock:
            self._requests[key] = self._requests.get(key, 0) + 1
            self._durations[source].observe(seconds)
            self._certified += certified
            if source == "edge":
                self._confidence += confidence

    def upload(self, size: int, *, usable: bool, seconds: float, foreign: bool = False, encoding: str = "") -> None:
        """Count one request of ``size`` bytes that was handed to gRPC, and what it took."""
        with self._lock:
            self._uploads[usable].observe(size)
            if usable:
                self._round_trips.observe(seconds)
                self._encodings[encoding] += 1
            else:
                self._failed_encodings[encoding] += 1
            self._foreign += foreign

    def copies(self, calls: int, size: int) -> None:
        """Count further copies of a request: hedges, and what was sent again or to another endpoint."""
        with self._lock:
            self._extra_calls += calls
            self._extra_bytes += size

    def message(self, inputs: int) -> None:
        """Count one message that was handed to gRPC, and the inputs in it."""
        if inputs > 1:
            with self._lock:
                self._waves += 1
                self._wave_inputs += inputs

    def privacy(self, what: str) -> None:
        """Count one input that rules had ``kept`` on the device, or ``reduced`` before it was sent."""
        with self._lock:
            self._privacy[what] += 1

    def snapshot(self) -> dict[str, Any]:
        """Return the counts so far.

        Returns
        -------
        dict
            ``requests``; ``answered`` by source; ``reasons`` (they add up to ``requests``); ``outcomes``:
            the same requests by source, ``none`` where they ended in an error, and reason;
            ``certified``: answers that were; ``edge_confidence``: the sum of the edge's answers' confidence;
            ``escalated``: requests that the cloud answered usefully, ``bytes_sent`` in them;
            ``encodings``: the same, by what the cloud saw; see `edge_sdk.encodings`;
            ``failed_uploads``: tries without a useful answer, ``bytes_failed`` in them (where the
            cloud was offline, they may not have left the device); ``failed_encodings``: the same, by what the
            cloud would have seen;
            ``extra_calls``: copies of a request beside the one that was answered, or the first where none
            was, and ``bytes_extra`` in those beside an answer: hedges, and what was sent again or to another
            endpoint;
            ``waves``: messages ``sent`` that carried several inputs, and the ``inputs`` in them;
            ``foreign_model``: useful answers of another model than the certificate names;
            ``privacy``: inputs that were to be sent, audits among them, and that rules ``kept`` on the
            device, and requests that they ``reduced``;
            ``histograms``, each as of `Histogram.snapshot`: ``request_seconds`` by source, of whole
            requests; ``cloud_seconds`` of those that the cloud answered usefully; ``upload_bytes`` by
            ``answered`` and ``failed``.
        """
        with self._lock:
            outcomes: dict[str, dict[str, int]] = {}
            answered: Counter[Source | None] = Counter()
            reasons: Counter[Reason] = Counter()
            for (source, reason), count in self._requests.items():
                outcomes.setdefault(source or "none", {})[reason] = count
                answered[source] += count
                reasons[reason] += count
            sent, failed = self._uploads[True], self._uploads[False]
            return {
                "requests": reasons.total(),
                "answered": {name: answered[name] for name in get_args(Source)},
                "reasons": dict(sorted(reasons.items())),
                "outcomes": outcomes,
                "certified": self._certified,
                "edge_confidence": self._confidence,
                "escalated": sum(sent.counts),
                "encodings": dict(sorted(self._encodings.items())),
                "failed_uploads": sum(failed.counts),
                "failed_encodings": dict(sorted(self._failed_encodings.items())),
                "bytes_sent": int(sent.total),
                "bytes_failed": int(failed.total),
                "extra_calls": self._extra_calls,
                "bytes_extra": self._extra_bytes,
                "waves": {"sent": self._waves, "inputs": self._wave_inputs},
                "foreign_model": self._foreign,
                "privacy": {"kept": self._privacy["kept"], "reduced": self._privacy["reduced"]},
                "histograms": {
                    "request_seconds": {source or "none": one.snapshot() for source, one in self._durations.items()},
                    "cloud_seconds": self._round_trips.snapshot(),
                    "upload_bytes": {"answered": sent.snapshot(), "failed": failed.snapshot()},
                },
            }
