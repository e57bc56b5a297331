"""The demo's processes: none is left behind, and what ends one is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_sdk.bundle import Bundle
from edge_sdk.cascade.policy import Policy
from edge_sdk.errors import ServiceError, StorageError
from edge_sdk.examples.demo.device import save_images
from edge_sdk.examples.demo.processes import Child
from edge_sdk.ota.slots import Installed, Slots
from outside.disk import limited_file_size
from outside.network import free_port
from outside.updates import make_bundle

STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(f"ready pid={os.getpid()}", flush=True)
time.sleep(600)
"""


def app_command(folder: Path, *, installed: bool) -> list[str]:
    """Return the command line of the demo's app, on a device that has a version or none."""
    state = folder / "device"
    slots = Slots(state)
    if installed:
        bundle = Bundle.open(make_bundle(folder, "1.0.0")).rewrite(
            folder / "rule.edge", cascade=Policy(threshold=0.9, certificate=None).to_json()
        )
        slot, _ = slots.stage(bundle)
        slots.activate(Installed(slot, "tiny", "1.0.0", bundle.digest, "0" * 64, 1, "first"))
    images = folder / "images.npz"
    save_images(images, np.zeros((3, 8, 8, 3), np.uint8))
    command = [sys.executable, "-m", "edge_sdk.examples.demo.device", "--state", str(state)]
    return [*command, "--cloud", f"127.0.0.1:{free_port()}", "--images", str(images), "--deadline", "0.2"]


def test_a_second_signal_while_a_process_is_asked_to_end_leaves_no_process(tmp_path: Path) -> None:
    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    child = Child("stubborn", [sys.executable, "-c", STUBBORN], tmp_path)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            child.stop()
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(child.facts["pid"]), 0)
    child.stop()


def test_lines_are_returned_to_the_last_and_then_the_end_is_told(tmp_path: Path) -> None:
    with Child("agent", ["sh", "-c", "echo ready; echo one; echo broken pump >&2"], tmp_path) as child:
        assert child.lines(30) == ["one"]
        for _ in range(2):
            with pytest.raises(ServiceError, match="agent ended: broken pump"):
                child.lines(30)


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"agent\.log"):
        Child("agent", ["true"], tmp_path / "missing")


def test_the_end_of_the_input_ends_the_app_also_while_it_streams(tmp_path: Path) -> None:
    process = subprocess.Popen(
        app_command(tmp_path, installed=True), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    order = json.dumps({"do": "stream", "out": str(tmp_path / "stream.npy")})
    try:
        said, _ = process.communicate(f"{order}\n", timeout=500)
    finally:
        process.kill()
        process.wait()
    assert said.splitlines()[1:] == ['{"streaming": true}']
    assert process.returncode == 0


def test_a_stream_whose_records_cannot_be_written_says_so(tmp_path: Path) -> None:
    with Child("app", app_command(tmp_path, installed=True), tmp_path) as app:
        app.ask({"do": "stream", "out": str(tmp_path / "missing" / "stream.npy")}, timeout=60)
        with pytest.raises(ServiceError, match="app: cannot write"):
            app.ask({"do": "stop"}, timeout=60)


def test_a_stream_that_cannot_begin_says_so(tmp_path: Path) -> None:
    with (
        Child("app", app_command(tmp_path, installed=False), tmp_path) as app,
        pytest.raises(ServiceError, match="no version is installed"),
    ):
        app.ask({"do": "stream", "out": str(tmp_path / "stream.npy")}, timeout=60)


def test_test_images_that_the_disk_has_no_room_for_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    with limited_file_size(1000), pytest.raises(StorageError, match=r"images\.npz"):
        save_images(path, np.zeros((20, 28, 28), np.uint8))
    assert list(tmp_path.iterdir()) == []
