from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import outside
from outside.services import Service

READY = "import time; print('ready grpc=127.0.0.1:1 models=a,b'); time.sleep(60)"


def program(text):
    return [sys.executable, "-c", text]


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def has_ended(pid):
    """Gone, or a zombie that waits for its new parent."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def test_a_service_is_ready_when_it_says_so_and_ends_with_the_block():
    with Service(program=program(READY)) as service:
        assert service.ready["grpc"] == "127.0.0.1:1"
        assert service.ready["models"] == "a,b"
        assert is_running(service.process.pid)
    assert not is_running(service.process.pid)


def test_a_service_that_ends_early_fails_with_its_own_words():
    with pytest.raises(AssertionError, match=r"ended with code 2: no such bundle"):
        Service(program=program("import sys; print('no such bundle', file=sys.stderr); sys.exit(2)"))


def test_a_service_that_never_gets_ready_is_ended():
    with pytest.raises(AssertionError, match="took too long"):
        Service(program=program("import time; time.sleep(60)"), timeout=0.2)


def test_a_service_that_ignores_the_request_to_end_is_killed():
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + READY
    service = Service(program=program(stubborn))
    assert service.stop(timeout=0.2) < 0
    assert not is_running(service.process.pid)


def test_killing_a_service_kills_its_children():
    text = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(f'ready child={child.pid}'); time.sleep(60)"
    )
    service = Service(program=program(text))
    service.kill()
    assert has_ended(int(service.ready["child"]))


def test_a_service_does_not_outlive_a_test_run_that_is_killed():
    run = (
        "import sys, time; from outside.services import Service\n"
        f"service = Service(program=[sys.executable, '-c', {READY!r}])\n"
        "print(service.process.pid, flush=True); time.sleep(60)"
    )
    where = {**os.environ, "PYTHONPATH": str(Path(outside.__file__).parent.parent)}
    with subprocess.Popen([sys.executable, "-c", run], stdout=subprocess.PIPE, text=True, env=where) as killed:
        pid = int(killed.stdout.readline())
        assert is_running(pid)
        killed.kill()
    deadline = time.monotonic() + 20
    while not has_ended(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
