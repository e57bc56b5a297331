"""Knowledge distillation: a small student learns from labels and from a teacher's logits.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

__all__ = ["Distillation", "student"]

BATCHNORM_MOMENTUM = 0.9
LAST_SIDE = 4
WIDEST = 64


class Distillation(keras.Model):  # type: ignore[misc]
    """Trains a student; calling it calls the student.

    The loss is ``alpha · T² · KL(teacher ‖ student at temperature T) + (1 - alpha) · loss(labels)``;
    T² keeps the gradients' size independent of T.

    Parameters
    ----------
    student, teacher
        Models of the same inputs, both giving logits. The teacher is left as it is.
    temperature
        T, at least 1: how much the teacher's second choices count.
    alpha
        Share of the teacher in the loss, from 0 to 1.
    """

    def __init__(self, student: keras.Model, teacher: keras.Model, *, temperature: float, alpha: float) -> None:
        super().__init__(name="distillation")
        self.student = student
        # in a closure, so that Keras does not take the teacher's weights for its own to train
        self._teach: Callable[[Any], Any] = lambda inputs: teacher(inputs, training=False)
        self.temperature, self.alpha = temperature, alpha

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the student's logits."""
        return self.student(inputs, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the loss of a batch."""
        labels = super().compute_loss(x, y, y_pred, sample_weight, training)
        soft = ops.softmax(ops.cast(self._teach(x), "float32") / self.temperature)
        logs = ops.log_softmax(ops.cast(y_pred, "float32") / self.temperature)
        # cross-entropy instead of KL: they differ by the teacher's entropy, which has no gradient
        taught = -ops.mean(ops.sum(soft * logs, axis=-1)) * self.temperature**2
        return self.alpha * taught + (1.0 - self.alpha) * labels


def student(shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Build a small convolutional network in float32.

    Strides instead of poolings halve the sides down to 4 or less; the rest is flattened, not
    averaged, because so few filters need to know where they fired. 8.7 thousand parameters for
    28x28 digits, 59 thousand for 32x32 photographs.

    Parameters
    ----------
    shape
        Of the processed tensor, ``(height, width, channels)``.
    classes
        Number of logits.
    """
    inputs = x = keras.Input(shape, name="processed")
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
