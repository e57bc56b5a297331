"""The samples that compression steps train on and look at, and which models they fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edge_sdk.errors import CompressionError
from edge_sdk.processing import ProcessingSpec
from edge_sdk.processing.keras import ProcessingLayer

__all__ = ["FittingData", "check_model"]


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
    weights
        How much each sample counts in the loss, ``[n]`` of mean 1; None: all the same.

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
    weights: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        missing = self.processing is not None and self.processing.modality == "table"  # that puts something there
        _check_samples("the data", self.inputs, self.labels, missing=missing)
        if self.weights is not None:
            _check_weights(self.weights, len(self.inputs))
        if self.validation_inputs is not None:
            _check_samples("the validation data", self.validation_inputs, self.validation_labels, missing=missing)
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


def _check_samples(what: str, inputs: npt.NDArray[Any], labels: npt.NDArray[Any] | None, *, missing: bool) -> None:
    if not isinstance(inputs, np.ndarray) or inputs.ndim < 2 or inputs.dtype.kind not in "uif":
        raise CompressionError(f"{what} are not one array [n, ...] of numbers; stack them with numpy.stack")
    if not len(inputs):
        raise CompressionError(f"{what} are empty; a step needs samples")
    if inputs.dtype.kind == "f":
        fine = ~np.isinf(inputs) if missing else np.isfinite(inputs)
        wrong = np.flatnonzero(~fine.all(axis=tuple(range(1, inputs.ndim))))
        if len(wrong):
            raise CompressionError(
                f"{what}: sample {wrong[0]} and {len(wrong) - 1} more have NaN or infinity; drop them"
            )
    if labels is not None:
        if len(labels) != len(inputs):
            raise CompressionError(f"{what} are {len(inputs)} samples with {len(labels)} labels; give one for each")
        if labels.dtype.kind not in "uif" or (labels.dtype.kind == "f" and not np.isfinite(labels).all()):
            raise CompressionError(f"{what} have labels that are not finite numbers; give positions of the classes")


def _check_weights(weights: npt.NDArray[Any], count: int) -> None:
    if weights.shape != (count,) or weights.dtype.kind != "f":
        raise CompressionError(
            f"the weights of samples are {weights.dtype} {list(weights.shape)}; expected {count} floats"
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise CompressionError("the weights of samples should be finite, at least 0, and not all 0")


def _shape(array: npt.NDArray[Any]) -> str:
    return _extents(array.shape[1:])


def _extents(shape: tuple[int | None, ...]) -> str:
    return "[n, " + ", ".join("?" if extent is None else str(extent) for extent in shape) + "]"
