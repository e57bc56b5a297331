"""Train a teacher in mixed precision: `train` is the entrance, `load_trained` reads what it saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_sdk._lazy import loader

if TYPE_CHECKING:
    from edge_sdk.cloud.training.loop import Trained, load_trained, train

__all__ = ["Trained", "load_trained", "train"]

__getattr__ = loader(__name__, dict.fromkeys(__all__, "edge_sdk.cloud.training.loop"))
