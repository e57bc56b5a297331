"""What the device's app writes down of every call: one structured array a run, in a plain ``.npy`` file."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from edge_sdk.files import open_durably
from edge_sdk.types import Classification, Reason, Source

__all__ = ["DTYPE", "REASONS", "SOURCES", "failed", "read", "row", "write"]

SOURCES: tuple[str, ...] = get_args(Source)
REASONS: tuple[str, ...] = get_args(Reason)

DTYPE = np.dtype(
    [
        ("at", "f8"),  # seconds on the machine's monotonic clock, when the call began
        ("latency_ms", "f8"),  # as the caller saw it
        ("withheld_ms", "f8"),  # of the processor, which others had meanwhile: added up over the app's threads
        ("item", "i4"),  # which test image
        ("index", "i4"),  # the answer; -1 where the call raised
        ("source", "i1"),  # position in SOURCES; -1 where the call raised
        ("reason", "i1"),  # position in REASONS; -1 where the call raised
        ("confidence", "f8"),
        ("certified", "?"),
        ("version", "U32"),  # of the edge model in use
    ]
)

Row = tuple[float, float, float, int, int, int, int, float, bool, str]


def row(at: float, latency_ms: float, withheld_ms: float, item: int, answer: Classification, version: str) -> Row:
    """Return the record of a call that was answered."""
    return (
        at,
        latency_ms,
        withheld_ms,
        item,
        answer.index,
        SOURCES.index(answer.source),
        REASONS.index(answer.reason),
        answer.confidence,
        answer.certified,
        version,
    )


def failed(at: float, latency_ms: float, withheld_ms: float, item: int, version: str) -> Row:
    """Return the record of a call that raised."""
    return (at, latency_ms, withheld_ms, item, -1, -1, -1, 0.0, False, version)


def write(path: Path, rows: list[Row]) -> None:
    """Write the records of a run."""
    with open_durably(path) as stream:
        np.save(stream, np.array(rows, dtype=DTYPE), allow_pickle=False)


def read(path: Path) -> NDArray[np.void]:
    """Read the records of a run."""
    return np.asarray(np.load(path, allow_pickle=False))
