"""Where a bundle comes from: its model, who taught it, data and versions, by digest."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from edge_sdk.cloud.training import evaluate, loop
from edge_sdk.compression.teaching import Prepared, Source
from edge_sdk.datasets import Splits

__all__ = ["Guide", "lineage", "taught_by"]

Guide: TypeAlias = "loop.Trained | Source"
"""Who teaches: of ``edge-sdk train``, or any other."""


def lineage(trained: loop.Trained, splits: Splits, **more: Any) -> dict[str, Any]:
    """Return the lineage of a bundle, as JSON-compatible values."""
    return {
        "code": trained.lineage.get("code"),
        "data": splits.spec,
        "splits": splits.digests,
        "split_seed": splits.seed,
        "teacher": {"digest": trained.digest, "policy": trained.policy, **_of(trained.lineage, "seed", "epochs")},
        "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
        **more,
    }


def taught_by(guides: Sequence[Guide]) -> dict[str, Any]:
    """Return who taught a model beside labels: digests of weights, or names of files."""
    names = [_named(guide) for guide in guides]
    return {"distilled_from": names[0] if len(names) == 1 else names} if names else {}


def _named(guide: Guide) -> str:
    if isinstance(guide, loop.Trained):
        return guide.digest
    model = guide.model if isinstance(guide, Prepared) else guide
    if isinstance(model, keras.Model):
        return evaluate.model_digest(model)
    if isinstance(model, str | Path) and Path(model).is_file():
        return f"sha256:{sha256(Path(model).read_bytes()).hexdigest()}"
    return type(model).__name__


def _of(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}
