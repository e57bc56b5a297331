"""What a hybrid model did, counted: each request once, failed uploads apart."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

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

    def snapshot(self) -> dict[str, Any]:
        """Return the counts so far.

        Returns
        -------
        dict
            ``requests``; ``answered`` by source; ``reasons`` (they add up to ``requests``);
            ``escalated``: requests that the cloud answered usefully, ``bytes_sent`` in them;
            ``failed_uploads``: tries without a useful answer, ``bytes_failed`` in them (where the
            cloud was offline, they may not have left the device);
            ``foreign_model``: useful answers of another model than the certificate names.
        """
        with self._lock:
            return {
                "requests": self._requests,
                "answered": {"edge": self._answered["edge"], "cloud": self._answered["cloud"]},
                "reasons": dict(sorted(self._reasons.items())),
                "escalated": self._uploads["escalated"],
                "failed_uploads": self._uploads["failed_uploads"],
                "bytes_sent": self._uploads["bytes_sent"],
                "bytes_failed": self._uploads["bytes_failed"],
                "foreign_model": self._uploads["foreign_model"],
            }
