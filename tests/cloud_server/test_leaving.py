"""Leaving a port that another process serves, too: who had come stays, and who comes goes there."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from edge_sdk.cloud.server.leaving import keep_off, stop_listening

PATIENT = 20.0
OTHER = """
import socket, sys
family, host, port = socket.AddressFamily(int(sys.argv[1])), sys.argv[2], int(sys.argv[3])
with socket.socket(family) as listening:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((host, port))
    listening.listen(64)
    print("ready", flush=True)
    kept = []
    while True:
        kept.append(listening.accept()[0])
        kept[-1].send(b"other")
"""


@pytest.fixture(params=["127.0.0.1", "::1"])
def ours(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """Yield a socket that listens on a port on which another process does, too."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            listening.bind((request.param, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        listening.listen(64)
        listening.setblocking(False)
        port = str(listening.getsockname()[1])
        command = [sys.executable, "-c", OTHER, str(int(family)), request.param, port]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout.readline() == "ready\n"
            yield listening
            other.kill()


def connecting(address: tuple[object, ...], count: int, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Return sockets that are on their way."""
    begun = [
        stack.enter_context(socket.socket(socket.AF_INET6 if len(address) == 4 else socket.AF_INET))
        for _ in range(count)
    ]
    for one in begun:
        one.setblocking(False)
        one.connect_ex(address)
    return begun


def accepted(listening: socket.socket, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Return those that have come to a socket."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(stack.enter_context(listening.accept()[0]))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_who_had_come_is_taken_and_who_comes_then_goes_to_the_other(ours: socket.socket) -> None:
    address = ours.getsockname()
    with contextlib.ExitStack() as stack:
        early = connecting(address, 32, stack)
        assert len(select.select([], early, [], PATIENT)[1]) == 32, "on this machine a connection is made at once"
        keep_off(address[1])
        mine = accepted(ours, stack)
        assert mine, "the system shares them out"
        late = connecting(address, 32, stack)
        assert not accepted(ours, stack)
        stop_listening(address[1])
        for one in mine:
            one.send(b"ours")
        said = []
        for one in (*early, *late):
            one.settimeout(PATIENT)
            said.append(one.recv(8))
        assert said[:32].count(b"ours") == len(mine)
        assert set(said[32:]) == {b"other"}, "those that were kept off came again"
        assert ours.fileno() >= 0, "its owner still has one to close"
