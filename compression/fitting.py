"""What every compression step shares: its data, how long it trains, and the training itself.

A step is a function ``step(model, data, **options) -> model``. Its options are the fields of a
frozen record, which checks them; it works on a `copied` model and never on the one it is given.
So steps are used alone or one after the other:

    pruned = prune(model, data, share=0.8)
    clustered = cluster(pruned, data, clusters=16)

Where a step is interrupted, nothing of it is left, and its input is what it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args

import keras
import numpy as np

from edge_sdk import files
from edge_sdk.cloud.training import data as pipelines
from edge_sdk.cloud.training import loop
from edge_sdk.cloud.training.data import Augmentation
from edge_sdk.compression.fakequant import FakeQuant
from edge_sdk.compression.rebuild import leaves
from edge_sdk.compression.samples import FittingData, check_model
from edge_sdk.compression.weights import Holding, Tied
from edge_sdk.errors import CompressionError, one_line
from edge_sdk.processing.keras import ProcessingLayer

__all__ = [
    "Fitting",
    "FittingData",
    "Learning",
    "Progress",
    "Step",
    "check_model",
    "copied",
    "fit",
    "loss_of",
    "options_of",
    "save",
]

Progress = Callable[[str, int, int], None]
"""Called with the stage, and how many of its steps are done and there are."""

Schedule = Literal["cosine", "constant"]
R = TypeVar("R")


class Step(Protocol):
    """One method of compression."""

    def __call__(
        self, model: keras.Model, data: FittingData, *, on_progress: Progress | None = None, **options: Any
    ) -> keras.Model:
        """Return another model; ``model`` stays as it is."""
        ...


class Learning(Protocol):
    """Another way of learning than from labels; see `distill.Guidance`."""

    def prepare(
        self, model: keras.Model, data: FittingData, fitting: Fitting
    ) -> tuple[FittingData, Callable[[keras.Model], keras.Model]]:
        """Check all; return the data to fit to, and what makes of the model, behind its processing, what is trained.

        Raises
        ------
        CompressionError
            Model and data do not fit each other, or who teaches.
        """
        ...


@dataclass(frozen=True, slots=True)
class Fitting:
    """How long and how fast to train.

    Attributes
    ----------
    epochs
        Passes over the data.
    batch
        Samples in a step; fewer where there are not so many.
    rate
        Learning rate of Adam, the highest of its schedule.
    schedule
        ``cosine``: it rises for a tenth of the steps and then falls to 0; or ``constant``.
    seed
        Decides the order, augmentation and dropout: the same seed, data, versions and machine give the
        same weights.
    augmentation
        Random changes of images; None: none.
    momentum
        The largest of BatchNormalization while training. Keras' own .99 has not settled
        after a few hundred steps, and statistics that have not settled ruin a model.
    learning
        Who teaches beside the labels; None: labels alone. Every step takes it: ``distill.Guidance(teachers=...)``
        distils while the model is pruned, clustered, narrowed or trained for int8.

    Raises
    ------
    CompressionError
        A value out of range.
    """

    epochs: int = 3
    batch: int = 64
    rate: float = 1e-3
    schedule: Schedule = "cosine"
    seed: int = 0
    augmentation: Augmentation | None = None
    momentum: float = 0.9
    learning: Learning | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise CompressionError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0.0 < self.rate < math.inf:
            raise CompressionError(f"rate is {self.rate}; it must be more than 0")
        if self.schedule not in get_args(Schedule):
            raise CompressionError(f"schedule is {self.schedule!r}; it must be {' or '.join(get_args(Schedule))}")
        if not 0.0 <= self.momentum < 1.0:
            raise CompressionError(f"momentum is {self.momentum}; it must be at least 0 and less than 1")
        if self.seed < 0:
            raise CompressionError(f"seed is {self.seed}; it must be at least 0")

    def steps(self, count: int) -> int:
        """Return how many steps the whole training of ``count`` samples takes."""
        return self.epochs * (count // min(self.batch, count))

    def check(self, data: FittingData, model: keras.Model) -> None:
        """Refuse data that do not fit a model; labels are needed where nobody else teaches.

        Raises
        ------
        CompressionError
            See `FittingData.check`.
        """
        if self.learning is None:
            data.check(model)
        else:
            replace(data, labels=None, validation_labels=None).check(model, labelled=False)


def fit(
    model: keras.Model,
    data: FittingData,
    fitting: Fitting,
    *,
    stage: str,
    on_progress: Progress | None = None,
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
    hold: bool | Holding = True,
    loss: Any = None,
) -> dict[str, list[float]]:
    """Train a model in place; a step gives its own copy.

    Parameters
    ----------
    model
        Of one input and one output, in float32.
    data, fitting
        On what, and how long.
    stage
        What `on_progress` calls it.
    on_progress
        Called after every step.
    callbacks
        More of Keras.
    hold
        Whether zeros and shared values of kernels stay, or what holds them; see `weights.Holding`.
    loss
        As `keras.Model.compile` takes it; None: `loss_of` the model, or that of `Fitting.learning`.

    Returns
    -------
    dict
        Mean ``loss`` of each epoch, and ``accuracy`` where labels are classes.

    Raises
    ------
    CompressionError
        The data do not fit the model, or the loss is no longer finite.
    """
    if fitting.learning is None:
        data.check(model)
        trainer = None
    else:
        data, trainer = fitting.learning.prepare(model, data, fitting)
    keras.utils.set_random_seed(fitting.seed)
    framed = keras.Model(model.inputs, model.outputs)  # or the model would keep this training's optimizer
    if data.processing is not None:
        inputs = keras.Input(data.inputs.shape[1:], dtype=data.inputs.dtype.name, name="frames")
        framed = keras.Model(
            inputs, model(ProcessingLayer(data.processing.without_quantize(), dtype="float32")(inputs))
        )
    trained = framed if trainer is None else trainer(framed)
    batch = min(fitting.batch, len(data))
    steps = len(data) // batch
    labels = np.zeros(len(data), np.int64) if data.labels is None else data.labels
    classes = np.issubdtype(labels.dtype, np.integer) and labels.ndim == 1
    rate = loop.cosine(fitting.rate, steps * fitting.epochs) if fitting.schedule == "cosine" else fitting.rate
    holding = hold if isinstance(hold, Holding) else Holding(model) if hold else None
    trained.compile(
        keras.optimizers.Adam(rate) if holding is None else Tied(rate, holding),
        loss_of(model) if loss is None else loss,
        metrics=["accuracy"] if classes and data.labels is not None else None,
    )
    source = pipelines.batches(
        *(data.inputs, labels),
        batch=batch,
        seed=fitting.seed,
        augmentation=fitting.augmentation,
        weights=data.weights,
    )
    with _settling(model, fitting.momentum):
        history = loop.fit(
            trained,
            source,
            steps=steps,
            epochs=fitting.epochs,
            stage=stage,
            on_progress=on_progress,
            callbacks=callbacks if holding is None else (holding, *callbacks),
        )
    check_model(model)
    return history


def copied(model: keras.Model) -> keras.Model:
    """Return a model of the same layers, names and weights that shares none of them.

    Raises
    ------
    CompressionError
        A layer cannot be rebuilt from its configuration.
    """
    try:
        copy: keras.Model = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CompressionError(
            f"the model {model.name!r} cannot be copied: {one_line(error)}; build it of layers, by "
            "keras.Sequential or keras.Model(inputs, outputs), and give layers of your own a get_config()"
        ) from error
    return copy


def save(model: keras.Model, path: Path) -> None:
    """Write a model as a ``.keras`` file, all of it or nothing.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    partial = path.with_name(f".partial-{path.name}")
    if partial.suffix != ".keras":
        raise CompressionError(f"{path} should end in .keras")
    with files.storage_errors(path):
        try:
            model.save(partial)
            files.fsync_file(partial)
            partial.replace(path)
            files.fsync_dir(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def loss_of(model: keras.Model) -> keras.losses.Loss:
    """Cross-entropy with class numbers, of logits or, where the model ends in a softmax, of probabilities."""
    layer = _last(model)
    softmax = type(layer).__name__ == "Softmax" or getattr(layer, "activation", None) is keras.activations.softmax
    return keras.losses.SparseCategoricalCrossentropy(from_logits=not softmax)


def options_of(record: type[R], options: dict[str, Any]) -> R:
    """Build a step's record of options.

    Raises
    ------
    CompressionError
        There is no such option; names those there are.
    """
    known = [field.name for field in fields(record)]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise CompressionError(f"unknown option {name!r} of {record.__name__}; there are {', '.join(known)}")
    return record(**options)


def _last(model: keras.Model) -> Any:
    """Return the layer or operation that gives a model's output; a range of int8 behind it is none."""
    tensor = model.outputs[0]
    while True:
        history = tensor._keras_history  # noqa: SLF001 (Keras has no public way back from a tensor)
        layer = history.operation
        if isinstance(layer, keras.Model):
            tensor = layer.outputs[history.tensor_index]
        elif isinstance(layer, FakeQuant):
            tensor = layer._inbound_nodes[history.node_index].input_tensors[0]  # noqa: SLF001
        else:
            return layer


@contextmanager
def _settling(model: keras.Model, momentum: float) -> Iterator[None]:
    """Let moving statistics follow faster, for as long as the model trains."""
    kept = [
        (layer, layer.momentum)
        for layer in leaves(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.momentum > momentum
    ]
    for layer, _ in kept:
        layer.momentum = momentum
    try:
        yield
    finally:
        for layer, own in kept:
            layer.momentum = own
