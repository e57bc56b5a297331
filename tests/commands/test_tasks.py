"""The commands on a detector and on a model that embeds: real processes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import edge_sdk
from edge_sdk.bundle import Bundle
from edge_sdk.processing import Color, Layout, Normalize, ProcessingSpec, Resize
from outside.classifiers import linear_onnx
from outside.detectors import SIDE, cell_boxes, embedder_onnx, ssd_onnx, yolo_onnx
from outside.services import edge_sdk as run

SPEC = ProcessingSpec((Color("rgb"), Resize(SIDE, SIDE), Normalize((0.0,) * 3, (255.0,) * 3), Layout("NCHW")))
SSD = ["--decoder", "ssd", "--box-order", "yx", "--background"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Model files, what belongs to them, and a picture with a red and a green cell, twice as large."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "yolo.onnx").write_bytes(yolo_onnx())
    (folder / "ssd.onnx").write_bytes(ssd_onnx(offsets=True))
    (folder / "embedder.onnx").write_bytes(embedder_onnx())
    (folder / "labels.txt").write_text("red\ngreen\n")
    (folder / "processing.json").write_text(json.dumps(SPEC.to_json()))
    np.save(folder / "anchors.npy", (cell_boxes() / SIDE)[:, [1, 0, 3, 2]])
    frame = np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8)
    frame[32:48, 16:32, 0] = 255
    frame[0:16, 48:64, 1] = 200
    Image.fromarray(frame).save(folder / "cells.png")
    Image.fromarray(np.zeros_like(frame)).save(folder / "black.png")
    return folder


def pack(folder, model, *options):
    name = model.partition(".")[0]
    fixed = ["--name", name, "--version", "1.0.0", "--processing", folder / "processing.json", "-o"]
    return run("pack", folder / model, *fixed, folder / f"{name}-1.0.0.edge", *options)


def told(done) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refused(done) -> str:
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("yolo.onnx", ["--decoder", "yolo", "--score-threshold", "0.5"]),
        (
            "ssd.onnx",
            [*SSD, "--anchors", "anchors.npy", "--box-units", "fractions", "--variances", "0.1", "0.2"],
        ),
    ],
    ids=["yolo", "ssd"],
)
def test_a_detector_is_packed_shown_verified_run_and_timed(folder, tmp_path, model, options):
    options = [folder / option if option.endswith(".npy") else option for option in options]
    text = told(pack(folder, model, "--task", "detection", "--labels", folder / "labels.txt", *options))
    assert "packed" in text
    path = folder / f"{model[:-5]}-1.0.0.edge"
    assert "anchors.npy" in Bundle.open(path).manifest.files or model == "yolo.onnx"
    shown = told(run("inspect", path))
    assert "detection, 2 classes: red, green" in shown
    assert f"{options[1]}, boxes in " in shown
    assert "golden answers hold" in told(run("verify", path))

    lines = told(run("predict", path, folder / "cells.png", folder / "black.png", "--render", tmp_path)).splitlines()
    assert lines == [
        f"{folder / 'cells.png'}: red 100.0% at 16, 32, 32, 48; green 78.4% at 48, 0, 64, 16",
        f"{folder / 'black.png'}: nothing found",
    ]
    drawn = np.asarray(Image.open(tmp_path / "0000-cells.png"))
    assert drawn.shape == (320, 320, 3)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 5, "boxes and labels have colours of their own"
    row = json.loads(told(run("predict", path, folder / "cells.png", "--json")))
    assert set(row) == {"file", "detections", "source", "reason", "latency_ms"}
    assert row["detections"][0] == {"box": [16, 32, 32, 48], "score": pytest.approx(1), "index": 0, "label": "red"}
    assert json.loads(told(run("bench", path, "--repeats", "5", "--json")))["repeats"] == 5


def test_a_model_that_embeds_is_packed_shown_verified_and_run(folder, tmp_path):
    told(pack(folder, "embedder.onnx", "--task", "embedding"))
    path = folder / "embedder-1.0.0.edge"
    assert "colour float32[1, 3]" in told(run("inspect", path))
    assert "golden answers hold" in told(run("verify", path))
    assert "colour 0.0625 0.04902 0; brightness" in told(run("predict", path, folder / "cells.png"))
    row = json.loads(told(run("predict", path, folder / "cells.png", "--json")))
    assert row["outputs"]["colour"] == pytest.approx([1 / 16, 200 / 255 / 16, 0])
    assert "--render draws classes and boxes" in refused(
        run("predict", path, folder / "cells.png", "--render", tmp_path)
    )
    assert "takes classification only" in refused(run("predict", path, folder / "cells.png", "--cloud", "127.0.0.1:1"))


@pytest.mark.parametrize(
    ("model", "options", "why"),
    [
        ("yolo.onnx", ["--task", "detection"], "labels are empty"),
        ("yolo.onnx", ["--task", "detection", "--labels", "labels.txt"], "detection should say"),
        ("yolo.onnx", ["--task", "detection", "--score-threshold", "0.5"], "--decoder is missing"),
        ("yolo.onnx", ["--decoder", "yolo", "--score-threshold", "2"], "score_threshold is '2.0'"),
        ("yolo.onnx", ["--decoder", "yolo", "--background"], "background is for the decoder ssd"),
        ("ssd.onnx", ["--decoder", "ssd", "--anchors", "labels.txt"], "labels.txt is not a .npy array"),
        ("yolo.onnx", ["--decoder", "darknet"], "invalid choice: 'darknet'"),
        (
            "embedder.onnx",
            ["--task", "embedding", "--labels", "labels.txt"],
            "a model for embedding has none",
        ),
        ("embedder.onnx", ["--labels", "labels.txt"], "output is None"),
    ],
)
def test_pack_refuses_options_that_do_not_fit_on_one_line(folder, model, options, why):
    given = [folder / option if option.endswith(".txt") else option for option in options]
    assert why in refused(pack(folder, model, *given))


def test_a_row_of_a_table_is_predicted_from_a_file_and_cannot_be_drawn(tmp_path):
    spec = ProcessingSpec.table(["heat", "mode"], categories={"mode": ["idle", "run"]}, impute=20)
    (tmp_path / "linear.onnx").write_bytes(linear_onnx(spec.output_shape, 2))
    (tmp_path / "processing.json").write_text(json.dumps(spec.to_json()))
    told(pack(tmp_path, "linear.onnx", "--task", "regression"))
    path = tmp_path / "linear-1.0.0.edge"
    (tmp_path / "row.json").write_text('{"heat": null, "mode": "run"}')
    np.save(tmp_path / "row.npy", [20.0, 1.0])
    lines = told(run("predict", path, tmp_path / "row.json", tmp_path / "row.npy")).splitlines()
    with edge_sdk.load(path) as model:
        (name, values), *_ = model.predict({"heat": 20, "mode": "run"}).outputs.items()
    said = f"{name} {values[0]:.4g} {values[1]:.4g}"
    assert lines == [f"{tmp_path / 'row.json'}: {said}", f"{tmp_path / 'row.npy'}: {said}"]
    assert "there is no column 'steps'" in refused(run("predict", path, tmp_path / "processing.json"))
    assert "--render draws on pictures; this model takes table" in refused(
        run("predict", path, tmp_path / "row.json", "--render", tmp_path / "drawn")
    )
    assert not (tmp_path / "drawn").exists()
