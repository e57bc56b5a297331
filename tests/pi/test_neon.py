"""What runs on 64-bit ARM is vectors: looked up in the machine code, and asked of the processor itself."""

from __future__ import annotations

import functools
import platform
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_sdk.ext import image
from outside.services import edge_sdk
from outside.sources import ROOT

ON_ARM = platform.machine() == "aarch64"
PREFIX = "" if ON_ARM else "aarch64-linux-gnu-"
VECTOR = re.compile(r"\bv\d+\.(?:16b|8b|8h|4h|4s|2s|2d)")
# function of a kernel -> how many of its instructions work on vectors; half of what they are with GCC 12
HOT = {
    ("image", "neon_sample"): 150,
    ("image", "neon_to_byte"): 60,
    ("audio", "edge_audio_run"): 65,
    ("detection", "float32_planar"): 130,
    ("detection", "int8_planar"): 120,
    ("detection", "uint8_planar"): 120,
    ("quantization", "edge_quantize_int8"): 140,
    ("quantization", "edge_quantize_uint8"): 140,
    ("quantization", "edge_dequantize_int8"): 19,
    ("scores", "tabled"): 75,
    ("scores", "exponentials"): 20,
    ("signals", "summed"): 50,
    ("signals", "features"): 20,
}


@functools.cache
def flags() -> list[str]:
    """The flags that setup.py compiles the kernels with."""
    (line,) = re.findall(r"^CFLAGS = (\[.*\])$", (ROOT / "setup.py").read_text(), re.MULTILINE)
    return re.findall(r'"([^"]+)"', line)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """Return a function that counts the vector instructions of each function of a kernel."""
    for tool in ("gcc", "objdump"):
        if shutil.which(PREFIX + tool) is None:
            pytest.skip(f"there is no {PREFIX}{tool}")
    folder = tmp_path_factory.mktemp("objects")

    @functools.cache
    def count(kernel: str) -> dict[str, int]:
        source, made = ROOT / "ext/src" / f"{kernel}_kernel.c", folder / f"{kernel}.o"
        command = [f"{PREFIX}gcc", *flags(), "-fPIC", "-I", source.parent, "-c", source, "-o", made]
        subprocess.run(command, check=True)
        command = [f"{PREFIX}objdump", "-d", "--no-show-raw-insn", made]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        parts = re.split(r"^[0-9a-f]+ <(\S+)>:$", told, flags=re.MULTILINE)
        return {
            name: sum(map(bool, map(VECTOR.search, code.splitlines())))
            for name, code in zip(parts[1::2], parts[2::2], strict=True)
        }

    return count


@pytest.mark.parametrize(("kernel", "function"), HOT)
def test_hot_functions_are_compiled_to_vector_instructions_for_arm(vectors, kernel, function):
    found = vectors(kernel)
    assert found[function] >= HOT[kernel, function]


def test_the_path_of_arm_has_more_vectors_than_the_scalar_one(vectors):
    found = vectors("image")
    assert found["neon_sample"] > 10 * found["scalar_sample"]


@pytest.mark.skipif(not ON_ARM, reason="asks a processor for ARM")
def test_arm_chooses_neon_by_itself_and_the_doctor_says_so():
    assert image.path() == "neon"
    assert image.paths() == ("scalar", "neon")
    done = edge_sdk("doctor")
    assert "pictures by neon" in done.stdout
    assert re.search(r"\b(neon|asimd)\b", done.stdout)


@pytest.mark.skipif(not ON_ARM, reason="asks a processor for ARM")
def test_the_emulated_processor_is_that_of_a_raspberry_pi():
    if not Path("/src/tools/pi").is_dir():
        pytest.skip("this is no emulation")
    known = runpy.run_path(str(ROOT / "tools/pi/box.py"))["CPUINFO"]
    assert any(model in Path("/proc/cpuinfo").read_text() for model, _, _ in known.values())
