from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["ImagePlan", "image_to_tensor", "path", "paths", "use_path"]

_T = TypeVar("_T", np.float32, np.float16, np.int8, np.uint8)

def path() -> str: ...
def paths() -> tuple[str, ...]: ...
def use_path(name: str) -> None: ...
def image_to_tensor(
    frame: NDArray[np.uint8] | tuple[NDArray[np.uint8], NDArray[np.uint8]],
    out: NDArray[_T],
    *,
    mean: NDArray[np.float32],
    gain: NDArray[np.float32],
    planar: bool = False,
    zero_point: int = 0,
    pixels: Literal["rgb", "bgr", "nv12", "yuyv"] = "rgb",
    window: tuple[int, int, int, int] | None = None,
    inner: tuple[int, int, int, int] | None = None,
    fill: float = 0.0,
    nearest: bool = False,
    antialias: bool = False,
    yuv: NDArray[np.float32] | None = None,
) -> NDArray[_T]: ...

class ImagePlan:
    def __init__(
        self,
        frame: NDArray[np.uint8] | tuple[NDArray[np.uint8], NDArray[np.uint8]],
        out: NDArray[np.float32] | NDArray[np.float16] | NDArray[np.int8] | NDArray[np.uint8],
        *,
        mean: NDArray[np.float32],
        gain: NDArray[np.float32],
        planar: bool = False,
        zero_point: int = 0,
        pixels: Literal["rgb", "bgr", "nv12", "yuyv"] = "rgb",
        window: tuple[int, int, int, int] | None = None,
        inner: tuple[int, int, int, int] | None = None,
        fill: float = 0.0,
        nearest: bool = False,
        antialias: bool = False,
        yuv: NDArray[np.float32] | None = None,
    ) -> None: ...
    def fill(self, frame: object, out: object) -> bool: ...
