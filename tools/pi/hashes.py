"""Computes with every kernel on made-up inputs, and prints a hash of what comes out of each, as JSON.

Run by Python on this machine and on the emulated one, the two must say the same: equal hashes are equal bits.
"""

import hashlib
import json
import platform
import sys

import numpy as np

from edge_sdk.ext import audio, detection, image, quantization, scores, signals, tables

YUV = np.array([16.0, 1.164, 1.596, -0.392, -0.813, 2.017], np.float32)


def reals(rng, low, high, *shape):
    """Return float32 numbers made of whole ones step by step: a library may round its random reals otherwise there."""
    steps = rng.integers(0, 1 << 24, shape) / (1 << 24)
    return (steps * (high - low) + low).astype(np.float32)


def images(rng):
    """Pictures of every pixel format, size, layout and type, by whichever path is this processor's."""
    for number in range(240):
        pixels = ("rgb", "bgr", "nv12", "yuyv")[number % 4]
        height, width = (int(n) for n in rng.integers(2, 140, 2))
        width += width % 2
        shape = {"rgb": (height, width, int(rng.choice([1, 3, 4]))), "bgr": (height, width, 3)}
        frame = rng.integers(0, 256, shape.get(pixels, (height, width)), np.uint8)
        if pixels == "nv12":
            frame = (frame, rng.integers(0, 256, ((height + 1) // 2, width // 2, 2), np.uint8))
        elif pixels == "yuyv":
            frame = rng.integers(0, 256, (height, width, 2), np.uint8)
        channels, planar = int(rng.choice([1, 3])), bool(rng.integers(2))
        size = tuple(int(n) for n in rng.integers(1, 96, 2))
        kind = (np.float32, np.float16, np.int8, np.uint8)[int(rng.integers(4))]
        nearest = not rng.integers(4)
        yield image.image_to_tensor(
            frame,
            np.zeros((channels, *size) if planar else (*size, channels), kind),
            mean=reals(rng, 0, 128, channels),
            gain=reals(rng, 0.01, 1, channels),
            planar=planar,
            zero_point=int(rng.integers(-5, 6)) if kind is np.int8 else 0,
            pixels=pixels,
            nearest=nearest,
            antialias=not nearest and pixels in {"rgb", "bgr"} and not rng.integers(3),
            yuv=YUV if pixels in {"nv12", "yuyv"} else None,
        )


def sounds(rng):
    """Spectra and cepstra of sound, whole and as it comes."""
    for fft, mfcc in ((256, 0), (512, 10), (1024, 0), (2048, 13)):
        mel = audio.LogMel(
            sample_rate=16000.0,
            frame_length=fft * 3 // 4,
            frame_step=160,
            fft_length=fft,
            mels=40,
            low_hz=20.0,
            high_hz=7600.0,
            mfcc=mfcc,
        )
        x = reals(rng, -0.7, 0.7, 16000)
        yield mel(x)
        yield mel((x * 20000).astype(np.int16))
        stream = mel.stream()
        yield from (stream.push(part) for part in np.array_split(x, 7))


def detections(rng):
    """Boxes of detectors, of every type of tensor."""
    for kind in (np.float32, np.int8, np.uint8):
        for _ in range(12):
            anchors, classes = (int(n) for n in rng.integers(1, 700, 2) % (700, 90) + 1)
            options = {"score_threshold": 0.45, "max_detections": 50}
            if kind is np.float32:
                x = reals(rng, 0, 1, 4 + classes, anchors)
                yield from detection.decode_yolo(x, size=(320.0, 240.0), **options)
                continue
            limits = np.iinfo(kind)
            x = rng.integers(limits.min, limits.max + 1, (4 + classes, anchors)).astype(kind)
            quantized = (1 / 256, int(limits.min))
            yield from detection.decode_yolo(x, size=(320.0, 240.0), quantization=quantized, **options)
            boxes = rng.integers(limits.min, limits.max + 1, (anchors, 4)).astype(kind)
            priors = reals(rng, 0.05, 0.9, anchors, 4)
            options |= {"boxes_quantization": quantized, "scores_quantization": quantized}
            yield from detection.decode_ssd(boxes, np.ascontiguousarray(x[4:].T), anchors=priors, **options)


def answers(rng):
    """Probabilities, the best classes and the signals that decide, of scores of any scale."""
    for _ in range(40):
        x = reals(rng, -1, 1, 3, int(rng.integers(2, 1200))) * np.float32(rng.integers(1, 30))
        likely = scores.softmax(x, temperature=1.7)
        yield likely
        yield from scores.summarize(x, top=2)
        yield signals.features(likely)
        for kind in signals.KINDS:
            if kind != "learned":
                yield signals.Signal(kind, 1.3).values(likely)
    for kind in (np.int8, np.uint8):
        x = rng.integers(0, 100, (5, 1000)).astype(kind)
        yield scores.softmax(x, quantization=(0.1, 3))


def numbers(rng):
    """Quantized tensors there and back, and rows of tables."""
    for _ in range(30):
        x = reals(rng, -200, 200, int(rng.integers(1, 30)), int(rng.integers(1, 90)))
        scale = reals(rng, 0.01, 3, x.shape[1])
        zero = rng.integers(-10, 10, x.shape[1])
        q = quantization.quantize(x, scale, zero, axis=1)
        yield q
        yield quantization.dequantize(q, scale, zero, axis=1)
    plan = tables.TablePlan(4, [(0.5, -3.0, 3.0, 0.1, 1.7), (np.array([1.0, 2.0, 5.0]), True, 2.0)])
    rows = np.array([[0.1, 1.0], [np.nan, 2.0], [9.0, 7.0], [-9.0, 5.0]])
    for kind in (np.float32, np.int8, np.uint8):
        out = np.zeros((4, plan.features), kind)
        plan(rows, out)
        yield out


def main():
    """Print the hashes, and by which code they came about."""
    found = {}
    for number, make in enumerate((images, sounds, detections, answers, numbers)):
        digest = hashlib.sha256()
        for array in map(np.asarray, make(np.random.default_rng(number))):
            digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
        found[make.__name__] = digest.hexdigest()[:16]
    paths = {"machine": platform.machine(), "image": image.path(), "audio": audio.path()}
    json.dump({"hashes": found, "paths": paths}, sys.stdout)


if __name__ == "__main__":
    main()
