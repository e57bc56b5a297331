"""Scores of pairs of real models, small and large, on the same real pictures."""

from __future__ import annotations

import io
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
    """

    name: str
    edge: NDArray[np.float64]
    cloud: NDArray[np.float64]
    labels: NDArray[np.int64]

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
    return Pair("MLPerf Tiny, ResNet-8 and large ResNet", edge, cloud, index[:, 0])


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


def specialist(pair: Pair) -> Pair:
    """Return the pair with a cloud that knows only animals: the large model without its outputs for vehicles."""
    cloud = pair.cloud.copy()
    cloud[:, VEHICLES] = 0.0
    cloud[cloud.sum(axis=1) == 0] = 1.0  # sure of a vehicle: it has nothing to say
    cloud[:, VEHICLES] = 0.0
    return replace(
        pair, name="the same, with a cloud that knows only animals", cloud=cloud / cloud.sum(axis=1, keepdims=True)
    )
