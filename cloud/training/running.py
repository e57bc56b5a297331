"""A run of many steps that can end at any of them and go on later as if it had not.

All that a run is made of is either in the variables of its `Stepper`, which change together, or
derived from them: the number of steps says which batch is next and which epochs are complete.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from edge_sdk import files
from edge_sdk.cloud.training import checkpoints
from edge_sdk.cloud.training.stepping import Stepper
from edge_sdk.errors import CompressionError, StorageError

__all__ = ["Epoch", "Keeping", "Progress", "Run", "Watcher"]

logger = logging.getLogger("edge_sdk.cloud.training")

Progress = Callable[[str, int, int], None]
"""(stage, steps done, steps in all)."""

Watcher = Callable[[int, Mapping[str, float]], None]
"""(step, ``loss``, ``accuracy``, ``validation``, ``rate``), after every epoch."""

SECONDS = 60.0  # between checkpoints, where no number of steps is said


@dataclass(frozen=True, slots=True)
class Epoch:
    """Means over an epoch's training batches, and accuracy on validation after it (NaN: nobody asked)."""

    loss: float
    accuracy: float
    validation: float = math.nan


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where a run's checkpoints are, and how often one is written.

    Attributes
    ----------
    folder
        For this run alone.
    every
        Steps between two; None: a minute.
    resume
        Go on with what is there; otherwise a folder with checkpoints is refused.
    write
        Whether this process writes; of several machines one does, and all read.
    """

    folder: Path
    every: int | None = None
    resume: bool = False
    write: bool = True

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise CompressionError(f"a checkpoint every {self.every} steps: it must be at least 1")


class Run:
    """Steps, epochs, early stopping and checkpoints.

    Parameters
    ----------
    stepper
        Takes the steps; its state is replaced by that of a checkpoint where one is resumed.
    epochs
        At most.
    patience
        Stop after so many epochs without better validation accuracy.
    validate
        Returns validation accuracy of the present weights; None: nobody asks.
    keeping
        None: no checkpoints.
    facts
        What decides the result, JSON-compatible; a checkpoint of other facts is not resumed.
    """

    def __init__(
        self,
        stepper: Stepper,
        *,
        epochs: int,
        patience: int | None = None,
        validate: Callable[[], float] | None = None,
        keeping: Keeping | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.stepper, self.steps, self.epochs = stepper, stepper.epoch, epochs
        self.patience, self.validate, self.keeping = patience, validate, keeping
        self.facts = dict(facts or {})
        self.history: list[Epoch] = []
        self._best: list[npt.NDArray[Any]] = []
        self._kept_at, self._kept_when = 0, time.monotonic()
        with ExitStack() as held:
            if keeping is not None:
                if keeping.write:
                    files.make_folder(keeping.folder)
                    held.enter_context(checkpoints.held(keeping.folder))
                self._begin(keeping)
            self._held = held.pop_all()

    def go(self, on_progress: Progress | None = None, watchers: Sequence[Watcher] = ()) -> None:
        """Take all steps that are left, once, and leave the best or the last weights in the model.

        An interrupt writes a checkpoint before it goes on its way.

        Raises
        ------
        CompressionError
            Training diverges, memory is out or a machine is lost.
        StorageError
            A checkpoint cannot be written.
        """
        with self._held:
            self._to_the_end(on_progress or (lambda stage, done, total: None), watchers)

    def _to_the_end(self, told: Progress, watchers: Sequence[Watcher]) -> None:
        total = self.steps * self.epochs
        told("train", self.stepper.done, total)
        try:
            self._go(total, told, watchers)
        except (KeyboardInterrupt, SystemExit):
            with suppress(StorageError, CompressionError):  # that it was interrupted is what is to be told
                self._keep()
            raise
        except tf.errors.ResourceExhaustedError as error:
            raise CompressionError(
                f"out of memory at step {self.stepper.done}: take a smaller batch, or more parts of it"
            ) from error
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
            raise CompressionError(f"another machine was lost: resume on all of them ({error.message})") from error
        if self.patience is not None:
            logger.info("the best of %d epochs is number %d", len(self.history), self._leader + 1)
            self.stepper.model.set_weights(self._best)
        told("train", total, total)

    def _go(self, total: int, told: Progress, watchers: Sequence[Watcher]) -> None:
        done = self.stepper.done
        while True:
            if len(self.history) < done // self.steps:
                self._close(watchers)
            elif done == total or self._stopped:
                return
            else:
                self.stepper.advance()
                done += 1
                told("train", done, total)
                if self._due(done):
                    self._keep()

    # ---- epochs

    @property
    def _leader(self) -> int:
        """Number of the best epoch; the first of equals."""
        return int(np.argmax([epoch.validation for epoch in self.history]))

    @property
    def _stopped(self) -> bool:
        if self.patience is None or not self.history:
            return False
        return len(self.history) - 1 - self._leader >= self.patience

    def _close(self, watchers: Sequence[Watcher]) -> None:
        """Write an epoch down. The last line is what makes it so: an interrupt before it changes nothing."""
        self._check_finite()
        validation = math.nan if self.validate is None else self.validate()
        epoch = Epoch(self.stepper.loss, self.stepper.accuracy, validation)
        if self.patience is not None and (not self.history or validation > self.history[self._leader].validation):
            self._best = self.stepper.model.get_weights()
        values = {"loss": epoch.loss, "accuracy": epoch.accuracy, "rate": float(self.stepper.optimizer.learning_rate)}
        for watcher in watchers:
            watcher(self.stepper.done, values if math.isnan(validation) else {**values, "validation": validation})
        self.history.append(epoch)

    def _check_finite(self) -> None:
        if not math.isfinite(self.stepper.loss):
            raise CompressionError("train: the loss is no longer finite; lower the learning rate or use float32")

    # ---- checkpoints

    def _due(self, done: int) -> bool:
        if self.keeping is None:
            return False
        if self.keeping.every is not None:
            return done - self._kept_at >= self.keeping.every
        return time.monotonic() - self._kept_when >= SECONDS

    def _keep(self) -> None:
        if self.keeping is None or not self.keeping.write or not self.stepper.done:
            return
        self._check_finite()
        arrays = self.stepper.state() | {f"best/{i:04d}": array for i, array in enumerate(self._best)}
        asked = self.validate is not None
        history = [
            [epoch.loss, epoch.accuracy, *([epoch.validation] if asked else [])] for epoch in self.history
        ]  # JSON has no NaN
        facts = {"run": self.facts, "history": history}
        checkpoints.save(self.keeping.folder, checkpoints.Checkpoint(self.stepper.done, arrays, facts))
        self._kept_at, self._kept_when = self.stepper.done, time.monotonic()

    def _begin(self, keeping: Keeping) -> None:
        found = checkpoints.newest(keeping.folder)
        if found is None:
            return
        if not keeping.resume:
            raise CompressionError(
                f"{keeping.folder} holds a run that stopped at step {found.step}: resume it, or remove the folder"
            )
        known = found.facts["run"]
        for name in sorted(known.keys() | self.facts.keys()):
            was, now = known.get(name), self.facts.get(name)
            if was != now:
                told = "" if isinstance(was, dict) else f" ({was}, not {now})"
                raise CompressionError(
                    f"the run in {keeping.folder} was begun with other {name}{told}: resume it with the same, "
                    "or begin another one in another folder"
                )
        best = sorted(name for name in found.arrays if name.startswith("best/"))
        self.stepper.restore({name: array for name, array in found.arrays.items() if name not in best})
        self._best = [found.arrays[name] for name in best]
        self.history = [Epoch(*values) for values in found.facts["history"]]
        self._kept_at = self.stepper.done
        logger.info("going on from step %d", found.step)
