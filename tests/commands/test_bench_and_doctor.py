"""What a device is told about itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from edge_sdk.diagnosis import examine
from outside.services import edge_sdk


def test_bench_tells_where_the_time_goes(files):
    done = edge_sdk("bench", files.bundle, "--size", "64x48", "--repeats", "20", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["repeats"] == 20
    for part in ("pre", "infer", "post", "total"):
        assert 0 < figures[part]["p50"] <= figures[part]["p95"]
    assert figures["infer"]["p50"] <= figures["total"]["p95"]


def test_bench_prints_a_table_for_people(files):
    done = edge_sdk("bench", files.bundle, "--repeats", "5", "--threads", "auto", "--delegate", "none")
    assert done.returncode == 0, done.stderr
    assert "predictions a second" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--size", "big"], "640x480"),
        (["--size", "99999x99999"], "99999"),
        (["--repeats", "0"], "0 predictions"),
        (["--threads", "few"], "auto"),
        (["--threads", "0"], "threads is 0"),
        (["--delegate", "/nowhere/tpu.so"], "/nowhere/tpu.so"),
    ],
)
def test_bench_refuses_bad_options_on_one_line(files, arguments, says):
    done = edge_sdk("bench", files.bundle, *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert says in done.stderr


def test_doctor_finds_this_device_fit():
    done = edge_sdk("doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    for what in ("machine", "processor", "runtimes", "numpy", "kernels"):
        assert findings[what]["ok"]
    assert "onnxruntime" in findings["runtimes"]["seen"]
    assert done.returncode == (0 if all(finding["ok"] for finding in findings.values()) else 1)


def test_doctor_says_on_each_bad_line_what_to_do(tmp_path):
    (tmp_path / "state").write_text("a file")
    done = edge_sdk("doctor", "--state", tmp_path / "state")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("NO  state folder")]
    assert line.endswith(": name a folder")
    assert done.returncode == 1


def test_doctor_names_a_runtime_that_was_made_for_another_processor(tmp_path):
    (tmp_path / "tflite_runtime").mkdir()
    (tmp_path / "tflite_runtime/__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    done = edge_sdk("doctor", "--json", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    runtimes = next(finding for finding in json.loads(done.stdout) if finding["what"] == "runtimes")
    assert not runtimes["ok"]
    assert "tflite-runtime cannot be used: it was made for another processor" in runtimes["seen"]
    assert "another version" in runtimes["advice"]
    assert done.returncode == 1


def test_doctor_bears_a_runtime_that_ends_its_process_without_a_word(tmp_path):
    (tmp_path / "tflite_runtime").mkdir()
    (tmp_path / "tflite_runtime/__init__.py").write_text("import os; os._exit(7)")
    done = edge_sdk("doctor", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert "tflite-runtime cannot be used: its import ended with exit code 7" in done.stdout
    assert done.returncode == 1


def test_doctor_says_no_to_a_32_bit_python_on_a_64_bit_kernel():
    program = (
        "import sys; import edge_sdk.ext; sys.maxsize = 2**31 - 1\n"
        "from edge_sdk.diagnosis.hardware import machine; found = machine(); print(found.ok, found.seen, found.advice)"
    )
    command = [sys.executable, "-P", "-c", program]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500).stdout
    assert told.startswith("False")
    assert "32-bit" in told
    assert "install a 64-bit one, such as Raspberry Pi OS (64-bit)" in told


def device(root, *, millidegrees: str | None = None, throttled: str | None = None, available: int = 3_000_000):
    """Lay out what Linux on a Raspberry Pi tells of itself."""
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(
        "processor\t: 0\nFeatures\t: fp asimd evtstrm\n\nModel\t: Raspberry Pi 5 Model B\n"
    )
    (root / "proc/meminfo").write_text(f"MemTotal:        4000000 kB\nMemAvailable:    {available} kB\nHugePages: 0\n")
    if millidegrees is not None:
        (root / "sys/class/thermal/thermal_zone0").mkdir(parents=True)
        (root / "sys/class/thermal/thermal_zone0/temp").write_text(millidegrees)
    if throttled is not None:
        folder = root / "sys/devices/platform/soc/soc:firmware"
        folder.mkdir(parents=True)
        (folder / "get_throttled").write_text(throttled)
    return {finding.what: finding for finding in examine(root)}


def test_doctor_names_a_raspberry_pi_and_its_features(tmp_path):
    found = device(tmp_path, millidegrees="48312\n")
    assert "Raspberry Pi 5 Model B" in found["processor"].seen
    assert "asimd" in found["processor"].seen
    assert found["temperature"].ok
    assert "48 °C" in found["temperature"].seen
    assert "throttling" not in found


def test_doctor_warns_of_heat_and_throttling(tmp_path):
    found = device(tmp_path, millidegrees="84500\n", throttled="50005\n")
    assert not found["temperature"].ok
    assert "fan" in found["temperature"].advice
    assert not found["throttling"].ok
    assert found["throttling"].seen == "under-voltage, throttled"
    assert "power supply" in found["throttling"].advice


@pytest.mark.parametrize(
    ("bits", "ok", "seen", "advice"),
    [
        ("0", True, "none", ""),
        ("10000", True, "none now; before: under-voltage", "power supply"),
        ("80008", False, "soft temperature limit", "cool it"),
        ("e0002", False, "frequency capped (since it was started also: throttled, soft temperature limit)", "cool it"),
        ("f0004", False, "throttled (since it was started also: under-voltage", "power supply"),
    ],
)
def test_every_bit_of_throttling_is_decoded(tmp_path, bits, ok, seen, advice):
    found = device(tmp_path, throttled=bits)["throttling"]
    assert found.ok is ok
    assert found.seen.startswith(seen)
    assert advice in found.advice
    assert bool(found.advice) is bool(advice)


@pytest.fixture
def vcgencmd(tmp_path_factory, monkeypatch):
    """Put a program on the path that answers as the firmware of a Raspberry Pi."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "vcgencmd"
    program.write_text(
        '#!/bin/sh\ncase $1 in measure_temp) echo "temp=81.2\'C";; get_throttled) echo throttled=0x20002;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return program


def test_doctor_asks_the_firmware_where_the_kernel_does_not_tell(tmp_path, vcgencmd):
    found = device(tmp_path)
    assert found["temperature"].seen == "81 °C"
    assert found["throttling"].seen == "frequency capped"


def test_a_firmware_that_answers_nonsense_is_left_out(tmp_path, vcgencmd):
    vcgencmd.write_text("#!/bin/sh\necho VCHI initialization failed; exit 255\n")
    assert device(tmp_path).keys().isdisjoint({"temperature", "throttling"})


def test_doctor_warns_where_memory_is_short(tmp_path):
    found = device(tmp_path, available=40_000)["memory"]
    assert (found.ok, found.seen) == (False, "39 of 3,906 MB available")
    assert found.advice


def test_doctor_warns_of_a_clock_that_is_behind_what_the_disk_has_seen(tmp_path):
    assert device(tmp_path)["clock"].ok
    seen = tmp_path / "var/lib/systemd/timesync/clock"
    seen.parent.mkdir(parents=True)
    seen.touch()
    os.utime(seen, (4e9, 4e9))
    behind = next(finding for finding in examine(tmp_path) if finding.what == "clock")
    assert not behind.ok
    assert "timedatectl" in behind.advice


def test_doctor_says_that_nobody_has_set_the_clock_yet(tmp_path):
    (tmp_path / "run/systemd/timesync").mkdir(parents=True)
    assert "not set by the network" in device(tmp_path)["clock"].advice
    (tmp_path / "run/systemd/timesync/synchronized").touch()
    assert not next(finding for finding in examine(tmp_path) if finding.what == "clock").advice


def test_doctor_looks_at_the_folder_that_updates_are_kept_in(tmp_path, read_only_folder):
    there = {finding.what: finding for finding in examine(tmp_path, tmp_path / "not" / "yet")}
    assert there["state folder"].ok
    assert "can be made" in there["state folder"].seen
    assert str(tmp_path) in there["disk"].seen
    refused = {finding.what: finding for finding in examine(tmp_path, read_only_folder)}
    assert not refused["state folder"].ok


def test_doctor_makes_do_with_a_system_that_tells_nothing(tmp_path):
    found = {finding.what for finding in examine(tmp_path)}
    assert {"machine", "processor", "kernels"} <= found
    assert found.isdisjoint({"memory", "temperature", "throttling"})


def test_what_cannot_be_read_is_left_out(tmp_path):
    found = device(tmp_path, millidegrees="hot\n", throttled="\n")
    assert found.keys().isdisjoint({"temperature", "throttling"})


def test_predict_draws_each_label_on_a_copy(files, tmp_path):
    done = edge_sdk("predict", files.bundle, *files.pictures, "--render", tmp_path / "drawn")
    assert done.returncode == 0, done.stderr
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert [path.name for path in drawn] == ["0000-0.png", "0001-1.png", "0002-2.png"]
    with Image.open(drawn[0]) as picture:
        assert picture.width >= 160
        above = np.asarray(picture)[: picture.height - picture.width]
        assert above.max() == 255  # something is written there


def test_predict_refuses_to_draw_where_nothing_can_be_written(files, unmakeable_path):
    done = edge_sdk("predict", files.bundle, files.pictures[0], "--render", unmakeable_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
