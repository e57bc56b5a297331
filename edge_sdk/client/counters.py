"""What a hybrid model did, counted: each request once, failed uploads apart."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, get_args

from edge_sdk.types import Reason, Source

__all__ = ["Counters"]


class Counters:
    """Thread-safe counts; see `snapshot` for what they mean."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = 0
        self._answered: Counter[Source] = Counter()
        self._reasons: Counter[Reason] = Counter()
        self._uploads: Counter[str] = Counter()
        self._privacy: Counter[str] = Counter()

    def request(self, source: Source | None, reason: Reason) -> None:
        """Count one finished request; ``source`` is None where it ended in an error."""
        with self._lock:
            self._requests += 1
            self._reasons[reason] += 1
            if source is not None:
                self._answered[source] += 1

    def upload(self, size: int, *, usable: bool, foreign: bool = False) -> None:
        """Count one request of ``size`` bytes that was handed to gRPC."""
        with self._lock:
            self._uploads["escalated" if usable else "failed_uploads"] += 1
            self._uploads["bytes_sent" if usable else "bytes_failed"] += size
            self._uploads["foreign_model"] += foreign

    def privacy(self, what: str) -> None:
        """Count one input that rules had ``kept`` on the device, or ``reduced`` before it was sent."""
        with self._lock:
            self._privacy[what] += 1

    def snapshot(self) -> dict[str, Any]:
        """Return the counts so far.

        Returns
        -------
        dict
            ``requests``; ``answered`` by source; ``reasons`` (they add up to ``requests``);
            ``escalated``: requests that the cloud answered usefully, ``bytes_sent`` in them;
            ``failed_uploads``: tries without a useful answer, ``bytes_failed`` in them (where the
            cloud was offline, they may not have left the device);
            ``foreign_model``: useful answers of another model than the certificate names;
            ``privacy``: inputs that were to be sent, audits among them, and that rules ``kept`` on the
            device, and requests that they ``reduced``.
        """
        with self._lock:
            return {
                "requests": self._requests,
                "answered": {name: self._answered[name] for name in get_args(Source)},
                "reasons": dict(sorted(self._reasons.items())),
                "escalated": self._uploads["escalated"],
                "failed_uploads": self._uploads["failed_uploads"],
                "bytes_sent": self._uploads["bytes_sent"],
                "bytes_failed": self._uploads["bytes_failed"],
                "foreign_model": self._uploads["foreign_model"],
                "privacy": {"kept": self._privacy["kept"], "reduced": self._privacy["reduced"]},
            }
