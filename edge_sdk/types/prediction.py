"""What every kind of answer has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from edge_sdk.types import Reason, Source

__all__ = ["Prediction", "Timing"]


class Timing(NamedTuple):
    """Where the time of one prediction went, in milliseconds.

    ``cloud_ms`` is 0 where the cloud was not asked. ``total_ms`` is the wall time of the call.
    """

    pre_ms: float = 0.0
    infer_ms: float = 0.0
    post_ms: float = 0.0
    cloud_ms: float = 0.0
    total_ms: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """Return the fields as a plain dictionary."""
        return self._asdict()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What every kind of answer has in common.

    Attributes
    ----------
    source
        Who answered: ``edge``, ``cloud`` or ``cache``.
    reason
        Why that one answered; see `Reason`.
    certified
        True only where the answer stands under a valid certificate: False if the rule wanted
        it escalated and it was not, or if there is no certificate.
    timing
        Where the time went.
    decision_id
        Names this decision in feedback and logs.
    model_digest
        Digest of the model that answered.
    """

    source: Source
    reason: Reason
    certified: bool
    timing: Timing
    decision_id: str
    model_digest: str

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values."""
        return {
            "source": self.source,
            "reason": self.reason,
            "certified": self.certified,
            "timing": self.timing.to_dict(),
            "decision_id": self.decision_id,
            "model_digest": self.model_digest,
        }
