"""The app on the device, in a process of its own: it predicts, and follows updates while it does.

It takes orders as JSON lines on standard input and answers each with one JSON line:
``{"do": "sweep", "mode": "hybrid", "out": FILE}`` predicts every test image once;
``{"do": "stream", "out": FILE}`` predicts them round and round until ``{"do": "stop"}``; meanwhile
``{"do": "tell"}`` asks which version answers and how often the cloud did.
The end of the input ends the process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edge_sdk
from edge_sdk.client import MODES, HybridModel, Mode
from edge_sdk.errors import EdgeSdkError
from edge_sdk.examples.demo import records
from edge_sdk.files import open_durably
from edge_sdk.ota import active, follow

logger = logging.getLogger("edge_sdk.examples.demo.device")

STREAM_PAUSE = 0.002  # seconds between the frames of a stream


class App:
    """An app that embeds a hybrid model and swaps it when the agent has installed another."""

    def __init__(self, state: Path, cloud: str, images: Sequence[NDArray[np.uint8]], deadline: float) -> None:
        self._state, self._cloud, self._images, self._deadline = state, cloud, images, deadline
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._stream: Future[dict[str, Any]] | None = None
        self._stop = threading.Event()
        self._streaming: HybridModel | None = None

    def sweep(self, mode: Mode, out: Path) -> dict[str, Any]:
        """Predict every test image once in a mode; the cloud alone may take its time."""
        deadline = None if mode == "cloud" else self._deadline
        with self._connect(mode, deadline) as model:
            for image in self._images[:20]:
                model.predict(image)  # warm-up: connections, caches
            before = model.counters
            rows = [self._call(model, item) for item in range(len(self._images))]
            after = model.counters
        records.write(out, rows)
        return {"calls": len(rows), "bytes_sent": after["bytes_sent"] - before["bytes_sent"]}

    def start(self, out: Path) -> dict[str, Any]:
        """Begin to predict without end, in hybrid mode, in a thread of its own."""
        self._stop.clear()
        ready = threading.Event()
        self._stream = self._threads.submit(self._run_stream, out, ready)
        self._stream.add_done_callback(lambda _: ready.set())
        ready.wait()
        return self._stream.result() if self._stream.done() else {"streaming": True}

    def tell(self) -> dict[str, Any]:
        """Return which version the stream's answers are of, and how many the cloud has given."""
        model = self._streaming
        if model is None:
            raise EdgeSdkError("there is no stream to tell of")
        return {"version": model.edge.version, "escalated": model.counters["escalated"]}

    def stop(self) -> dict[str, Any]:
        """End the stream and write its records."""
        if self._stream is None:
            raise EdgeSdkError("there is no stream to stop")
        self._stop.set()
        return self._stream.result()

    def close(self) -> None:
        """End what still runs."""
        self._stop.set()
        self._threads.shutdown()

    def _run_stream(self, out: Path, ready: threading.Event) -> dict[str, Any]:
        rows: list[records.Row] = []
        with self._connect("hybrid", self._deadline) as model, follow(self._state, model):
            for image in self._images[:20]:
                model.predict(image)
            self._streaming = model
            ready.set()
            item = 0
            while not self._stop.wait(STREAM_PAUSE):
                rows.append(self._call(model, item))
                item = (item + 1) % len(self._images)
            sent, self._streaming = model.counters["bytes_sent"], None
        records.write(out, rows)
        return {"calls": len(rows), "bytes_sent": sent}

    def _connect(self, mode: Mode, deadline: float | None) -> HybridModel:
        slot = active(self._state)
        if slot is None:
            raise EdgeSdkError(f"no version is installed in {self._state}")
        # no audits: their lots would make two runs of the demo differ
        return edge_sdk.connect(slot, cloud=self._cloud, mode=mode, deadline=deadline, audit_rate=0.0)

    def _call(self, model: HybridModel, item: int) -> records.Row:
        before, answer = _withheld_ms(), None
        at, start = time.monotonic(), time.perf_counter()
        try:
            answer = model.predict(self._images[item])
        except Exception:  # the report counts it; an app would crash here
            logger.exception("a call failed")
        took = (time.perf_counter() - start) * 1e3
        withheld = max(0.0, _withheld_ms() - before)
        if answer is None:
            return records.failed(at, took, withheld, item, model.edge.version)
        return records.row(at, took, withheld, item, answer, model.edge.version)


def _withheld_ms() -> float:
    """Return how long threads of this process could have run and others had the processor; 0 where nobody counts it."""
    total = 0
    with contextlib.suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that has just ended
                total += int((task / "schedstat").read_text().split()[1])
    return total / 1e6


def save_images(path: Path, images: Iterable[NDArray[np.uint8]]) -> None:
    """Write test images, of one size or several, to a ``.npz`` file that `load_images` reads."""
    with open_durably(path) as stream:
        np.savez(stream, **{str(n): image for n, image in enumerate(images)})  # type: ignore[arg-type]


def load_images(path: Path) -> list[NDArray[np.uint8]]:
    """Read what `save_images` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return [arrays[str(n)] for n in range(len(arrays.files))]


def _obey(app: App, order: dict[str, Any]) -> dict[str, Any]:
    match order:
        case {"do": "sweep", "mode": mode, "out": str(out)} if mode in MODES:
            return app.sweep(mode, Path(out))
        case {"do": "stream", "out": str(out)}:
            return app.start(Path(out))
        case {"do": "tell"}:
            return app.tell()
        case {"do": "stop"}:
            return app.stop()
    raise EdgeSdkError(f"cannot obey {order}")


def main() -> int:
    """Run the app until its standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--cloud", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--deadline", type=float, required=True)
    args = parser.parse_args()
    app = App(args.state, args.cloud, load_images(args.images), args.deadline)
    print("ready device=app", flush=True)
    try:
        for line in sys.stdin:
            try:
                reply = _obey(app, json.loads(line))
            except EdgeSdkError as error:
                reply = {"error": str(error)}
            print(json.dumps(reply), flush=True)
    finally:
        app.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
