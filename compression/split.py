"""Split inference: where to cut an ONNX model between the device and the cloud, if anywhere.

Every cut is measured: the head runs on the device, what crosses is sent, the tail runs in the cloud.
Keeping the model whole, on either side, competes with the cuts, and often wins: early tensors are
larger than the picture, and late ones leave the cloud nothing to do. The idea is Neurosurgeon's
(Kang et al., ASPLOS 2017), whose times are predicted; here they are measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_sdk.compression.graphs import CannotCrossError, Graph, Parts
from edge_sdk.errors import InputError, ModelError, one_line
from edge_sdk.files import write_durably

__all__ = ["Link", "Option", "Place", "Plan", "plan_split", "sample_inputs", "write_split"]

Tensors = dict[str, NDArray[Any]]
Place = Literal["edge", "cloud", "cut"]

_TOLERANCE = 1e-3  # of the largest output: graph optimisations differ on the two sides of a cut
_EARNS = 0.05  # the fastest of many noisy timings looks faster than it is
_SECONDS = 0.5  # of repeats of one side, after the first few
_FEW = 3
_INTEGERS = ("int16", "int32", "int64", "uint16", "uint32", "uint64", "bool")


@dataclass(frozen=True, slots=True)
class Link:
    """A network between the device and the cloud.

    Attributes
    ----------
    name
        For the report.
    round_trip
        Seconds that a request of no bytes takes.
    bandwidth
        Bytes a second from the device.
    """

    name: str
    round_trip: float
    bandwidth: float

    def __post_init__(self) -> None:
        if not (0 <= self.round_trip < math.inf and self.bandwidth > 0):
            raise InputError(f"link {self.name}: the round trip should be 0 or more, and the bandwidth more than 0")


@dataclass(frozen=True, slots=True)
class Option:
    """One way to share the work.

    Attributes
    ----------
    place
        ``edge`` and ``cloud``: the whole model there; ``cut``: both.
    tensors
        What crosses; the model's inputs for ``cloud``, nothing for ``edge``.
    bytes
        Sent for one input.
    device_ms, cloud_ms
        The work on either side, in milliseconds: the fastest of the runs, for what else a machine does
        only adds to them.
    """

    place: Place
    tensors: tuple[str, ...]
    bytes: int
    device_ms: float
    cloud_ms: float

    def latency_ms(self, link: Link) -> float:
        """Return the milliseconds that one input takes over a link; what the answer weighs is not counted."""
        if self.place == "edge":
            return self.device_ms
        return self.device_ms + 1e3 * (link.round_trip + self.bytes / link.bandwidth) + self.cloud_ms


@dataclass(frozen=True, slots=True)
class Plan:
    """Every way to share the work, measured.

    Attributes
    ----------
    options
        The whole model on the edge, then in the cloud, then the cuts from the input on.
    left_out
        Cuts whose parts, as they run here, compute something else than the whole, and those where
        what crosses is no tensor of numbers.
    """

    options: tuple[Option, ...]
    left_out: tuple[tuple[str, ...], ...] = ()

    def best(self, link: Link) -> Option:
        """Return the option to take over a link.

        A cut must be 5 % faster than the model whole on either side, and send one tensor: servers of
        this SDK take models of one input.
        """
        whole = min(self.options[:2], key=lambda option: option.latency_ms(link))
        cut = self.best_cut(link)
        if cut is None or cut.latency_ms(link) > (1 - _EARNS) * whole.latency_ms(link):
            return whole
        return cut

    def best_cut(self, link: Link) -> Option | None:
        """Return the fastest cut that sends one tensor; None where the model has none."""
        cuts = [option for option in self.options[2:] if len(option.tensors) == 1]
        return min(cuts, key=lambda option: option.latency_ms(link), default=None)


def plan_split(
    model: Path | bytes,
    inputs: Mapping[str, NDArray[Any]] | None = None,
    *,
    cloud_speed: float = 1.0,
    input_bytes: int | None = None,
    repeats: int = 20,
    progress: Callable[[int, int], object] | None = None,
) -> Plan:
    """Measure every cut of a model on this machine.

    Cuts are those between any two nodes in the order of the graph, and those at any one tensor that
    an output cannot be had without; see `edge_sdk.compression.graphs.Graph.cuts`.

    Parameters
    ----------
    model
        An ONNX model, float or quantized, without control flow.
    inputs
        One input by name; None makes one up.
    cloud_speed
        How many times faster the cloud is than this machine: stated by the caller, not measured.
    input_bytes
        Sent where the cloud has the whole model: of a JPEG file, say. By default the inputs' own size.
    repeats
        Runs of each side, of which the fastest counts; fewer where they take more than half a second.
    progress
        Called with the cuts measured so far and their number.

    Raises
    ------
    InputError
        An argument is out of range, or not an input of the model.
    ModelError
        The model cannot be read, run, or cut.
    """
    if not (0 < cloud_speed < math.inf) or repeats < 1:
        raise InputError(f"cloud_speed is {cloud_speed} and repeats is {repeats}; both should be above 0")
    if input_bytes is not None and input_bytes < 0:
        raise InputError(f"input_bytes is {input_bytes}; it should be 0 or more")
    graph = Graph.read(model)
    whole = _session(graph.whole())
    given = sample_inputs(model) if inputs is None else dict(inputs)
    if set(given) != set(graph.inputs):
        raise InputError(f"the model's inputs are {', '.join(graph.inputs)}, not {', '.join(given)}")
    expected = _run(whole, given)
    cuts = graph.cuts()
    times = _times(whole, given, repeats)
    measured, left_out = [], []
    for count, tensors in enumerate(cuts):
        if progress is not None:
            progress(count, len(cuts))
        option = _measure(graph, tensors, given, expected, repeats, cloud_speed)
        if option is None:
            left_out.append(tensors)
        else:
            measured.append(option)
    if progress is not None:
        progress(len(cuts), len(cuts))
    alone = min(times + _times(whole, given, repeats))  # before and after, should the machine drift
    size = sum(value.nbytes for value in given.values()) if input_bytes is None else input_bytes
    edge, cloud = Option("edge", (), 0, alone, 0.0), Option("cloud", graph.inputs, size, 0.0, alone / cloud_speed)
    return Plan((edge, cloud, *measured), tuple(left_out))


def sample_inputs(model: Path | bytes) -> Tensors:
    """Make up one input of a model: floats in [0, 1), bytes of any value, zeros for all else.

    Raises
    ------
    ModelError
        The model cannot be read.
    InputError
        An extent other than the first is open, so that somebody must say what inputs are.
    """
    rng, made = np.random.default_rng(0), {}
    for value in _session(Graph.read(model).whole()).get_inputs():
        shape = [1 if at == 0 and not isinstance(extent, int) else extent for at, extent in enumerate(value.shape)]
        kind = value.type.removeprefix("tensor(").removesuffix(")")
        dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
        if not all(isinstance(extent, int) and extent > 0 for extent in shape):
            raise InputError(f"input {value.name} is {value.type}{value.shape}, of any size: give an input to measure")
        if dtype in ("float16", "float32", "float64"):
            made[value.name] = rng.random(shape).astype(dtype)
        elif dtype in ("uint8", "int8"):
            made[value.name] = rng.integers(0, 256, shape).astype(np.uint8).view(dtype)
        elif dtype in _INTEGERS:
            made[value.name] = np.zeros(shape, dtype)
        else:
            raise InputError(f"input {value.name} is {value.type}, of which nothing can be made up: give one")
    return made


def write_split(model: Path | bytes, tensors: Sequence[str], head: Path, tail: Path) -> None:
    """Write the two parts of a cut as ONNX files: the head for the device, the tail for the cloud.

    The head's outputs are what crosses, and then those outputs of the model that need nothing of the
    cloud; the tail's are the others.

    Raises
    ------
    InputError
        The model has no such tensors, or cannot be cut there.
    ModelError
        The model cannot be read.
    StorageError
        A file cannot be written.
    """
    graph = Graph.read(model)
    parts = graph.parts(tuple(tensors))
    missing = [name for name in tensors if not graph.has([name])]
    if missing:
        raise InputError(f"the model computes no {', '.join(missing)}; 'edge-sdk split plan' lists cuts")
    if parts is None:
        raise InputError(
            f"the model cannot be cut at {', '.join(tensors) or 'nothing'}: no output needs just that and constants; "
            "'edge-sdk split plan' lists cuts"
        )
    if head.resolve() == tail.resolve():
        raise InputError(f"head and tail are both to be written to {head}")
    first, second = _typed(graph, parts)
    write_durably(head, first)
    write_durably(tail, second)


def _measure(
    graph: Graph, tensors: tuple[str, ...], given: Tensors, expected: Tensors, repeats: int, cloud_speed: float
) -> Option | None:
    parts = graph.parts(tensors)
    assert parts is not None
    try:
        head, tail = map(_session, _typed(graph, parts))
    except CannotCrossError:
        return None
    results = _run(head, given)
    crossing = {name: given[name] if name in given else results[name] for name in tensors}
    results |= _run(tail, crossing)
    if not all(_equal(results[name], expected[name]) for name in graph.outputs):
        return None
    device, cloud = min(_times(head, given, repeats)), min(_times(tail, crossing, repeats))
    return Option("cut", tensors, sum(value.nbytes for value in crossing.values()), device, cloud / cloud_speed)


def _typed(graph: Graph, parts: Parts) -> tuple[bytes, bytes]:
    """Return both parts as files; the runtime says what the tensors between them are."""
    types = {value.name: (value.type, value.shape) for value in _session(graph.head(parts, {})).get_outputs()}
    return graph.head(parts, types), graph.tail(parts, types)


def _equal(got: NDArray[Any], expected: NDArray[Any]) -> bool:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    if got.dtype in (np.int8, np.uint8):
        return bool((np.abs(got.astype(np.int16) - expected) <= 1).all())  # a rounding
    if got.dtype.kind != "f":
        return bool((got == expected).all())
    finite = np.abs(expected[np.isfinite(expected)])
    return np.allclose(got, expected, rtol=0, atol=_TOLERANCE * float(finite.max(initial=0)), equal_nan=True)


def _session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # onnxruntime has no public base class of its errors
        raise ModelError(f"ONNX Runtime cannot load the model: {one_line(error)}") from error


def _run(session: ort.InferenceSession, feed: Mapping[str, NDArray[Any]]) -> Tensors:
    try:
        results = session.run(None, {value.name: feed[value.name] for value in session.get_inputs()})
    except Exception as error:  # as above
        raise ModelError(f"ONNX Runtime cannot run the model: {one_line(error)}") from error
    return {value.name: np.asarray(result) for value, result in zip(session.get_outputs(), results, strict=True)}


def _times(session: ort.InferenceSession, feed: Mapping[str, NDArray[Any]], repeats: int) -> list[float]:
    """Return milliseconds of runs, after one that does not count."""
    _run(session, feed)
    times: list[float] = []
    while len(times) < min(repeats, _FEW) or (len(times) < repeats and sum(times) < _SECONDS * 1e3):
        start = time.perf_counter()
        _run(session, feed)
        times.append((time.perf_counter() - start) * 1e3)
    return times
