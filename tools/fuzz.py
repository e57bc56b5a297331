"""Feeds damaged bytes to everything that reads what strangers wrote, and odd arguments to every kernel.

Whatever comes in, the answer is a value or one of the errors of `edge_sdk.errors`: any other exception, and any crash,
is a fault. Inputs are drawn from a seed; a fault is printed with its traceback, and its input is kept in build/fuzz/.

example:
  python tools/fuzz.py --seconds 60
  python tools/fuzz.py --seconds 600 --seed 7 bundle manifest
"""

import argparse
import copy
import hashlib
import json
import sys
import time
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))

from edge_sdk.errors import EdgeSdkError  # noqa: E402 - after the path is set

ODD = (0, -1, 1, 2**31, 2**63, 1e308, -0.0, 0.5, "", "\x00", "a" * 300, "../x", [], {}, [[]], None, True, "NaN", "é")
MAGIC = (b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"PK\x03\x04", b"{", b"}", b'"', b"9" * 20, b"\n")


def damaged(random, data):
    """Return bytes with one to four small damages."""
    data = bytearray(data)
    for _ in range(random.integers(1, 5)):
        at = int(random.integers(0, len(data) + 1))
        size = int(min(2 ** random.integers(0, 8), max(len(data) - at, 1)))
        kind = random.integers(0, 6)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << random.integers(0, 8)
        elif kind == 1:
            del data[at : at + size]
        elif kind == 2:
            data[at:at] = data[max(at - size, 0) : at]
        elif kind == 3:
            magic = MAGIC[random.integers(0, len(MAGIC))]
            data[at : at + len(magic)] = magic
        elif kind == 4:
            data[at:at] = random.bytes(size)
        else:
            del data[at:]
    return bytes(data)


def nodes(value, found):
    """Collect every place of a JSON value: its container, and the key there."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        found.append((value, key))
        nodes(inner, found)
    return found


def bent(random, value):
    """Return a JSON value with one to three of its places changed, taken away or swapped."""
    value = copy.deepcopy(value)
    for _ in range(random.integers(1, 4)):
        places = nodes(value, [])
        if not places:
            break
        container, key = places[random.integers(0, len(places))]
        kind = random.integers(0, 4)
        if kind == 0:
            del container[key]
        elif kind == 1:
            other, there = places[random.integers(0, len(places))]
            container[key] = copy.deepcopy(other[there])
        elif kind == 2 and isinstance(container, dict):
            container[ODD[random.integers(8, 12)]] = container[key]
        else:
            container[key] = copy.deepcopy(ODD[random.integers(0, len(ODD))])
    return value


class Target:
    """Something that reads: `make` draws an input, `read` reads it."""

    def __init__(self, make, read):
        self.make = make
        self.read = read


def of_bytes(seeds, read):
    """Return a target that reads bytes."""
    return Target(lambda random: damaged(random, seeds[random.integers(0, len(seeds))]), read)


def of_json(seeds, read):
    """Return a target that reads JSON as bytes: half of them damaged in their form, half in what they say."""

    def make(random):
        seed = seeds[random.integers(0, len(seeds))]
        if random.integers(0, 2):
            return damaged(random, json.dumps(seed, separators=(",", ":"), sort_keys=True).encode())
        return json.dumps(bent(random, seed), separators=(",", ":"), sort_keys=True).encode()

    return Target(make, read)


def targets(folder):
    """Return every target by name."""
    import io

    from PIL import Image

    from edge_sdk.bundle import Bundle
    from edge_sdk.bundle.archive import encode
    from edge_sdk.bundle.golden import GoldenSet
    from edge_sdk.bundle.manifest import Manifest
    from edge_sdk.cascade import Policy
    from edge_sdk.cascade.journal import CloudAnswer, Feedback, LateAnswer, parse
    from edge_sdk.client.parcels import Parcel
    from edge_sdk.frames import decode_image
    from edge_sdk.model import EdgeModel
    from edge_sdk.ota.records import Assignment
    from edge_sdk.processing import ProcessingSpec
    from outside.bundles import build_tiny_bundle, tiny_images

    path = build_tiny_bundle(folder).path
    bundle = Bundle.open(path)
    manifest = json.loads(bundle.read("manifest.json"))
    members = {name: bytes(bundle.read(name)) for name in bundle.members}

    def read_manifest(data):
        Manifest.from_bytes(data)
        opened = Bundle.from_bytes(encode({**members, "manifest.json": data}))
        GoldenSet.from_bundle(opened)
        with EdgeModel(opened) as model:
            model.predict(np.zeros((24, 24, 3), np.uint8))

    pictures = []
    for form in ("PNG", "JPEG", "BMP", "GIF"):
        held = io.BytesIO()
        Image.fromarray(tiny_images(1, 0)[0][0]).save(held, form)
        pictures.append(held.getvalue())
    policy = Policy(threshold=0.8, signal="margin").to_json()
    assignment = {
        "format": 1, "device": "d", "counter": 3, "expires": "2030-01-01T00:00:00Z", "downgrade": False,
        "bundle": {"name": "a", "version": "1.0.0", "target": "bundles/a.edge", "sha256": "sha256:" + "0" * 64},
    }  # fmt: skip
    steps = [ProcessingSpec.image(8, 8, 3).with_quantize("int8", 0.1, 3).to_json(), manifest["processing"]]
    rows = ProcessingSpec.table(
        ["a", "b", "c"], categories={"b": ["x", "y"], "c": [1, 2]}, impute=0, clip=(-1, 1), mean=3
    )
    steps += [rows.to_json(), ProcessingSpec.sensor(["a"], 9).to_json(), ProcessingSpec.audio(900, pad=True).to_json()]
    journal = [Feedback("0" * 16, 1.0, 2), LateAnswer("0" * 16, 1.0, CloudAnswer(1, 0.5, "", "captured"))]
    parcel = Parcel(
        id="0", time=1.0, kind="k", model="m", index=1, confidence=0.5, propensity=1.0, context={"a": 1, "b": None},
        pixels=np.zeros((2, 2, 3), np.uint8),
    )  # fmt: skip

    def read_parcel(data):
        """Read a parcel whose digest fits, so that what comes behind that is reached as well."""
        Parcel.from_bytes(data + hashlib.sha256(data).digest())

    return {
        "bundle": of_bytes([path.read_bytes()], Bundle.from_bytes),
        "manifest": of_json([manifest], read_manifest),
        "processing": of_json(steps, lambda data: ProcessingSpec.from_json(strict(data))),
        "policy": of_json([policy, manifest.get("cascade") or policy], lambda data: Policy.from_json(strict(data))),
        "journal": of_json([json.loads(record.to_line()) for record in journal], parse),
        "parcel": of_bytes([parcel.to_bytes()], Parcel.from_bytes),
        "parcel with a digest": of_bytes([parcel.to_bytes()[:-32]], read_parcel),
        "assignment": of_json([assignment], Assignment.from_bytes),
        "picture": of_bytes(pictures, lambda data: decode_image(data, "a picture")),
        "kernels": Target(lambda random: random.bytes(8), run_kernel),
    }


def strict(data):
    """Return the JSON object that bytes are, as the readers of files do before a parser sees it."""
    from edge_sdk import canonical

    return canonical.loads(data, limit=1 << 20)


class Arguments:
    """Draws arguments that mostly fit."""

    def __init__(self, data):
        self.random = np.random.default_rng(np.frombuffer(data, np.uint64))

    def rare(self):
        """Whether something unusual happens now."""
        return self.random.integers(0, 12) == 0

    def size(self, most):
        """Return an extent below `most`."""
        return int(self.random.integers(1, most))

    def flag(self):
        """Return either."""
        return bool(self.random.integers(0, 2))

    def number(self, *usual):
        """Return one of these, or something odd."""
        return ODD[self.random.integers(0, len(ODD))] if self.rare() else usual[self.random.integers(0, len(usual))]

    def quantization(self, array):
        """Return what an array of its type needs, mostly."""
        return None if array.dtype == np.float32 and not self.rare() else (self.number(0.1, 1.0), self.number(0, 3))

    def array(self, *shape, kinds=("float32", "int8", "uint8")):
        """Return an array of about this shape, of any layout."""
        random = self.random
        kind = np.dtype(str(random.choice(["float64", "int16", "float32", "int8"] if self.rare() else list(kinds))))
        shape = [int(random.integers(0, 40)) if self.rare() else n for n in shape]
        made = random.integers(0, 256, [n * 2 for n in shape]).astype(np.uint8).astype(kind)
        if kind.kind == "f":
            made *= kind.type(random.choice([1.0, 0.01, 1e30]))
            made.reshape(-1)[:: max(made.size // 3, 1)] = random.choice([np.nan, np.inf, -np.inf, 0.0])
        window = made[tuple(slice(0, n) for n in shape)]  # never contiguous
        window = np.ascontiguousarray(window) if self.flag() else window
        return window[::-1] if self.rare() else window


def fuzz_scores(draw):
    """Call both functions of scores."""
    from edge_sdk.ext import scores

    x = draw.array(draw.size(4), draw.size(1500))
    if draw.flag():
        given = {"top": draw.number(1, 5), "temperature": draw.number(1.0, 0.5)}
        scores.summarize(x, quantization=draw.quantization(x), **given)
    else:
        scores.softmax(x, x if draw.rare() else None, quantization=draw.quantization(x))


def fuzz_quantization(draw):
    """Quantise an array, and back."""
    from edge_sdk.ext import quantization

    x = draw.array(draw.size(9), draw.size(40), draw.size(9), kinds=["float32"])
    axis = draw.number(None, 0, 1, 2)
    channels = x.shape[axis] if type(axis) is int and axis in (0, 1, 2) and not draw.rare() else draw.size(40)
    scale = 0.1 if axis is None else draw.random.uniform(0.01, 1, channels)
    q = quantization.quantize(x, scale, draw.number(0, 3), dtype=draw.number(np.int8, np.uint8), axis=axis)
    quantization.dequantize(q, scale, draw.number(0, 3), axis=axis)


def fuzz_detection(draw):
    """Call a decoder."""
    from edge_sdk.ext import detection

    limits = {
        "score_threshold": draw.number(0.2, 0.0),
        "iou_threshold": draw.number(0.5, 0.0),
        "max_detections": draw.number(1, 300),
        "size": draw.number(None, (3, 4)),
    }
    if draw.flag():
        x = draw.array(4 + draw.size(90), draw.size(300))
        detection.decode_yolo(x, quantization=draw.quantization(x), **limits)
        return
    anchors = draw.size(300)
    boxes, scores = draw.array(anchors, 4), draw.array(anchors, draw.size(40))
    detection.decode_ssd(
        boxes,
        scores,
        anchors=draw.array(anchors, 4, kinds=["float32"]) if draw.flag() else None,
        background=draw.flag(),
        boxes_quantization=draw.quantization(boxes),
        scores_quantization=draw.quantization(scores),
        **limits,
    )


def fuzz_tables(draw):
    """Process a window of rows."""
    from edge_sdk.ext import tables

    rows, columns = draw.size(9), draw.size(6)
    number, lookup = (0.0, -9.0, 9.0, 1.0, 0.5), ([1.0, 2.0, 200.0], draw.flag(), 1.0)
    plan = tables.TablePlan(rows, [lookup if draw.flag() else number for _ in range(columns)], 3)
    plan(
        draw.array(rows, columns, kinds=["float32", "float64"]),
        draw.array(rows, draw.size(9) if draw.rare() else plan.features),
    )


def fuzz_signals(draw):
    """Judge rows of probabilities, learned signals and others."""
    from edge_sdk.ext import signals

    rows, classes = draw.size(4), draw.size(300)
    x = draw.array(rows, classes, kinds=["float32", "float64"])
    if draw.flag():  # mostly what a model would give
        x = np.abs(draw.random.normal(size=(rows, classes))).astype(str(draw.random.choice(["float32", "float64"])))
        x /= x.sum(axis=1, keepdims=True)
    kind = draw.number(*signals.KINDS)
    given = {}
    if kind == "learned":
        count = signals.features(np.full((1, classes), 1 / classes)).shape[1] + 1
        weights = draw.array(2, count, kinds=["float64"])
        given = {"classes": draw.number(classes, 3), "edge": weights[:1].ravel(), "cloud": weights[1:].ravel()}
    signal = signals.Signal(kind, draw.number(1.0, 0.5), **given)
    signals.check(x)
    signal.values(x, draw.flag())
    signal.one(x[0])
    signals.features(x)


def fuzz_image(draw):
    """Make a tensor of a picture."""
    from edge_sdk.ext import image

    pixels, height, width = draw.number("rgb", "bgr", "nv12", "yuyv"), draw.size(60), 2 * draw.size(60)
    shapes = {"yuyv": (height, width, 2), "nv12": (3 * (height + height % 2) // 2, width)}
    frame = draw.array(*shapes.get(str(pixels), (height, width, draw.size(5))), kinds=["uint8"])
    channels, planar, sides = int(draw.random.choice([1, 3])), draw.flag(), (draw.size(50), draw.size(50))
    shape = (channels, *sides) if planar else (*sides, channels)
    image.image_to_tensor(
        frame,
        np.empty(shape, str(draw.random.choice(["float32", "float16", "int8", "int16"]))),
        mean=np.ones(channels, np.float32),
        gain=np.ones(channels, np.float32),
        planar=planar,
        pixels=pixels,
        window=draw.number(None, (0, 0, 1, 1), (1, 2, 3, 4)),
        inner=draw.number(None, (0, 0, 1, 1), (2, 1, 9, 9)),
        nearest=draw.flag(),
        antialias=draw.flag(),
        yuv=np.ones(6, np.float32),
    )


def fuzz_audio(draw):
    """Make spectra of sound, whole and in two chunks."""
    from edge_sdk.ext import audio

    length = draw.size(600)
    log_mel = audio.LogMel(
        sample_rate=draw.number(16000, 8000.5),
        frame_length=length,
        frame_step=draw.size(900),
        fft_length=max(4, 1 << max(int(length) - 1, 0).bit_length()),
        mels=draw.size(70),
        low_hz=draw.number(0, 20.0),
        high_hz=draw.number(3000, 4000.25),
        mfcc=draw.number(0, 1, 13),
        power=draw.number(1.0, 2.0),
    )
    x = draw.array(draw.size(4000), kinds=["float32", "int16"])
    stream, cut = log_mel.stream(), draw.size(4000)
    stream.push(x[:cut])
    stream.push(x[cut:])
    log_mel(x)


def run_kernel(data):
    """Call a kernel with arguments that are drawn from a seed: fitting ones, and some that do not fit."""
    draw = Arguments(data)
    kernels = (fuzz_scores, fuzz_quantization, fuzz_detection, fuzz_tables, fuzz_signals, fuzz_image, fuzz_audio)
    kernels[draw.random.integers(0, len(kernels))](draw)


def fuzz(name, target, seed, seconds):
    """Feed one target for a time; return whether no fault was found."""
    runs = accepted = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = target.make(np.random.default_rng((seed, runs)))
        runs += 1
        try:
            target.read(data)
            accepted += 1
        except EdgeSdkError:
            pass
        except Exception:  # noqa: BLE001 - this is what is looked for
            kept = ROOT / "build" / "fuzz" / f"{name}-{seed}-{runs - 1}"
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(data)
            traceback.print_exc()
            print(f"{name}: a fault after {runs} inputs; the last one is kept in {kept}", file=sys.stderr)
            return False
    print(f"{name}: {runs} inputs, {accepted} accepted, no fault", flush=True)
    return True


def main():
    """Run the targets named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        known = targets(Path(folder))
        names = arguments.targets or list(known)
        for name in names:
            if name not in known:
                parser.error(f"there is no target {name}; there are {', '.join(known)}")
        good = [fuzz(name, known[name], arguments.seed, arguments.seconds / len(names)) for name in names]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
