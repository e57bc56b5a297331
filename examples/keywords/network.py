"""A network of depthwise separable convolutions, trained on clips and quantised to int8."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from numpy.typing import NDArray

from edge_sdk.compression.quantize import to_int8_tflite
from edge_sdk.processing import DeviceProcessor, ProcessingSpec

__all__ = ["processed", "specification", "train"]

Features = NDArray[np.float32]


def specification() -> ProcessingSpec:
    """Return what is done to a clip: the log-mel spectrum of 40 ms every 20 ms, in 40 bands."""
    return ProcessingSpec.audio(
        16000,
        sample_rate=16000,
        frame_length=640,
        frame_step=320,
        fft_length=1024,
        mels=40,
        low_hz=60.0,
        high_hz=7600.0,
        mean=-4.0,
        std=4.0,
    )


def processed(spec: ProcessingSpec, sound: NDArray[np.float32]) -> Features:
    """Process clips [n, samples] as a device does: [n, frames, bands, 1]."""
    process = DeviceProcessor(spec)
    made = np.empty((len(sound), *spec.output_shape[1:]), np.float32)
    for index, clip in enumerate(sound):
        process(clip, made[index : index + 1])
    return made


def network(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Return the network, untrained: about 12,000 weights, two million multiplications a clip."""
    layers = keras.layers
    x = inputs = keras.Input(shape)
    x = layers.Conv2D(32, (10, 4), strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for filters, stride in ((64, 2), (64, 1), (64, 1)):
        x = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(filters, 1, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes)(layers.Dropout(0.2)(x)), name="keywords")


def train(x: Features, labels: NDArray[np.int64], classes: int, *, epochs: int, told: Callable[[str], None]) -> bytes:
    """Train on features; return a TFLite file of int8 operations that gives logits."""
    model = network(x.shape[1:], classes)
    batch = 64
    steps = epochs * -(-len(x) // batch)
    model.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(4e-3, steps), weight_decay=1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    report = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: told(f"  epoch {epoch + 1} of {epochs}: accuracy {logs['accuracy']:.3f}")
    )
    model.fit(x, labels, batch_size=batch, epochs=epochs, verbose=0, callbacks=[report])
    return to_int8_tflite(model, x[:200])
