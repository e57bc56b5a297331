"""What pip would bring to a Raspberry Pi, asked of the package index."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from outside.sources import copy_sources

NOT_ON_A_DEVICE = {
    *("aiohttp", "iotcore", "keras", "matplotlib", "onnx", "opencv-python", "opencv-python-headless", "pandas"),
    *("pyarrow", "rich", "scipy", "tensorflow", "uvloop"),
}
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


@pytest.fixture(scope="module")
def index() -> None:
    """Skip where the package index cannot be reached."""
    asked = subprocess.run([sys.executable, "-m", "pip", "index", "versions", "pip"], capture_output=True, check=False)
    if asked.returncode != 0:
        pytest.skip("the package index cannot be reached")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("extra", ["litert", "device", "onnx,image"])
def test_an_extra_comes_as_wheels_for_64_bit_arm_without_tensorflow_scipy_or_opencv(extra, version, tmp_path):
    sources = copy_sources(tmp_path / "sources")
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--target", tmp_path]
    command += ["--report", tmp_path / "report.json", "--only-binary=:all:", "--python-version", version]
    command += [word for name in PLATFORMS for word in ("--platform", name)]
    done = subprocess.run([*command, f"{sources}[{extra}]"], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    brought = json.loads((tmp_path / "report.json").read_text())["install"]
    names = {re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower() for item in brought}
    assert {"edge-sdk", "numpy"} < names
    assert names.isdisjoint(NOT_ON_A_DEVICE)
    compiled = [url for url in (item["download_info"]["url"] for item in brought) if "linux" in url]
    assert all("aarch64" in url for url in compiled)
