"""What a field has in store for `edge-sdk agent`, tried on the real command: one line, and it heals."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from outside.disk import run_with_limited_file_size
from outside.services import Service, edge_sdk
from outside.updates import Fleet, make_bundle

CLOCK_OF_1970 = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
static long began;
int clock_gettime(clockid_t kind, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(kind, now);
    if (kind == CLOCK_REALTIME) {
        if (!began) began = now->tv_sec;
        now->tv_sec -= began;
    }
    return done;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


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


def as_anybody(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program to which permissions mean something, also where root tests."""
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root writes anywhere, and there is no setpriv")
        arguments = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *arguments]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=500, check=False)


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


def test_a_state_folder_that_cannot_be_written_is_one_line_and_heals(fleet: Fleet, read_only_folder: Path) -> None:
    line = one_line(*options(fleet, read_only_folder))
    assert str(read_only_folder) in line
    assert any(reason in line for reason in ("Read-only file system", "Permission denied")), line


def test_a_state_folder_whose_permissions_were_taken_is_one_line_and_heals(fleet: Fleet, tmp_path: Path) -> None:
    state = tmp_path / "state"
    arguments = [str(argument) for argument in options(fleet, state)]
    first = edge_sdk(*arguments, "--once")
    assert first.returncode == 0, first.stderr
    fleet.ship_version("1.0.0")
    mode = state.stat().st_mode
    for folder in (state, state / "metadata"):
        folder.chmod(0o500)
    refused = as_anybody([sys.executable, "-P", "-m", "edge_sdk", *arguments, "--once"])
    for folder in (state, state / "metadata"):
        folder.chmod(mode)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    [line] = refused.stderr.splitlines()
    assert str(state) in line
    again = edge_sdk(*arguments, "--once")
    assert again.returncode == 0, again.stderr
    assert "active tiny-1.0.0" in again.stdout


def test_a_disk_that_is_full_in_the_middle_of_a_download_is_one_line_and_heals(fleet: Fleet, tmp_path: Path) -> None:
    state = tmp_path / "state"
    fleet.ship(make_bundle(fleet.folder, "1.0.0", golden_kib=300))
    arguments = [str(argument) for argument in options(fleet, state)]
    full = run_with_limited_file_size(["-m", "edge_sdk", *arguments, "--once"], 200_000)
    assert full.returncode == 1, full.stderr
    assert "Traceback" not in full.stderr
    [said] = [line for line in full.stdout.splitlines() if line.startswith("idle")]
    assert "cannot write" in said
    assert "File too large" in said
    healed = edge_sdk(*arguments, "--once")
    assert healed.returncode == 0, healed.stderr
    assert "active tiny-1.0.0" in healed.stdout
    assert "cannot write" in " ".join(report["reason"] for report in fleet.reports())


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="sets the clock by a C library")
def test_a_clock_that_begins_at_1970_is_no_hindrance(fleet: Fleet, tmp_path: Path) -> None:
    library = tmp_path / "clock.so"
    (tmp_path / "clock.c").write_text(CLOCK_OF_1970)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c", "-ldl"], check=True)
    for version in ("1.0.0", "2.0.0"):
        fleet.ship_version(version)
        where = [*options(fleet, tmp_path / "state"), "--once", "--json"]
        done = edge_sdk(*where, env={**os.environ, "LD_PRELOAD": str(library)})
        assert done.returncode == 0, done.stderr
        last = json.loads(done.stdout.splitlines()[-1])
        assert (last["state"], last["version"], last["time"][:10]) == ("active", version, "1970-01-01")


@pytest.mark.parametrize(("option", "value"), [("--poll", "nan"), ("--soak", "nan"), ("--report-rate", "inf")])
def test_a_number_by_which_an_agent_would_wait_for_ever_or_not_at_all_is_one_line(
    fleet: Fleet, tmp_path: Path, option: str, value: str
) -> None:
    assert "above" in one_line(*options(fleet, tmp_path / "state"), option, value)
