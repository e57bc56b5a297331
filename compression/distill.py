"""Knowledge distillation: a small student learns from labels and from what teachers answer.

`distill` is the step. Teachers are Keras models, ONNX files, or arrays of logits that were computed
before; several teach together. Hints let the student's insides follow a teacher's, too.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015); Romero et al.,
"FitNets: Hints for Thin Deep Nets" (2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers, ops

from edge_sdk.compression.fitting import Fitting, FittingData, Progress, copied, fit, loss_of, options_of
from edge_sdk.compression.teaching import Ask, Source, answers, ask, followed, logits_in
from edge_sdk.errors import CompressionError
from edge_sdk.processing.keras import ProcessingLayer

__all__ = ["Distillation", "Distilling", "Guidance", "Hint", "distill", "student"]

BATCHNORM_MOMENTUM = 0.9
LAST_SIDE = 4
WIDEST = 64
DENSE = (32, 16)
UNLABELLED = -1
LEAST = 1e-7


@dataclass(frozen=True, slots=True)
class Hint:
    """A place in the student that follows a place in the teacher.

    Attributes
    ----------
    student, teacher
        Names of layers; of an ONNX teacher, the name of a tensor. Where the widths differ, a linear
        projection between them is trained and then thrown away; where the sides of pictures differ,
        the larger ones are averaged down.
    weight
        Of its squared error in the loss; what each place says of a sample is first brought to unit length.
    """

    student: str
    teacher: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.weight < math.inf:
            raise CompressionError(f"the hint for {self.student!r} has weight {self.weight}; it must be more than 0")


@dataclass(frozen=True, eq=False, kw_only=True)
class Guidance:
    """Learning from teachers, and from labels where there are any; goes into `Fitting.learning` of every step.

    Without augmentation and hints each teacher is asked once about each sample, before the training;
    otherwise in every step, about the samples as they are changed.

    Attributes
    ----------
    teachers
        One or several; several teach the mean of their probabilities.
    temperature
        T, at least 1: how much the teacher's second choices count.
    alpha
        Share of the teacher in the loss, from 0 to 1; the rest is of the labels. Samples with the label
        -1, and data without labels, are taught by the teacher alone.
    hints
        Places that follow the first teacher's.

    Raises
    ------
    CompressionError
        A value out of range, or no teacher.
    """

    teachers: Sequence[Source]
    temperature: float = 3.0
    alpha: float = 0.7
    hints: tuple[Hint, ...] = ()

    def __post_init__(self) -> None:
        _check_range(self.temperature, self.alpha)
        if not self.teachers:
            raise CompressionError("there is no teacher; give at least one")
        if self.hints and not followed(self.teachers[0]):
            raise CompressionError(
                "hints follow the first teacher, which is no model here; give a Keras or an ONNX model"
            )

    def prepare(
        self, model: keras.Model, data: FittingData, fitting: Fitting
    ) -> tuple[FittingData, Callable[[keras.Model], keras.Model]]:
        """Ask what can be asked before; see `fitting.Learning`."""
        fitting.check(data, model)
        classes = int(model.outputs[0].shape[-1])
        columns = [_labels(data, classes)[:, None]]
        asked: list[Ask] = []
        for number, source in enumerate(self.teachers):
            hints = tuple(hint.teacher for hint in self.hints) if number == 0 else ()
            if isinstance(source, np.ndarray):
                if fitting.augmentation is not None:
                    raise CompressionError(
                        "logits computed before are of the samples as they are: leave augmentation out, or give the "
                        "teacher"
                    )
                columns.append(logits_in(source, data, classes))
            elif fitting.augmentation is None and not hints:
                columns.append(answers(ask(source, data, classes), data))
            else:  # first, because the first one's hints are looked for there
                asked.append(ask(source, data, classes, hints))
        features = _features(model, self.hints)

        def trainer(framed: keras.Model) -> keras.Model:
            if self.hints:
                inputs = framed.inputs[0]
                spec = data.processing
                taken = inputs if spec is None else ProcessingLayer(spec.without_quantize(), dtype="float32")(inputs)
                framed = keras.Model(inputs, features(taken))
            return Distillation(
                framed,
                asked,
                temperature=self.temperature,
                alpha=self.alpha,
                logits=loss_of(model).get_config()["from_logits"],
                followers=_followers(features, self.hints, asked, data),
            )

        packed = replace(
            data, labels=np.concatenate(columns, axis=1), validation_inputs=None, validation_labels=None
        )  # numbers, so that what belongs to a sample is shuffled with it
        return packed, trainer


@dataclass(frozen=True, slots=True)
class Distilling:
    """How to distil.

    Attributes
    ----------
    temperature, alpha, hints
        See `Guidance`.
    fitting
        How long to train.

    Raises
    ------
    CompressionError
        A value out of range.
    """

    temperature: float = 3.0
    alpha: float = 0.7
    hints: tuple[Hint, ...] = ()
    fitting: Fitting = field(default_factory=lambda: Fitting(epochs=10))

    def __post_init__(self) -> None:
        _check_range(self.temperature, self.alpha)


def distill(
    model: keras.Model,
    data: FittingData,
    *,
    teacher: Source | Sequence[Source],
    on_progress: Progress | None = None,
    **options: Any,
) -> keras.Model:
    """Teach a student; a step of compression.

    Parameters
    ----------
    model
        The student, whose output is logits or ends in a softmax. It is not changed. It may have been
        trained before: pruned and narrowed models recover this way.
    data
        What to train on. Labels may miss (None), or be -1 for some samples.
    teacher
        One or several.
    on_progress
        Called with (``distill``, steps done, steps in all).
    **options
        Fields of `Distilling`.

    Returns
    -------
    keras.Model
        The taught student.

    Raises
    ------
    CompressionError
        If an option is out of range, student, teachers and data do not fit each other, or the loss
        is no longer finite.
    """
    chosen = options_of(Distilling, options)
    teachers: Sequence[Source] = teacher if isinstance(teacher, list | tuple) else [teacher]
    guidance = Guidance(
        teachers=teachers, temperature=chosen.temperature, alpha=chosen.alpha, hints=tuple(chosen.hints)
    )
    fitting = replace(chosen.fitting, learning=guidance)
    fitting.check(data, model)
    result = copied(model)
    fit(result, data, fitting, stage="distill", on_progress=on_progress)
    return result


class Distillation(keras.Model):  # type: ignore[misc]
    """Trains a student; calling it calls the student.

    The loss is ``alpha · T² · KL(teachers ‖ student at temperature T) + (1 - alpha) · loss(labels)``, and
    that of the hints; T² keeps the gradients' size independent of T. It is fitted to labels ``[batch]``,
    or to float32 ``[batch, 1 + teachers · classes]`` of labels and known logits.

    Parameters
    ----------
    student
        Gives logits; with followers, also what they follow with.
    teacher
        A Keras model of the same inputs that gives logits, which is left as it is; or what asks several.
    temperature, alpha
        See `Distilling`.
    logits
        Whether the student gives logits; it gives probabilities otherwise.
    followers
        Of the hints.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model | Sequence[Ask],
        *,
        temperature: float,
        alpha: float,
        logits: bool = True,
        followers: Sequence[Follower] = (),
    ) -> None:
        super().__init__(name="distillation")
        self.student = student
        self.followers = list(followers)
        # in a closure, so that Keras does not take the teacher's weights for its own to train
        asks: Sequence[Ask] = (lambda x: [teacher(x, training=False)],) if isinstance(teacher, keras.Model) else teacher
        self._teach: Callable[[Any], list[list[Any]]] = lambda inputs: [ask(inputs) for ask in asks]
        self.temperature, self.alpha, self.logits = temperature, alpha, logits
        self.supports_jit = False  # a teacher may be a function of Python; and XLA is slow to begin on a CPU

    def build(self, input_shape: Any) -> None:
        """Do nothing: the parts are built."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the student's answer."""
        return self.student(inputs, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the loss of a batch."""
        answer, *places = y_pred if isinstance(y_pred, list | tuple) else [y_pred]
        answer = ops.cast(answer, "float32")
        if not self.logits:
            answer = ops.log(ops.maximum(answer, LEAST))
        labels, known = (y[:, 0], y[:, 1:]) if len(y.shape) == 2 and y.shape[1] > 1 else (ops.reshape(y, (-1,)), None)
        labels = ops.cast(labels, "int32")
        taught = [] if known is None else ops.split(known, known.shape[1] // answer.shape[-1], axis=-1)
        replies = self._teach(x)
        taught += [ops.cast(reply[0], "float32") for reply in replies]
        soft = sum(ops.softmax(each / self.temperature) for each in taught) / len(taught)
        logs = ops.log_softmax(answer / self.temperature)
        # cross-entropy instead of KL: they differ by the teachers' entropy, which has no gradient
        soft_loss = -ops.sum(soft * logs, axis=-1) * self.temperature**2
        hard_loss = ops.sparse_categorical_crossentropy(ops.maximum(labels, 0), answer, from_logits=True)
        alpha = ops.where(labels == UNLABELLED, 1.0, self.alpha)
        losses = alpha * soft_loss + (1.0 - alpha) * hard_loss
        loss = ops.mean(losses if sample_weight is None else losses * ops.cast(sample_weight, losses.dtype))
        for follower, place, reply in zip(self.followers, places, replies[0][1:] if replies else (), strict=True):
            loss += follower(place, reply)
        return loss + sum(self.losses)


class Follower(layers.Layer):  # type: ignore[misc]
    """The loss of one hint: how far a student's place is from a teacher's, both at unit length.

    Parameters
    ----------
    own, shown
        Shapes of both without the batch: ``[..., channels]``.
    weight
        Of the loss.
    """

    def __init__(self, own: tuple[int, ...], shown: tuple[int, ...], weight: float) -> None:
        super().__init__(name=None)
        self.weight = weight
        self.windows = tuple(max(a // b, 1) for a, b in zip(own[:-1], shown[:-1], strict=True))
        self.shrunk = tuple(max(b // a, 1) for a, b in zip(own[:-1], shown[:-1], strict=True))
        self.project = layers.Dense(shown[-1], use_bias=False) if own[-1] != shown[-1] else layers.Identity()
        self.project.build((None, *own))

    def call(self, own: Any, shown: Any) -> Any:
        """Return the mean squared distance over a batch, weighted."""
        own, shown = ops.cast(own, "float32"), ops.cast(shown, "float32")
        if max(self.windows, default=1) > 1:
            own = ops.average_pool(own, self.windows, self.windows)
        if max(self.shrunk, default=1) > 1:
            shown = ops.average_pool(shown, self.shrunk, self.shrunk)
        first, second = (_unit(value) for value in (self.project(own), shown))
        return self.weight * ops.mean(ops.sum(ops.square(first - second), axis=-1))


def _unit(value: Any) -> Any:
    return ops.normalize(ops.reshape(value, (ops.shape(value)[0], -1)), axis=-1)


def _check_range(temperature: float, alpha: float) -> None:
    if not 1.0 <= temperature < math.inf:
        raise CompressionError(f"temperature is {temperature}; it must be at least 1")
    if not 0.0 <= alpha <= 1.0:
        raise CompressionError(f"alpha is {alpha}; it must be from 0 to 1")


def _labels(data: FittingData, classes: int) -> npt.NDArray[np.float32]:
    """Labels as float32 ``[n]``; -1 where there is none."""
    if data.labels is None:
        return np.full(len(data), UNLABELLED, np.float32)
    if data.labels.ndim != 1 or data.labels.dtype.kind not in "ui":
        raise CompressionError("labels to distil with are integers [n]: positions of the classes, or -1 for none")
    wrong = np.flatnonzero((data.labels < UNLABELLED) | (data.labels >= classes))
    if len(wrong):
        raise CompressionError(
            f"label {wrong[0]} is {data.labels[wrong[0]]}; the student has {classes} classes, and -1 means unlabelled"
        )
    return data.labels.astype(np.float32)


def _features(model: keras.Model, hints: tuple[Hint, ...]) -> keras.Model:
    """Return the model with what its hints name as further outputs."""
    names = {layer.name for layer in model.layers}
    for hint in hints:
        if hint.student not in names:
            raise CompressionError(f"the student {model.name!r} has no layer {hint.student!r} for a hint")
    return keras.Model(model.inputs, [model.outputs[0], *(model.get_layer(hint.student).output for hint in hints)])


def _followers(features: keras.Model, hints: tuple[Hint, ...], asked: list[Ask], data: FittingData) -> list[Follower]:
    if not hints:
        return []
    found = []
    shown = asked[0](data.inputs[:1])[1:]  # an ONNX file does not always state its shapes
    for hint, place, reply in zip(hints, features.outputs[1:], shown, strict=True):
        own, other = tuple(place.shape[1:]), tuple(reply.shape[1:])
        fits = len(own) == len(other) and all(
            max(pair) % min(pair) == 0 for pair in zip(own[:-1], other[:-1], strict=True)
        )
        if not fits:
            raise CompressionError(
                f"the hint for {hint.student!r} {list(own)} cannot follow {hint.teacher!r} {list(other)}: "
                "sides should be multiples of each other"
            )
        found.append(Follower(own, other, hint.weight))
    return found


def student(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Build a small network in float32: convolutional for images, dense for rows and windows.

    Strides instead of poolings halve the sides down to 4 or less; the rest is flattened, not
    averaged, because so few filters need to know where they fired. 8.7 thousand parameters for
    28x28 digits, 59 thousand for 32x32 photographs.

    Parameters
    ----------
    shape
        Of the processed tensor: ``(height, width, channels)``, ``(features,)`` or ``(rows, features)``.
    classes
        Number of logits.
    """
    inputs = x = keras.Input(shape, name="processed")
    if len(shape) < 3:
        x = layers.Flatten()(x) if len(shape) > 1 else x
        for width in DENSE:
            x = layers.Dense(width, activation="relu")(x)
        return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="body")
    side, width, colour = max(shape[:2]), 0, shape[2] > 1
    while side > LAST_SIDE or not width:
        width = min(width + (16 if colour else 8), WIDEST)
        x = _conv(x, width, 2)
        if colour:
            x = _conv(x, width, 1)
        side = math.ceil(side / 2)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(layers.Flatten()(x)), name="body")


def _conv(x: Any, width: int, strides: int) -> Any:
    x = layers.Conv2D(width, 3, strides=strides, padding="same", use_bias=False)(x)
    return layers.Activation("relu")(layers.BatchNormalization(momentum=BATCHNORM_MOMENTUM)(x))
