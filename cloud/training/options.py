"""What can be said about a training run, in one record that the command, the search and the lineage share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from edge_sdk.cloud.training import precision as precisions
from edge_sdk.cloud.training import strategy as strategies
from edge_sdk.errors import CompressionError

__all__ = ["Options", "Schedule"]

Schedule = Literal["cosine", "step", "inverse", "constant"]


@dataclass(frozen=True, slots=True)
class Options:
    """How to train.

    Attributes
    ----------
    epochs
        Passes over the training images; None: enough for about 500 steps (``quick``: 195).
    quick
        Fewer steps: good enough to try things out.
    seed
        Decides initial weights, order and augmentation.
    precision
        ``auto`` or a Keras dtype policy; see `precision.policy`.
    strategy, tpu
        Which devices; see `strategy.choose`. They change how fast the result comes, not which.
    size
        Side in pixels to resize images to; see `specification.processing_for`.
    batch
        Images in one step, over all devices; None: 64 a device (128 a TPU core), fewer of small data.
    parts
        Gradients of a step are computed over its batch in so many parts and added up, which
        takes as much less memory.
    rate
        Highest learning rate.
    schedule, warmup
        How the rate goes on, and over which share of the steps it rises before; see `schedules.schedule`.
    decay
        Weight decay of AdamW.
    patience
        Stop after so many epochs without better validation accuracy, and take the best; None: go on to the end.
    window, half_life
        In days, of data that say when they were taken: leave out what is older than the newest by more
        than ``window``, and let what is older by ``half_life`` weigh half; see `recency.recent`.

    Raises
    ------
    CompressionError
        A value out of range.
    """

    epochs: int | None = None
    quick: bool = False
    seed: int = 0
    precision: precisions.Wanted = "auto"
    strategy: strategies.Wanted = "auto"
    tpu: str | None = None
    size: int | None = None
    batch: int | None = None
    parts: int = 1
    rate: float = 4e-3
    schedule: Schedule = "cosine"
    warmup: float = 0.1
    decay: float = 1e-4
    patience: int | None = None
    window: float | None = None
    half_life: float | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "parts", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CompressionError(f"{name} is {value}; it must be at least 1")
        for name in ("rate", "window", "half_life"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < float("inf"):
                raise CompressionError(f"{name} is {value}; it must be a number above 0")
        if not 0.0 <= self.decay < 1.0:
            raise CompressionError(f"decay is {self.decay}; it must be at least 0 and less than 1")
        if not 0.0 <= self.warmup < 1.0:
            raise CompressionError(f"warmup is {self.warmup}; it must be a share of the steps, from 0 to below 1")
        if self.schedule not in get_args(Schedule):
            raise CompressionError(
                f"unknown schedule {self.schedule!r}: expected one of {', '.join(get_args(Schedule))}"
            )
        if not 0 <= self.seed < 1 << 32:
            raise CompressionError(f"seed is {self.seed}; it must be a number from 0 to {(1 << 32) - 1}")

    @property
    def deciding(self) -> dict[str, Any]:
        """What decides the result: all but the devices. JSON-compatible."""
        return {name: value for name, value in asdict(self).items() if name not in ("strategy", "tpu")}
