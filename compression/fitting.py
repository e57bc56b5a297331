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
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, TypeVar, get_args

import keras
import numpy as np
import numpy.typing as npt

from edge_sdk.cloud.training import data as pipelines
from edge_sdk.cloud.training import loop
from edge_sdk.cloud.training.data import Augmentation
from edge_sdk.errors import CompressionError
from edge_sdk.processing import ProcessingSpec
from edge_sdk.processing.keras import ProcessingLayer

__all__ = [
    "Fitting",
    "FittingData",
    "Progress",
    "Step",
    "check_model",
    "copied",
    "fit",
    "layers_of",
    "loss_of",
    "options_of",
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


@dataclass(frozen=True, eq=False)
class FittingData:
    """Inputs to train on, and others to look at while choosing.

    Attributes
    ----------
    inputs
        ``[n, ...]`` of numbers: what the model takes, or what ``processing`` makes of it.
    labels
        Integers ``[n]``, positions of the classes; or numbers ``[n, ...]`` for a loss of one's own. None
        where nothing is labelled, which is enough to distil.
    validation_inputs, validation_labels
        The same of samples that nothing is trained on. None: there are none.
    processing
        Where ``inputs`` are frames as captured: the specification that makes the model's input of
        them. It is put before the model while it trains, so that augmentation changes pixels.

    Raises
    ------
    CompressionError
        Something is empty, not finite, or of another length.
    """

    inputs: npt.NDArray[Any]
    labels: npt.NDArray[Any] | None = None
    validation_inputs: npt.NDArray[Any] | None = None
    validation_labels: npt.NDArray[Any] | None = None
    processing: ProcessingSpec | None = None

    def __post_init__(self) -> None:
        _check_samples("the data", self.inputs, self.labels)
        if self.validation_inputs is not None:
            _check_samples("the validation data", self.validation_inputs, self.validation_labels)
            if self.validation_inputs.shape[1:] != self.inputs.shape[1:]:
                raise CompressionError(
                    f"the validation data are of shape {_shape(self.validation_inputs)} and those to train on of "
                    f"{_shape(self.inputs)}; give both in one shape"
                )
        elif self.validation_labels is not None:
            raise CompressionError("the validation data have labels and no inputs; give both, or neither")

    def __len__(self) -> int:
        return len(self.inputs)

    def check(self, model: keras.Model, *, labelled: bool = True) -> None:
        """Refuse data that do not fit a model.

        Parameters
        ----------
        model
            Of one input and one output.
        labelled
            Whether labels are needed.

        Raises
        ------
        CompressionError
            The model has several inputs or outputs, an open shape or weights that are not finite;
            inputs of another shape; labels that are missing or outside the model's classes.
        """
        check_model(model)
        if self.processing is not None:
            shape = tuple(self.processing.output_shape[1:])
            made = "what their processing makes of them"
        else:
            shape, made = tuple(self.inputs.shape[1:]), "the data"
        wanted = tuple(model.inputs[0].shape[1:])
        if shape != wanted:
            raise CompressionError(
                f"the model {model.name!r} takes {_extents(wanted)}, and {made} is {_extents(shape)}"
            )
        if labelled and self.labels is None:
            raise CompressionError("the data have no labels; give FittingData(labels=...), or distil, which needs none")
        classes = model.outputs[0].shape[-1]
        for what, labels in (("labels", self.labels), ("validation labels", self.validation_labels)):
            if labels is not None and np.issubdtype(labels.dtype, np.integer):
                wrong = np.flatnonzero((labels < 0) | (labels >= classes))
                if len(wrong):
                    raise CompressionError(
                        f"{what}: number {wrong[0]} is {labels[wrong[0]]}, and the model {model.name!r} has {classes} "
                        f"classes; labels are from 0 to {classes - 1}"
                    )

    def taken(self, count: int | None = None, *, validation: bool = False) -> npt.NDArray[np.float32]:
        """Return the first ``count`` inputs (None: all) as the model takes them: float32 ``[count, ...]``.

        Raises
        ------
        CompressionError
            There are no validation data.
        """
        inputs = self.validation_inputs if validation else self.inputs
        if inputs is None:
            raise CompressionError("there are no validation data; give FittingData(validation_inputs=...)")
        inputs = inputs[:count]
        if self.processing is None:
            return np.asarray(inputs, dtype=np.float32)
        layer = ProcessingLayer(self.processing.without_quantize(), dtype="float32")
        parts = [keras.ops.convert_to_numpy(layer(inputs[at : at + 256])) for at in range(0, len(inputs), 256)]
        return np.concatenate(parts).astype(np.float32, copy=False)


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


def fit(
    model: keras.Model,
    data: FittingData,
    fitting: Fitting,
    *,
    stage: str,
    on_progress: Progress | None = None,
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
    loss: Any = None,
    trainer: Callable[[keras.Model], keras.Model] | None = None,
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
        More of Keras, such as masks that are applied after each step.
    loss
        As `keras.Model.compile` takes it; None: `loss_of` the model.
    trainer
        Makes of the model, behind its processing where there is one, what is trained in its place: such
        as a distillation, which computes another loss. None: the model itself.

    Returns
    -------
    dict
        Mean ``loss`` of each epoch, and ``accuracy`` where labels are classes.

    Raises
    ------
    CompressionError
        The data do not fit the model, or the loss is no longer finite.
    """
    data.check(model, labelled=trainer is None)
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
    trained.compile(
        keras.optimizers.Adam(rate),
        loss_of(model) if loss is None else loss,
        metrics=["accuracy"] if classes and data.labels is not None else None,
    )
    source = pipelines.batches(data.inputs, labels, batch=batch, seed=fitting.seed, augmentation=fitting.augmentation)
    with _settling(model, fitting.momentum):
        history = loop.fit(
            trained,
            source,
            steps=steps,
            epochs=fitting.epochs,
            stage=stage,
            on_progress=on_progress,
            callbacks=callbacks,
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
    except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise CompressionError(
            f"the model {model.name!r} cannot be copied: {' '.join(str(error).split())}; build it of layers, by "
            "keras.Sequential or keras.Model(inputs, outputs), and give layers of your own a get_config()"
        ) from error
    return copy


def loss_of(model: keras.Model) -> keras.losses.Loss:
    """Cross-entropy with class numbers, of logits or, where the model ends in a softmax, of probabilities."""
    layer = model.outputs[0]._keras_history.operation  # noqa: SLF001 (Keras has no public way back from a tensor)
    while isinstance(layer, keras.Model):
        layer = layer.outputs[0]._keras_history.operation  # noqa: SLF001
    softmax = isinstance(layer, keras.layers.Softmax) or getattr(layer, "activation", None) is keras.activations.softmax
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


def check_model(model: keras.Model) -> None:
    """Refuse a model that no step can work on.

    Raises
    ------
    CompressionError
        It is not built, has several inputs or outputs, an open extent, or weights that are not finite.
    """
    if not getattr(model, "inputs", None) or not model.outputs:
        raise CompressionError(f"the model {model.name!r} has no inputs yet; build it, or call it once")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise CompressionError(
            f"the model {model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; "
            "steps take models of one of each: cut it with keras.Model(input, output)"
        )
    shape = tuple(model.inputs[0].shape[1:])
    if None in shape:
        raise CompressionError(
            f"the model {model.name!r} takes {_extents(shape)}, which leaves an extent open; rebuild it for one size, "
            "such as keras.Input((96, 96, 3))"
        )
    for weight in model.weights:
        if not np.isfinite(np.asarray(keras.ops.convert_to_numpy(weight), dtype=np.float64)).all():
            raise CompressionError(
                f"the weight {weight.path!r} of {model.name!r} is not finite; train with a lower rate, or in float32"
            )


def layers_of(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers that are no models, of nested models too, each once."""
    found: dict[int, keras.layers.Layer] = {}
    for layer in model.layers:
        inner = layers_of(layer) if isinstance(layer, keras.Model) else [layer]
        found |= {id(one): one for one in inner}
    return list(found.values())


@contextmanager
def _settling(model: keras.Model, momentum: float) -> Iterator[None]:
    """Let moving statistics follow faster, for as long as the model trains."""
    kept = [
        (layer, layer.momentum)
        for layer in layers_of(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.momentum > momentum
    ]
    for layer, _ in kept:
        layer.momentum = momentum
    try:
        yield
    finally:
        for layer, own in kept:
            layer.momentum = own


def _check_samples(what: str, inputs: npt.NDArray[Any], labels: npt.NDArray[Any] | None) -> None:
    if not isinstance(inputs, np.ndarray) or inputs.ndim < 2 or inputs.dtype.kind not in "uif":
        raise CompressionError(f"{what} are not one array [n, ...] of numbers; stack them with numpy.stack")
    if not len(inputs):
        raise CompressionError(f"{what} are empty; a step needs samples")
    if inputs.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(inputs).all(axis=tuple(range(1, inputs.ndim))))
        if len(wrong):
            raise CompressionError(
                f"{what}: sample {wrong[0]} and {len(wrong) - 1} more have NaN or infinity; drop them"
            )
    if labels is not None:
        if len(labels) != len(inputs):
            raise CompressionError(f"{what} are {len(inputs)} samples with {len(labels)} labels; give one for each")
        if labels.dtype.kind not in "uif" or (labels.dtype.kind == "f" and not np.isfinite(labels).all()):
            raise CompressionError(f"{what} have labels that are not finite numbers; give positions of the classes")


def _shape(array: npt.NDArray[Any]) -> str:
    return _extents(array.shape[1:])


def _extents(shape: tuple[int | None, ...]) -> str:
    return "[n, " + ", ".join("?" if extent is None else str(extent) for extent in shape) + "]"
