"""The way from a trained teacher to two bundles: a small one for devices, the whole one for the cloud.

Everything that decides something uses training images only, and the model is measured on
validation and test. The calibration split is not touched at all: a certificate rests on it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
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
from edge_sdk.compression import distill, export, ingest
from edge_sdk.compression.cluster import Clustering
from edge_sdk.compression.fitting import copied, save
from edge_sdk.compression.prune import Pruning, sparsity
from edge_sdk.compression.report import CompressionReport, Options, Quantization
from edge_sdk.compression.stages import clustered, quantized, teach
from edge_sdk.datasets import Dataset, Splits
from edge_sdk.errors import CompressionError, InputError, StorageError
from edge_sdk.packing import pack

__all__ = ["CompressionReport", "Options", "compress", "export_teacher"]

logger = logging.getLogger("edge_sdk.compression")

Progress = Callable[[str, int, int], None]

COMPARED = 256
GOLDEN = 8
LARGEST_QUANTIZATION_LOSS = 0.05


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
    cluster: int = 0,
    quantize: Quantization = "int8",
    keep: bool = False,
    pattern: str = "any",
    teacher: loop.Trained | None = None,
    on_progress: Progress | None = None,
) -> CompressionReport:
    """Distil a student, prune it, cluster it, quantize it to int8, check it and pack it.

    Parameters
    ----------
    trained
        The teacher; with ``keep`` or another ``teacher`` the model to compress itself.
    splits
        The data it was trained on.
    out
        Path of the bundle to write.
    name, version
        Of the bundle.
    prune, epochs, quick, temperature, alpha, seed, cluster, quantize, keep, pattern
        See `Options`.
    teacher
        Whom ``trained`` itself learns from.
    on_progress
        Called with (stage, done, total); stages are ``ingest``, ``distill``, ``prune``,
        ``cluster``, ``quantize``, ``measure`` and ``pack``.

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
    itself = keep or teacher is not None
    options = Options(prune, epochs, quick, temperature, alpha, seed, cluster, quantize, itself, pattern)
    Pruning(prune, pattern=pattern)  # refused now, or after the work
    if cluster:
        Clustering(cluster)
    _check_target(Path(out), name, version)
    _check_fit(trained, splits)
    guide = trained if teacher is None else teacher
    if teacher is not None:
        _check_teacher(teacher, trained, splits)
    run = _Run(on_progress)
    processing = trained.processing
    inputs = {split: data.processed(part, processing) for split, part in _measured(splits)}

    with run.stage("ingest"):
        whole, kept = ingest.to_float32(trained.body, inputs["validation"][:COMPARED])

    keras.utils.set_random_seed(options.seed)
    _, height, width, channels = processing.output_shape
    student = copied(whole) if itself else distill.student((height, width, channels), len(trained.classes))
    accuracy = {"teacher": _keras_accuracy(whole, inputs, splits)}
    with run.keeping(Path(out)):
        with run.stage("distill"):
            if not itself or (teacher is not None and not options.prune):  # else it learns while it is pruned
                teach(trained, guide, student, splits, options, share=0.0, on_progress=on_progress)
                accuracy["student_distilled"] = _keras_accuracy(student, inputs, splits)
                run.finished = student
        with run.stage("prune"):
            if options.prune > 0.0:
                pruned = copied(student)
                teach(trained, guide, pruned, splits, options, share=options.prune, on_progress=on_progress)
                student = run.finished = pruned
        accuracy["student_pruned"] = _keras_accuracy(student, inputs, splits)
        if options.cluster:
            with run.stage("cluster"):
                student = run.finished = clustered(student, processing, splits, options, on_progress)
            accuracy["student_clustered"] = _keras_accuracy(student, inputs, splits)
        size = student.count_params()
        with run.stage("quantize"):
            student, tflite = quantized(student, processing, splits, options, on_progress)
    with run.stage("measure"):
        answers = {split: export.device_logits(tflite, "litert", processing, part) for split, part in _measured(splits)}
        accuracy["student_int8"] = {
            split: evaluate.accuracy(answers[split], part.labels) for split, part in _measured(splits)
        }
        same = ingest.agreement(evaluate.logits_of(student, inputs["validation"]), answers["validation"]).argmax
    before = accuracy.get("student_clustered", accuracy["student_pruned"])
    lost = before["validation"]["value"] - accuracy["student_int8"]["validation"]["value"]
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
                **({} if teacher is None else {"distilled_from": teacher.digest}),
            ),
            metrics={"accuracy": accuracy["student_int8"]},
        )
    return CompressionReport(
        bundle=Path(out),
        parameters={"teacher": whole.count_params(), "student": size},
        sizes={
            "teacher_float32": 4 * whole.count_params(),
            "student_float32": 4 * size,
            "student_int8": len(tflite),
            "student_int8_deflated": export.transfer_bytes(tflite),
            "student_int8_zstd": export.zstd_bytes(tflite),
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
        self.finished: keras.Model | None = None

    @contextmanager
    def keeping(self, out: Path) -> Iterator[None]:
        """Where the work is interrupted or fails, write the model of the last finished step beside the bundle."""
        try:
            yield
        except BaseException:
            if self.finished is not None:
                rest = out.with_suffix(".finished.keras")
                try:
                    save(self.finished, rest)
                    logger.warning("stopped; the model of the last finished step is in %s", rest)
                except StorageError as error:  # what went wrong first is what to say
                    logger.warning("stopped; the model of the last finished step is lost: %s", error)
            raise

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        self._report(name, 0)
        yield
        self._report(name, 1)
        self.seconds[name] = time.perf_counter() - started

    def _report(self, name: str, done: int) -> None:
        # those that train report their steps themselves
        if self.on_progress is not None and name not in ("distill", "prune", "cluster"):
            self.on_progress(name, done, 1)


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


def _check_teacher(teacher: loop.Trained, trained: loop.Trained, splits: Splits) -> None:
    """Refuse a teacher of other classes, or one that cannot see the frames that the model sees."""
    _check_fit(teacher, splits)
    sizes = [one.processing.output_shape[1:] for one in (teacher, trained)]
    if not splits.train.uniform and sizes[0] != sizes[1]:
        raise CompressionError(
            f"the images differ in size, the teacher takes {list(sizes[0])} and the model {list(sizes[1])}; "
            "train both with one --size"
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
