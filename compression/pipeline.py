"""The way from a trained teacher to two bundles: a small one for devices, the whole one for the cloud.

Everything that decides something uses training images only, and the model is measured on
validation and test. The calibration split is not touched at all: a certificate rests on it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edge_sdk import files
from edge_sdk.bundle import Bundle
from edge_sdk.bundle.manifest import NAME, VERSION
from edge_sdk.cloud.training import data, evaluate, loop, memory
from edge_sdk.compression import distill, export, ingest
from edge_sdk.compression.channels import Narrowing
from edge_sdk.compression.cluster import Clustering
from edge_sdk.compression.fitting import loss_of, options_of, save
from edge_sdk.compression.origins import Guide, lineage, taught_by
from edge_sdk.compression.prune import Pruning, sparsity
from edge_sdk.compression.report import CompressionReport, Options
from edge_sdk.compression.stages import Course
from edge_sdk.compression.teaching import Prepared
from edge_sdk.datasets import Dataset, Splits
from edge_sdk.errors import CompressionError, InputError, StorageError
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec
from edge_sdk.tabular import as_known

__all__ = ["CompressionReport", "Options", "check_target", "compress", "export_teacher", "settled"]

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
    options: Options | None = None,
    teacher: Guide | Sequence[Guide] | None = None,
    unlabelled: Dataset | None = None,
    on_progress: Progress | None = None,
    **changes: Any,
) -> CompressionReport:
    """Distil a student, narrow, prune and cluster it, quantize it, check it and pack it.

    Parameters
    ----------
    trained
        The teacher of a small network; with ``keep`` the model to compress itself. `sources.open_model` makes
        one of any model.
    splits
        The data it was trained on.
    out
        Path of the bundle to write. While it is made, the model of the last finished step is beside it, in
        ``NAME.finished.keras``, and stays there if the work fails or is interrupted.
    name, version
        Of the bundle.
    options
        How hard to compress.
    teacher
        Who teaches, too, one or several: teachers of ``edge-sdk train``, or what `distill.distill` takes.
    unlabelled
        More images to learn from, of which only the teacher's answers are known.
    on_progress
        Called with (stage, done, total); stages are ``ingest``, ``distill``, ``narrow``, ``prune``,
        ``cluster``, ``sensitivity``, ``quantize``, ``measure`` and ``pack``.
    **changes
        Fields of `Options`, in place of those of ``options``.

    Raises
    ------
    InputError
        If the name, the version or the path cannot be a bundle's.
    CompressionError
        If the data do not fit the teacher, an option is out of range, a conversion fails, the file loses
        more than 5 points of validation accuracy, or memory is not enough.
    StorageError
        If the bundle cannot be written.
    """
    guides = [] if teacher is None else list(teacher) if isinstance(teacher, list | tuple) else [teacher]
    chosen = settled(options, changes).as_trained(trained.lineage)
    check_target(Path(out), name, version)
    files.make_folder(Path(out).parent)
    _check_fit(trained, splits)
    for guide in guides:
        _check_teacher(guide, trained, splits)
    if unlabelled is not None and chosen.keep and not guides:
        raise CompressionError("nobody teaches what unlabelled images show; give a teacher (--distill)")
    if chosen.hints and chosen.keep and not guides:
        raise CompressionError("hints follow a teacher, and there is none; give one (--distill)")
    run = _Run(on_progress, Path(out))
    processing = trained.processing
    inputs = {split: data.processed(part, processing) for split, part in _measured(splits)}

    with run.stage("ingest"):
        whole, kept = ingest.to_float32(trained.body, inputs["validation"][:COMPARED])
        course = Course(
            *(splits, processing, chosen),
            teachers=guides if chosen.keep else [trained, *guides],
            unlabelled=unlabelled,
            on_progress=on_progress,
        )

    keras.utils.set_random_seed(chosen.seed)
    student = whole if chosen.keep else distill.student(processing.output_shape[1:], len(trained.classes))
    given, gives_logits = "model" if chosen.keep else "teacher", loss_of(student).get_config()["from_logits"]
    accuracy = {given: _keras_accuracy(whole, inputs, splits)}
    before = _keras_accuracy(student, inputs, splits)
    new = before["validation"]["low"] <= 1.0 / len(trained.classes)  # no better than guessing
    if chosen.keep and guides:
        accuracy = _answered(course, splits) | ({} if new else accuracy)

    def stage(kind: str, work: Callable[[keras.Model], keras.Model], called: str) -> None:
        nonlocal student, before
        with run.stage(kind):
            student = work(student)
            run.finish(student)
        accuracy[called] = before = _keras_accuracy(student, inputs, splits)

    with run.keeping():
        # what knows its task learns more while it is narrowed or pruned, if it is
        if not chosen.keep or (guides and (new or not (chosen.channels or chosen.prune))):
            stage("distill", course.distilled, "student_distilled")
        if chosen.channels or any(chosen.channel_layers.values()):
            stage("narrow", course.narrowed, "student_narrowed")
        if chosen.prune or any(chosen.prune_layers.values()):
            stage("prune", course.pruned, "student_pruned")
        if chosen.cluster or any(chosen.cluster_layers.values()):
            stage("cluster", course.clustered, "student_clustered")
        size = student.count_params()
        with run.stage("quantize"):
            student, file = course.quantized(student)
        with run.stage("measure"):
            answers = {
                split: export.device_logits(file, chosen.runtime, processing, part) for split, part in _measured(splits)
            }
            final = f"student_{chosen.precision}"
            accuracy[final] = {
                split: evaluate.accuracy(answers[split], part.labels) for split, part in _measured(splits)
            }
            same = ingest.agreement(evaluate.logits_of(student, inputs["validation"]), answers["validation"]).argmax
        lost = before["validation"]["value"] - accuracy[final]["validation"]["value"]
        if lost > LARGEST_QUANTIZATION_LOSS:
            raise CompressionError(
                f"{chosen.precision} loses {lost:.1%} of validation accuracy; more than "
                f"{LARGEST_QUANTIZATION_LOSS:.0%}: train for it (int8-trained), or leave layers in float32 (fallback)"
            )
        zeros = sparsity(student).share
        with run.stage("pack"):
            pack(
                file,
                runtime=chosen.runtime,
                name=name,
                version=version,
                labels=trained.classes,
                processing=processing,
                output="logits" if gives_logits else "probabilities",
                precision=chosen.precision,
                golden_inputs=_golden(splits, processing),
                path=Path(out),
                lineage=lineage(
                    trained,
                    splits,
                    compression={**chosen.to_dict(), "sparsity": zeros, "student": evaluate.model_digest(student)},
                    **taught_by(guides),
                ),
                metrics={"accuracy": accuracy[final]},
            )
    return CompressionReport(
        bundle=Path(out),
        parameters={given: whole.count_params(), "student": size},
        sizes={
            f"{given}_float32": 4 * whole.count_params(),
            "student_float32": 4 * size,
            final: len(file),
            f"{final}_deflated": export.transfer_bytes(file),
            f"{final}_zstd": export.zstd_bytes(file),
            "bundle": Path(out).stat().st_size,
        },
        accuracy=accuracy,
        sparsity=zeros,
        ingest=kept.to_dict(),
        quantization_agreement=same,
        seconds=run.seconds,
        precision=chosen.precision,
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
    check_target(Path(out), name, version)
    files.make_folder(Path(out).parent)
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
            output="logits" if loss_of(teacher).get_config()["from_logits"] else "probabilities",
            precision="float32",
            golden_inputs=_golden(splits, trained.processing),
            path=Path(out),
            lineage=lineage(trained, splits),
            metrics={"accuracy": accuracy},
        )


class _Run:
    """Reports stages, times them, and keeps what is finished."""

    def __init__(self, on_progress: Progress | None, out: Path | None = None) -> None:
        self.on_progress = on_progress
        self.seconds: dict[str, float] = {}
        self.rest = None if out is None else out.with_suffix(".finished.keras")
        self.finished = False

    def finish(self, model: keras.Model) -> None:
        """Write the model of a finished step beside the bundle, whatever becomes of this process."""
        assert self.rest is not None
        try:
            save(model, self.rest)
            self.finished = True
        except StorageError as error:  # the next step may find room again
            logger.warning("the model of a finished step is not kept: %s", error)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Where the work is interrupted or fails, say where the model of the last finished step is."""
        try:
            with memory.enough("use fewer images (--limit), or a smaller model"):
                yield
        except BaseException:
            if self.finished:
                logger.warning("stopped; the model of the last finished step is in %s", self.rest)
            raise
        if self.finished and self.rest is not None:
            self.rest.unlink(missing_ok=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        self._report(name, 0)
        yield
        self._report(name, 1)
        self.seconds[name] = time.perf_counter() - started

    def _report(self, name: str, done: int) -> None:
        # those that train report their steps themselves
        if self.on_progress is not None and name not in ("distill", "narrow", "prune", "cluster"):
            self.on_progress(name, done, 1)


def _measured(splits: Splits) -> tuple[tuple[str, Dataset], ...]:
    return (("validation", splits.validation), ("test", splits.test))


def _answered(course: Course, splits: Splits) -> dict[str, dict[str, dict[str, float]]]:
    """Return how good the teachers are together, and remark on those that only guess."""
    scores = {split: course.answered(part) for split, part in _measured(splits)}
    found = {
        split: evaluate.accuracy(answers, part.labels)
        for split, part in _measured(splits)
        if (answers := scores[split]) is not None
    }
    if found and found["validation"]["low"] <= 1.0 / len(splits.classes):
        logger.warning(
            "who teaches is right about %.0f %% of validation images, as by guessing; is its processing right?",
            100 * found["validation"]["value"],
        )
    return {"teacher": found} if found else {}


def _keras_accuracy(
    model: keras.Model, inputs: dict[str, npt.NDArray[np.float32]], splits: Splits
) -> dict[str, dict[str, float]]:
    return {
        split: evaluate.accuracy(evaluate.logits_of(model, inputs[split]), part.labels)
        for split, part in _measured(splits)
    }


def check_target(out: Path, name: str, version: str) -> None:
    """Find out before the work what packing would refuse after it.

    Raises
    ------
    InputError
        The name, the version or the path cannot be a bundle's.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"name is {name!r}; it should be lower-case letters, digits, '.', '-' and '_' (--name)")
    if not VERSION.fullmatch(version):
        raise InputError(f"version is {version!r}; it should be a semantic version such as 1.0.0")
    if out.is_dir():
        raise InputError(f"{out} is a folder; a bundle is a file such as {out / name}.edge")


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


def _check_teacher(teacher: Guide, trained: loop.Trained, splits: Splits) -> None:
    """Refuse a teacher of other classes, or one that cannot see the frames that the model sees."""
    if isinstance(teacher, loop.Trained):
        _check_fit(teacher, splits)
    if not isinstance(teacher, loop.Trained | Prepared):
        return
    sizes = [one.processing.output_shape[1:] for one in (teacher, trained)]
    if not splits.train.uniform and sizes[0] != sizes[1]:
        raise CompressionError(
            f"the images differ in size, the teacher takes {list(sizes[0])} and the model {list(sizes[1])}; "
            "train both with one --size"
        )


def settled(options: Options | None, changes: dict[str, Any]) -> Options:
    """Return what is asked for; what steps would refuse is refused now.

    Raises
    ------
    CompressionError
        There is no such option, or its value is out of range.
    """
    plain = {} if options is None else {one.name: getattr(options, one.name) for one in fields(options)}
    found = options_of(Options, plain | changes)
    Pruning(found.prune, layers=found.prune_layers, pattern=found.pattern)
    Narrowing(found.channels, ratios=found.channel_layers)
    if found.cluster or found.cluster_layers:
        Clustering(found.cluster or 2, layers=found.cluster_layers)
    return found


def _golden(splits: Splits, processing: ProcessingSpec) -> list[npt.NDArray[Any]]:
    return [np.asarray(image) for image in as_known(splits.validation, processing).images[:GOLDEN]]
