"""Samples into a model: a ``tf.data`` pipeline of graph operations, with no Python per sample.

Augmentation moves pixels only, in one batched affine warp on the captured image; everything that
a device must repeat (resize, normalize, ...) is the processing layer's, and thus part of the
model that trains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from edge_sdk.datasets import Dataset
from edge_sdk.processing import ProcessingSpec
from edge_sdk.processing.keras import ProcessingLayer
from edge_sdk.tabular import as_known

__all__ = ["Augmentation", "augmentation_for", "batches", "frames", "processed"]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Largest random change of an image, drawn uniformly and independently.

    Attributes
    ----------
    rotate
        Radians, to either side.
    zoom, shift
        Shares of the image's side, to either side.
    flip
        Whether half of the images are mirrored left to right.
    """

    rotate: float = 0.15
    zoom: float = 0.1
    shift: float = 0.08
    flip: bool = False


def augmentation_for(dataset: Dataset) -> Augmentation | None:
    """Light augmentation of images: grey ones (digits, text) are never mirrored, photographs are."""
    if not dataset.pictures:
        return None
    return Augmentation() if dataset.channels == 1 else Augmentation(rotate=0.05, zoom=0.05, shift=0.1, flip=True)


def frames(dataset: Dataset, spec: ProcessingSpec) -> npt.NDArray[Any]:
    """One array ``[n, H, W, C]`` of what the model takes; of rows, windows and clips as they are.

    uint8 as captured where all images have one size. Otherwise float32 after the specification's
    resize, which the processing layer then finds already done.
    """
    images = as_known(dataset, spec).images
    if isinstance(images, np.ndarray):
        return images.astype(np.float32) if images.dtype == np.float64 else images
    sizing = ProcessingSpec.from_json({"steps": [s for s in spec.to_json()["steps"] if s["op"] in ("color", "resize")]})
    layer = ProcessingLayer(sizing, dtype="float32")
    return np.concatenate([keras.ops.convert_to_numpy(layer(image[None])) for image in dataset.images])


def processed(dataset: Dataset, spec: ProcessingSpec, *, batch: int = 256) -> npt.NDArray[np.float32]:
    """All samples as the model's body takes them: float32 ``[n, ...]``."""
    layer, pixels = ProcessingLayer(spec.without_quantize(), dtype="float32"), frames(dataset, spec)
    parts = [keras.ops.convert_to_numpy(layer(pixels[at : at + batch])) for at in range(0, len(pixels), batch)]
    return np.concatenate(parts).astype(np.float32, copy=False)


def batches(
    pixels: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
    *,
    batch: int,
    seed: int,
    augmentation: Augmentation | None,
    weights: npt.NDArray[np.float32] | None = None,
    start: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Any:
    """Endless shuffled, augmented batches.

    The same seed gives the same batches, whatever the number of threads, of parts, and wherever
    it starts: each batch's warp is drawn from (seed, number of the batch).

    Parameters
    ----------
    pixels, labels
        ``[n, H, W, C]`` and ``[n]``.
    batch
        Images in a batch, over all parts.
    seed
        Decides order and augmentation.
    augmentation
        What to change; None: nothing.
    weights
        float32 ``[n]``, to come along.
    start
        Number of the first batch. Those before are skipped by their indices alone.
    part
        (which, of how many): equal slices of every batch, one for each machine that feeds itself.

    Returns
    -------
    tf.data.Dataset
        Pairs (``[batch / parts, H, W, C]`` in the dtype of ``pixels``, int64 ``[batch / parts]``), with
        ``weights`` triples.
    """
    which, of = part
    first, share = which * (batch // of), batch // of
    with tf.device("CPU"):
        arrays = [tf.constant(array) for array in (pixels, labels, weights) if array is not None]

    def chosen(number: Any, indices: Any) -> Any:
        indices = tf.reshape(indices, [batch])[first : first + share]
        images, *rest = (tf.gather(array, indices) for array in arrays)
        if augmentation is not None:
            draws = tf.random.stateless_uniform([5, batch], tf.stack([tf.constant(seed, tf.int64), number]), -1.0, 1.0)
            images = _warp(images, augmentation, draws[:, first : first + share])
        return images, *rest

    order = (
        tf.data.Dataset.range(len(labels)).shuffle(len(labels), seed=seed).batch(batch, drop_remainder=True).repeat()
    )
    source = tf.data.Dataset.zip(tf.data.Dataset.counter(), order).skip(start)
    return source.map(chosen, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


def _warp(images: Any, change: Augmentation, draws: Any) -> Any:
    """Rotate, zoom, shift and mirror each image about its centre, by ``draws`` of -1 to 1; edges are repeated."""
    height, width = images.shape[1], images.shape[2]
    count = images.shape[0]
    angle, zoom = draws[0] * change.rotate, 1.0 + draws[1] * change.zoom
    mirror = tf.where(draws[4] < 0.0, -1.0, 1.0) if change.flip else tf.ones([count])
    # output (x, y) -> input (a x + b y + c, d x + e y + f): the centre stays but for the shift
    a, b = mirror * zoom * tf.cos(angle), -zoom * tf.sin(angle)
    d, e = mirror * zoom * tf.sin(angle), zoom * tf.cos(angle)
    x, y = (width - 1) / 2, (height - 1) / 2
    c = x - a * x - b * y + draws[2] * change.shift * width
    f = y - d * x - e * y + draws[3] * change.shift * height
    zero = tf.zeros([count])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, c, d, e, f, zero, zero], axis=1),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
