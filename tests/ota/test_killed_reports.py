"""Thousands of agents, each killed while it reports: no report that was told is lost, none arrives twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from outside.services import Service, edge_sdk
from outside.updates import wait_for

ZYGOTE = """
import os, random, select, signal, sys, time
from edge_sdk.ota.agent import OtaAgent
from edge_sdk.ota.records import Event
from edge_sdk.ota.reporting import Pace
import paho.mqtt.client, sqlite3, tempfile

state, broker, fleet, root = sys.argv[1:5]
lives, seed = int(sys.argv[5]), int(sys.argv[6])
generator = random.Random(seed)

def live(life, told):
    def on_event(event):
        os.write(told, f"{event.name}\\n".encode())
    with OtaAgent(state, broker, fleet, "cam-1", root, on_event=on_event, pace=Pace(1e6, 100)) as agent:
        agent.start()
        for number in range(10**6):
            agent._reporter.say(Event(device="cam-1", state="idle", name=f"{life}-{number}"))
            agent._wait(0.001)

for life in range(lives):
    heard, told = os.pipe()
    if (child := os.fork()) == 0:
        os.close(heard)
        try:
            live(life, told)
        finally:
            os._exit(1)
    os.close(told)
    ready, _, _ = select.select([heard], [], [], 30)
    time.sleep(generator.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    while data := os.read(heard, 65536):
        sys.stdout.buffer.write(data)
    sys.stdout.buffer.write(f"killed {os.WIFSIGNALED(status)}\\n".encode())
    sys.stdout.buffer.flush()
    os.close(heard)
"""


def lives(folder: Path, broker: str, count: int) -> tuple[int, Counter[str], list[str]]:
    """Let agents report and be killed; return how many were, how often each report arrived, and what was told."""
    repository, state = folder / "repository", folder / "state"
    assert edge_sdk("ota", "init", repository, "--bins", 2).returncode == 0
    fleet = f"fleet-{uuid.uuid4().hex[:8]}"  # the broker is shared with other tests
    arguments = [str(state), broker, fleet, str(repository / "root.json"), str(count), "7"]
    with Service("ota", "serve", repository, "--broker", broker, "--fleet", fleet, "--report-rate", 1e6):
        done = subprocess.run(
            [sys.executable, "-P", "-c", ZYGOTE, *arguments], capture_output=True, text=True, check=True
        )
        killed = done.stdout.count("killed True")
        told = [line for line in done.stdout.splitlines() if line and not line.startswith("killed")]
        last = ["--state", state, "--broker", broker, "--fleet", fleet, "--device", "cam-1"]
        rest = edge_sdk("agent", *last, "--once", "--report-rate", 1e6, "--root", repository / "root.json")
        assert rest.returncode == 0, rest.stderr
        log = repository / "reports.jsonl"
        wait_for(lambda: set(told) <= {json.loads(line)["name"] for line in log.read_bytes().splitlines()})
        return killed, Counter(json.loads(line)["name"] for line in log.read_bytes().splitlines()), told


@pytest.mark.parametrize(
    "count", [10, pytest.param(int(os.environ.get("EDGE_SDK_KILLS", "10000")), marks=pytest.mark.slow)]
)
@pytest.mark.timeout(7200)
def test_no_report_is_lost_when_agents_are_killed_while_they_report(tmp_path: Path, broker: str, count: int) -> None:
    started = time.monotonic()
    killed, arrived, told = lives(tmp_path, broker, count)
    print(f"{killed} killed, {len(told)} reports told, {len(arrived)} arrived, {time.monotonic() - started:.0f} s")
    assert killed == count
    assert len(told) >= count
    assert set(told) <= set(arrived)
    assert set(arrived.values()) == {1}
