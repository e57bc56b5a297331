# ruff: noqa: INP001 - a script, not a module of a package
"""The two fronts of the server beside Triton: requests a second, latency, and processor time of the server a request.

As ``server.py``, but with a load generator in C, ``h2load`` (Debian: nghttp2-client): on few processors one in Python
is what limits a fast server. Triton is that of the wheel nvidia-pytriton, in an environment of its own that has
onnxruntime, too. It has no backend for ONNX: the models run in its Python backend, all requests of a batch at once.
``tuned`` is another Triton with two instances of each model and no batching, which suits the convolutional net.

After the table stands what ONNX Runtime takes by itself, by the size of its batches, on one processor and in two
sessions on two; and how much cheaper than each server a front could be that costs nothing. A goal beyond that is beyond
the machine.

example:
  python benchmarks/fronts.py --rounds 5 --triton triton.venv/bin/python --json fronts.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # -P leaves it out

from server import (  # noqa: E402 - after the path is set
    METHOD,
    MODELS,
    OPTIONS,
    Cell,
    body,
    cpu_seconds,
    floor,
    serving,
    show,
    write_models,
)

WARM_SECONDS = 0.5
BATCHES, LIMIT_SECONDS = (1, 8, 16, 32, 64, 128, 256), 0.3

MODEL = """
import os, sys
sys.path.append(os.environ["PACKAGES"])
import numpy as np, onnxruntime as ort
import triton_python_backend_utils as pb
class TritonPythonModel:
    def initialize(self, args):
        options = ort.SessionOptions(); options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(PATH, options, providers=["CPUExecutionProvider"])
    def execute(self, requests):
        xs = [pb.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        y = self._session.run(["y"], {"x": xs[0] if len(xs) == 1 else np.concatenate(xs)})[0]
        answers, at = [], 0
        for x in xs:
            own = pb.Tensor("y", y[at:at + len(x)]); at += len(x)
            answers.append(pb.InferenceResponse([own]))
        return answers
"""


def write_repository(folder: Path, models: Path, how: str) -> None:
    """Write Triton's repository of the models, with lines of configuration."""
    for name, shape in MODELS.items():
        (folder / name / "1").mkdir(parents=True)
        path = str(models / f"{name}.onnx")
        (folder / name / "1" / "model.py").write_text(MODEL.replace("PATH", repr(path)), encoding="utf-8")
        wide = shape[0] if name == "identity" else 10
        (folder / name / "config.pbtxt").write_text(
            f'backend: "python"\nmax_batch_size: 64\n{how}\n'
            f'input [{{ name: "x" data_type: TYPE_FP32 dims: {list(shape)} }}]\n'
            f'output [{{ name: "y" data_type: TYPE_FP32 dims: [{wide}] }}]\n',
            encoding="utf-8",
        )


def triton(python: str, folder: Path, models: Path, how: str, port: int) -> list[str]:
    """Return the command of a Triton that serves the models."""
    (folder / "own").mkdir(parents=True)
    write_repository(folder / "models", models, how)
    program = HERE.parent / "tests" / "fixtures" / "foreign" / "triton_server.py"
    command = [python, str(program), str(folder / "models"), str(folder / "own"), *(str(port + n) for n in range(3))]
    # else two of them share memory, and the second does not start
    return [*command, f"--backend-config=python,shm-region-prefix-name=edge-{os.getpid()}-{port}"]


def answer_bytes(address: str, data: bytes) -> int:
    """Return how large the right answer is."""
    import grpc

    with grpc.insecure_channel(address, OPTIONS) as channel:
        return len(channel.unary_unary(METHOD)(data, timeout=60, wait_for_ready=True))


def measure(server: str, address: str, pid: int, model: str, connections: int, items: int, seconds: float) -> Cell:
    """Load one server for some seconds."""
    import grpc

    data = body(model, items)
    try:
        expected = 5 + answer_bytes(address, data)
    except grpc.RpcError as error:
        raise SystemExit(f"{server} at {address} does not answer one request for {model}: {error}") from error
    with tempfile.TemporaryDirectory() as name:
        request, log = Path(name) / "request", Path(name) / "log"
        request.write_bytes(b"\0" + len(data).to_bytes(4, "big") + data)
        command = ["h2load", "-t", "1", "-c", str(connections), "-m", "1", "-w", "22", "-W", "22"]
        command += [
            "-D",
            f"{1e3 * seconds:.0f}ms",
            "--warm-up-time",
            f"{1e3 * WARM_SECONDS:.0f}ms",
            "--log-file",
            str(log),
            "-d",
            str(request),
        ]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers", f"http://{address}{METHOD}"]
        before, start = cpu_seconds(pid), time.perf_counter()
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        used, took = cpu_seconds(pid) - before, time.perf_counter() - start
        rows = [line.split("\t") for line in log.read_text(encoding="ascii").splitlines()]
    times = sorted(int(row[2]) / 1e3 for row in rows)
    contents = re.search(r"\((\d+)\) data", said)
    assert contents, said
    # h2load knows nothing of gRPC's status: what failed has no message
    right = int(contents[1]) // expected
    done = max(1, len(times))
    everything = done * took / seconds  # the warm-up was paid for, too
    return Cell(
        server,
        model,
        connections,
        items,
        done / seconds,
        times[done // 2] if times else 0.0,
        times[min(done - 1, done * 99 // 100)] if times else 0.0,
        1e6 * used / everything,
        max(0, len(times) - right - connections),
    )


def limits(folder: Path, model: str, items: int) -> float:
    """Print what ONNX Runtime takes alone, by the size of a batch; return the least microseconds a request."""
    import numpy as np
    import onnxruntime as ort

    def session() -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        return ort.InferenceSession(str(folder / f"{model}.onnx"), options, providers=["CPUExecutionProvider"])

    def run(one: ort.InferenceSession, x: np.ndarray, seconds: float) -> tuple[int, float]:
        runs, end, least = 0, time.perf_counter() + seconds, float("inf")
        while runs < 3 or time.perf_counter() < end:
            before = time.thread_time()
            one.run(["y"], {"x": x})
            least = min(least, time.thread_time() - before)
            runs += 1
        return runs, least

    two, best = (session(), session()), float("inf")
    for size in (size for size in BATCHES if size >= items):
        x = np.random.default_rng(1).normal(size=(size, *MODELS[model])).astype(np.float32)
        _, least = run(two[0], x, LIMIT_SECONDS)
        best = min(best, least / size)
        start = time.perf_counter()
        with ThreadPoolExecutor(2) as threads:
            done = sum(runs for runs, _ in threads.map(lambda one, x=x: run(one, x, LIMIT_SECONDS), two))
        rate = done * size / (time.perf_counter() - start)
        print(
            f"{model}: ONNX Runtime alone, batches of {size}: {1e6 * least / size:.1f} µs an item, "
            f"{size / least:.0f} items a second of a processor; two sessions {rate:.0f} items/s"
        )
        if least > LIMIT_SECONDS / 10:
            break
    return 1e6 * items * best


def show_limits(cells: Sequence[Cell], least: Mapping[str, float]) -> None:
    """Print how far each server is from a front that costs nothing."""
    for key in dict.fromkeys((cell.model, cell.connections, cell.server) for cell in cells):
        model, connections, server = key
        cpu = median(cell.cpu_us for cell in cells if (cell.model, cell.connections, cell.server) == key)
        print(
            f"{model}, {connections} connections, {server}: {cpu:.0f} µs a request, of which ONNX Runtime takes "
            f"{least[model]:.0f} at least; a front that costs nothing would be {cpu / least[model]:.2f} times as cheap"
        )


def main() -> int:
    """Measure, print a table, and write everything as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each server and load (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load (default: %(default)s)")
    parser.add_argument("--models", nargs="+", default=list(MODELS)[:3], choices=list(MODELS))
    parser.add_argument("--connections", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--items", type=int, default=1, help="in one request (default: %(default)s)")
    parser.add_argument("--servers", nargs="+", metavar="NAME", help="some of them only")
    parser.add_argument("--workers", type=int, metavar="N", help="both fronts once more, with so many processes")
    parser.add_argument("--triton", metavar="PYTHON", help="interpreter that has nvidia-pytriton and onnxruntime")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round, for programs")
    arguments = parser.parse_args()
    if shutil.which("h2load") is None:
        parser.error("h2load is needed: on Debian, apt-get install nghttp2-client")
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        write_models(folder)
        serve = [sys.executable, "-P", "-m", "edge_sdk", "serve", *(str(folder / f"{model}.onnx") for model in MODELS)]
        commands = {front: [*serve, "--grpc-port", "0", "--front", front] for front in ("fast", "grpc")}
        if arguments.workers:
            several = ["--workers", str(arguments.workers)]
            commands |= {f"{front}*{arguments.workers}": [*command, *several] for front, command in commands.items()}
        if arguments.triton:
            batching, instances = "dynamic_batching {}", "instance_group [{ count: 2 kind: KIND_CPU }]"
            commands["triton"] = triton(arguments.triton, folder / "default", folder, batching, 18501)
            commands["tuned"] = triton(arguments.triton, folder / "tuned", folder, instances, 18511)
        chosen = {key: command for key, command in commands.items() if key in (arguments.servers or commands)}
        servers = {key: stack.enter_context(serving(command)) for key, command in chosen.items()}
        for _ in range(arguments.rounds):
            for model in arguments.models:
                for connections in arguments.connections:
                    for key, (address, pid) in servers.items():
                        if key != "tuned" or model == "cnn":
                            load = (model, connections, arguments.items, arguments.seconds)
                            cells.append(measure(key, address, pid, *load))
        show(cells, {model: floor(folder, model, arguments.items) for model in arguments.models})
        show_limits(cells, {model: limits(folder, model, arguments.items) for model in arguments.models})
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
