"""A camera that loses its network: every frame is answered in time, and the cloud's answers come afterwards.

A small model of digits on the device and a large one behind a server stand for yours. Between them is a cable
that is unplugged while the camera goes on, so that nothing comes through and nothing says why. What the cloud
should have seen waits on the disk; when the cable is back, it is sent, and the answers are in the journal.

    pip install 'edge-sdk[demo]'
    python -m edge_sdk.examples.offline
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edge_sdk
from edge_sdk.cascade.journal import LateAnswer, Record
from edge_sdk.certification import certify_bundle
from edge_sdk.client import Outbox
from edge_sdk.client.journal import Reader
from edge_sdk.datasets import Dataset, load_splits
from edge_sdk.errors import EdgeSdkError

__all__ = ["Cable", "Outcome", "Phase", "main", "run"]

SPEC = edge_sdk.ProcessingSpec.image(28, 28, 1)
DEADLINE = 0.150
FRAMES_A_SECOND = 25


@dataclass(frozen=True, slots=True)
class Phase:
    """What the app saw while the cable was in, or out.

    Attributes
    ----------
    name
        ``plugged``, ``unplugged``, ``plugged again``.
    answers
        How often each source gave an answer for which reason.
    slowest_ms
        From a frame to its answer.
    waiting
        Frames in the outbox at the end.
    """

    name: str
    answers: Counter[tuple[str, str]]
    slowest_ms: float
    waiting: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the frames.

    Attributes
    ----------
    phases
        One after the other.
    late
        Frames whose answer came when the cable was back.
    edge_right, late_right
        Of those, how many the device, and how many the cloud named rightly.
    missing
        Frames that were to be asked about, and have no answer of the cloud.
    counters
        Of the outbox.
    """

    phases: tuple[Phase, ...]
    late: int
    edge_right: int
    late_right: int
    missing: int
    counters: dict[str, int]


class Cable:
    """A connection that can be unplugged: then nothing comes through, and what was sent waits, as it does in TCP."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._target = (host, int(port))
        self._plugged = threading.Event()
        self._plugged.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def unplug(self) -> None:
        """Let nothing through."""
        self._plugged.clear()

    def plug(self) -> None:
        """Let everything through, first what has waited."""
        self._plugged.set()

    def close(self) -> None:
        """Take no further connection."""
        self._plugged.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        self._plugged.wait()
        with near, contextlib.suppress(OSError), socket.create_connection(self._target) as far:
            back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
            back.start()
            self._pump(near, far)
            back.join()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._plugged.wait()
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def train(name: str, data: Dataset, count: int, hidden: int, folder: Path) -> Path:
    """Train a network on so many digits, write it as ONNX, and pack it."""
    from onnx import TensorProto, helper, numpy_helper
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    pixels = np.asarray(data.images[:count], np.float32).reshape(count, -1) / 255
    network = MLPClassifier((hidden,), max_iter=20, tol=1e-3, n_iter_no_change=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it need not be the best there is
        network.fit(pixels, data.labels[:count])
    weights: list[NDArray[Any]] = [*network.coefs_, *network.intercepts_]
    stored = [
        numpy_helper.from_array(w.astype(np.float32), n) for w, n in zip(weights, ("w1", "w2", "b1", "b2"), strict=True)
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "w1", "b1"], ["sum"]),
            helper.make_node("Relu", ["sum"], ["hidden"]),
            helper.make_node("Gemm", ["hidden", "w2", "b2"], ["logits"]),
        ],
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 28, 28, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / f"{name}-1.0.0.edge"
    edge_sdk.pack(
        model.SerializeToString(),
        runtime="onnx",
        path=path,
        name=name,
        version="1.0.0",
        labels=data.classes,
        processing=SPEC,
        output="logits",
        golden_inputs=list(data.images[:4]),
    )
    return path


@contextlib.contextmanager
def serve(bundle: Path) -> Iterator[str]:
    """Run a server of a bundle; yields its address."""
    command = [sys.executable, "-m", "edge_sdk", "serve", str(bundle), "--grpc-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield next(found[1] for line in process.stdout if (found := re.search(r"^ready .*grpc=(\S+)", line)))
        finally:
            process.terminate()


def run(folder: Path, *, frames: int = 300) -> Outcome:
    """Train, certify, and let a camera run with its cable in, out, and in again.

    Parameters
    ----------
    folder
        For bundles, journal and outbox.
    frames
        In all, a third of them while the cable is out.

    Raises
    ------
    EdgeSdkError
        What goes wrong, in one line.
    """
    data = load_splits("mnist")
    device = train("device", data.train, 400, 16, folder)
    server = train("server", data.train, len(data.train.labels), 64, folder)
    certified = folder / "certified.edge"
    certify_bundle(device, server, data, certified, max_accuracy_loss=0.02)

    order = np.random.default_rng(0).permutation(len(data.test.labels))
    truth: dict[str, int] = {}
    phases = []
    with contextlib.ExitStack() as stack:
        cable = Cable(stack.enter_context(serve(server)))
        stack.callback(cable.close)
        outbox = stack.enter_context(Outbox(folder / "outbox"))
        model = stack.enter_context(
            edge_sdk.connect(
                certified, cloud=cable.address, deadline=DEADLINE, journal=folder / "journal", outbox=outbox
            )
        )
        for number, name in enumerate(("plugged", "unplugged", "plugged again")):
            (cable.unplug if name == "unplugged" else cable.plug)()
            answers: Counter[tuple[str, str]] = Counter()
            slowest = 0.0
            for frame in range(number * frames // 3, (number + 1) * frames // 3):
                picture = order[frame % len(order)]
                started = time.perf_counter()
                answer = model.predict(data.test.images[picture])
                took = time.perf_counter() - started
                slowest = max(slowest, took)
                answers[answer.source, answer.reason] += 1
                truth[answer.decision_id] = int(data.test.labels[picture])
                time.sleep(max(0.0, 1 / FRAMES_A_SECOND - took))
            outbox.flush()
            phases.append(Phase(name, answers, slowest * 1e3, outbox.counters["waiting"]))
        outbox.wait_until_empty(timeout=60)
        counters = outbox.counters
    return _look_back(folder / "journal", truth, tuple(phases), counters)


def _look_back(journal: Path, truth: dict[str, int], phases: tuple[Phase, ...], counters: dict[str, int]) -> Outcome:
    """Join the answers that came late to the decisions that they belong to."""
    records = list(Reader(journal))
    late = {record.id: record.cloud.index for record in records if isinstance(record, LateAnswer)}
    made = {record.id: record.outcome for record in records if isinstance(record, Record)}
    return Outcome(
        phases,
        late=len(late),
        edge_right=sum(made[name].index == truth[name] for name in late),
        late_right=sum(index == truth[name] for name, index in late.items()),
        missing=sum(outcome.missing is not None and name not in late for name, outcome in made.items()),
        counters=counters,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and run; 2 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300, help="of the camera, 25 a second (default %(default)s)")
    options = parser.parse_args(argv)
    if options.frames < 3:
        print("offline: error: need at least 3 frames", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder:
            outcome = run(Path(folder), frames=options.frames)
    except EdgeSdkError as error:
        print(f"offline: error: {error}", file=sys.stderr)
        return 2
    for phase in outcome.phases:
        shown = ", ".join(f"{count} {source} ({reason})" for (source, reason), count in phase.answers.most_common())
        print(f"{phase.name:<13} {shown}")
        print(f"{'':<13} slowest answer {phase.slowest_ms:.0f} ms of {DEADLINE * 1e3:.0f}; {phase.waiting} frames wait")
    print(f"afterwards    {outcome.late} answers came late, {outcome.missing} are missing")
    if outcome.late:
        print(f"{'':<13} of these frames the device named {outcome.edge_right} rightly, the cloud {outcome.late_right}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
