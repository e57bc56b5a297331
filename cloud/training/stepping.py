"""One training step, on one device or many, and all the state that it leaves.

Keras' own ``fit`` does not train on several machines (keras-team/keras, under
``MultiWorkerMirroredStrategy``), and does not say where in an epoch it is. Here every number that
a run has is a variable that changes in one call of one graph: the step either was, or was not,
whenever somebody looks or the process ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from edge_sdk.errors import CompressionError

__all__ = ["State", "Stepper"]

State = dict[str, npt.NDArray[Any]]
"""Values of all variables, by name."""

Source = Callable[[int, tuple[int, int]], Any]
"""(number of the first batch, (which part, of how many)) -> ``tf.data.Dataset``; see `data.batches`."""


class Stepper:
    """Takes steps of a model and an optimizer.

    The loss is the cross-entropy of logits, weighted where the data bring weights, averaged over
    the whole batch whatever it is shared by.

    Parameters
    ----------
    model
        Inputs → float32 logits, built in the scope of ``distribution``.
    optimizer
        Built in the same scope.
    distribution
        The ``tf.distribute.Strategy``.
    batch
        Samples in a step, over all replicas.
    epoch
        Steps in an epoch: loss and accuracy are its means.
    parts
        A replica computes its share of the batch in so many parts, one after the other.
    """

    def __init__(
        self, model: keras.Model, optimizer: Any, distribution: Any, *, batch: int, epoch: int, parts: int = 1
    ) -> None:
        self.model, self.optimizer, self.distribution = model, optimizer, distribution
        self.batch, self.epoch, self.parts = batch, epoch, parts
        optimizer.build(model.trainable_variables)
        self._own = {
            "step": tf.Variable(0, dtype=tf.int64, trainable=False),
            "loss": tf.Variable(0.0, trainable=False),
            "right": tf.Variable(0.0, trainable=False),
        }
        self._feed: Iterator[Any] | None = None
        alone = distribution.num_replicas_in_sync == 1  # XLA reaches the variables of one device only
        self._take = tf.function(self._everywhere, jit_compile=alone and model.jit_compile, autograph=False)

    @property
    def done(self) -> int:
        """Number of steps taken."""
        return int(self._own["step"].numpy())

    @property
    def loss(self) -> float:
        """Mean loss of the epoch's steps so far."""
        return float(self._own["loss"].numpy()) / self._in_epoch

    @property
    def accuracy(self) -> float:
        """Share of right answers in the epoch's steps so far."""
        return float(self._own["right"].numpy()) / (self._in_epoch * self.batch)

    @property
    def _in_epoch(self) -> int:
        return (self.done - 1) % self.epoch + 1 if self.done else 1

    def feed(self, source: Source) -> None:
        """Take samples from ``source`` from now on, beginning with the batch of the next step."""
        replicas, done = self.distribution.num_replicas_in_sync, self.done

        def own(context: Any) -> Any:
            pipelines = context.num_input_pipelines
            found = source(done, (context.input_pipeline_id, pipelines))
            return found if replicas == pipelines else found.rebatch(self.batch // replicas, drop_remainder=True)

        self._feed = iter(self.distribution.distribute_datasets_from_function(own))

    def advance(self) -> None:
        """Take one step."""
        assert self._feed is not None, "nothing to step on: call feed first"
        self._take(*next(self._feed))

    def agree(self) -> None:
        """Make sure that all machines are at the same step: others would wait for each other for ever.

        Raises
        ------
        CompressionError
            They are not.
        """
        done = self.done
        total = tf.function(self._steps_of_all, autograph=False)()
        if float(total) != float(np.float32(done) * self.distribution.num_replicas_in_sync):
            raise CompressionError(
                f"this machine would go on from step {done}, others from elsewhere: checkpoints must be in a folder "
                "that all of them see"
            )

    def state(self) -> State:
        """Return the values of all variables."""
        return {name: np.asarray(variable.numpy()) for name, variable in self._variables().items()}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over what `state` returned, of the same model and optimizer.

        Raises
        ------
        CompressionError
            Naming the variable that is missing or has another shape.
        """
        variables = self._variables()
        if missing := sorted(variables.keys() ^ state.keys()):
            raise CompressionError(f"the state is of another network or optimizer: it differs in {missing[0]!r}")
        for name, variable in variables.items():
            if tuple(variable.shape) != state[name].shape:
                raise CompressionError(
                    f"the state is of another network: {name!r} is {list(state[name].shape)}, "
                    f"not {list(variable.shape)}"
                )
        for name, variable in variables.items():
            variable.assign(state[name])

    def _variables(self) -> dict[str, Any]:
        # numbered: Keras gives the layers of a second model in one process other names
        groups = {"model": self.model.variables, "optimizer": self.optimizer.variables}
        numbered = {f"{group}/{i:04d}": variable for group, found in groups.items() for i, variable in enumerate(found)}
        return {f"run/{name}": variable for name, variable in self._own.items()} | numbered

    # ---- in the graph

    def _everywhere(self, inputs: Any, labels: Any, weights: Any = None) -> None:
        arguments = (inputs, labels) if weights is None else (inputs, labels, weights)
        found = self.distribution.run(self._replica, arguments)
        loss, right = (self.distribution.reduce(tf.distribute.ReduceOp.SUM, value, axis=None) for value in found)
        begins = self._own["step"] % self.epoch == 0
        self._own["loss"].assign(tf.where(begins, 0.0, self._own["loss"]) + loss)
        self._own["right"].assign(tf.where(begins, 0.0, self._own["right"]) + right)
        self._own["step"].assign_add(1)

    def _steps_of_all(self) -> Any:
        found = self.distribution.run(lambda: tf.cast(self._own["step"], tf.float32))
        return self.distribution.reduce(tf.distribute.ReduceOp.SUM, found, axis=None)

    def _replica(self, inputs: Any, labels: Any, weights: Any = None) -> tuple[Any, Any]:
        weights = tf.ones(tf.shape(labels)) if weights is None else weights
        variables = self.model.trainable_variables
        gradients: list[Any] = []
        loss = right = tf.constant(0.0)
        pieces = zip(*(tf.split(value, self.parts) for value in (inputs, labels, weights)), strict=True)
        for piece in pieces:
            with tf.control_dependencies(gradients):  # a part begins when the one before has left its memory
                own, few = self._part(*(tf.identity(value) for value in piece))
            gradients = [a + b for a, b in zip(gradients, own, strict=True)] if gradients else own
            loss, right = loss + few[0], right + few[1]
        self.optimizer.apply(gradients, variables)
        return loss, right

    def _part(self, inputs: Any, labels: Any, weights: Any) -> tuple[list[Any], tuple[Any, Any]]:
        """Gradients of some of the batch, of a loss that is their part of the whole batch's mean."""
        with tf.GradientTape() as tape:
            logits = self.model(inputs, training=True)
            losses = keras.ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
            loss = tf.reduce_sum(losses * weights) / self.batch
            if self.model.losses:  # regularization, in every part of every replica
                loss += tf.add_n(self.model.losses) / (self.parts * self.distribution.num_replicas_in_sync)
            objective = self.optimizer.scale_loss(loss)
        variables = self.model.trainable_variables
        gradients = [
            tf.zeros_like(variable.value) if gradient is None else gradient
            for gradient, variable in zip(tape.gradient(objective, variables), variables, strict=True)
        ]
        right = tf.reduce_sum(tf.cast(tf.argmax(logits, axis=-1) == labels, tf.float32))
        return gradients, (loss, right)
