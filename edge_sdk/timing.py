"""How long a model takes on this device, and where the time goes."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edge_sdk.errors import InputError
from edge_sdk.frames import MAX_PIXELS
from edge_sdk.model import EdgeModel
from edge_sdk.processing import samples

__all__ = ["Figures", "Measured", "time_model"]

_WARM_UP = 20


@dataclass(frozen=True, slots=True)
class Figures:
    """Median and 95th percentile, in milliseconds."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Where the time of a prediction goes.

    Attributes
    ----------
    pre, infer, post
        Processing, the runtime, the scores.
    total
        The whole call of `EdgeModel.predict`, as an app sees it.
    repeats
        Predictions measured.
    """

    pre: Figures
    infer: Figures
    post: Figures
    total: Figures
    repeats: int

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values; times are in milliseconds."""
        return asdict(self)


def time_model(model: EdgeModel, width: int, height: int, *, repeats: int = 300, seed: int = 0) -> Measured:
    """Predict a random input many times.

    Parameters
    ----------
    model
        What to time; it is warmed up first.
    width, height
        Of the frame, in pixels; of no matter where inputs are no images.
    repeats
        Predictions to measure.
    seed
        Of the input.

    Raises
    ------
    InputError
        A number is out of range.
    """
    if repeats < 1 or width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InputError(f"cannot time {repeats} predictions of {width} x {height} pixels; the most is {MAX_PIXELS}")
    spec = model.processor.spec
    if spec.modality == "image":
        frame = np.random.default_rng(seed).integers(0, 256, (height, width, spec.channels), dtype=np.uint8)
    else:
        (frame,) = samples(spec, 1, seed)
    for _ in range(_WARM_UP):
        model.predict(frame)
    rows = []
    for _ in range(repeats):
        start = time.perf_counter()
        timing = model.predict(frame).timing
        rows.append((timing.pre_ms, timing.infer_ms, timing.post_ms, (time.perf_counter() - start) * 1e3))
    p50, p95 = np.percentile(np.array(rows), [50, 95], axis=0)
    pre, infer, post, total = (Figures(float(middle), float(late)) for middle, late in zip(p50, p95, strict=True))
    return Measured(pre, infer, post, total, repeats)
