"""Train a teacher: frames in, float32 logits out, mixed precision in between.

The model's first layer is the processing specification, so that what the device must repeat is
part of what was trained. `train` is reproducible: the same splits, seed and machine give the
same weights. It seeds the global generators of Python, NumPy and TensorFlow to that end.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from edge_sdk import canonical, files
from edge_sdk.cloud.training import architecture, data, evaluate
from edge_sdk.cloud.training import precision as precisions
from edge_sdk.cloud.training import strategy as strategies
from edge_sdk.datasets import Dataset, Splits
from edge_sdk.errors import CompressionError, EdgeSdkError
from edge_sdk.processing import ProcessingSpec
from edge_sdk.processing.keras import ProcessingLayer

__all__ = ["Progress", "Trained", "assemble", "cosine", "load_trained", "steps_for", "train"]

logger = logging.getLogger("edge_sdk.cloud.training")

Progress = Callable[[str, int, int], None]

MODEL_FILE = "model.keras"
RECORD_FILE = "training.json"
FORMAT = 1

BATCH = 64
STEPS = 500  # at least; every image is also seen LEAST_EPOCHS times
STEPS_QUICK = 195
LEAST_EPOCHS = 8
PEAK_RATE = 4e-3


@dataclass(frozen=True, eq=False)
class Trained:
    """A teacher and how it came about.

    Attributes
    ----------
    model
        Frames (``[n, H, W, C]``, uint8 or already resized float32) → float32 logits.
    processing
        The specification that the model's first layer carries out.
    classes
        Names of the classes, in the order of the logits.
    policy
        Keras dtype policy it was trained with.
    history
        Mean ``loss`` and ``accuracy`` of each epoch, on augmented training batches.
    metrics
        ``validation`` and ``test`` accuracy with intervals; see `evaluate.accuracy`.
    lineage
        Data specification, digest of each split, seed, epochs, versions.
    """

    model: keras.Model
    processing: ProcessingSpec
    classes: tuple[str, ...]
    policy: str
    history: dict[str, list[float]]
    metrics: dict[str, dict[str, float]]
    lineage: dict[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> keras.Model:
        """The network without its processing layer: processed tensor → logits."""
        return self.model.get_layer("body")

    @property
    def digest(self) -> str:
        """Digest of the weights."""
        return evaluate.model_digest(self.model)

    def save(self, folder: str | Path) -> Path:
        """Write ``model.keras`` and ``training.json``; where only the first is new, `load_trained` refuses the folder.

        Raises
        ------
        StorageError
            If the folder cannot be written.
        """
        target = files.make_folder(Path(folder))
        record = {
            "format": FORMAT,
            "classes": list(self.classes),
            "digest": self.digest,
            "history": self.history,
            "lineage": self.lineage,
            "metrics": self.metrics,
            "policy": self.policy,
            "processing": self.processing.to_json(),
        }
        partial = target / f".partial-{MODEL_FILE}"
        with files.storage_errors(target):
            try:
                self.model.save(partial)
                files.fsync_file(partial)
                partial.replace(target / MODEL_FILE)
            finally:
                partial.unlink(missing_ok=True)
        files.write_durably(target / RECORD_FILE, canonical.dumps(record))
        return target


def train(
    splits: Splits,
    *,
    epochs: int | None = None,
    quick: bool = False,
    seed: int = 0,
    precision: precisions.Wanted = "auto",
    strategy: strategies.Wanted = "auto",
    tpu: str | None = None,
    size: int | None = None,
    network: architecture.Architecture = architecture.teacher,
    on_progress: Progress | None = None,
) -> Trained:
    """Train a teacher on ``splits.train`` and measure it on validation and test.

    Parameters
    ----------
    splits
        Images and labels.
    epochs
        Passes over the training images; by default enough for about 500 steps (``quick``: 195).
    quick
        Fewer steps: good enough to try things out.
    seed
        Decides initial weights, order and augmentation.
    precision
        ``auto`` or a Keras dtype policy; see `precision.policy`.
    strategy, tpu
        Which devices; see `strategy.choose`.
    size
        Side in pixels to resize images to; see `data.processing_for`.
    network
        Builds the network; its output must be float32.
    on_progress
        Called with ``("train", steps done, steps in all)``.

    Raises
    ------
    CompressionError
        If the devices, the policy or the network do not fit, or training diverges.
    """
    if epochs is not None and epochs < 1:
        raise CompressionError(f"epochs is {epochs}; it must be at least 1")
    plan = strategies.choose(strategy, strategies.devices(tpu))
    policy = precisions.policy(precision, plan.accelerator)
    distribution = strategies.build(plan)
    processing = data.processing_for(splits.train, size=size)
    pixels = data.frames(splits.train, processing)
    batch, steps, epochs = steps_for(
        len(pixels),
        epochs,
        STEPS_QUICK if quick else STEPS,
        least_epochs=1 if quick else LEAST_EPOCHS,
        replicas=distribution.num_replicas_in_sync,
    )

    keras.utils.set_random_seed(seed)
    with distribution.scope():
        model = assemble(network(_shape(processing), len(splits.classes), policy), processing, splits.train)
        precisions.require_float32_output(model)
        model.compile(
            keras.optimizers.AdamW(cosine(PEAK_RATE, steps * epochs), weight_decay=1e-4),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    logger.info("training %d steps of %d images with %s on %s", steps * epochs, batch, policy, plan)
    source = data.batches(
        pixels, splits.train.labels, batch=batch, seed=seed, augmentation=data.augmentation_for(splits.train)
    )
    history = fit(model, source, steps=steps, epochs=epochs, stage="train", on_progress=on_progress)
    metrics = {
        name: evaluate.accuracy(evaluate.logits_of(model, data.frames(part, processing)), part.labels)
        for name, part in (("validation", splits.validation), ("test", splits.test))
    }
    lineage = {
        "code": metadata.version("edge-sdk"),
        "data": splits.spec,
        "splits": splits.digests,
        "split_seed": splits.seed,
        "seed": seed,
        "epochs": epochs,
        "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
    }
    bare = keras.Model(model.inputs, model.outputs, name="teacher")  # without the optimizer's state
    return Trained(bare, processing, splits.classes, policy, history, metrics, lineage)


def load_trained(folder: str | Path) -> Trained:
    """Read what `Trained.save` wrote.

    Raises
    ------
    CompressionError
        If the folder does not hold a model of ``edge-sdk train``, or it is damaged.
    """
    source = Path(folder)
    try:
        record = canonical.loads((source / RECORD_FILE).read_bytes())
        if record["format"] != FORMAT:
            raise CompressionError(f"{source / RECORD_FILE}: format {record['format']}, this version reads {FORMAT}")
        model = keras.saving.load_model(
            source / MODEL_FILE, custom_objects={"ProcessingLayer": ProcessingLayer}, compile=False
        )
        trained = Trained(
            model,
            ProcessingSpec.from_json(record["processing"]),
            tuple(record["classes"]),
            record["policy"],
            record["history"],
            record["metrics"],
            record["lineage"],
        )
    except OSError as error:
        raise CompressionError(f"{source} is not a folder of 'edge-sdk train': {error.strerror or error}") from error
    except (EdgeSdkError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, CompressionError):
            raise
        raise CompressionError(f"{source} does not hold a usable teacher: {error}") from error
    if record["digest"] != trained.digest:
        raise CompressionError(f"{source / MODEL_FILE} is not the model that {RECORD_FILE} describes")
    return trained


def assemble(body: keras.Model, processing: ProcessingSpec, dataset: Dataset) -> keras.Model:
    """Put the processing layer in front of a network (named ``body``) that takes its output."""
    shape = dataset.images[0].shape if dataset.uniform else (*_shape(processing)[:2], dataset.channels)
    inputs = keras.Input(shape, dtype="uint8" if dataset.uniform else "float32", name="frames")
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


def cosine(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Learning rate that rises for a tenth of the steps, then falls to 0 as a cosine."""
    rise = max(steps // 10, 1)
    return keras.optimizers.schedules.CosineDecay(
        peak / 40, max(steps - rise, 1), warmup_target=peak, warmup_steps=rise
    )


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


def _shape(processing: ProcessingSpec) -> tuple[int, int, int]:
    _, height, width, channels = processing.output_shape
    return height, width, channels
