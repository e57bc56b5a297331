"""The device's commands as a person or a program at a terminal meets them: real processes."""

from __future__ import annotations

import json
import os
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edge_sdk
from edge_sdk.bundle import Bundle, GoldenSet, write_bundle
from edge_sdk.cascade import Certificate, Policy
from outside.services import edge_sdk as run


def refused(done) -> str:
    """Return the one line with which a command refused its input."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("edge-sdk: error: ")
    return line


def told(done) -> str:
    """Return what a command that succeeded printed; it wrote nothing on standard error."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def pack_arguments(files, out: Path, **changes: object) -> list[object]:
    options = {
        "--name": "colours",
        "--version": "1.0.0",
        "--task": "classification",
        "--labels": files.labels,
        "--processing": files.processing,
        "--output": "probabilities",
        "-o": out,
    } | {f"--{key}": value for key, value in changes.items() if key != "model"}
    return ["pack", changes.get("model", files.model), *(part for pair in options.items() for part in pair)]


# ---- pack


def test_a_file_that_memory_does_not_hold_is_one_line(files, tmp_path: Path) -> None:
    large = tmp_path / "large.onnx"
    with large.open("wb") as file:
        file.truncate(4 << 30)  # of which the disk keeps nothing
    limit = (2 << 30,) * 2
    done = run(
        *pack_arguments(files, tmp_path / "x.edge", model=large),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )
    assert "memory is not enough" in refused(done)
    assert not (tmp_path / "x.edge").exists()


def test_pack_wraps_somebody_elses_model_and_predict_runs_it(files, tmp_path):
    out = tmp_path / "out.edge"
    record = json.loads(told(run(*pack_arguments(files, out), "--json")))
    assert record == {
        "bundle": str(out),
        "bytes": out.stat().st_size,
        "model_digest": Bundle.open(out).manifest.model_digest,
    }
    assert Bundle.open(out).manifest.labels == ("red", "green", "blue"), "no byte-order mark, no empty line"
    rows = [json.loads(line) for line in told(run("predict", out, *files.pictures, "--json")).splitlines()]
    assert [row["file"] for row in rows] == [str(path) for path in files.pictures]
    with edge_sdk.load(out) as model:
        for row, path in zip(rows, files.pictures, strict=True):
            assert set(row) == {"file", "label", "index", "confidence", "source", "reason", "latency_ms"}
            answer = model.predict(path)
            assert (row["label"], row["index"], row["confidence"]) == (answer.label, answer.index, answer.confidence)
            assert (row["source"], row["reason"]) == ("edge", "forced")
            assert row["latency_ms"] > 0


def test_pack_tells_people_what_it_made(files, tmp_path):
    text = told(run(*pack_arguments(files, tmp_path / "o.edge", output="logits", model=files.onnx)))
    assert "packed colours 1.0.0 into" in text
    assert "model digest sha256:" in text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": "none.tflite"}, "there is no model file at none.tflite"),
        ({"labels": "none.txt"}, "cannot read none.txt: No such file"),
        ({"processing": "none.json"}, "cannot read none.json: No such file"),
        ({"output": "logits", "model": "labels.txt"}, "should end in .tflite or .onnx"),
        ({"name": "No Good"}, "name is 'No Good'"),
        ({"version": "one"}, "version is 'one'"),
        ({"processing": "labels.txt"}, "labels.txt: not JSON"),
        ({"labels": "0.png"}, "0.png is not UTF-8 text"),
        ({"labels": "empty"}, "empty holds no labels"),
        ({"labels": "/dev/zero"}, "/dev/zero is over 16777216 bytes"),
        ({"processing": "list.json"}, "list.json should hold an object"),
        ({"processing": "odd.json"}, "processing step 0"),
        ({"model": "garbage.tflite"}, "LiteRT cannot load the model"),
        ({"model": "garbage.onnx"}, "ONNX Runtime cannot load the model"),
        ({"model": "colours.onnx"}, "are they logits?"),
        ({"output": "votes"}, "invalid choice: 'votes'"),
        ({"task": "alchemy"}, "invalid choice: 'alchemy'"),
    ],
)
def test_pack_refuses_on_one_line_and_writes_nothing(files, tmp_path, change, why):
    (files.folder / "empty").write_text("\n\n")
    (files.folder / "list.json").write_text("[]")
    (files.folder / "odd.json").write_text('{"steps": [{"op": "bless"}]}')
    for suffix in ("tflite", "onnx"):
        (files.folder / f"garbage.{suffix}").write_bytes(b"garbage" * 50)
    done = run(*pack_arguments(files, tmp_path / "out.edge", **change), cwd=files.folder)
    assert why in refused(done)
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_pack_names_an_output_that_cannot_be_written(files, unmakeable_path, read_only_folder):
    for out in (unmakeable_path / "o.edge", read_only_folder / "o.edge"):
        assert f"cannot write {out}" in refused(run(*pack_arguments(files, out)))
    assert list(read_only_folder.iterdir()) == []


# ---- inspect


def test_inspect_shows_a_bundle_to_people_and_to_programs(files, tmp_path):
    text = told(run("inspect", files.bundle))
    for part in ("colours 1.0.0", "3 classes: red, green, blue", "color → resize → normalize → layout → quantize"):
        assert part in text
    document = json.loads(told(run("inspect", files.bundle, "--json")))
    assert document == json.loads(Bundle.open(files.bundle).read("manifest.json"))
    Bundle.open(files.bundle).unpack(tmp_path / "slot")
    assert told(run("inspect", tmp_path / "slot")) == text


def test_inspect_shows_the_promise(files, tmp_path):
    certificate = Certificate(0.01, 0.95, 1000, 3, 0.01, 0.4, {})
    bundle = Bundle.open(files.bundle)
    bundle.rewrite(tmp_path / "c.edge", cascade=Policy(0.75, certificate=certificate).to_json())
    text = told(run("inspect", tmp_path / "c.edge"))
    assert "harm ≤ 0.01 at confidence 0.95, from 1000 samples; 40.0% answered locally" in text
    bundle.rewrite(tmp_path / "d.edge", cascade={"format": 1, "threshold": 0.5, "certificate": "yes"})
    assert "policy: a field is missing" in refused(run("inspect", tmp_path / "d.edge"))


@pytest.mark.parametrize("command", ["inspect", "verify", "predict"])
def test_a_missing_truncated_or_foreign_bundle_is_refused_on_one_line(files, tmp_path, command):
    whole = files.bundle.read_bytes()
    (tmp_path / "cut.edge").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.edge").write_bytes(whole[:400] + bytes([whole[400] ^ 1]) + whole[401:])
    (tmp_path / "folder.edge").mkdir()
    for path, why in (
        (tmp_path / "none.edge", "there is no bundle at"),
        (tmp_path / "cut.edge", "the file is truncated"),
        (tmp_path / "flipped.edge", "is damaged"),
        (tmp_path / "folder.edge", "manifest.json is missing"),
        (files.pictures[0], "is not a .edge bundle"),
    ):
        more = files.pictures[:1] if command == "predict" else ()
        line = refused(run(command, path, *more))
        assert why in line
        assert str(path) in line


def test_a_terminal_without_our_characters_gets_escapes(files):
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    assert "color \\u2192 resize" in told(run("inspect", files.bundle, env=ascii_only))


# ---- verify


def test_verify_says_what_holds(files):
    text = told(run("verify", files.bundle))
    assert "4 golden answers hold" in text
    record = json.loads(told(run("verify", files.bundle, "--json")))
    assert record["ok"] is True
    assert record["examples"] == 4
    assert record["output_error"] == 0.0


def test_verify_refuses_a_bundle_whose_golden_answers_do_not_hold(files, tmp_path):
    bundle = Bundle.open(files.bundle)
    golden = GoldenSet.from_bundle(bundle)
    turned = replace(golden, outputs=(np.roll(golden.outputs[0], 1, axis=1),))
    members = {name: bundle.read(name) for name in bundle.manifest.files} | turned.to_members()
    write_bundle(tmp_path / "turned.edge", bundle.manifest, members)
    done = run("verify", tmp_path / "turned.edge", "--json")
    assert "golden example 0 differs" in refused(done)
    assert done.stdout == ""


# ---- predict


def test_predict_prints_one_line_a_picture(files):
    lines = told(run("predict", files.bundle, *files.pictures)).splitlines()
    assert len(lines) == 3
    for line, path in zip(lines, files.pictures, strict=True):
        assert line.startswith(f"{path}: ")
        assert line.endswith("edge, forced)")


def test_predict_keeps_the_remarks_of_image_libraries_off_the_terminal(files, tmp_path):
    cut = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\xff\xff\xff\xff\0\0"
    Image.open(files.pictures[0]).save(tmp_path / "cut-metadata.jpg", exif=cut)
    assert told(run("predict", files.bundle, tmp_path / "cut-metadata.jpg")).count("\n") == 1


def test_predict_refuses_a_wrong_picture_on_one_line_after_those_that_were_right(files, tmp_path):
    whole = files.pictures[0].read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-60])
    (tmp_path / "text.jpg").write_text("hello")
    for path, why in (
        (tmp_path / "cut.png", "not a picture that can be decoded"),
        (tmp_path / "text.jpg", "not a picture of a kind that is known"),
        (tmp_path / "none.png", "No such file"),
        (tmp_path, "it is not a file"),
    ):
        done = run("predict", files.bundle, files.pictures[0], path, files.pictures[1], "--json")
        line = refused(done)
        assert why in line
        assert str(path) in line
        (row,) = map(json.loads, done.stdout.splitlines())
        assert row["file"] == str(files.pictures[0])


@pytest.mark.parametrize(
    "arguments", [("pack",), ("verify",), ("predict", "a.edge"), ("certify", "a.edge"), ("inspect", "a", "b")]
)
def test_arguments_that_are_missing_or_too_many_are_named_on_one_line(arguments):
    line = refused(run(*arguments))
    assert f"see edge-sdk {arguments[0]} --help" in line
