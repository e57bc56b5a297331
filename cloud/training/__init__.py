"""Train a teacher in mixed precision: `train` is the entrance, `load_trained` reads what it saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_sdk._lazy import loader

if TYPE_CHECKING:
    from edge_sdk.cloud.training.loop import Trained, load_trained, train

__all__ = ["Trained", "load_trained", "train"]

if not TYPE_CHECKING:  # or any name would pass for one that is there
    __getattr__ = loader(__name__, dict.fromkeys(__all__, "edge_sdk.cloud.training.loop"))
