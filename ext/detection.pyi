from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_ssd", "decode_yolo"]

_Tensor: TypeAlias = NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8]
_Found: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]

def decode_yolo(
    x: _Tensor,
    *,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.45,
    max_detections: int = 300,
    size: tuple[float, float] | None = None,
    quantization: tuple[float, int] | None = None,
    out: Sequence[NDArray[np.float32] | NDArray[np.int32]] | None = None,
) -> _Found: ...
def decode_ssd(
    boxes: _Tensor,
    scores: _Tensor,
    *,
    anchors: NDArray[np.float32] | None = None,
    variances: tuple[float, float] = (0.1, 0.2),
    order: Literal["xy", "yx"] = "xy",
    background: bool = False,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.45,
    max_detections: int = 300,
    size: tuple[float, float] | None = None,
    boxes_quantization: tuple[float, int] | None = None,
    scores_quantization: tuple[float, int] | None = None,
    out: Sequence[NDArray[np.float32] | NDArray[np.int32]] | None = None,
) -> _Found: ...
