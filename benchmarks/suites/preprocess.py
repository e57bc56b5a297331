"""A camera frame to a model's input: resize and normalise; uint8 RGB → float32, planes or rows of channels.

The frame is smooth, as camera frames mostly are, so that the peer that always antialiases can be
told from one that is wrong. Everyone has one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edge_sdk.processing import DeviceProcessor, ProcessingSpec, reference
from harness import Case, Task

__all__ = ["tasks"]

Tensor = NDArray[np.float32]
Frame = NDArray[np.uint8]
Call = Callable[[], Tensor]

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
SIDE = 224
LEVEL = 1 / min(STD)  # one grey level, after normalisation
HALF = 127.5  # mean and deviation of an input from -1 to 1

# Peers in Rust read these when they are imported.
os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("EDGEFIRST_DISABLE_GL", "1")


def smooth_frame(height: int, width: int) -> Frame:
    """Return a frame of slow waves: uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = [
        np.sin(2 * np.pi * (a * x / width + b * y / height + c)) for a, b, c in ((2, 1, 0.1), (1, 3, 0.4), (3, 2, 0.8))
    ]
    return np.round(127.5 + 120 * np.stack(planes, axis=-1)).astype(np.uint8)


def _ours(spec: ProcessingSpec, frame: Frame) -> Call:
    process = DeviceProcessor(spec)
    out = np.empty(spec.output_shape, spec.output_dtype)

    def call() -> Tensor:
        return process(frame, out)

    return call


def _reference(spec: ProcessingSpec, frame: Frame) -> Call:
    def call() -> Tensor:
        return reference(spec, frame).astype(np.float32)

    return call


def _normalised(resized: Frame | Tensor) -> Tensor:
    tensor = resized.astype(np.float32)
    tensor -= np.array(MEAN, np.float32)
    tensor /= np.array(STD, np.float32)
    return np.ascontiguousarray(tensor.transpose(2, 0, 1))[None]


def _numpy(frame: Frame) -> Call:
    height, width = frame.shape[:2]

    def axis(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Tensor]:
        at = np.clip((np.arange(SIDE) + 0.5) * n / SIDE - 0.5, 0, n - 1)
        low = at.astype(np.int64)
        return low, np.minimum(low + 1, n - 1), (at - low).astype(np.float32)

    top, bottom, fy = axis(height)
    left, right, fx = axis(width)

    def call() -> Tensor:
        above, below = frame[top].astype(np.float32), frame[bottom].astype(np.float32)
        rows = above + (below - above) * fy[:, None, None]
        return _normalised(rows[:, left] + (rows[:, right] - rows[:, left]) * fx[:, None])

    return call


def _pillow(frame: Frame) -> Call:
    from PIL import Image

    def call() -> Tensor:
        return _normalised(np.asarray(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BILINEAR)))

    return call


def _cv2_best(frame: Frame) -> Call:
    """Nothing allocated, planes written where they belong, multiplied and shifted in one call each."""
    import cv2

    cv2.setNumThreads(1)
    resized = np.empty((SIDE, SIDE, 3), np.uint8)
    planes = [np.empty((SIDE, SIDE), np.uint8) for _ in range(3)]
    out = np.empty((1, 3, SIDE, SIDE), np.float32)
    factors = [(1 / std, -mean / std) for mean, std in zip(MEAN, STD, strict=True)]

    def call() -> Tensor:
        cv2.resize(frame, (SIDE, SIDE), dst=resized, interpolation=cv2.INTER_LINEAR)
        cv2.split(resized, planes)
        for plane, target, (gain, offset) in zip(planes, out[0], factors, strict=True):
            cv2.addWeighted(plane, gain, plane, 0.0, offset, dst=target, dtype=cv2.CV_32F)
        return out

    return call


def _cv2_table(frame: Frame) -> Call:
    """As the best, with a table of 256 float32 in place of the arithmetic."""
    import cv2

    cv2.setNumThreads(1)
    resized = np.empty((SIDE, SIDE, 3), np.uint8)
    planes = [np.empty((SIDE, SIDE), np.uint8) for _ in range(3)]
    out = np.empty((1, 3, SIDE, SIDE), np.float32)
    tables = [((np.arange(256) - mean) / std).astype(np.float32) for mean, std in zip(MEAN, STD, strict=True)]

    def call() -> Tensor:
        cv2.resize(frame, (SIDE, SIDE), dst=resized, interpolation=cv2.INTER_LINEAR)
        cv2.split(resized, planes)
        for plane, target, table in zip(planes, out[0], tables, strict=True):
            cv2.LUT(plane, table, dst=target)
        return out

    return call


def _cv2(frame: Frame) -> Call:
    import cv2

    cv2.setNumThreads(1)

    def call() -> Tensor:
        return _normalised(np.asarray(cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), np.uint8))

    return call


def _kornia(frame: Frame) -> Call:
    """Its fused kernel for cameras, on the processor."""
    from kornia_rs import Preprocessor

    height, width = frame.shape[:2]
    flat = frame.reshape(-1)
    mean, std = [x / 255 for x in MEAN], [x / 255 for x in STD]
    process = Preprocessor(mode="stretch", format="rgb", mean=mean, std=std)

    def call() -> Tensor:
        return np.from_dlpack(process.run(flat, width, height, SIDE, SIDE)).astype(np.float32, copy=False)

    return call


def _albumentations(frame: Frame) -> Call:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations
    import cv2

    cv2.setNumThreads(1)
    normalize = albumentations.Normalize([x / 255 for x in MEAN], [x / 255 for x in STD])
    transform = albumentations.Compose([albumentations.Resize(SIDE, SIDE), normalize])

    def call() -> Tensor:
        return np.ascontiguousarray(transform(image=frame)["image"].transpose(2, 0, 1))[None]

    return call


def _edgefirst(frame: Frame) -> Call:
    import edgefirst_hal as hal

    height, width = frame.shape[:2]
    processor = hal.ImageProcessor()
    source = hal.Tensor.image(width, height, hal.PixelFormat.Rgb, hal.TensorMemory.MEM, access="readwrite")
    resized = hal.Tensor.image(SIDE, SIDE, hal.PixelFormat.Rgb, hal.TensorMemory.MEM, access="readwrite")
    source.from_numpy(frame)
    out = np.empty((1, SIDE, SIDE, 3), np.float32)

    def call() -> Tensor:
        processor.convert(source, resized)
        resized.normalize_to_numpy(out[0], hal.Normalization.SIGNED)
        return out

    return call


def _cv2_rows(frame: Frame) -> Call:
    """Resize and one table of 256 float32, into the tensor."""
    import cv2

    cv2.setNumThreads(1)
    resized, out = np.empty((SIDE, SIDE, 3), np.uint8), np.empty((1, SIDE, SIDE, 3), np.float32)
    table = ((np.arange(256) - HALF) / HALF).astype(np.float32)

    def call() -> Tensor:
        cv2.resize(frame, (SIDE, SIDE), dst=resized, interpolation=cv2.INTER_LINEAR)
        cv2.LUT(resized, table, dst=out[0])
        return out

    return call


def _rows(name: str, frame: Frame) -> Task:
    """From -1 to 1, in rows of channels: the only normalisation to float32 that edgefirst-hal knows."""
    height, width = frame.shape[:2]
    spec = ProcessingSpec.image(SIDE, SIDE, 3, HALF, HALF)
    return Task(
        f"{name}-{SIDE}-rows",
        f"{width}×{height} uint8 RGB → {SIDE}×{SIDE} float32 NHWC from -1 to 1, one thread",
        (
            Case("edge-sdk", partial(_ours, spec, frame), pip="edge-sdk", ours=True),
            Case(
                "opencv table",
                partial(_cv2_rows, frame),
                module="cv2",
                pip="opencv-python-headless",
                tolerance=1.5 / HALF,
                note="resize, LUT into the tensor; rounds to grey levels",
            ),
            Case(
                "edgefirst-hal",
                partial(_edgefirst, frame),
                module="edgefirst_hal",
                pip="edgefirst-hal",
                tolerance=2.5 / HALF,
                note="without the copy of the frame into its memory; rounds, up to 2 grey levels off",
            ),
        ),
        tolerance=1 / HALF / 64,
    )


def tasks() -> tuple[Task, ...]:
    """Return two tasks per camera size."""
    spec = ProcessingSpec.image(SIDE, SIDE, 3, MEAN, STD, order="NCHW")
    made = []
    for name, height, width in (("vga", 480, 640), ("1080p", 1080, 1920)):
        frame = smooth_frame(height, width)
        made.append(
            Task(
                f"{name}-{SIDE}",
                f"{width}×{height} uint8 RGB → {SIDE}×{SIDE} float32, one thread",
                (
                    Case("edge-sdk", partial(_ours, spec, frame), pip="edge-sdk", ours=True),
                    Case("numpy", partial(_numpy, frame), module="numpy", pip="numpy"),
                    Case("reference", partial(_reference, spec, frame), note="our float64 oracle"),
                    Case(
                        "pillow",
                        partial(_pillow, frame),
                        module="PIL",
                        pip="pillow",
                        tolerance=4 * LEVEL,
                        note="always antialiases, rounds to grey levels",
                    ),
                    Case(
                        "opencv",
                        partial(_cv2, frame),
                        module="cv2",
                        pip="opencv-python-headless",
                        tolerance=1.5 * LEVEL,
                        note="textbook: resize, then NumPy; rounds to grey levels",
                    ),
                    Case(
                        "opencv best",
                        partial(_cv2_best, frame),
                        module="cv2",
                        pip="opencv-python-headless",
                        tolerance=1.5 * LEVEL,
                        note="resize, split, addWeighted into the tensor; rounds to grey levels",
                    ),
                    Case(
                        "opencv table",
                        partial(_cv2_table, frame),
                        module="cv2",
                        pip="opencv-python-headless",
                        tolerance=1.5 * LEVEL,
                        note="resize, split, LUT into the tensor; rounds to grey levels",
                    ),
                    Case(
                        "kornia-rs",
                        partial(_kornia, frame),
                        module="kornia_rs",
                        pip="kornia-rs",
                        note="Preprocessor: one pass, as exact; its tensor is always a new one",
                    ),
                    Case(
                        "albumentations",
                        partial(_albumentations, frame),
                        module="albumentations",
                        pip="albumentations",
                        tolerance=1.5 * LEVEL,
                        note="Resize, Normalize, then planes in NumPy; rounds to grey levels",
                    ),
                ),
                tolerance=LEVEL / 64,
            )
        )
        made.append(_rows(name, frame))
    return tuple(made)
