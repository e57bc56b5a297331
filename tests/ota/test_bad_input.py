"""What a field has in store for `edge-sdk agent`, tried on the real command: one line, and it heals."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from outside.services import Service, edge_sdk
from outside.updates import Fleet


def options(fleet: Fleet, state: Path, broker: str | None = None) -> list[object]:
    """Return the arguments of an agent that looks once."""
    where = ["agent", "--state", state, "--broker", broker or fleet.broker, "--fleet", fleet.name, "--device", "cam-1"]
    return [*where, "--root", fleet.repository.root_path]


def one_line(*arguments: object) -> str:
    """Run a command that cannot work; return its one line."""
    done = edge_sdk(*arguments, "--once")
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    return line


@contextlib.contextmanager
def answers(data: bytes) -> Iterator[str]:
    """Serve one connection, which gets this answer whatever it says first."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            connection.sendall(data)
            connection.recv(65_536)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"mqtt://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"\x20\x03\x00\x87\x00", "Not authorized"),
        (b"\x20\x03\x00\x86\x00", "Bad user name or password"),
        (b"\x20\x02\x00\x01", "MQTT 5"),  # as a broker of MQTT 3.1.1 answers
        (b"", "MQTT 5"),
    ],
    ids=["refused", "credentials", "3.1.1", "closes"],
)
def test_a_broker_that_does_not_take_us_is_one_line(fleet: Fleet, tmp_path: Path, answer: bytes, reason: str) -> None:
    with answers(answer) as broker:
        line = one_line(*options(fleet, tmp_path / "state", broker.replace("//", "//cam-1:s3cret@")))
    assert reason in line
    assert "s3cret" not in line


def test_two_agents_on_one_folder_and_damaged_files_are_one_line_and_heal(fleet: Fleet, tmp_path: Path) -> None:
    state = tmp_path / "state"
    fleet.ship_version("1.0.0")
    with Service(*options(fleet, state)):
        assert "another" in one_line(*options(fleet, state))
    for name in ("active.json", "memory.json", "outbox.db", "metadata/timestamp.json", "metadata/assignment"):
        (state / name).write_bytes(b"\xff damaged")
    healed = edge_sdk(*options(fleet, state), "--once")
    assert healed.returncode == 0, healed.stderr
    assert "Traceback" not in healed.stderr
    assert "active tiny-1.0.0" in healed.stdout
