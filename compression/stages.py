"""The stages of the pipeline that train: each takes its time from the options, and its frames from the splits."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import keras
import numpy as np

from edge_sdk.cloud.training import data, loop
from edge_sdk.compression import distill
from edge_sdk.compression.cluster import cluster
from edge_sdk.compression.fitting import Fitting, FittingData
from edge_sdk.compression.prune import MagnitudePruning, Pruning
from edge_sdk.compression.qat import quantize_aware
from edge_sdk.compression.quantize import to_int8_tflite
from edge_sdk.compression.report import Options
from edge_sdk.compression.weights import Holding
from edge_sdk.datasets import Splits
from edge_sdk.processing import ProcessingSpec

__all__ = ["clustered", "quantized", "teach"]

logger = logging.getLogger("edge_sdk.compression")

Progress = Callable[[str, int, int], None]

STEPS = 600
STEPS_QUICK = 220
FINE_TUNING = 0.4  # of the steps of distillation
PEAK_RATE = 5e-3
FINE_RATE = 1.5e-3
CLUSTER_RATE = 1e-3
GRID_RATE = 5e-4
REPRESENTATIVE = 300


def clustered(
    student: keras.Model, processing: ProcessingSpec, splits: Splits, options: Options, on_progress: Progress | None
) -> keras.Model:
    """Return the model with few values in each kernel."""
    fitting = _fitting(splits, options, CLUSTER_RATE, 2)
    return cluster(
        student, _samples(splits, processing), clusters=options.cluster, fitting=fitting, on_progress=on_progress
    )


def quantized(
    student: keras.Model, processing: ProcessingSpec, splits: Splits, options: Options, on_progress: Progress | None
) -> tuple[keras.Model, bytes]:
    """Return the model, on the grid of int8 where it trains on it, and its file."""
    if options.quantize == "int8-trained":
        fitting = _fitting(splits, options, GRID_RATE, 3)
        student = quantize_aware(student, _samples(splits, processing), fitting=fitting, on_progress=on_progress)
        return student, to_int8_tflite(student)
    some = splits.train.take(np.arange(min(REPRESENTATIVE, len(splits.train))))
    return student, to_int8_tflite(student, data.processed(some, processing))


def _samples(splits: Splits, processing: ProcessingSpec) -> FittingData:
    return FittingData(data.frames(splits.train, processing), splits.train.labels, processing=processing)


def _fitting(splits: Splits, options: Options, rate: float, more: int) -> Fitting:
    batch, _, epochs = loop.steps_for(len(splits.train), options.epochs, STEPS_QUICK if options.quick else STEPS)
    epochs = max(math.ceil(FINE_TUNING * epochs), 1)
    return Fitting(epochs, batch, rate, seed=options.seed + more, augmentation=data.augmentation_for(splits.train))


def teach(
    trained: loop.Trained,
    guide: loop.Trained,
    student: keras.Model,
    splits: Splits,
    options: Options,
    *,
    share: float,
    on_progress: Progress | None,
) -> None:
    """Fit the student beside the teacher; with a ``share`` to prune, shorter and with pruning."""
    pixels = data.frames(splits.train, trained.processing)
    batch, steps, epochs = loop.steps_for(len(pixels), options.epochs, STEPS_QUICK if options.quick else STEPS)
    if share:
        epochs = max(math.ceil(FINE_TUNING * epochs), 1)
    framed = loop.assemble(student, trained.processing, splits.train)
    trainer = distill.Distillation(framed, guide.model, temperature=options.temperature, alpha=options.alpha)
    trainer.compile(
        keras.optimizers.Adam(loop.cosine(FINE_RATE if share else PEAK_RATE, steps * epochs)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    source = data.batches(
        pixels,
        splits.train.labels,
        batch=batch,
        seed=options.seed + (1 if share else 0),
        augmentation=data.augmentation_for(splits.train),
    )
    callbacks: tuple[keras.callbacks.Callback, ...] = (Holding(student, values=not share),)
    if share:
        wanted = Pruning(share, pattern=options.pattern)
        callbacks += (MagnitudePruning(student, wanted, steps=steps * epochs),)
    stage = "prune" if share else "distill"
    logger.info("%s: %d steps of %d images", stage, steps * epochs, batch)
    loop.fit(trainer, source, steps=steps, epochs=epochs, stage=stage, on_progress=on_progress, callbacks=callbacks)
