"""A camera's own frame to a quantized model's input: NV12 → RGB → 224 × 224 int8, rows of channels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edge_sdk.processing import DeviceProcessor, ProcessingSpec
from harness import Case, Task

__all__ = ["tasks"]

Tensor = NDArray[np.int8]
Frame = NDArray[np.uint8]
Call = Callable[[], Tensor]

SIDE = 224
SCALE, ZERO_POINT = 1 / 64, -5
SPEC = ProcessingSpec.image(SIDE, SIDE, 3, 127.5, 127.5).with_quantize("int8", SCALE, ZERO_POINT)


def smooth_frame(height: int, width: int) -> Frame:
    """Return an NV12 frame of slow waves within the range of colours: uint8 [height * 3/2, width]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    luma = 125 + 60 * np.sin(2 * np.pi * (2 * x / width + y / height))
    y, x = y[::2, ::2], x[::2, ::2]
    u = 128 + 20 * np.sin(2 * np.pi * (x / width + 0.2))
    v = 128 + 20 * np.sin(2 * np.pi * (2 * y / height + 0.7))
    chroma = np.stack([u, v], axis=-1).reshape(height // 2, width)
    return np.round(np.concatenate([luma, chroma])).astype(np.uint8)


def _ours(frame: Frame) -> Call:
    process = DeviceProcessor(SPEC)
    out = np.empty(SPEC.output_shape, SPEC.output_dtype)

    def call() -> Tensor:
        return process(frame, out, pixels="nv12")

    return call


def _cv2(frame: Frame) -> Call:
    import cv2

    cv2.setNumThreads(1)

    def call() -> Tensor:
        resized = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_YUV2RGB_NV12), (SIDE, SIDE))
        real = (resized.astype(np.float32) - 127.5) / 127.5
        rounded: Tensor = np.clip(np.rint(real / SCALE) + ZERO_POINT, -128, 127).astype(np.int8)
        return rounded[None]

    return call


def _cv2_table(frame: Frame) -> Call:
    import cv2

    cv2.setNumThreads(1)
    height, width = frame.shape[0] // 3 * 2, frame.shape[1]
    rgb = np.empty((height, width, 3), np.uint8)
    resized, out = np.empty((SIDE, SIDE, 3), np.uint8), np.empty((1, SIDE, SIDE, 3), np.int8)
    real = (np.arange(256) - 127.5) / 127.5
    table = np.clip(np.rint(real / SCALE) + ZERO_POINT, -128, 127).astype(np.int8).view(np.uint8)

    def call() -> Tensor:
        cv2.cvtColor(frame, cv2.COLOR_YUV2RGB_NV12, dst=rgb)
        cv2.resize(rgb, (SIDE, SIDE), dst=resized)
        cv2.LUT(resized, table, dst=out[0].view(np.uint8))
        return out

    return call


def _resize_first(frame: Frame) -> Call:
    """Resize luma and chroma by themselves and convert the small picture: other colours at edges."""
    import cv2

    cv2.setNumThreads(1)
    height, width = frame.shape[0] // 3 * 2, frame.shape[1]
    luma, chroma = frame[:height], frame[height:].reshape(height // 2, width // 2, 2)
    yuv, out = np.empty((SIDE, SIDE, 3), np.uint8), np.empty((1, SIDE, SIDE, 3), np.int8)
    real = (np.arange(256) - 127.5) / 127.5
    table = np.clip(np.rint(real / SCALE) + ZERO_POINT, -128, 127).astype(np.int8).view(np.uint8)

    def call() -> Tensor:
        small = cv2.resize(luma, (SIDE, SIDE))
        u_v = cv2.resize(chroma, (SIDE // 2, SIDE // 2))
        cv2.cvtColorTwoPlane(small, u_v, cv2.COLOR_YUV2RGB_NV12, dst=yuv)
        cv2.LUT(yuv, table, dst=out[0].view(np.uint8))
        return out

    return call


def tasks() -> tuple[Task, ...]:
    """Return one task per camera size."""
    made = []
    for name, height, width in (("vga", 480, 640), ("1080p", 1080, 1920)):
        frame = smooth_frame(height, width)
        opencv = partial(Case, module="cv2", pip="opencv-python-headless")
        made.append(
            Task(
                f"nv12-{name}-{SIDE}-int8",
                f"{width}×{height} NV12 → {SIDE}×{SIDE} RGB int8, one thread",
                (
                    Case("edge-sdk", partial(_ours, frame), pip="edge-sdk", ours=True),
                    opencv("opencv", partial(_cv2, frame), note="textbook: cvtColor, resize, then NumPy"),
                    opencv("opencv table", partial(_cv2_table, frame), note="cvtColor, resize, LUT"),
                    opencv(
                        "opencv resize first",
                        partial(_resize_first, frame),
                        note="resize luma and half as much chroma, cvtColor, LUT: chroma at half the resolution",
                    ),
                ),
                tolerance=2,  # the others round to grey levels twice, and one level is half a step
            )
        )
    return tuple(made)
