"""The demo as a newcomer runs it: one command, real processes, a report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from outside.services import COMMAND, edge_sdk

KEYS = {
    "data": str,
    "n_test": int,
    "accuracy": ("edge", "cloud", "hybrid"),
    "local_share": float,
    "certificate": ("max_accuracy_loss", "confidence", "n", "threshold"),
    "realised_loss": float,
    "latency_ms": ("edge", "cloud", "hybrid"),
    "sizes": ("teacher_bytes", "student_bytes", "bundle_bytes"),
    "ota": ("seconds", "bytes", "versions"),
    "faults": ("server_kill", "update_while_running", "bad_version", "tampered"),
    "versions": ("python", "edge-sdk", "tensorflow"),
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Run the quick demo once; return its folder and what it printed."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, edge_sdk("demo", "--quick", "--json", "--out", out, timeout=600)


@pytest.fixture(scope="module")
def report(demo):
    return json.loads((demo[0] / "report.json").read_text())


def running(folder: Path) -> list[str]:
    """Return the command lines of processes that name a folder."""
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if str(folder) in line]


def test_every_promise_of_the_demo_holds(demo, report):
    assert demo[1].returncode == 0, demo[1].stderr or report["promises"]
    assert len(report["promises"]) >= 10
    assert all(promise["held"] for promise in report["promises"])


def test_standard_output_is_the_report_and_standard_error_is_silent(demo, report):
    assert json.loads(demo[1].stdout) == report
    assert demo[1].stderr == ""


@pytest.mark.parametrize("key", KEYS)
def test_the_report_holds(report, key):
    kind = KEYS[key]
    if isinstance(kind, tuple):
        assert set(kind) <= set(report[key])
    else:
        assert isinstance(report[key], kind)


def test_latency_and_faults_are_told_in_full(report):
    for mode in ("edge", "cloud", "hybrid"):
        latency = report["latency_ms"][mode]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    for fault in report["faults"].values():
        assert 0 < fault["calls"] == fault["answered"] == fault["in_deadline"]
        assert fault["outcome"]


def test_the_student_is_smaller_than_the_teacher_and_hybrid_is_better_than_the_student(report):
    assert report["sizes"]["student_bytes"] < report["sizes"]["teacher_bytes"] / 10
    assert report["accuracy"]["edge"] < report["accuracy"]["hybrid"]
    assert 0.3 < report["local_share"] < 1


def test_the_device_ended_on_version_two(demo, report):
    assert report["ota"]["versions"] == ["1.0.0", "2.0.0"]
    pointer = json.loads((demo[0] / "device" / "active.json").read_text())
    assert pointer["active"]["version"] == "2.0.0"


def test_no_process_outlives_the_demo(demo):
    assert running(demo[0]) == []


def test_the_commands_of_the_demo_work_alone_on_its_files(demo, tmp_path):
    student, teacher = (demo[0] / "models" / name for name in ("student-1.0.0.edge", "teacher.edge"))
    for command in ("inspect", "verify"):
        for bundle in (student, teacher):
            done = edge_sdk(command, bundle, "--json")
            assert done.returncode == 0, done.stderr
            json.loads(done.stdout)
    again = tmp_path / "again.edge"
    done = edge_sdk("certify", student, "--cloud", teacher, "--data", "mnist", "-o", again, "--json")
    assert done.returncode == 0, done.stderr
    policy = json.loads(edge_sdk("inspect", student, "--json").stdout)["cascade"]
    assert json.loads(done.stdout)["threshold"] == policy["threshold"]


def test_the_page_shows_every_promise_and_three_plots_in_a_browser(demo, report, browse):
    page = browse(demo[0] / "report.html")
    assert page.html.count("<svg") == 3
    assert "Every promise held" in page.html
    assert page.html.count('class="held"') == len(report["promises"])
    assert "http://" not in page.html.replace("http://www.w3.org", "")
    assert page.complaints == ()
    assert page.screenshot.stat().st_size > 50_000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "pictures"], "pictures"),
        (["--data", "folder:nowhere"], "nowhere"),
        (["--broker", "mqtt://127.0.0.1:1"], "127.0.0.1:1"),
        (["--broker", "http://127.0.0.1"], "mqtt://"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, says):
    done = edge_sdk("demo", "--quick", "--out", tmp_path / "out", *arguments)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("edge-sdk: error: ")
    assert says in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_data_that_cannot_certify_is_refused_before_anything_is_trained(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", x=images, y=np.arange(60) % 3)
    done = edge_sdk("demo", "--data", f"npz:{tmp_path / 'few.npz'}", "--out", tmp_path / "out")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "18 of its images are for calibration" in done.stderr
    assert "needs 299" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_from_a_demo_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    done = edge_sdk("demo", "--out", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_made_is_refused(unmakeable_path):
    done = edge_sdk("demo", "--out", unmakeable_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


@pytest.mark.slow
def test_ending_the_demo_ends_every_process_of_it(tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*COMMAND, "demo", "--quick", "--json", "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ,
    )
    deadline = time.monotonic() + 300
    while not (out / "records" / "edge.npy").exists():  # broker, repository, server, agent and app are up
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    time.sleep(0.5)
    assert running(out) == []
