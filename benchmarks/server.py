# ruff: noqa: INP001 - a script, not a module of a package
r"""The server under load beside its peers: requests a second, latency, and processor time of the server a request.

Closed loop: so many connections, each with one request at a time. Every server runs alone, in turn, a round of
each after the other, so that all see the same machine; the medians of the rounds are shown:

- ``ours`` has the fast front, and ``grpc`` is the same server with gRPC's own library for it;
- ``echo``: a bare ``grpc.aio`` server that gives back as many bytes as the model would, and parses nothing: what
  gRPC itself costs;
- ``run``: the same, which runs the model on the bytes that come, in buffers: what gRPC and the model cost;
- ``floor``: ONNX Runtime in this process, without a server;
- ``mlserver`` and ``pytriton``, each where an interpreter is given that has it (in an environment of its own), with
  the same models in ONNX Runtime. They are in ``benchmarks/peers``.

example:
  python benchmarks/server.py --rounds 5 --seconds 2 --mlserver mlserver.venv/bin/python \
    --pytriton triton.venv/bin/python --json server.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

METHOD = "/inference.GRPCInferenceService/ModelInfer"
MODELS = {"identity": (16,), "mlp": (256,), "cnn": (3, 224, 224), "thumbnail": (3, 48, 48)}
PEERS = Path(__file__).parent / "peers"
READY_SECONDS = 180
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True)
class Cell:
    """What one server did with one load in one round."""

    server: str
    model: str
    connections: int
    items: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    failures: int


def write_models(folder: Path) -> None:
    """Write the models, seeded: an identity, a perceptron 256-1024-1024-10, and a net like MobileNet."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    for name, shape in MODELS.items():
        nodes, weights = [], []

        def weight(array: np.ndarray, into: list[Any] = weights) -> str:
            into.append(numpy_helper.from_array(array.astype(np.float32), f"w{len(into)}"))
            return f"w{len(into) - 1}"

        def add(kind: str, *inputs: str, into: list[Any] = nodes, **attributes: Any) -> str:
            into.append(helper.make_node(kind, list(inputs), [f"t{len(into)}"], **attributes))
            return f"t{len(into) - 1}"

        last = "x"
        if name == "mlp":
            for wide, high in ((256, 1024), (1024, 1024), (1024, 10)):
                last = add("Gemm", last, weight(rng.normal(size=(wide, high)) / wide**0.5), weight(np.zeros(high)))
                last = add("Relu", last) if high != 10 else last
        elif name in {"cnn", "thumbnail"}:
            channels = 3
            widths, strides = ((32, 64, 96, 128, 256), (2, 1, 2, 2, 2))
            if name == "thumbnail":  # a small request that takes long
                widths, strides = ((64, 192, 384, 512, 512), (1, 1, 2, 1, 2))
            for out, stride in zip(widths, strides, strict=True):
                kernel = rng.normal(size=(channels, 1, 3, 3)) / 3
                last = add("Conv", last, weight(kernel), group=channels, strides=[stride] * 2, pads=[1] * 4)
                last = add("Conv", last, weight(rng.normal(size=(out, channels, 1, 1)) / channels**0.5))
                last, channels = add("Relu", last), out
            last = add("Flatten", add("GlobalAveragePool", last))
            last = add("Gemm", last, weight(rng.normal(size=(channels, 10)) / 10), weight(np.zeros(10)))
        nodes.append(helper.make_node("Identity", [last], ["y"]))
        wide = list(shape) if name == "identity" else [10]
        graph = helper.make_graph(
            nodes,
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *wide])],
            weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())


def body(model: str, items: int) -> bytes:
    """Return a request, serialized: the same for every server."""
    from edge_sdk.protocol import add_input, messages

    request = messages.ModelInferRequest(model_name=model)
    x = np.random.default_rng(1).normal(size=(items, *MODELS[model])).astype(np.float32)
    add_input(request, "x", x)
    data: bytes = request.SerializeToString()
    return data


def load(address: str, data: bytes, connections: int, seconds: float, timeout: float | None, out: Any) -> None:
    """Keep so many requests going, each on its own connection; a process of its own."""

    async def client(channel: Any, until: float, warm: float, times: list[float]) -> int:
        import grpc

        call, failures = channel.unary_unary(METHOD), 0
        while (start := time.perf_counter()) < until:
            try:
                await call(data, timeout=timeout)
            except grpc.aio.AioRpcError:
                failures += 1
                continue
            if start >= warm:
                times.append(time.perf_counter() - start)
        return failures

    async def run() -> tuple[list[float], int]:
        import grpc

        options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(address, options) for _ in range(connections)]
        for channel in channels:
            await channel.channel_ready()
        now, times = time.perf_counter(), list[float]()
        failures = await asyncio.gather(
            *(client(channel, now + 0.3 + seconds, now + 0.3, times) for channel in channels)
        )
        for channel in channels:
            await channel.close()
        return times, sum(failures)

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        out.send(runner.run(run()))


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process and its children have had."""
    total = 0.0
    for one in [pid, *children(pid)]:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def children(pid: int) -> list[int]:
    """Return the ids of all processes below one."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
            found += [int(child), *children(int(child))]
    return found


@contextlib.contextmanager
def serving(command: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield the address and process id of a server that prints ``ready grpc=HOST:PORT``."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("ready"):
                    words = dict(word.split("=") for word in line.split()[1:])
                    yield words["grpc"], process.pid
                    break
            else:
                raise SystemExit(f"{command[0]} did not start")
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def free_ports(count: int) -> list[str]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [str(one.getsockname()[1]) for one in found]


def wait_until_ready(address: str, models: Sequence[str]) -> None:
    """Return when a server says of every model that it is ready."""
    import grpc

    from edge_sdk.protocol import messages

    takes, gives = messages.METHODS["ModelReady"]
    end = time.monotonic() + READY_SECONDS
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(METHOD.replace("ModelInfer", "ModelReady"), takes.SerializeToString, gives.FromString)
        for model in models:
            while True:
                with contextlib.suppress(grpc.RpcError):
                    if ask(takes(name=model), timeout=5, wait_for_ready=True).ready:
                        break
                if time.monotonic() > end:
                    raise SystemExit(f"{address}: {model} does not become ready")
                time.sleep(0.2)


def measure(
    server: str,
    address: str,
    pid: int,
    model: str,
    connections: int,
    items: int,
    seconds: float,
    timeout: float | None = None,
) -> Cell:
    """Load one server for some seconds."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    loader = context.Process(target=load, args=(address, body(model, items), connections, seconds, timeout, send))
    loader.start()
    time.sleep(0.1)
    before = cpu_seconds(pid)
    times, failures = receive.recv()
    used = cpu_seconds(pid) - before
    loader.join()
    times.sort()
    done = max(len(times), 1)
    everything = done * (seconds + 0.3) / seconds + failures  # the first 0.3 s were paid for too
    return Cell(
        server,
        model,
        connections,
        items,
        len(times) / seconds,
        1e3 * times[done // 2] if times else 0.0,
        1e3 * times[min(done - 1, done * 99 // 100)] if times else 0.0,
        1e6 * used / everything,
        failures,
    )


def floor(folder: Path, model: str, items: int) -> float:
    """Return the microseconds a request that ONNX Runtime takes in this process."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(folder / f"{model}.onnx"), options)
    x = np.random.default_rng(1).normal(size=(items, *MODELS[model])).astype(np.float32)
    times = []
    for _ in range(60):
        start = time.perf_counter()
        session.run(["y"], {"x": x})
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def main() -> int:
    """Measure, print a table, and write everything as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each server and load (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load (default: %(default)s)")
    parser.add_argument("--models", nargs="+", default=list(MODELS)[:3], choices=list(MODELS))
    parser.add_argument("--connections", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--items", type=int, default=1, help="in one request (default: %(default)s)")
    parser.add_argument(
        "--serve", nargs="*", default=[], metavar="OPTION", help="options of edge-sdk serve, without --"
    )
    for peer in ("mlserver", "pytriton"):
        parser.add_argument(f"--{peer}", metavar="PYTHON", help=f"interpreter that has {peer} and onnxruntime")
    parser.add_argument("--servers", nargs="+", metavar="NAME", help="some of them only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round, for programs")
    arguments = parser.parse_args()
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        write_models(folder)
        sizes = {len(body(m, arguments.items)): 4 * arguments.items * (16 if m == "identity" else 10) for m in MODELS}
        paths = [str(folder / f"{model}.onnx") for model in MODELS]
        options = [f"--{option}" if not option[:1].isdigit() else option for option in arguments.serve]
        serve = [sys.executable, "-P", "-m", "edge_sdk", "serve", *paths, "--grpc-port", "0", *options]
        commands = {
            "ours": [*serve, "--front", "fast"],
            "grpc": [*serve, "--front", "grpc"],
            "echo": [sys.executable, str(PEERS / "echo.py"), ",".join(f"{n}:{size + 90}" for n, size in sizes.items())],
        }
        runs = [f"{len(body(model, arguments.items))}:{folder / model}.onnx" for model in arguments.models]
        commands["run"] = [sys.executable, str(PEERS / "echo.py"), "run", *runs]
        for peer in ("mlserver", "pytriton"):
            if python := getattr(arguments, peer):
                commands[peer] = [python, str(PEERS / f"{peer}_onnx.py"), name, *free_ports(3)]
        chosen = arguments.servers or [key for key in commands if key != "run" or arguments.items == 1]
        servers = {key: stack.enter_context(serving(command)) for key, command in commands.items() if key in chosen}
        for key in servers.keys() - {"ours", "grpc", "echo", "run"}:
            wait_until_ready(servers[key][0], arguments.models)
        for _ in range(arguments.rounds):
            for model in arguments.models:
                for connections in arguments.connections:
                    for key, (address, pid) in servers.items():
                        cells.append(measure(key, address, pid, model, connections, arguments.items, arguments.seconds))
        show_beside_echo(cells)
        show(cells, {model: floor(folder, model, arguments.items) for model in arguments.models})
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1), encoding="utf-8")
    return 0


def show_beside_echo(cells: Sequence[Cell]) -> None:
    """Print how many times the echo's processor time each server takes, compared round by round."""
    found: dict[tuple[str, int, str], list[float]] = {}
    for cell in cells:
        found.setdefault((cell.model, cell.connections, cell.server), []).append(cell.cpu_us)
    for (model, connections, server), mine in found.items():
        echo = found.get((model, connections, "echo"), [])
        if server == "echo" or len(echo) < 2:
            continue
        low, middle, high = statistics.quantiles([one / other for one, other in zip(mine, echo, strict=True)], n=4)
        print(
            f"{model}, {connections} connections: {server} takes {middle:.2f} times the echo's processor time "
            f"(quartiles {low:.2f} and {high:.2f}; least of each {min(mine) / min(echo):.2f})"
        )


def show(cells: Sequence[Cell], floors: dict[str, float]) -> None:
    """Print medians over the rounds."""
    print(f"{'model':9} {'conn':>4} {'server':9} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'CPU µs':>8} {'failed':>6}")
    keys = dict.fromkeys((cell.model, cell.connections, cell.server) for cell in cells)
    for model, connections, server in keys:
        mine = [c for c in cells if (c.model, c.connections, c.server) == (model, connections, server)]
        rate, p50, p99, cpu = (
            statistics.median(getattr(cell, name) for cell in mine)
            for name in ("requests_per_second", "p50_ms", "p99_ms", "cpu_us")
        )
        failed = sum(cell.failures for cell in mine)
        print(f"{model:9} {connections:4} {server:9} {rate:8.0f} {p50:8.2f} {p99:8.2f} {cpu:8.0f} {failed:6}")
    for model, microseconds in floors.items():
        print(
            f"{model:9}    - floor     {1e6 / microseconds:8.0f} {microseconds / 1e3:8.3f} {'':8} {microseconds:8.0f}"
        )


if __name__ == "__main__":
    sys.exit(main())
