"""Several processes behind one address: what becomes of requests, counters and orders when one of them ends."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import grpc
import numpy as np
import pytest

from edge_sdk.protocol import add_input, messages
from outside.bundles import SIDE, TinyBundle, tiny_onnx
from outside.certificates import Certificates
from outside.services import Service
from outside.services import edge_sdk as run_edge_sdk

PATIENT = 30.0
OF_MODEL = '{model="tiny",version="1.0.0"}'
TOKEN = "s3cret-token-of-a-test"
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


def ask(address: str, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str]:
    """Return what is answered over a connection of its own."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENT)
    try:
        connection.request(method, path, body if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def get(address: str, path: str, **headers: str) -> tuple[int, str]:
    return ask(address, "GET", path, **headers)


def scrape(process: Service) -> dict[str, float]:
    """Return each sample by its name and labels."""
    status, text = get(process.ready["metrics"], "/metrics")
    assert status == 200
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def answered(process: Service) -> float:
    return scrape(process).get(f"nv_inference_request_success{OF_MODEL}", 0)


def channel_to(address: str, *, usual: bool = False) -> grpc.Channel:
    """Return a channel whose connection is its own, and which, if not as usual, tries nothing twice to send."""
    retries = [] if usual else [("grpc.enable_retries", 0)]
    return grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1), *retries])


def request() -> bytes:
    message = messages.ModelInferRequest(model_name="tiny")
    add_input(message, "image", np.zeros((1, SIDE, SIDE, 3), np.float32))
    return message.SerializeToString()


def infer(channel: grpc.Channel, timeout: float = PATIENT) -> bytes:
    return channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(request(), timeout=timeout)


class Load:
    """Eight clients, each with a connection of its own, that ask again and again.

    If not patient, they are as any client is: they do not wait for a connection, and gRPC tries a request again that
    it has not sent when it hears that the server goes.
    """

    def __init__(self, address: str, clients: int = 8, *, patient: bool = True) -> None:
        self.done, self.failed = 0, list[grpc.RpcError]()
        self._patient = patient
        self._address, self._end = address, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        with channel_to(self._address, usual=not self._patient) as channel:
            grpc.channel_ready_future(channel).result(PATIENT)
            while not self._end.is_set():
                try:
                    # a connection that was ended in good order is made again before the next request
                    channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
                        request(), timeout=PATIENT, wait_for_ready=self._patient
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
        statistics = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelStatistics", takes.SerializeToString, gives.FromString
        )
        assert statistics(takes(), timeout=PATIENT).model_stats[0].inference_stats.success.count == 24
    found = scrape(pair)
    assert found["edge_workers"] == 2
    assert found[f'edge_request_seconds_bucket{OF_MODEL[:-1]},le="+Inf"}}'] == 24
    assert all(value == 1 for name, value in found.items() if name.startswith("edge_model_ready"))


def test_a_killed_worker_costs_its_own_requests_at_most_and_is_started_again(pair: Service) -> None:
    before = workers(pair)
    with Load(pair.ready["grpc"]) as load:
        load.wait_for(100)
        counted = answered(pair)  # what was counted after the last look, a second ago at most, is lost with the worker
        assert counted > 0
        os.kill(before[0], signal.SIGKILL)
        load.wait_for(100)
        assert answered(pair) >= counted, "what the killed one had counted stays"
        wait_until(lambda: scrape(pair)["edge_workers"] == 2)
        load.wait_for(20)
        assert answered(pair) >= counted
    assert {error.code() for error in load.failed} <= {grpc.StatusCode.UNAVAILABLE}
    # one on its way to it from each client, and one more that a client sent before it saw the connection's end
    assert len(load.failed) <= 16
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
    assert pair.process.wait(PATIENT) == 0
    assert pair.stop() == 0


def test_an_interrupt_from_the_keyboard_ends_all_in_good_order(pair: Service) -> None:
    ours = workers(pair)
    os.killpg(pair.process.pid, signal.SIGINT)  # as a terminal does it
    assert pair.process.wait(PATIENT) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in ours)
    assert pair.stop() == 0
    assert pair.errors == ""


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


@pytest.mark.parametrize("processes", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_a_hangup_lets_the_server_look_again_and_costs_no_request(
    service, tmp_path: Path, processes: tuple[str, ...]
) -> None:
    put(tmp_path / "models", "1")
    process = service("serve", tmp_path / "models", *ports, *processes)
    ask_it = (process.ready["http"], "POST", "/v2/models/dense/infer", picture())
    assert json.loads(ask(*ask_it)[1])["model_version"] == "1"
    put(tmp_path / "models", "2")
    assert json.loads(ask(*ask_it)[1])["model_version"] == "1"
    process.process.send_signal(signal.SIGHUP)
    versions = []

    def are_new() -> bool:
        said = [ask(*ask_it) for _ in range(8)]
        assert {status for status, _ in said} == {200}
        versions.append({json.loads(text)["model_version"] for _, text in said})
        return versions[-1] == {"2"}

    wait_until(are_new)
    assert process.stop() == 0


@pytest.mark.slow
def test_workers_are_replaced_under_load_and_no_request_fails(
    service, tiny_edge_bundle: TinyBundle, grpc_front: str
) -> None:
    code = (
        "import sys; from pathlib import Path; from edge_sdk.cloud.server import ServerConfig, run;"
        "run(ServerConfig(paths=[Path(sys.argv[1])], front=sys.argv[2], grpc_port=0, http_port=0, metrics_port=0,"
        "workers=2, connection_seconds=2.0), lambda at, names: print('ready', *map('='.join, at.items()), flush=True))"
    )
    process = service(tiny_edge_bundle.path, grpc_front, program=[sys.executable, "-P", "-c", code])
    before, fresh = workers(process), []
    with Load(process.ready["grpc"], patient=False) as load:
        process.process.send_signal(signal.SIGUSR2)
        while any(Path(f"/proc/{pid}").exists() for pid in before):
            with channel_to(process.ready["grpc"], usual=True) as channel:
                fresh.append(infer(channel))
            assert get(process.ready["http"], "/v2/models/tiny")[0] == 200
    assert load.failed == []
    assert fresh
    assert not set(before) & set(workers(process))
    assert scrape(process)['edge_worker_restarts_total{reason="asked"}'] == 2
    assert scrape(process)["edge_workers"] == 2
    assert process.stop() == 0


@pytest.mark.slow
def test_a_worker_that_says_nothing_is_killed_and_started_again(service, tiny_edge_bundle: TinyBundle) -> None:
    code = (
        "import sys; from pathlib import Path; from edge_sdk.cloud.server import ServerConfig, run;"
        "run(ServerConfig(paths=[Path(sys.argv[1])], grpc_port=0, metrics_port=0, workers=2, silent_seconds=5.0),"
        'lambda at, names: print(f\'ready grpc={at["grpc"]} metrics={at["metrics"]}\', flush=True))'
    )
    process = service(tiny_edge_bundle.path, program=[sys.executable, "-P", "-c", code])
    stopped, other = workers(process)
    os.kill(stopped, signal.SIGSTOP)
    wait_until(lambda: scrape(process)['edge_worker_restarts_total{reason="died"}'] == 1)
    wait_until(lambda: scrape(process)["edge_workers"] == 2)
    assert stopped not in workers(process)
    assert other in workers(process)
    assert process.stop() == 0


def test_workers_that_end_again_and_again_end_the_server(tiny_edge_bundle: TinyBundle, tmp_path: Path) -> None:
    fatal = "import os, sys; 'edge_sdk.cloud.server.worker' in sys.orig_argv and os._exit(3)\n"
    (tmp_path / "sitecustomize.py").write_text(fatal)
    done = run_edge_sdk(
        *("serve", tiny_edge_bundle.path, *ports, "--workers", "1"), env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    assert (done.returncode, done.stdout) == (2, "")
    *tries, last = done.stderr.splitlines()
    assert len(tries) == 4
    assert all("it is tried again" in line for line in tries)
    assert last == "edge-sdk: error: a worker ended before it was ready: exit code 3"


def test_loading_and_unloading_reach_every_worker_and_those_that_come_later(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        (tmp_path / "models" / name / "1" / "model.edge").write_bytes(tiny_edge_bundle.path.read_bytes())
    process = service("serve", tmp_path / "models", *ports, "--workers", "2", "--allow-admin")

    def administer(action: str) -> int:
        return ask(process.ready["http"], "POST", f"/v2/repository/models/{action}", {})[0]

    def states() -> set[int]:
        """Return what sixteen connections hear of the model: of both workers, but for one time in 32768."""
        return {get(process.ready["http"], "/v2/models/two")[0] for _ in range(16)}

    assert states() == {200}
    assert administer("two/unload") == 200
    assert states() == {404}
    os.kill(workers(process)[0], signal.SIGKILL)
    wait_until(lambda: "another is started" in process.errors and scrape(process)["edge_workers"] == 2)
    assert states() == {404}
    assert administer("none/load") == 404
    assert administer("two/load") == 200
    assert states() == {200}
    assert get(process.ready["http"], "/v2/models/one")[0] == 200


def put(models: Path, version: str, columns: int = 3) -> None:
    """Write a version of the model ``dense``, which gives so many numbers for a picture."""
    (models / "dense" / version).mkdir(parents=True)
    weights, bias = np.zeros((192, columns), np.float32), np.full(columns, float(version), np.float32)
    (models / "dense" / version / "model.onnx").write_bytes(tiny_onnx(weights, bias))


def picture(number: int = 0, items: int = 1) -> dict[str, object]:
    data = [float(number)] + [0.0] * (items * SIDE * SIDE * 3 - 1)
    return {"inputs": [{"name": "image", "datatype": "FP32", "shape": [items, SIDE, SIDE, 3], "data": data}]}


def test_rewards_reach_every_worker_and_outlive_each(service, tmp_path: Path) -> None:
    put(tmp_path / "models", "1")
    put(tmp_path / "models", "2")
    (tmp_path / "serve.toml").write_text('[models.dense.routing]\nbandit = ["1", "2"]\nfloor = 0\n')
    process = service("serve", tmp_path / "models", *ports, "--workers", "2", "--config", tmp_path / "serve.toml")
    address, seen = process.ready["http"], {"1": 0, "2": 0}

    def learn(rounds: int) -> None:
        for _ in range(rounds):  # the answer and its reward often come to different workers
            status, said = ask(address, "POST", "/v2/models/dense/infer", picture())
            assert status == 200
            version = json.loads(said)["model_version"]
            seen[version] += 1
            reward = {"version": version, "reward": float(version == "2")}
            assert ask(address, "POST", "/v2/models/dense/feedback", reward) == (200, "{}")

    learn(40)
    scrape(process)
    os.kill(workers(process)[0], signal.SIGKILL)
    wait_until(lambda: "another is started" in process.errors and scrape(process)["edge_workers"] == 2)
    before = dict(seen)
    learn(20)
    assert seen["2"] - before["2"] >= 15, "the new worker knows what was learned"
    refused = ask(address, "POST", "/v2/models/dense/feedback", {"version": "1", "reward": 1})
    assert refused[0] == 400
    assert "rewarded for all its answers already" in refused[1]
    rewards = [value for name, value in scrape(process).items() if name.startswith("edge_bandit_rewards_total")]
    assert sum(rewards) == 60


def test_a_caller_may_ask_the_server_as_often_as_its_table_says(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    table = '[callers.it]\ntoken_file = "token"\nrequests_per_second = 0.001\nburst = 10\n'
    (tmp_path / "serve.toml").write_text(table)
    process = service("serve", tiny_edge_bundle.path, *ports, "--workers", "2", "--config", tmp_path / "serve.toml")
    ends = [get(process.ready["http"], "/v2/models/tiny", authorization=f"Bearer {TOKEN}")[0] for _ in range(24)]
    assert sorted(ends) == [200] * 10 + [429] * 14
    os.kill(workers(process)[0], signal.SIGKILL)
    wait_until(lambda: "another is started" in process.errors)
    ends = [get(process.ready["http"], "/v2/models/tiny", authorization=f"Bearer {TOKEN}")[0] for _ in range(12)]
    assert set(ends) == {429}, "a new worker brings no new rights"


def test_a_worker_that_holds_too_much_is_replaced_and_no_request_fails(service, tmp_path: Path) -> None:
    put(tmp_path / "models", "1", columns=4096)
    (tmp_path / "serve.toml").write_text("[models.dense]\ncache_bytes = 1073741824\n")
    # gRPC's own library drops requests that come in the moment in which it stops
    options = (*ports, "--config", tmp_path / "serve.toml", "--workers", "1", "--front", "fast")
    fresh = service("serve", tmp_path / "models", *options)
    (pid,) = workers(fresh)
    held = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    fresh.stop()
    process = service("serve", tmp_path / "models", *options, "--max-worker-memory", f"{(held >> 20) + 24}MiB")
    (first,) = workers(process)
    message = messages.ModelInferRequest(model_name="dense")
    pictures = np.zeros((128, SIDE, SIDE, 3), np.float32)
    numbers = itertools.count()
    add_input(message, "image", pictures)

    def another() -> bytes:
        """Return a request like no other, whose answer of 2 MiB is kept."""
        pictures[0, 0, 0, 0] = next(numbers)
        message.raw_input_contents[0] = pictures.tobytes()
        return message.SerializeToString()

    with grpc.insecure_channel(process.ready["grpc"]) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        until = time.monotonic() + PATIENT
        while first in workers(process):
            call(another(), timeout=PATIENT, wait_for_ready=True)
            assert time.monotonic() < until
    assert "and is replaced" in process.errors
    wait_until(lambda: scrape(process).get('edge_worker_restarts_total{reason="memory"}') == 1)
    assert scrape(process)['edge_worker_restarts_total{reason="died"}'] == 0


def test_workers_see_the_gpus_they_are_given(service, tiny_edge_bundle: TinyBundle) -> None:
    process = service("serve", tiny_edge_bundle.path, "--grpc-port", "0", "--workers", "auto", "--gpus", "0,GPU-1a")
    seen = [Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in workers(process)]
    assert {one.decode() for each in seen for one in each if one.startswith(b"CUDA_VISIBLE")} == {
        "CUDA_VISIBLE_DEVICES=0",
        "CUDA_VISIBLE_DEVICES=GPU-1a",
    }


def test_several_processes_serve_with_either_front(service, tiny_edge_bundle: TinyBundle, grpc_front: str) -> None:
    process = service("serve", tiny_edge_bundle.path, *ports, "--workers", "2", "--front", grpc_front)
    for _ in range(24):
        with channel_to(process.ready["grpc"]) as channel:
            infer(channel)
    assert answered(process) == 24
    assert process.stop() == 0


@pytest.mark.parametrize("processes", [(), ("--workers", "1")])
def test_metrics_are_as_guarded_as_the_server_unless_they_should_be_plain(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path, certificates: Certificates, processes: tuple[str, ...]
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "scraper").write_text("scraping")
    (tmp_path / "serve.toml").write_text('[callers.prometheus]\ntoken_file = "scraper"\nmethods = ["metrics"]\n')
    options = (
        *ports, *processes, "--token-file", tmp_path / "token", "--config", tmp_path / "serve.toml",
        "--tls-cert", certificates.cert, "--tls-key", certificates.key,
    )  # fmt: skip
    process = service("serve", tiny_edge_bundle.path, *options)
    context = ssl.create_default_context(cafile=str(certificates.cert))

    def status(path: str, token: str | None, front: str = "metrics") -> int:
        host, _, port = process.ready[front].rpartition(":")
        connection = http.client.HTTPSConnection(host, int(port), timeout=PATIENT, context=context)
        connection.request("GET", path, headers={} if token is None else {"authorization": f"Bearer {token}"})
        response = connection.getresponse()
        connection.close()
        return response.status

    assert [status("/metrics", token) for token in (TOKEN, "scraping", "wrong", None)] == [200, 200, 401, 401]
    assert status("/v2/models/tiny", "scraping", front="http") == 403
    with pytest.raises((http.client.HTTPException, OSError)):
        get(process.ready["metrics"], "/metrics")
    process.stop()
    plain = service("serve", tiny_edge_bundle.path, *options, "--metrics-plain", "--metrics-host", "localhost")
    assert plain.ready["metrics"].startswith("localhost:")
    assert get(plain.ready["metrics"], "/metrics")[0] == 200
