"""What a device is told about itself."""

from __future__ import annotations

import json

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


def device(root, *, millidegrees: str, throttled: str | None = None):
    """Lay out what Linux on a Raspberry Pi tells of itself."""
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(
        "processor\t: 0\nFeatures\t: fp asimd evtstrm\n\nModel\t: Raspberry Pi 5 Model B\n"
    )
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
    assert not found["throttling"].ok
    assert found["throttling"].seen == "under-voltage, throttled"


def test_doctor_makes_do_with_a_system_that_tells_nothing(tmp_path):
    found = {finding.what for finding in examine(tmp_path)}
    assert {"machine", "processor", "kernels"} <= found
    assert found.isdisjoint({"temperature", "throttling"})


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
