"""tensorflow-model-optimization as a second backend, in a process of its own.

It knows legacy Keras only, and two Kerases in one process disturb each other. So a Keras 3 model is
written down layer by layer, a worker builds it of tf_keras layers with the same weights, lets tfmot
train it, and gives back the converted TFLite file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np
from keras import layers

from edge_sdk.compression.backends import tfmot_worker
from edge_sdk.compression.fitting import Fitting, FittingData, Progress, copied, loss_of, options_of
from edge_sdk.compression.weights import prunable, shared
from edge_sdk.errors import CompressionError, MissingExtraError
from edge_sdk.files import storage_errors

__all__ = ["PYTHON", "Method", "Optimizing", "optimize", "step"]

PYTHON = "EDGE_SDK_TFMOT_PYTHON"
"""Environment variable: the Python that has tensorflow-model-optimization, where this one has not."""

Method = Literal["prune", "cluster", "qat", "pcqat"]
SAID = 300  # characters of another's message


@dataclass(frozen=True, slots=True)
class Optimizing:
    """What tfmot is to do.

    Attributes
    ----------
    method
        ``prune``, ``cluster``, ``qat``, or ``pcqat``: one after the other. Each keeps the zeros and shared values
        that a model comes with.
    share
        Of zeros, where it prunes.
    clusters
        Different values of a kernel, where it clusters.
    fitting
        How long each stage trains; without augmentation.
    seconds
        How long the worker may take.

    Raises
    ------
    CompressionError
        A value out of range.
    """

    method: Method = "pcqat"
    share: float = 0.8
    clusters: int = 16
    fitting: Fitting = field(default_factory=Fitting)
    seconds: float = 3600.0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise CompressionError(f"method is {self.method!r}; it must be one of {', '.join(get_args(Method))}")
        if not 0.0 <= self.share < 1.0:
            raise CompressionError(f"share is {self.share}; it must be at least 0 and less than 1")
        if self.clusters < 2:
            raise CompressionError(f"clusters is {self.clusters}; it must be at least 2")
        if self.seconds <= 0.0:
            raise CompressionError(f"seconds is {self.seconds}; it must be more than 0")
        if self.fitting.augmentation is not None or self.fitting.learning is not None:
            raise CompressionError("tfmot's worker neither augments nor distils; leave augmentation and learning out")


def optimize(model: keras.Model, data: FittingData, *, on_progress: Progress | None = None, **options: Any) -> bytes:
    """Let tfmot train a model, and return its TFLite file.

    Parameters
    ----------
    model
        Functional or sequential, in float32; it is not changed.
    data
        Inputs and labels.
    on_progress
        Called after every step with (``prune``, ``cluster`` or ``quantize``, steps done, steps in all).
    **options
        Fields of `Optimizing`.

    Returns
    -------
    bytes
        A TFLite file: of float32 after ``prune`` and ``cluster``, otherwise of int8, input and output
        included.

    Raises
    ------
    MissingExtraError
        tensorflow-model-optimization is not installed.
    CompressionError
        A layer has no counterpart in legacy Keras, tfmot does not do what is asked with it (its own words
        are given), or the worker takes too long.
    """
    with _worked(model, data, options_of(Optimizing, options), on_progress) as folder:
        return (folder / "model.tflite").read_bytes()


def step(model: keras.Model, data: FittingData, *, on_progress: Progress | None = None, **options: Any) -> keras.Model:
    """Let tfmot prune or cluster a model, and return it as Keras 3 has it; a step of compression.

    Parameters
    ----------
    model, data, on_progress, **options
        As of `optimize`; the method is ``prune`` or ``cluster``.

    Raises
    ------
    MissingExtraError, CompressionError
        As `optimize`; or the method gives a file and no model.
    """
    chosen = options_of(Optimizing, options)
    if chosen.method not in ("prune", "cluster"):
        raise CompressionError(f"tfmot gives a file and no model after {chosen.method}; use optimize")
    result = copied(model)
    with _worked(model, data, chosen, on_progress) as folder:
        values = [np.load(folder / f"weight{at}.npy", allow_pickle=False) for at in range(len(model.weights))]
    result.set_weights(values)
    return result


@contextmanager
def _worked(model: keras.Model, data: FittingData, chosen: Optimizing, on_progress: Progress | None) -> Iterator[Path]:
    """Let a worker do it; gives the folder that has its weights and its file."""
    data.check(model)
    assert data.labels is not None  # checked above
    kernels = [keras.ops.convert_to_numpy(kernel) for _, kernel in prunable(model)]
    task = {
        "graph": _written(model),
        "options": asdict(chosen),
        "zeros": any(not kernel.all() for kernel in kernels),
        "clusters": any(shared(kernel) for kernel in kernels),
        "from_logits": loss_of(model).get_config()["from_logits"],
    }
    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as name:
        folder = Path(name)
        with storage_errors(folder):
            (folder / "task.json").write_text(json.dumps(task))
            for at, value in enumerate(model.get_weights()):
                np.save(folder / f"weight{at}.npy", value.astype(np.float32), allow_pickle=False)
            np.save(folder / "inputs.npy", data.taken(), allow_pickle=False)
            np.save(folder / "labels.npy", data.labels, allow_pickle=False)
        _run(folder, chosen, on_progress)
        yield folder


def _run(folder: Path, chosen: Optimizing, on_progress: Progress | None) -> None:
    python = os.environ.get(PYTHON, sys.executable)
    # the worker's file by itself: another Python need not have edge-sdk
    command = [python, "-P", str(Path(tfmot_worker.__file__).resolve()), str(folder)]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1"}
    errors = folder / "errors.txt"  # a pipe that nobody reads would fill
    with storage_errors(folder), errors.open("wb") as stream:
        try:
            worker = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stream, text=True, errors="replace", env=os.environ | quiet
            )
        except OSError as error:
            raise CompressionError(f"{PYTHON} is {python}, which does not run: {error.strerror or error}") from error
    late = threading.Event()

    def stop() -> None:
        late.set()
        worker.kill()

    timer = threading.Timer(chosen.seconds, stop)
    with worker:
        timer.start()
        try:
            _relay(worker, on_progress)
            worker.wait()
        except BaseException:
            worker.kill()
            raise
        finally:
            timer.cancel()
    if late.is_set():
        raise CompressionError(
            f"tfmot did not finish {chosen.method} within {chosen.seconds:g} s; train for less long, or give it more"
        )
    report = folder / "report.json"
    if not report.is_file():
        lines = errors.read_text(errors="replace").strip().splitlines() or [f"exit code {worker.returncode}"]
        raise CompressionError(f"tfmot's worker ended in {chosen.method}: {lines[-1][:SAID]}")
    said = json.loads(report.read_text())
    if said.get("missing"):
        raise MissingExtraError("tensorflow-model-optimization", "tfmot")
    if said.get("refused"):
        raise CompressionError(f"tfmot cannot do {chosen.method} with {said['stage']}: {said['refused'][:SAID]}")


def _relay(worker: subprocess.Popen[str], on_progress: Progress | None) -> None:
    """Pass on how far a worker is, until it has nothing more to say; libraries may say something, too."""
    assert worker.stdout is not None  # a pipe
    for line in worker.stdout:
        if on_progress is not None and line.startswith(tfmot_worker.PROGRESS):
            stage, done, total = line.removeprefix(tfmot_worker.PROGRESS).split()
            on_progress(stage, int(done), int(total))


def _written(model: keras.Model) -> dict[str, Any]:
    """Write a model down: layers in the order they are called, and what each takes."""
    steps: list[dict[str, Any]] = []
    numbers: dict[int, int] = {}
    alive: list[Any] = []  # or ids would come again
    graph = keras.Model(model.inputs, model.outputs, name=model.name)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        known = isinstance(layer, layers.Layer) and type(layer).__name__ in tfmot_worker.LAYERS
        if not known or isinstance(layer, keras.Model):
            raise CompressionError(
                f"the layer {layer.name!r} ({type(layer).__name__}) cannot be brought to legacy Keras for tfmot; "
                "use the native methods"
            )
        given = [value for value in keras.tree.flatten((args, kwargs)) if isinstance(value, keras.KerasTensor)]
        output = layer(*args, **kwargs)
        alive.append((given, output))
        steps.append(
            {
                "name": layer.name,
                "kind": type(layer).__name__,
                "config": _plain(layer.get_config()),
                "takes": [numbers.setdefault(id(value), len(numbers)) for value in given],
                "gives": numbers.setdefault(id(output), len(numbers)),
                "weights": [],
            }
        )
        return output

    clone = keras.models.clone_model(graph, call_function=call)
    places = {id(variable): at for at, variable in enumerate(model.weights)}
    for step in steps:
        step["weights"] = [places[id(variable)] for variable in model.get_layer(step["name"]).weights]
    return {
        "name": model.name,
        "shape": list(model.inputs[0].shape[1:]),
        "input": numbers[id(clone.inputs[0])],
        "output": numbers[id(clone.outputs[0])],
        "steps": steps,
    }


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Keep what both Kerases say in the same words."""
    return {key: value for key, value in config.items() if key in tfmot_worker.WORDS and not isinstance(value, dict)}
