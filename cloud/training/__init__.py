"""Train a teacher in mixed precision: `train` is the entrance, `load_trained` reads what it saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_sdk._lazy import loader

if TYPE_CHECKING:
    from edge_sdk.cloud.training.loop import train
    from edge_sdk.cloud.training.options import Options
    from edge_sdk.cloud.training.trained import Trained, load_trained

__all__ = ["Options", "Trained", "load_trained", "train"]

if not TYPE_CHECKING:  # or any name would pass for one that is there
    __getattr__ = loader(
        __name__,
        {
            "Options": "edge_sdk.cloud.training.options",
            "Trained": "edge_sdk.cloud.training.trained",
            "load_trained": "edge_sdk.cloud.training.trained",
            "train": "edge_sdk.cloud.training.loop",
        },
    )
