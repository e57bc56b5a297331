"""Train a teacher: frames, rows or sound in, float32 logits out, mixed precision in between.

The model's first layer is the processing specification, so that what the device must repeat is
part of what was trained. `train` is reproducible: the same splits, options and machine give the
same weights, in one go or resumed after any step. It seeds the global generators of Python, NumPy
and TensorFlow to that end.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from edge_sdk import canonical
from edge_sdk.cloud.training import architecture, data, evaluate, memory, recency, rules
from edge_sdk.cloud.training import precision as precisions
from edge_sdk.cloud.training import strategy as strategies
from edge_sdk.cloud.training.contract import Contract, enforce
from edge_sdk.cloud.training.options import Options
from edge_sdk.cloud.training.running import Keeping, Progress, Run, Watcher
from edge_sdk.cloud.training.schedules import cosine, schedule
from edge_sdk.cloud.training.specification import check_values, processing_for
from edge_sdk.cloud.training.stepping import Stepper
from edge_sdk.cloud.training.trained import Trained, load_trained
from edge_sdk.datasets import Dataset, Splits
from edge_sdk.errors import CompressionError
from edge_sdk.processing import ProcessingSpec
from edge_sdk.processing.keras import ProcessingLayer

__all__ = ["Options", "Progress", "Trained", "assemble", "cosine", "load_trained", "steps_for", "train"]

logger = logging.getLogger("edge_sdk.cloud.training")

BATCH = 64
STEPS = 500  # at least; every image is also seen LEAST_EPOCHS times
STEPS_QUICK = 195
LEAST_EPOCHS = 8


@memory.enough("take fewer samples (--limit), a smaller --batch, or more --parts")
def train(
    splits: Splits,
    options: Options | None = None,
    *,
    network: architecture.Architecture = architecture.teacher,
    start: Trained | None = None,
    contract: Contract | None = None,
    checkpoints: str | Path | None = None,
    every: int | None = None,
    resume: bool = False,
    watchers: Sequence[Watcher] = (),
    on_progress: Progress | None = None,
    **changes: Any,
) -> Trained:
    """Train a teacher on ``splits.train`` and measure it on validation and test.

    Parameters
    ----------
    splits
        Inputs and labels: images, rows, windows of rows or clips of sound.
    options
        How to train.
    network
        Builds the network; its output must be float32 logits.
    start
        A teacher of the same network and classes: its weights and its processing are where training begins.
    contract
        What the data must be like; see `contract.Contract`.
    checkpoints, every, resume
        A folder for the state of this run, how many steps may be lost (None: those of a minute), and
        whether to go on with what is there.
    watchers
        Called after every epoch; see `tracking`.
    on_progress
        Called with ``("train", steps done, steps in all)``.
    **changes
        Fields of `Options`, in place of those of ``options``.

    Raises
    ------
    CompressionError
        If the devices, the policy, the batch or the network do not fit, training diverges, or memory is not enough.
    DataError
        If the data break their contract, or no processing fits them.
    StorageError
        If a checkpoint cannot be written; those before are still there.
    """
    options = replace(options or Options(), **changes)
    plan = strategies.choose(options.strategy, strategies.devices(options.tpu))
    policy = precisions.policy(options.precision, plan.accelerator)
    distribution = strategies.build(plan)  # before TensorFlow computes anything
    profile = None if contract is None else enforce(contract, splits)
    used, weights = recency.recent(splits.train, window=options.window, half_life=options.half_life)
    processing = _processing(splits, used, options) if start is None else start.processing
    check_values(splits, processing)
    pixels = data.frames(used, processing)
    batch, steps, epochs = _sizes(options, len(pixels), plan, distribution.num_replicas_in_sync)

    def build() -> keras.Model:
        shape = processing.output_shape[1:]
        body = architecture.checked(network(shape, len(splits.classes), policy), shape, len(splits.classes))
        return assemble(body, processing, used)

    keras.utils.set_random_seed(options.seed)
    with distribution.scope():
        model = build()
        precisions.require_float32_output(model)
        policy = precisions.used(model, options.precision, policy)
        if start is not None:
            _take_over(model, start, splits)
        rate = schedule(options.schedule, options.rate, steps * epochs, warmup=options.warmup)
        optimizer = precisions.scaled(keras.optimizers.AdamW(rate, weight_decay=options.decay), policy)
        stepper = Stepper(model, optimizer, distribution, batch=batch, epoch=steps, parts=options.parts)
    # a model that several devices share answers through a copy on one
    bare = model if plan.kind == "one" else build()

    def scores(part: Dataset) -> Any:
        if bare is not model:
            bare.set_weights(model.get_weights())
        return evaluate.logits_of(bare, data.frames(part, processing))

    def validate() -> float:
        return evaluate.accuracy(scores(splits.validation), splits.validation.labels)["value"]

    lineage = {
        "code": metadata.version("edge-sdk"),
        "data": splits.spec,
        "splits": splits.digests,
        "split_seed": splits.seed,
        "seed": options.seed,
        "epochs": epochs,
        "batch": batch,
        "options": options.deciding,
        "network": architecture.name_of(network),
        "start": None if start is None else start.digest,
    }
    run = Run(
        stepper,
        epochs=epochs,
        patience=options.patience,
        validate=validate if watchers or options.patience is not None else None,
        keeping=None if checkpoints is None else Keeping(Path(checkpoints), every, resume, plan.chief),
        facts=_plain({**options.deciding, **lineage, "options": None, "policy": policy}),
    )

    def source(first: int, part: tuple[int, int]) -> Any:
        found = data.batches(
            pixels,
            used.labels,
            batch=batch,
            seed=options.seed,
            augmentation=data.augmentation_for(used),
            weights=weights,
            start=first,
            part=part,
        )
        rules.check_source(plan, found)
        return found

    logger.info("training %d steps of %d images with %s on %s", steps * epochs, batch, policy, plan)
    if plan.kind == "multiworker":
        stepper.agree()
    stepper.feed(source)
    run.go(on_progress, watchers)
    metrics = {
        name: evaluate.accuracy(scores(part), part.labels)
        for name, part in (("validation", splits.validation), ("test", splits.test))
    }
    lineage |= {"epochs": len(run.history), "versions": {"keras": keras.__version__, "tensorflow": tf.__version__}}
    if contract is not None and profile is not None:
        lineage["contract"] = {"digest": contract.digest, **contract.to_json(), "found": asdict(profile)}
    history = {"loss": [epoch.loss for epoch in run.history], "accuracy": [epoch.accuracy for epoch in run.history]}
    if not any(math.isnan(epoch.validation) for epoch in run.history):
        history["validation"] = [epoch.validation for epoch in run.history]
    bare = keras.Model(bare.inputs, bare.outputs, name="teacher")
    return Trained(bare, processing, splits.classes, policy, history, metrics, _plain(lineage))


def _plain(values: dict[str, Any]) -> Any:
    """Return values as they come back from JSON: lists for tuples."""
    return canonical.loads(canonical.dumps(values))


def _processing(splits: Splits, used: Dataset, options: Options) -> ProcessingSpec:
    """Choose the processing by what is used for training; where any split misses a number, one is put there."""
    parts = (getattr(splits, name) for name in splits.digests)
    floats = (np.asarray(part.images) for part in parts if not part.pictures and part.uniform)
    impute = any(values.dtype.kind == "f" and bool(np.isnan(values).any()) for values in floats)
    return processing_for(used, size=options.size, impute=impute)


def _take_over(model: keras.Model, start: Trained, splits: Splits) -> None:
    """Put the weights of another teacher into a model of the same shape."""
    if start.classes != splits.classes:
        raise CompressionError("the teacher to start from tells other classes apart than the data")
    for variable, value in zip(model.weights, start.model.get_weights(), strict=False):
        if tuple(variable.shape) != value.shape:
            raise CompressionError(
                f"the teacher to start from is another network: {variable.path} is {list(variable.shape)} here "
                f"and {list(value.shape)} there"
            )
    if len(model.weights) != len(start.model.weights):
        raise CompressionError("the teacher to start from is another network: it has another number of weights")
    model.set_weights(start.model.get_weights())


def _sizes(options: Options, count: int, plan: strategies.Plan, replicas: int) -> tuple[int, int, int]:
    """Return (batch, steps in an epoch, epochs) that the devices can share."""
    epochs = 1 if options.quick else LEAST_EPOCHS
    at_least = STEPS_QUICK if options.quick else STEPS
    batch, _, _ = steps_for(count, None, at_least, replicas=replicas)
    if options.batch is not None:
        batch = options.batch
    elif plan.accelerator == "tpu":
        batch = rules.CORE_GOOD * replicas * options.parts
    else:
        shares = replicas * options.parts
        batch = max(batch // shares, 1) * shares
    if batch > count:
        raise CompressionError(f"a batch of {batch} is more than the {count} training samples: take a smaller one")
    if advice := rules.check_batch(plan, batch, replicas, parts=options.parts):
        logger.warning("%s", advice)
    steps = count // batch
    return batch, steps, options.epochs or max(math.ceil(at_least / steps), epochs)


def assemble(body: keras.Model, processing: ProcessingSpec, dataset: Dataset) -> keras.Model:
    """Put the processing layer in front of a network (named ``body``) that takes its output."""
    shape = dataset.images[0].shape if dataset.uniform else (*processing.output_shape[1:3], dataset.channels)
    kind = str(dataset.images[0].dtype)
    kept = dataset.uniform and kind in ("uint8", "int16")
    inputs = keras.Input(shape, dtype=kind if kept else "float32", name="frames")
    return keras.Model(inputs, body(ProcessingLayer(processing, dtype="float32", name="processing")(inputs)))


def steps_for(
    count: int, epochs: int | None, at_least: int, *, least_epochs: int = 1, replicas: int = 1
) -> tuple[int, int, int]:
    """Return (batch size, steps in an epoch, epochs) for ``count`` training images.

    Batches are of 64 on each replica, but of a sixteenth of a small data set, down to 8.

    Parameters
    ----------
    count
        Number of training images, at least 1.
    epochs
        As the caller wishes, or None: enough for ``at_least`` steps and ``least_epochs`` epochs.
    at_least, least_epochs
        See ``epochs``.
    replicas
        Copies of the model that share a batch.
    """
    batch = min(min(BATCH, max(count // 16, 8)) * replicas, count)
    steps = count // batch
    return batch, steps, epochs or max(math.ceil(at_least / steps), least_epochs)


def fit(
    model: keras.Model,
    source: Any,
    *,
    steps: int,
    epochs: int,
    stage: str,
    on_progress: Progress | None,
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
) -> dict[str, list[float]]:
    """Run ``model.fit`` quietly, report steps, and refuse a result that is not finite."""
    watchers = [*callbacks, _Steps(stage, steps * epochs, on_progress)]
    fitted = model.fit(source, epochs=epochs, steps_per_epoch=steps, callbacks=watchers, verbose=0, shuffle=False)
    history = {name: [float(value) for value in values] for name, values in fitted.history.items()}
    if not np.isfinite(history["loss"]).all():
        raise CompressionError(f"{stage}: the loss is no longer finite; lower the learning rate or use float32")
    return history


class _Steps(keras.callbacks.Callback):  # type: ignore[misc]
    """Passes the number of finished steps on."""

    def __init__(self, stage: str, total: int, on_progress: Progress | None) -> None:
        super().__init__()
        self.stage, self.total, self.on_progress, self.done = stage, total, on_progress, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.done += 1
        if self.on_progress is not None:
            self.on_progress(self.stage, self.done, self.total)
