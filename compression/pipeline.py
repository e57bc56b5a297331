"""The way from a trained teacher to two bundles: a small one for devices, the whole one for the cloud.

Everything that decides something uses training images only, and the model is measured on
validation and test. The calibration split is not touched at all: a certificate rests on it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from edge_sdk import files
from edge_sdk.bundle import Bundle
from edge_sdk.bundle.manifest import NAME, VERSION
from edge_sdk.cloud.training import data, evaluate, loop
from edge_sdk.compression import distill, export, ingest, quantize
from edge_sdk.compression.prune import MagnitudePruning, Pruning, sparsity
from edge_sdk.datasets import Dataset, Splits
from edge_sdk.errors import CompressionError, InputError
from edge_sdk.packing import pack

__all__ = ["CompressionReport", "Options", "compress", "export_teacher"]

logger = logging.getLogger("edge_sdk.compression")

Progress = Callable[[str, int, int], None]

STEPS = 600
STEPS_QUICK = 220
FINE_TUNING = 0.4  # of the steps of distillation
PEAK_RATE = 5e-3
FINE_RATE = 1.5e-3
REPRESENTATIVE = 300
COMPARED = 256
GOLDEN = 8
LARGEST_QUANTIZATION_LOSS = 0.05


@dataclass(frozen=True, slots=True)
class Options:
    """How hard to compress.

    Attributes
    ----------
    prune
        Share of zeros in each kernel, from 0 to below 1.
    epochs
        Passes over the training images for distillation, and 40 % as many for pruning; None:
        enough for about 600 steps (``quick``: 220).
    quick
        Fewer steps, to try things out.
    temperature, alpha
        Of distillation; see `distill.Distillation`.
    seed
        Decides initial weights, order and augmentation.
    """

    prune: float = 0.5
    epochs: int | None = None
    quick: bool = False
    temperature: float = 3.0
    alpha: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.prune < 1.0:
            raise CompressionError(f"prune is {self.prune}; it must be at least 0 and less than 1")
        if self.epochs is not None and self.epochs < 1:
            raise CompressionError(f"epochs is {self.epochs}; it must be at least 1")
        if not self.temperature >= 1.0:
            raise CompressionError(f"temperature is {self.temperature}; it must be at least 1")
        if not 0.0 <= self.alpha <= 1.0:
            raise CompressionError(f"alpha is {self.alpha}; it must be from 0 to 1")


@dataclass(frozen=True, slots=True)
class CompressionReport:
    """What compression did.

    Attributes
    ----------
    bundle
        Path of the bundle.
    parameters
        Numbers of weights of ``teacher`` and ``student``.
    sizes
        Bytes: ``teacher_float32`` and ``student_float32`` (weights), ``student_int8`` (the TFLite
        file), ``student_int8_deflated`` (what zeros are worth on the wire), ``bundle``.
    accuracy
        By model (``teacher``, ``student_distilled``, ``student_pruned``, ``student_int8``), then
        ``validation`` and ``test``; see `evaluate.accuracy`. int8 is measured in the device's
        runtime behind the device's processing.
    sparsity
        Exact share of zeros in the student's kernels.
    ingest
        How well the float32 teacher agrees with the trained one.
    quantization_agreement
        Share of validation images to which int8 gives the answer of float32.
    seconds
        Wall time of each stage.
    """

    bundle: Path
    parameters: dict[str, int]
    sizes: dict[str, int]
    accuracy: dict[str, dict[str, dict[str, float]]]
    sparsity: float
    ingest: dict[str, float]
    quantization_agreement: float
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-compatible values."""
        return {**asdict(self), "bundle": str(self.bundle)}


def compress(
    trained: loop.Trained,
    splits: Splits,
    *,
    out: str | Path,
    name: str,
    version: str,
    prune: float = 0.5,
    epochs: int | None = None,
    quick: bool = False,
    temperature: float = 3.0,
    alpha: float = 0.7,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> CompressionReport:
    """Distil a student, prune it, quantize it to int8, check it and pack it.

    Parameters
    ----------
    trained
        The teacher.
    splits
        The data it was trained on.
    out
        Path of the bundle to write.
    name, version
        Of the bundle.
    prune, epochs, quick, temperature, alpha, seed
        See `Options`.
    on_progress
        Called with (stage, done, total); stages are ``ingest``, ``distill``, ``prune``,
        ``quantize``, ``measure`` and ``pack``.

    Raises
    ------
    InputError
        If the name, the version or the path cannot be a bundle's.
    CompressionError
        If the data do not fit the teacher, an option is out of range, a conversion fails, or
        int8 loses more than 5 points of validation accuracy.
    StorageError
        If the bundle cannot be written.
    """
    options = Options(prune, epochs, quick, temperature, alpha, seed)
    _check_target(Path(out), name, version)
    _check_fit(trained, splits)
    run = _Run(on_progress)
    processing = trained.processing
    inputs = {split: data.processed(part, processing) for split, part in _measured(splits)}

    with run.stage("ingest"):
        teacher, kept = ingest.to_float32(trained.body, inputs["validation"][:COMPARED])

    keras.utils.set_random_seed(options.seed)
    _, height, width, channels = processing.output_shape
    student = distill.student((height, width, channels), len(trained.classes))
    accuracy = {"teacher": _keras_accuracy(teacher, inputs, splits)}
    with run.stage("distill"):
        _teach(trained, student, splits, options, share=0.0, on_progress=on_progress)
    accuracy["student_distilled"] = _keras_accuracy(student, inputs, splits)
    with run.stage("prune"):
        if options.prune > 0.0:
            _teach(trained, student, splits, options, share=options.prune, on_progress=on_progress)
    accuracy["student_pruned"] = _keras_accuracy(student, inputs, splits)

    with run.stage("quantize"):
        some = splits.train.take(np.arange(min(REPRESENTATIVE, len(splits.train))))
        tflite = quantize.to_int8_tflite(student, data.processed(some, processing))
    with run.stage("measure"):
        answers = {split: export.device_logits(tflite, "litert", processing, part) for split, part in _measured(splits)}
        accuracy["student_int8"] = {
            split: evaluate.accuracy(answers[split], part.labels) for split, part in _measured(splits)
        }
        same = ingest.agreement(evaluate.logits_of(student, inputs["validation"]), answers["validation"]).argmax
    lost = accuracy["student_pruned"]["validation"]["value"] - accuracy["student_int8"]["validation"]["value"]
    if lost > LARGEST_QUANTIZATION_LOSS:
        raise CompressionError(
            f"int8 loses {lost:.1%} of validation accuracy; more than {LARGEST_QUANTIZATION_LOSS:.0%}"
        )

    zeros = sparsity(student).share
    with run.stage("pack"):
        pack(
            tflite,
            runtime="litert",
            name=name,
            version=version,
            labels=trained.classes,
            processing=processing,
            output="logits",
            precision="int8",
            golden_inputs=_golden(splits),
            path=Path(out),
            lineage=_lineage(
                trained,
                splits,
                compression={**asdict(options), "sparsity": zeros, "student": evaluate.model_digest(student)},
            ),
            metrics={"accuracy": accuracy["student_int8"]},
        )
    return CompressionReport(
        bundle=Path(out),
        parameters={"teacher": teacher.count_params(), "student": student.count_params()},
        sizes={
            "teacher_float32": 4 * teacher.count_params(),
            "student_float32": 4 * student.count_params(),
            "student_int8": len(tflite),
            "student_int8_deflated": export.transfer_bytes(tflite),
            "bundle": Path(out).stat().st_size,
        },
        accuracy=accuracy,
        sparsity=zeros,
        ingest=kept.to_dict(),
        quantization_agreement=same,
        seconds=run.seconds,
    )


def export_teacher(
    trained: loop.Trained,
    splits: Splits,
    *,
    out: str | Path,
    name: str,
    version: str,
    on_progress: Progress | None = None,
) -> Bundle:
    """Pack the teacher as a float32 ONNX bundle for the fallback server.

    Its accuracy is measured in onnxruntime behind the device's processing, as the server runs it.

    Raises
    ------
    InputError
        If the name, the version or the path cannot be a bundle's.
    CompressionError
        If the data do not fit the teacher, or it cannot be converted faithfully.
    StorageError
        If the bundle cannot be written.
    """
    _check_target(Path(out), name, version)
    _check_fit(trained, splits)
    run = _Run(on_progress)
    samples = data.processed(splits.validation, trained.processing)[:COMPARED]
    with run.stage("teacher"):
        teacher, _ = ingest.to_float32(trained.body, samples)
        onnx = export.to_onnx(teacher, samples)
        accuracy = {
            split: evaluate.accuracy(export.device_logits(onnx, "onnx", trained.processing, part), part.labels)
            for split, part in _measured(splits)
        }
        return pack(
            onnx,
            runtime="onnx",
            name=name,
            version=version,
            labels=trained.classes,
            processing=trained.processing,
            output="logits",
            precision="float32",
            golden_inputs=_golden(splits),
            path=Path(out),
            lineage=_lineage(trained, splits),
            metrics={"accuracy": accuracy},
        )


class _Run:
    """Reports stages, and times them."""

    def __init__(self, on_progress: Progress | None) -> None:
        self.on_progress = on_progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        self._report(name, 0)
        yield
        self._report(name, 1)
        self.seconds[name] = time.perf_counter() - started

    def _report(self, name: str, done: int) -> None:
        # the two that train report their steps themselves
        if self.on_progress is not None and name not in ("distill", "prune"):
            self.on_progress(name, done, 1)


def _teach(
    trained: loop.Trained,
    student: keras.Model,
    splits: Splits,
    options: Options,
    *,
    share: float,
    on_progress: Progress | None,
) -> None:
    """Fit the student beside the teacher; with a ``share`` to prune, shorter and with pruning."""
    pixels = data.frames(splits.train, trained.processing)
    batch, steps, epochs = loop.steps_for(len(pixels), options.epochs, STEPS_QUICK if options.quick else STEPS)
    if share:
        epochs = max(math.ceil(FINE_TUNING * epochs), 1)
    framed = loop.assemble(student, trained.processing, splits.train)
    trainer = distill.Distillation(framed, trained.model, temperature=options.temperature, alpha=options.alpha)
    trainer.compile(
        keras.optimizers.Adam(loop.cosine(FINE_RATE if share else PEAK_RATE, steps * epochs)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    source = data.batches(
        pixels,
        splits.train.labels,
        batch=batch,
        seed=options.seed + (1 if share else 0),
        augmentation=data.augmentation_for(splits.train),
    )
    callbacks = (MagnitudePruning(student, Pruning(share), steps=steps * epochs),) if share else ()
    stage = "prune" if share else "distill"
    logger.info("%s: %d steps of %d images", stage, steps * epochs, batch)
    loop.fit(trainer, source, steps=steps, epochs=epochs, stage=stage, on_progress=on_progress, callbacks=callbacks)


def _measured(splits: Splits) -> tuple[tuple[str, Dataset], ...]:
    return (("validation", splits.validation), ("test", splits.test))


def _keras_accuracy(
    model: keras.Model, inputs: dict[str, npt.NDArray[np.float32]], splits: Splits
) -> dict[str, dict[str, float]]:
    return {
        split: evaluate.accuracy(evaluate.logits_of(model, inputs[split]), part.labels)
        for split, part in _measured(splits)
    }


def _check_target(out: Path, name: str, version: str) -> None:
    """Find out before the work what packing would refuse after it."""
    if not NAME.fullmatch(name):
        raise InputError(f"name is {name!r}; it should be lower-case letters, digits, '.', '-' and '_'")
    if not VERSION.fullmatch(version):
        raise InputError(f"version is {version!r}; it should be a semantic version such as 1.0.0")
    if out.is_dir():
        raise InputError(f"{out} is a folder; a bundle is a file such as {out / name}.edge")
    files.make_folder(out.parent)


def _check_fit(trained: loop.Trained, splits: Splits) -> None:
    """Refuse other classes or other data than the teacher's: its test images could be in our train."""
    if trained.classes != splits.classes:
        raise CompressionError(
            f"the teacher tells apart {', '.join(trained.classes[:3])}… and the data {', '.join(splits.classes[:3])}…"
        )
    known = trained.lineage.get("splits")
    if known and known != splits.digests:
        raise CompressionError(
            f"the teacher was trained on other data or splits: {trained.lineage.get('data')}, "
            f"split seed {trained.lineage.get('split_seed')}"
        )


def _golden(splits: Splits) -> list[npt.NDArray[np.uint8]]:
    return [np.asarray(image) for image in splits.validation.images[:GOLDEN]]


def _lineage(trained: loop.Trained, splits: Splits, **more: Any) -> dict[str, Any]:
    return {
        "code": trained.lineage.get("code"),
        "data": splits.spec,
        "splits": splits.digests,
        "split_seed": splits.seed,
        "teacher": {"digest": trained.digest, "policy": trained.policy, **_of(trained.lineage, "seed", "epochs")},
        "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
        **more,
    }


def _of(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}
