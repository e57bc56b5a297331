"""From a bundle's path to a hybrid model, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from edge_sdk.cascade.control import Budget
from edge_sdk.client.cache import Cache
from edge_sdk.client.cloud import Cloud
from edge_sdk.client.hybrid import HybridModel, Mode
from edge_sdk.client.journal import Journal
from edge_sdk.client.outbox import Outbox
from edge_sdk.client.privacy import PrivacyRule
from edge_sdk.model import load

__all__ = ["connect"]


def connect(
    path: str | Path,
    *,
    cloud: str | Sequence[str] | Cloud,
    mode: Mode = "hybrid",
    deadline: float | None = 0.150,
    threads: int = 1,
    audit_rate: float | None = None,
    audit_key: bytes | None = None,
    budget: Budget | None = None,
    journal: str | Path | Journal | None = None,
    privacy: Iterable[PrivacyRule] = (),
    cache: Cache | int | None = None,
    outbox: str | Path | Outbox | None = None,
) -> HybridModel:
    """Load a bundle to run on this device with a cloud behind it; see `HybridModel`.

    The server need not be there: the edge answers until it is.

    Raises
    ------
    InputError, BundleError, ModelError, StorageError, MissingExtraError
        As `edge_sdk.load` and `HybridModel` do.
    """
    edge = load(path, threads=threads)
    try:
        return HybridModel(
            edge,
            cloud,
            mode=mode,
            deadline=deadline,
            audit_rate=audit_rate,
            audit_key=audit_key,
            budget=budget,
            journal=journal,
            privacy=privacy,
            cache=cache,
            outbox=outbox,
        )
    except BaseException:
        edge.close()
        raise
