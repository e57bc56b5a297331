"""Several processes behind one address: what becomes of requests, counters and orders when one of them ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import grpc
import numpy as np
import pytest

from edge_sdk.protocol import add_input, messages
from outside.bundles import SIDE, TinyBundle
from outside.services import Service
from outside.services import edge_sdk as run_edge_sdk

PATIENT = 30.0
OF_MODEL = '{model="tiny",version="1.0.0"}'
ports = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")


@pytest.fixture
def pair(tiny_edge_bundle: TinyBundle) -> Iterator[Service]:
    """Yield a server of two workers."""
    with Service("serve", tiny_edge_bundle.path, *ports, "--workers", "2") as process:
        yield process


def workers(process: Service) -> list[int]:
    """Return the process ids of the workers, the oldest first."""
    pid = process.process.pid
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def wait_until(holds, seconds: float = PATIENT):
    """Return what holds as soon as it does."""
    until = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)
    return found


def get(address: str, path: str) -> tuple[int, str]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENT)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def scrape(process: Service) -> dict[str, float]:
    """Return each sample by its name and labels."""
    status, text = get(process.ready["metrics"], "/metrics")
    assert status == 200
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def answered(process: Service) -> float:
    return scrape(process).get(f"nv_inference_request_success{OF_MODEL}", 0)


def channel_to(address: str) -> grpc.Channel:
    """Return a channel whose connection is its own, and which sends nothing twice."""
    return grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)])


def request() -> bytes:
    message = messages.ModelInferRequest(model_name="tiny")
    add_input(message, "image", np.zeros((1, SIDE, SIDE, 3), np.float32))
    return message.SerializeToString()


def infer(channel: grpc.Channel, timeout: float = PATIENT) -> bytes:
    return channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(request(), timeout=timeout)


class Load:
    """Eight clients, each with a connection of its own, that ask again and again."""

    def __init__(self, address: str, clients: int = 8) -> None:
        self.done, self.failed = 0, list[grpc.RpcError]()
        self._address, self._end = address, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        with channel_to(self._address) as channel:
            grpc.channel_ready_future(channel).result(PATIENT)
            while not self._end.is_set():
                try:
                    # a connection that was ended in good order is made again before the next request
                    channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
                        request(), timeout=PATIENT, wait_for_ready=True
                    )
                    self.done += 1
                except grpc.RpcError as error:
                    self.failed.append(error)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.wait_for(20)
        return self

    def wait_for(self, more: int) -> None:
        """Wait until so many more requests were answered."""
        goal = self.done + more
        wait_until(lambda: self.done >= goal)

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def test_one_line_says_that_all_workers_are_ready_and_a_signal_ends_them(pair: Service) -> None:
    assert len(pair.lines) == 1
    assert list(pair.ready) == ["", "grpc", "http", "metrics", "models"]
    assert pair.ready["models"] == "tiny"
    ours = workers(pair)
    assert len(ours) == 2
    loaded = Path(f"/proc/{pair.process.pid}/maps").read_text()
    assert "onnxruntime" not in loaded
    assert "cygrpc" not in loaded
    with channel_to(pair.ready["grpc"]) as channel:
        infer(channel)
        assert get(pair.ready["http"], "/v2/health/ready")[0] == 200
        assert pair.stop() == 0
    assert pair.errors == ""
    assert not any(Path(f"/proc/{pid}").exists() for pid in ours)


def test_metrics_and_statistics_are_sums_over_the_workers(pair: Service) -> None:
    for _ in range(24):  # each over a connection of its own
        with channel_to(pair.ready["grpc"]) as channel:
            infer(channel)
    assert answered(pair) == 24
    said = json.loads(get(pair.ready["http"], "/v2/models/tiny/stats")[1])
    assert said["model_stats"][0]["inference_stats"]["success"]["count"] == 24
    assert said["model_stats"][0]["inference_count"] == 24
    assert sum(one["compute_infer"]["count"] for one in said["model_stats"][0]["batch_stats"]) == 24
    takes, gives = messages.METHODS["ModelStatistics"]
    with channel_to(pair.ready["grpc"]) as channel:
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelStatistics", takes.SerializeToString, gives.FromString
        )
        assert ask(takes(), timeout=PATIENT).model_stats[0].inference_stats.success.count == 24
    found = scrape(pair)
    assert found["edge_workers"] == 2
    assert found[f'edge_request_seconds_bucket{OF_MODEL[:-1]},le="+Inf"}}'] == 24
    assert all(value == 1 for name, value in found.items() if name.startswith("edge_model_ready"))


def test_a_killed_worker_costs_its_own_requests_at_most_and_is_started_again(pair: Service) -> None:
    before = workers(pair)
    with Load(pair.ready["grpc"]) as load:
        load.wait_for(100)
        counted = answered(pair)
        assert counted > 0
        os.kill(before[0], signal.SIGKILL)
        load.wait_for(100)
        assert answered(pair) >= counted, "what the killed one had counted stays"
        wait_until(lambda: scrape(pair)["edge_workers"] == 2)
        load.wait_for(20)
        assert answered(pair) >= counted
    assert {error.code() for error in load.failed} <= {grpc.StatusCode.UNAVAILABLE}
    assert len(load.failed) <= 8, "more than were on their way to it"
    after = workers(pair)
    assert before[1] in after
    assert before[0] not in after
    assert len(after) == 2
    assert scrape(pair)['edge_worker_restarts_total{reason="died"}'] == 1
    assert "ended: SIGKILL; another is started" in pair.errors
    assert pair.stop() == 0


def test_what_was_asked_before_the_signal_is_answered(pair: Service) -> None:
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(channel_to(pair.ready["grpc"])) for _ in range(8)]
        for channel in channels:
            grpc.channel_ready_future(channel).result(PATIENT)
        calls = [channel.unary_unary("/inference.GRPCInferenceService/ModelInfer") for channel in channels]
        pending = [call.future(request(), timeout=PATIENT) for call in calls for _ in range(20)]
        pending[0].result()
        pair.process.send_signal(signal.SIGTERM)
        ends = [one.exception() for one in pending]
    assert [error for error in ends if error is not None] == []
    assert pair.stop() == 0


def test_no_worker_outlives_its_supervisor(pair: Service) -> None:
    ours = workers(pair)
    os.kill(pair.process.pid, signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ours))


def test_what_cannot_start_is_refused_in_one_line(tiny_edge_bundle: TinyBundle, tmp_path: Path, pair: Service) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not onnx")
    taken = pair.ready["grpc"].rpartition(":")[2]
    for arguments, says in (
        ((tmp_path / "broken.onnx", *ports), "cannot load"),
        ((tiny_edge_bundle.path, "--grpc-port", taken), f"port {taken} on 127.0.0.1 is in use"),
        ((tiny_edge_bundle.path, *ports, "--max-worker-memory", "1MiB"), "more than --max-worker-memory"),
        ((tiny_edge_bundle.path, *ports, "--token-file", tmp_path / "missing"), "there is no file"),
    ):
        done = run_edge_sdk("serve", *arguments, "--workers", "2")
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert says in done.stderr
    for arguments, says in (
        (("--workers", "0"), "no number of processes"),
        (("--workers", "2", "--max-worker-memory", "much"), "is no size"),
        (("--gpus", "0,1"), "say how many"),
        (("--workers", "2", "--gpus", "0,,1"), "one by one"),
    ):
        done = run_edge_sdk("serve", tiny_edge_bundle.path, *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert says in done.stderr


def test_loading_and_unloading_reach_every_worker_and_those_that_come_later(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        (tmp_path / "models" / name / "1" / "model.edge").write_bytes(tiny_edge_bundle.path.read_bytes())
    process = service("serve", tmp_path / "models", *ports, "--workers", "2", "--allow-admin")
    host, _, port = process.ready["http"].rpartition(":")

    def ask(action: str) -> int:
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENT)
        connection.request("POST", f"/v2/repository/models/{action}", b"{}")
        status = connection.getresponse().status
        connection.close()
        return status

    def states() -> set[int]:
        """Return what sixteen connections hear of the model: of both workers, but for one time in 32768."""
        return {get(process.ready["http"], "/v2/models/two")[0] for _ in range(16)}

    assert states() == {200}
    assert ask("two/unload") == 200
    assert states() == {404}
    os.kill(workers(process)[0], signal.SIGKILL)
    wait_until(lambda: "another is started" in process.errors and scrape(process)["edge_workers"] == 2)
    assert states() == {404}
    assert ask("none/load") == 404
    assert ask("two/load") == 200
    assert states() == {200}
    assert get(process.ready["http"], "/v2/models/one")[0] == 200
