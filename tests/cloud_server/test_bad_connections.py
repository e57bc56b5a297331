"""Connections that mean no good, to a real server: it answers others meanwhile, lives on, and stays small."""

from __future__ import annotations

import json
import queue
import socket
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest

from edge_sdk.protocol import add_input, messages
from edge_sdk.protocol.names import SERVICE
from outside.bundles import SIDE, TinyBundle
from outside.frames import begun_infer, frame
from outside.loris import Loris, push
from outside.models import identity_onnx
from outside.services import Service

PATIENT = 30.0
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


def resident(server: Service) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096


def ask(channel: grpc.Channel, items: int = 1) -> str:
    """Return the status of a good request."""
    takes, gives = messages.METHODS["ModelInfer"]
    request = takes(model_name="tiny")
    add_input(request, "image", np.full((items, SIDE, SIDE, 3), 0.5, np.float32))
    infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", takes.SerializeToString, gives.FromString)
    try:
        infer(request, timeout=PATIENT)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def ask_again(channel: grpc.Channel) -> str:
    """Return the status of a good request that comes again while gRPC turns it away: too many calls are new to it."""
    until = time.monotonic() + PATIENT
    while (status := ask(channel)) == "CANCELLED" and time.monotonic() < until:
        time.sleep(0.05)
    return status


def hostile(number: int, host: str) -> bytes:
    """Return what one of them sends."""
    begun = begun_infer(host, calls=4)
    match number % 6:
        case 0:
            return b""
        case 1:
            return begun[: number % len(begun)]
        case 2:
            return begun + b"".join(frame(0, 0, 2 * one + 1, b"\0\0\0") for one in range(4))
        case 3:  # a message of 2 GB
            return begun + frame(0, 0, 1, b"\0" + (2**31 - 1).to_bytes(4, "big") + bytes(10_000))
        case 4:  # one that could come, and never does
            return begun + frame(0, 0, 1, b"\0" + (15 * 2**20).to_bytes(4, "big") + bytes(10_000))
        case _:
            return begun + np.random.default_rng(number).bytes(10_000)


def test_a_crowd_that_is_slow_silent_half_closed_or_lies_is_borne(
    service, tiny_edge_bundle: TinyBundle, grpc_front: str
) -> None:
    server = service("serve", tiny_edge_bundle.path, "--grpc-port", "0", "--front", grpc_front)
    host, _, port = server.ready["grpc"].rpartition(":")
    with grpc.insecure_channel(server.ready["grpc"]) as channel:
        assert ask(channel) == "OK"
        before = resident(server)
        for turn in range(3):
            crowd = [socket.create_connection((host, int(port)), timeout=PATIENT) for _ in range(120)]
            try:
                for number, connection in enumerate(crowd):
                    connection.sendall(hostile(120 * turn + number, host))
                    if number % 4 == 0:
                        connection.shutdown(socket.SHUT_WR)
                assert (ask if grpc_front == "fast" else ask_again)(channel) == "OK"
            finally:
                for connection in crowd:
                    connection.close()
        assert ask_again(channel) == "OK"
        assert resident(server) - before < 96 * 2**20
    assert server.stop() == 0


@pytest.mark.parametrize("method", ["ModelInfer", "ServerLive"])
def test_messages_whose_last_byte_does_not_come_take_little_memory_and_keep_nobody_out(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path, grpc_front: str, method: str
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(f"max_pending_bytes = {128 * 2**20}\n")
    server = service("serve", tiny_edge_bundle.path, "--front", grpc_front, "--grpc-port", "0", "--config", config)
    with (
        grpc.insecure_channel(server.ready["grpc"], OWN_CONNECTION) as channel,
        ThreadPoolExecutor(9) as threads,
        ExitStack() as stack,
    ):
        assert ask(channel) == "OK"
        before = resident(server)
        crowd = [Loris(server.ready["grpc"], calls=20, size=4 * 2**20, method=method) for _ in range(8)]
        for one in crowd:
            stack.callback(one.connection.close)
        pushed = threads.submit(push, crowd, 3.0)
        honest = [threads.submit(ask_again, channel) for _ in range(16)]
        assert {one.result() for one in honest} == {"OK"}
        pushed.result()
        until = time.monotonic() + PATIENT
        while not any(one.ended for one in crowd) and time.monotonic() < until:  # on a busy machine it comes later
            push(crowd, 0.2)
        assert ask(channel) == "OK"
        assert resident(server) - before < 256 * 2**20, "of 640 MiB that they would send"
        assert any(one.ended for one in crowd), "others waited for their places"
    assert server.stop() == 0


def test_streams_whose_message_does_not_come_are_ended_where_they_take_too_much_and_one_that_rests_is_not(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path, grpc_front: str
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(f"max_pending_bytes = {96 * 2**20}\n")
    server = service("serve", tiny_edge_bundle.path, "--front", grpc_front, "--grpc-port", "0", "--config", config)
    takes, gives = messages.ModelInferRequest, messages.ModelStreamInferResponse
    request = takes(model_name="tiny")
    add_input(request, "image", np.full((1, SIDE, SIDE, 3), 0.5, np.float32))
    with grpc.insecure_channel(server.ready["grpc"], OWN_CONNECTION) as channel, ExitStack() as stack:
        outgoing: queue.Queue[object] = queue.Queue()
        stream = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer", takes.SerializeToString, gives.FromString)
        answers = stream(iter(outgoing.get, None), timeout=PATIENT)
        outgoing.put(request)
        assert next(answers).infer_response.outputs
        before = resident(server)
        crowd = [Loris(server.ready["grpc"], calls=8, size=8 * 2**20, method="ModelStreamInfer") for _ in range(8)]
        for one in crowd:
            stack.callback(one.connection.close)
        push(crowd, 4.0, rate=150 * 2**20)  # what comes faster than it is looked at is another matter
        assert resident(server) - before < 320 * 2**20, "of 512 MiB that they would send"
        assert any(one.ended for one in crowd)
        outgoing.put(request)
        assert next(answers).infer_response.outputs, "it had only rested"
        outgoing.put(None)
        assert list(answers) == []
    assert server.stop() == 0


def test_who_fills_the_room_and_waits_keeps_larger_messages_out_for_a_while_only(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path, grpc_front: str
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(f"max_pending_bytes = {96 * 2**20}\n")
    server = service("serve", tiny_edge_bundle.path, "--front", grpc_front, "--grpc-port", "0", "--config", config)
    with grpc.insecure_channel(server.ready["grpc"], OWN_CONNECTION) as channel, ExitStack() as stack:
        crowd = [Loris(server.ready["grpc"], calls=8, size=8 * 2**20) for _ in range(8)]
        for one in crowd:
            stack.callback(one.connection.close)
        push(crowd, 4.0, rate=150 * 2**20)
        until = time.monotonic() + PATIENT
        while (status := ask(channel, items=128)) != "OK":
            assert status in {"RESOURCE_EXHAUSTED", "CANCELLED"}
            assert time.monotonic() < until
            time.sleep(0.1)
    assert server.stop() == 0


def test_who_takes_no_answers_is_let_go_where_too_much_waits_and_others_are_served(service, tmp_path: Path) -> None:
    (tmp_path / "echo.onnx").write_bytes(identity_onnx("UINT8", [1, "N"]))
    (tmp_path / "serve.toml").write_text(f"max_pending_bytes = {40 * 2**20}\n")
    options = ("--front", "fast", "--grpc-port", "0", "--config", tmp_path / "serve.toml")
    server = service("serve", tmp_path / "echo.onnx", *options)
    host, _, port = server.ready["grpc"].rpartition(":")

    def asking(size: int) -> bytes:
        request = messages.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(size)])
        request.inputs.add(name="x", datatype="UINT8", shape=[1, size])
        return request.SerializeToString()

    large = b"\0" + len(asking(900_000)).to_bytes(4, "big") + asking(900_000)
    parts = [large[at : at + 16_384] for at in range(0, len(large), 16_384)]
    room = frame(4, 0, 0, b"\0\4\0\0\0\0")  # none
    with grpc.insecure_channel(server.ready["grpc"], OWN_CONNECTION) as channel, ExitStack() as stack:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        assert infer(asking(1), timeout=PATIENT)
        crowd = [stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENT)) for _ in range(4)]
        ended: set[socket.socket] = set()
        for one in crowd:
            with suppress(ConnectionError):
                one.sendall(begun_infer(host, calls=30) + room)
                for stream in range(1, 61, 2):
                    one.sendall(b"".join(frame(0, 0, stream, part) for part in parts) + frame(0, 1, stream, b""))
                    assert infer(asking(1), timeout=PATIENT)
        until = time.monotonic() + PATIENT
        while not ended and time.monotonic() < until:
            for one in crowd:
                try:
                    one.sendall(frame(6, 1, 0, bytes(8)))
                except ConnectionError:
                    ended.add(one)
            time.sleep(0.05)
        assert ended, "of 108 MB that would wait"
        assert infer(asking(1), timeout=PATIENT)
    assert server.stop() == 0
    assert server.errors == ""


def test_a_full_disk_costs_lines_of_the_request_log_and_nothing_else(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path
) -> None:
    limited = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "os.execv(sys.executable, [sys.executable, '-P', '-m', 'edge_sdk', *sys.argv[1:]])"
    )
    log = tmp_path / "requests.log"
    arguments = ("serve", tiny_edge_bundle.path, "--grpc-port", "0", "--log-requests", log)
    server = service(*arguments, program=[sys.executable, "-P", "-c", limited])
    with grpc.insecure_channel(server.ready["grpc"], OWN_CONNECTION) as channel:
        assert Counter(ask(channel) for _ in range(60)) == {"OK": 60}
    whole = log.read_text().splitlines()
    assert 4096 - 300 < log.stat().st_size <= 4096
    assert json.loads(whole[0])["status"] == "OK"
    assert server.stop() == 0
    assert server.errors.count("requests are not logged any more") == 1


def test_more_calls_than_are_taken_end_in_a_clear_status_and_the_server_is_well(
    service, tiny_edge_bundle: TinyBundle, grpc_front: str
) -> None:
    few = ("--max-concurrent", "2")
    server = service("serve", tiny_edge_bundle.path, "--front", grpc_front, "--grpc-port", "0", *few)

    def ask_often(_: int) -> Counter[str]:
        with grpc.insecure_channel(server.ready["grpc"], OWN_CONNECTION) as channel:
            return Counter(ask(channel) for _ in range(40))

    with ThreadPoolExecutor(24) as threads:
        ended = sum(threads.map(ask_often, range(24)), Counter())
    assert ended["OK"] > 0
    assert set(ended) <= {"OK", "RESOURCE_EXHAUSTED", "CANCELLED"}
    with grpc.insecure_channel(server.ready["grpc"], OWN_CONNECTION) as channel:
        assert ask(channel) == "OK"
    assert server.stop() == 0
    assert server.errors == ""
