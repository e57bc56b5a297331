"""Seeded inputs for a specification: what a model is packed and tried with when there is nothing real."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.processing.grammar import Modality
from edge_sdk.processing.spec import ProcessingSpec

__all__ = ["samples"]


def samples(spec: ProcessingSpec, count: int = 4, seed: int = 0) -> tuple[NDArray[Any], ...]:
    """Return raw inputs that a specification takes, the same ones for a seed.

    Parameters
    ----------
    spec
        What is to take them.
    count
        How many.
    seed
        Of the random generator.

    Returns
    -------
    For images, uint8 [height, width, channels], a little larger than the model's input: gradients and noise.
    For audio, float32 [samples]: tones over noise. For tables, float32 [columns] or [length, columns]: rows as
    the constants of the specification expect them, with gaps where it fills them.
    """
    rng = np.random.default_rng(seed)
    return tuple(_MAKERS[spec.modality](spec, rng) for _ in range(count))


def _frame(spec: ProcessingSpec, rng: np.random.Generator) -> NDArray[np.uint8]:
    channels = spec.channels
    rows, columns = np.mgrid[0 : spec.target.height + 7, 0 : spec.target.width + 5]
    slopes, noise = rng.uniform(-4, 4, (2, channels)), rng.normal(0, 20, (*rows.shape, channels))
    smooth = 128 + rows[..., None] * slopes[0] + columns[..., None] * slopes[1]
    frame: NDArray[np.uint8] = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    return frame


def _clip(spec: ProcessingSpec, rng: np.random.Generator) -> NDArray[Any]:
    from edge_sdk.processing.audio import audio_sample

    return audio_sample(spec, rng)


def _table(spec: ProcessingSpec, rng: np.random.Generator) -> NDArray[Any]:
    from edge_sdk.processing.tables import table_sample

    return table_sample(spec, rng)


_MAKERS: dict[Modality, Callable[[ProcessingSpec, np.random.Generator], NDArray[Any]]] = {
    "image": _frame,
    "audio": _clip,
    "table": _table,
}
