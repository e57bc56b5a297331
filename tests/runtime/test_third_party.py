"""A runtime that another package brings, as docs/write-a-runtime.md writes it."""

from __future__ import annotations

import re

import numpy as np
import pytest

import edge_sdk
from edge_sdk.bundle import Bundle
from edge_sdk.errors import ModelError
from edge_sdk.verification import verify
from outside.bundles import CLASSES, SIDE, tiny_images, train_tiny
from outside.sources import ROOT

SPEC = edge_sdk.ProcessingSpec.image(SIDE, SIDE, 3)


@pytest.fixture
def linear(tmp_path, monkeypatch):
    """The package of the page, installed, and a model for it."""
    page = (ROOT / "docs" / "write-a-runtime.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (entry,) = re.findall(r'^linear = "(.*)"$', page, re.MULTILINE)
    site = tmp_path / "site"
    info = site / "linear_runtime-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "linear_runtime.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: linear-runtime\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[edge_sdk.runtimes]\nlinear = {entry}\n")
    monkeypatch.syspath_prepend(site)
    weights, bias = train_tiny(SPEC)
    np.savez(tmp_path / "model.npz", weights=weights, bias=bias, shape=(SIDE, SIDE, 3))
    return tmp_path


def packed(folder):
    options = {"name": "tiny", "version": "1.0.0", "labels": CLASSES, "processing": SPEC, "output": "logits"}
    return edge_sdk.pack(folder / "model.npz", path=folder / "tiny.edge", runtime="linear", **options)


def test_a_model_of_the_page_s_runtime_is_packed_verified_and_answers(linear):
    packed(linear)
    assert verify(Bundle.open(linear / "tiny.edge"))["examples"] > 0
    images, labels = tiny_images(30, 5)
    with edge_sdk.load(linear / "tiny.edge") as model, edge_sdk.load(linear / "tiny.edge") as other:
        answers = [model.predict(image).index for image in images]
        assert answers == [other.predict(image).index for image in images]
    assert np.mean(np.array(answers) == labels) > 0.8


def test_without_its_package_the_runtime_is_named(linear, monkeypatch):
    packed(linear)
    monkeypatch.undo()
    with pytest.raises(ModelError, match=r"there is no runtime 'linear'; there are litert, onnx.*: install"):
        edge_sdk.load(linear / "tiny.edge")


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("os.abort()", r"the model is damaged: linear crashed on it \(signal 6, SIGABRT\)"),
        ("os._exit(3)", r"\(exit code 3\)"),
    ],
)
def test_a_model_that_ends_the_process_it_runs_in_is_refused_and_this_process_lives(linear, fault, match):
    site = linear / "site" / "linear_runtime.py"
    source = site.read_text()
    assert source.count("def run(self, x") == 1
    broken = re.sub(r"(    def run\(self, x.*:\n)", rf"\1        import os; {fault}\n", source)
    assert broken != source
    site.write_text(broken)
    with pytest.raises(ModelError, match=match):
        packed(linear)
    assert not (linear / "tiny.edge").exists()


@pytest.mark.parametrize("wrong", ["no_such_module:open_session", "linear_runtime:no_such_function"])
def test_a_package_that_cannot_be_imported_is_named(linear, wrong):
    packed(linear)
    entry = linear / "site" / "linear_runtime-1.0.dist-info" / "entry_points.txt"
    entry.write_text(f"[edge_sdk.runtimes]\nlinear = {wrong}\n")
    with pytest.raises(ModelError, match=f"the runtime 'linear' cannot be loaded .{wrong}.: "):
        edge_sdk.load(linear / "tiny.edge")
