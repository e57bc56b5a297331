"""The twins in NumPy: the same face as the kernels, the same answers, and a model that runs on them."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from edge_sdk import ext
from edge_sdk.errors import InputError
from edge_sdk.ext import quantization, scores
from edge_sdk.ext.pure import quantization as pure_quantization
from edge_sdk.ext.pure import scores as pure_scores
from outside.services import edge_sdk
from outside.sources import ROOT

KERNELS = sorted(path.stem for path in (ROOT / "ext").glob("*.pyx"))
PURE = {**os.environ, "EDGE_SDK_PURE": "1"}
COMPILED = {**os.environ, "EDGE_SDK_PURE": "0"}
check = settings(derandomize=True, deadline=None)


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", KERNELS)
def test_a_twin_offers_what_its_kernel_offers_with_the_same_parameters(name):
    kernel = importlib.import_module(f"edge_sdk.ext.{name}")
    twin = importlib.import_module(f"edge_sdk.ext.pure.{name}")
    assert set(kernel.__all__) <= set(twin.__all__)
    for public in kernel.__all__:
        ours, theirs = getattr(kernel, public), getattr(twin, public)
        if inspect.isroutine(ours):
            assert parameters(ours) == parameters(theirs), public


@check
@given(
    arrays(np.float32, array_shapes(min_dims=1, max_dims=2), elements=st.floats(width=32)),
    st.floats(0.01, 100),
    st.integers(1, 12),
)
def test_a_twin_sums_up_any_scores_as_the_kernel_does(x, temperature, top):
    if not np.isfinite(x.max(axis=-1)).all():
        for summarize in (scores.summarize, pure_scores.summarize):
            with pytest.raises(InputError, match="has no finite largest value"):
                summarize(x, top=top, temperature=temperature)
        return
    expected = pure_scores.summarize(x, top=top, temperature=temperature)
    got = scores.summarize(x, top=top, temperature=temperature)
    np.testing.assert_array_equal(got.indices, expected.indices)
    for ours, reference in zip(got, expected, strict=True):
        assert type(ours) is type(reference)
        np.testing.assert_allclose(ours, reference, rtol=3e-6, atol=1e-6)
    probabilities = scores.softmax(x, temperature=temperature)
    np.testing.assert_allclose(probabilities, expected.probabilities, rtol=3e-6, atol=1e-37)


@check
@given(
    arrays(np.float32, array_shapes(max_dims=3), elements=st.floats(width=32, allow_nan=False)),
    st.floats(1e-30, 1e30),
    st.sampled_from([np.int8, np.uint8]),
    st.integers(0, 255),
)
def test_a_twin_quantises_and_dequantises_to_the_same_bits(x, scale, dtype, shift):
    zero_point = np.iinfo(dtype).min + shift
    q = quantization.quantize(x, scale, zero_point, dtype=dtype)
    np.testing.assert_array_equal(q, pure_quantization.quantize(x, scale, zero_point, dtype=dtype))
    real = quantization.dequantize(q, scale, zero_point)
    assert real.tobytes() == pure_quantization.dequantize(q, scale, zero_point).tobytes()


def test_a_bundle_is_verified_and_answers_the_same_on_the_twins(tiny_edge_bundle, tmp_path):
    pictures = [tmp_path / f"{n}.png" for n in range(5)]
    for path, image in zip(pictures, tiny_edge_bundle.images, strict=False):
        Image.fromarray(image).save(path)
    verified = edge_sdk("verify", tiny_edge_bundle.path, env=PURE)
    assert verified.returncode == 0, verified.stderr
    answers = []
    for environment in (PURE, COMPILED):
        done = edge_sdk("predict", tiny_edge_bundle.path, *pictures, "--json", env=environment)
        assert done.returncode == 0, done.stderr
        answers.append([json.loads(line) for line in done.stdout.splitlines()])
    for pure, compiled in zip(*answers, strict=True):
        assert pure["label"] == compiled["label"]
        assert pure["confidence"] == pytest.approx(compiled["confidence"], abs=0.01)


def test_the_doctor_says_what_computes():
    for environment, word in ((PURE, "EDGE_SDK_PURE"), (COMPILED, "compiled")):
        findings = {row["what"]: row for row in json.loads(edge_sdk("doctor", "--json", env=environment).stdout)}
        assert findings["kernels"]["ok"]
        assert word in findings["kernels"]["seen"]
    assert ext.backend() == ("pure" if os.environ.get("EDGE_SDK_PURE") == "1" else "compiled")


BROKEN = """\
import sys
from importlib.abc import MetaPathFinder

class Broken(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith("edge_sdk.ext.") and ".pure" not in name and "ext/pure" not in path[0]:
            raise ImportError("undefined symbol: edge_softmax", name=name)

sys.meta_path.insert(0, Broken())
from edge_sdk.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_kernels_that_do_not_load_are_one_line_that_says_what_helps(tiny_edge_bundle):
    def run(environment, *arguments):
        command = [sys.executable, "-P", "-c", BROKEN, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=environment)

    done = run(COMPILED, "verify", tiny_edge_bundle.path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    for part in ("edge-sdk: error: the compiled kernels do not load", "undefined symbol", "EDGE_SDK_PURE=1"):
        assert part in line
    assert "undefined symbol" in run(COMPILED, "doctor").stdout
    assert run(PURE, "verify", tiny_edge_bundle.path).returncode == 0


@pytest.mark.slow
def test_what_holds_for_the_kernels_holds_for_the_twins():
    command = [sys.executable, "-P", "-m", "pytest", "-q", "tests/ext", "tests/processing", "--deselect", __file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=PURE, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
