"""The stages of the pipeline that train: each takes its time from the options, and its frames from the splits.

All of them learn from the same: labels, and teachers where there are any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import keras
import numpy as np
import numpy.typing as npt

from edge_sdk.cloud.training import data, loop, recency
from edge_sdk.compression.backends import tfmot
from edge_sdk.compression.channels import narrow
from edge_sdk.compression.cluster import cluster
from edge_sdk.compression.distill import Guidance
from edge_sdk.compression.fitting import Fitting, FittingData, copied, fit
from edge_sdk.compression.networks import LINEAR, Network
from edge_sdk.compression.onnx_files import to_float32_onnx, to_int8_onnx
from edge_sdk.compression.prune import prune
from edge_sdk.compression.qat import quantize_aware, sensitivities, with_levels
from edge_sdk.compression.quantize import to_tflite
from edge_sdk.compression.report import Options
from edge_sdk.compression.teaching import Prepared, Source, answers, ask
from edge_sdk.datasets import Dataset, Splits
from edge_sdk.errors import DataError
from edge_sdk.processing import ProcessingSpec
from edge_sdk.tabular import as_known

__all__ = ["Course"]

Progress = Callable[[str, int, int], None]

STEPS = 600
STEPS_QUICK = 220
FINE_TUNING = 0.4  # of the steps of distillation
PEAK_RATE = 5e-3
FINE_RATE = 1.5e-3
CLUSTER_RATE = 1e-3
GRID_RATE = 5e-4
REPRESENTATIVE = 300


class Course:
    """What all stages learn from, and for how long; each takes a model and returns another.

    Parameters
    ----------
    splits
        Of which training images are learnt from.
    processing
        What the model sees of an image.
    options
        How hard to compress.
    teachers
        Who teaches beside the labels; none: labels alone.
    unlabelled
        More images for the teachers.
    on_progress
        Called with (stage, steps done, steps in all).

    Raises
    ------
    DataError
        The options have a window or a half-life, and the data no times; or the unlabelled images have other
        channels, or all of them are in other splits, too.
    """

    def __init__(
        self,
        splits: Splits,
        processing: ProcessingSpec,
        options: Options,
        *,
        teachers: Sequence[Source | loop.Trained] = (),
        unlabelled: Dataset | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        self.options, self._processing, self._on_progress = options, processing, on_progress
        used, weights = recency.recent(splits.train, window=options.window, half_life=options.half_life)
        splits = replace(splits, train=used)
        self.labelled = FittingData(data.frames(used, processing), used.labels, processing=processing, weights=weights)
        self.data = self.labelled if unlabelled is None else _joined(splits, unlabelled, self.labelled)
        self.learning: Guidance | None = None
        if teachers:
            sources: list[Source] = [
                Prepared(one.body, one.processing) if isinstance(one, loop.Trained) else one for one in teachers
            ]
            self.learning = Guidance(
                teachers=sources, temperature=options.temperature, alpha=options.alpha, hints=options.hints
            )
        self._augmentation = data.augmentation_for(splits.train)
        some = splits.train.take(np.arange(min(REPRESENTATIVE, len(splits.train))))
        self._representative: npt.NDArray[np.float32] = data.processed(some, processing)

    def answered(self, part: Dataset) -> npt.NDArray[np.float32] | None:
        """Return what the teachers together say of a data set, ``[n, classes]``; None where they are no models."""
        if self.learning is None or any(isinstance(one, np.ndarray) for one in self.learning.teachers):
            return None
        seen = FittingData(data.frames(part, self._processing), processing=self._processing)
        classes = len(part.classes)
        found = [answers(ask(one, seen, classes), seen) for one in self.learning.teachers]
        soft = [keras.ops.convert_to_numpy(keras.ops.softmax(logits)) for logits in found]
        return np.asarray(np.mean(soft, axis=0), dtype=np.float32)

    def distilled(self, student: keras.Model) -> keras.Model:
        """Return the model, taught."""
        taught = copied(student)
        fit(taught, self.data, self._fitting(PEAK_RATE, 0, 1.0), stage="distill", on_progress=self._on_progress)
        return taught

    def narrowed(self, student: keras.Model) -> keras.Model:
        """Return the model with fewer channels."""
        ratio, ratios = self.options.channels, self.options.channel_layers
        fitting = self._fitting(FINE_RATE, 4, 1.0)
        return narrow(student, self.data, ratio=ratio, ratios=ratios, fitting=fitting, on_progress=self._on_progress)

    def pruned(self, student: keras.Model) -> keras.Model:
        """Return the model with zeros in its kernels."""
        options = self.options
        if options.backend == "tfmot":
            fitting = self._plain(FINE_RATE, 1)
            share, tell = options.prune, self._on_progress
            return tfmot.step(*(student, self.labelled), on_progress=tell, method="prune", share=share, fitting=fitting)
        return prune(
            student,
            self.data,
            share=options.prune,
            layers=options.prune_layers,
            pattern=options.pattern,
            fitting=self._fitting(FINE_RATE, 1),
            on_progress=self._on_progress,
        )

    def clustered(self, student: keras.Model) -> keras.Model:
        """Return the model with few values in each kernel."""
        options = self.options
        if options.backend == "tfmot":
            fitting = self._plain(CLUSTER_RATE, 2)
            count, tell = options.cluster, self._on_progress
            return tfmot.step(
                *(student, self.labelled), on_progress=tell, method="cluster", clusters=count, fitting=fitting
            )
        return cluster(
            student,
            self.data,
            clusters=options.cluster or 2,
            layers={**options.cluster_layers, **({} if options.cluster else {"*": 0})},
            fitting=self._fitting(CLUSTER_RATE, 2),
            on_progress=self._on_progress,
        )

    def quantized(self, student: keras.Model) -> tuple[keras.Model, bytes]:
        """Return the model, on the grid of int8 where it is on it, and its file."""
        options, some = self.options, self._representative
        if options.runtime == "onnx":
            plain = to_float32_onnx(student, some)
            return student, plain if options.quantize == "float32" else to_int8_onnx(plain, some)
        if options.quantize == "int8-trained" and options.backend == "tfmot":
            fitting, tell = self._plain(GRID_RATE, 3), self._on_progress
            return student, tfmot.optimize(student, self.labelled, on_progress=tell, method="qat", fitting=fitting)
        if options.quantize not in ("int8", "int8-trained"):
            return student, to_tflite(student, options.quantize, some)
        kept, full = self._kept(student)
        if options.quantize == "int8-trained":
            student = quantize_aware(
                student,
                self.data,
                float_layers=kept,
                full=full,
                fitting=self._fitting(GRID_RATE, 3),
                on_progress=self._on_progress,
            )
        elif not full:
            student, _ = with_levels(student, some, float_layers=kept)
        return student, to_tflite(student, "int8", some)

    def _kept(self, student: keras.Model) -> tuple[tuple[str, ...], bool]:
        """Return the convolutions and dense layers that stay in float32, and whether all others must be int8."""
        options = self.options
        if not options.float_layers and not options.fallback:
            return (), True
        calls = Network(student).calls
        linear = [call.layer.name for call in calls if isinstance(call.layer, LINEAR)]
        others = [call.layer.name for call in calls if not isinstance(call.layer, LINEAR)]
        # a name of no convolution is of a layer that has no int8 form and stays anyway
        kept = [
            pattern
            for pattern in options.float_layers
            if any(fnmatchcase(name, pattern) for name in linear)
            or not any(fnmatchcase(name, pattern) for name in others)
        ]
        if options.fallback:
            worst = sensitivities(student, self.labelled, on_progress=self._on_progress)
            kept += [one.layer for one in worst[: options.fallback]]
        return tuple(kept), False

    def _fitting(self, rate: float, more: int, share: float = FINE_TUNING) -> Fitting:
        options = self.options
        batch, _, epochs = loop.steps_for(len(self.data), options.epochs, STEPS_QUICK if options.quick else STEPS)
        epochs = max(math.ceil(share * epochs), 1)
        seed, change = options.seed + more, self._augmentation
        return Fitting(epochs, batch, rate, seed=seed, augmentation=change, learning=self.learning)

    def _plain(self, rate: float, more: int) -> Fitting:
        """Return what tfmot's worker can do: it learns from labels, of images as they are."""
        fitting = self._fitting(rate, more)
        return Fitting(fitting.epochs, fitting.batch, rate, seed=fitting.seed)


def _joined(splits: Splits, unlabelled: Dataset, labelled: FittingData) -> FittingData:
    """Return training images or rows and unlabelled ones, but for those of other splits: these only measure."""
    processing = labelled.processing
    assert processing is not None
    of_rows = splits.train.rows and unlabelled.rows
    if not (of_rows or unlabelled.pictures) or unlabelled.channels != splits.train.channels:
        raise DataError(
            f"the unlabelled data should be {'rows' if splits.train.rows else 'images'} of {splits.train.channels} "
            f"channels, as those of {splits.spec}"
        )
    taken = {one for part in (splits.validation, splits.calibration, splits.test) for one in part.hashes}
    free = [at for at, content in enumerate(unlabelled.hashes) if content not in taken]
    if not free:
        raise DataError(f"all unlabelled images are among those of {splits.spec} that measure; give others")
    train, more = (as_known(part, processing) for part in (splits.train, unlabelled.take(free)))
    both = [*train.images, *more.images]
    one_size = len({image.shape for image in both}) == 1
    labels = np.concatenate([splits.train.labels, np.full(len(free), -1, np.int64)])
    joined = Dataset(np.stack(both) if one_size else tuple(both), labels, splits.classes)
    weights = None
    if labelled.weights is not None:
        weights = np.concatenate([labelled.weights, np.ones(len(free), np.float32)])
    return FittingData(data.frames(joined, processing), labels, processing=processing, weights=weights)
