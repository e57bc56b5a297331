"""Learning rates over the steps of a run: a rise, then a cosine, steps, inverse time, or none."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from edge_sdk.cloud.training.options import Schedule

__all__ = ["cosine", "schedule"]

FLOOR = 40  # the rise begins at this part of the peak
STEPS_AT = (0.5, 0.75)  # shares of the steps after which the rate falls to a tenth
FALL = 0.1


def schedule(kind: Schedule, peak: float, steps: int, *, warmup: float = 0.1) -> Any:
    """Return the learning rate of each step.

    Parameters
    ----------
    kind
        What follows the rise: ``cosine`` falls to 0; ``step`` falls to a tenth after half and
        again after three quarters of the steps; ``inverse`` is ``peak / (1 + 9 t)`` at the share
        ``t`` of the steps; ``constant`` stays.
    peak
        The highest rate.
    steps
        Number of updates in the run.
    warmup
        Share of them over which the rate rises, in a line from a fortieth of the peak.

    Returns
    -------
    keras.optimizers.schedules.LearningRateSchedule or float
    """
    rise = max(int(warmup * steps), 1) if warmup else 0
    left = max(steps - rise, 1)
    if kind == "cosine":
        if not rise:
            return keras.optimizers.schedules.CosineDecay(peak, left)
        return keras.optimizers.schedules.CosineDecay(peak / FLOOR, left, warmup_target=peak, warmup_steps=rise)
    if kind == "step":
        boundaries = [int(share * left) for share in STEPS_AT]
        after: Any = keras.optimizers.schedules.PiecewiseConstantDecay(
            boundaries, [peak * FALL**fallen for fallen in range(len(STEPS_AT) + 1)]
        )
    elif kind == "inverse":
        after = keras.optimizers.schedules.InverseTimeDecay(peak, decay_steps=left, decay_rate=1 / FALL - 1)
    else:
        after = keras.optimizers.schedules.PiecewiseConstantDecay([steps], [peak, peak])
    return _Rise(after, peak, rise) if rise else after


def cosine(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Learning rate that rises for a tenth of the steps, then falls to 0 as a cosine."""
    return schedule("cosine", peak, steps, warmup=0.1)


class _Rise(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A line up to the peak, then another schedule from its beginning."""

    def __init__(self, after: Any, peak: float, steps: int) -> None:
        super().__init__()
        self.after, self.peak, self.steps = after, peak, steps

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        low = self.peak / FLOOR
        rising = low + (self.peak - low) * step / self.steps
        return ops.where(step < self.steps, rising, self.after(ops.maximum(step - self.steps, 0.0)))

    def get_config(self) -> dict[str, Any]:
        return {"after": self.after, "peak": self.peak, "steps": self.steps}
