"""The record of a decision, as the journal keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_sdk.cascade.journal import CloudAnswer, Outcome, Record
from edge_sdk.types import Reason, Source, Timing

if TYPE_CHECKING:
    from edge_sdk.client.outcomes import Outcome as CloudOutcome
    from edge_sdk.client.watch import Made

__all__ = ["record_of"]


def record_of(
    made: Made,
    said: CloudOutcome | None,
    scores: bytes,
    why: tuple[Source, Reason, bool],
    timing: Timing,
    hashed: str,
    now: float,
) -> Record:
    """Make the record of a decision; on the journal's thread, for it takes longer than deciding did.

    Parameters
    ----------
    made, said
        The edge's answer, and how asking the cloud ended; None where it was not asked.
    scores
        The probabilities decided on, float32 [classes].
    why
        Source, reason and whether certified, of the answer given.
    timing
        Of that.
    hashed
        Digest of the input, or empty.
    now
        Seconds since 1970.
    """
    assert made.decision is not None
    cloud = missing = None
    if said is not None and said.probabilities is not None:
        index = int(said.probabilities.argmax())
        cloud = CloudAnswer(index, float(said.probabilities[index]), said.digest, said.encoding)
    elif said is not None:
        missing = said.reason
    audit, values = made.watch.audit, np.frombuffer(scores, np.float32)
    source, reason, certified = why
    return Record(
        id=made.decision_id,
        time=now,
        input=hashed,
        model=made.model.digest,
        rule=made.watch.rule,
        scores=values.astype("<f4").tobytes(),
        threshold=made.threshold,
        audit_rate=None if audit is None else audit.rate,
        audit_key=made.watch.key_id,
        decision=made.decision,
        outcome=Outcome(
            source=source,
            reason=reason,
            certified=certified,
            index=int(values.argmax()),
            cloud=cloud,
            missing=missing,
            bytes_sent=0 if said is None else said.bytes_sent,
            timing=timing,
        ),
    )
