"""Steps 1 to 3: data, a teacher, a compressed student, and a certificate for the two together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_sdk.bundle import Bundle
from edge_sdk.cascade import samples_needed
from edge_sdk.certification import certify_bundle
from edge_sdk.cloud.training.loop import train
from edge_sdk.compression.pipeline import CompressionReport, compress, export_teacher
from edge_sdk.datasets import Splits
from edge_sdk.errors import CannotCertifyError
from edge_sdk.examples.demo.faults import make_bad_version

__all__ = ["CONFIDENCE", "MAX_ACCURACY_LOSS", "Models", "build", "check_enough"]

MAX_ACCURACY_LOSS, CONFIDENCE = 0.01, 0.95

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Models:
    """The bundles that are served and shipped.

    Attributes
    ----------
    cloud
        The teacher, as ONNX.
    first, second
        Certified students, versions 1 and 2.
    bad
        Version 3, whose golden outputs do not hold.
    tampered
        Version 4, which is sound until somebody changes it in the repository.
    policy
        Keras dtype policy that the teacher was trained with.
    report
        How the first student was compressed.
    """

    cloud: Bundle
    first: Bundle
    second: Bundle
    bad: Bundle
    tampered: Bundle
    policy: str
    report: CompressionReport


def check_enough(splits: Splits) -> None:
    """Refuse data that cannot certify the promise whatever is trained on it.

    Raises
    ------
    CannotCertifyError
        The calibration split is too small.
    """
    have, least = len(splits.calibration), samples_needed(MAX_ACCURACY_LOSS, CONFIDENCE)
    if have < least:
        raise CannotCertifyError(
            f"{splits.spec}: {have} of its images are for calibration; certifying a loss of {MAX_ACCURACY_LOSS:.0%} "
            f"at {CONFIDENCE:.0%} confidence needs {least}, so give at least 600 images in all",
            needed=least,
        )


def build(splits: Splits, folder: Path, *, seed: int, quick: bool, on_progress: Progress) -> Models:
    """Train, compress and certify; write every bundle into ``folder``.

    Parameters
    ----------
    splits
        The data.
    folder
        Where bundles go.
    seed
        Of training and compression.
    quick
        Train for less long.
    on_progress
        Called with (stage, done, total).
    """

    def part(whole: str) -> Progress:
        return lambda stage, done, total: on_progress(f"{whole}: {stage}", done, total)

    teacher = train(splits, seed=seed, quick=quick, on_progress=part("train the teacher"))
    cloud = export_teacher(
        teacher,
        splits,
        out=folder / "teacher.edge",
        name="teacher",
        version="1.0.0",
        on_progress=part("export the teacher"),
    )

    def student(version: str, prune: float, brief: bool) -> tuple[Bundle, CompressionReport]:
        draft = folder / f"draft-{version}.edge"
        made = compress(
            teacher,
            splits,
            out=draft,
            name="student",
            version=version,
            prune=prune,
            quick=brief,
            seed=seed,
            on_progress=part(f"compress version {version}"),
        )
        certified = certify_bundle(
            Bundle.open(draft),
            cloud,
            splits,
            folder / f"student-{version}.edge",
            max_accuracy_loss=MAX_ACCURACY_LOSS,
            confidence=CONFIDENCE,
            on_progress=part(f"certify version {version}"),
        )
        draft.unlink()
        return certified, made

    first, report = student("1.0.0", prune=0.5, brief=quick)
    second, _ = student("2.0.0", prune=0.25, brief=True)
    return Models(
        cloud=cloud,
        first=first,
        second=second,
        bad=make_bad_version(second, folder / "student-3.0.0.edge", "3.0.0"),
        tampered=second.rewrite(folder / "student-4.0.0.edge", version="4.0.0"),
        policy=teacher.policy,
        report=report,
    )
