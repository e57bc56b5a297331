"""Batch prediction: every row answered as `predict` answers it, whatever else is among them."""

from __future__ import annotations

import io
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import edge_sdk
from edge_sdk.cloud.batch import predict_batch
from edge_sdk.errors import DataError, InputError, StorageError
from edge_sdk.packing import pack
from edge_sdk.processing import Color, Layout, Normalize, ProcessingSpec, Resize
from outside.bundles import CLASSES
from outside.classifiers import linear_onnx
from outside.detectors import SIDE, embedder_onnx, yolo_onnx
from outside.services import edge_sdk as run


def encoded(frame: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(frame).save(sink, "PNG")
    return sink.getvalue()


def written(path: Path, row_group_size: int = 10, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path


@pytest.fixture
def pictures(tiny_edge_bundle, tmp_path) -> Path:
    """Thirty pictures in row groups of seven, three of them bad."""
    cells: list[bytes | None] = [encoded(frame) for frame in tiny_edge_bundle.images[:30]]
    cells[4], cells[11], cells[29] = None, b"no picture", cells[29][:60]
    return written(tmp_path / "in.parquet", 7, image=pa.array(cells, pa.binary()), id=[f"row-{n}" for n in range(30)])


def test_every_row_is_answered_as_predict_answers_it_and_bad_ones_say_why(tiny_edge_bundle, tmp_path, pictures) -> None:
    output = tmp_path / "out.parquet"
    seen = []
    summary = predict_batch(
        tiny_edge_bundle.path, pictures, output, workers=3, part_rows=8, on_progress=lambda *told: seen.append(told)
    )
    rows = pq.read_table(output).to_pylist()
    with edge_sdk.load(tiny_edge_bundle.path) as model:
        for n, row in enumerate(rows):
            assert row["id"] == f"row-{n}"
            if n in (4, 11, 29):
                assert row["label"] is row["confidence"] is row["scores"] is None
                continue
            want = model.predict(tiny_edge_bundle.images[n])
            assert (row["label"], row["index"], row["confidence"]) == (want.label, want.index, want.confidence)
            assert (row["scores"], row["certified"], row["error"]) == (list(want.scores), want.certified, None)
        assert (summary.rows, summary.failed, summary.resumed) == (30, 3, 0)
        metadata = pq.read_schema(output).metadata
        assert metadata[b"edge_model_digest"].decode() == summary.model_digest == model.digest
        assert json.loads(metadata[b"edge_labels"]) == list(CLASSES)
    assert rows[4]["error"] == "the cell is empty"
    assert "picture" in rows[11]["error"]
    assert "truncated" in rows[29]["error"]
    assert (seen[0], seen[-1]) == ((0, 30, 0), (30, 30, 3))
    assert not (tmp_path / "out.parquet.parts").exists()


def test_how_many_work_on_it_changes_nothing(tiny_edge_bundle, tmp_path, pictures) -> None:
    for workers in (1, 4):
        predict_batch(tiny_edge_bundle.path, pictures, tmp_path / f"{workers}.parquet", workers=workers)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "4.parquet").read_bytes()


def test_pictures_of_a_folder_are_named_by_their_paths(tiny_edge_bundle, tmp_path) -> None:
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    for n in range(3):
        Image.fromarray(tiny_edge_bundle.images[n]).save(folder / f"{n}.png")
    (folder / "broken.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    summary = predict_batch(tiny_edge_bundle.path, tmp_path / "in", tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == ["deep/0.png", "deep/1.png", "deep/2.png", "deep/broken.jpg"]
    assert [error is None for error in table["error"].to_pylist()] == [True, True, True, False]
    assert summary.failed == 1


def test_pixels_in_lists_and_structs_of_bytes_are_pictures_too(tiny_edge_bundle, tmp_path) -> None:
    frames = list(tiny_edge_bundle.images[:3])
    ways = {
        "pixels": pa.array([frame.tolist() for frame in frames]),
        "struct": pa.array([{"bytes": encoded(frame), "path": "x.png"} for frame in frames]),
    }
    tables = []
    for name, cells in ways.items():
        predict_batch(tiny_edge_bundle.path, written(tmp_path / name, picture=cells), tmp_path / f"{name}.parquet")
        tables.append(pq.read_table(tmp_path / f"{name}.parquet"))
    assert tables[0].equals(tables[1])
    assert tables[0]["error"].null_count == 3
    assert tables[0]["id"].to_pylist() == [0, 1, 2]


def test_a_text_in_a_cell_is_never_taken_for_a_path(tiny_edge_bundle, tmp_path) -> None:
    source = written(tmp_path / "in.parquet", image=[str(tmp_path / "secret.png")])
    with pytest.raises(InputError, match="no column holds a picture"):
        predict_batch(tiny_edge_bundle.path, source, tmp_path / "out.parquet")
    with pytest.raises(InputError, match="holds string"):
        predict_batch(tiny_edge_bundle.path, source, tmp_path / "out.parquet", column="image")


@pytest.fixture(scope="module")
def ages(tmp_path_factory) -> Path:
    """A model of three numbers by name that estimates one."""
    folder = tmp_path_factory.mktemp("ages")
    spec = ProcessingSpec.table(("height", "weight", "heart"), mean=(1.5, 60.0, 70.0), std=(0.3, 20.0, 10.0))
    path = folder / "ages-1.0.0.edge"
    model = folder / "ages.onnx"
    model.write_bytes(linear_onnx(spec.output_shape, 1))
    pack(model, path=path, name="ages", version="1.0.0", processing=spec, task="regression")
    return path


def test_columns_of_a_table_and_lists_in_one_column_are_the_same_rows(ages, tmp_path) -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal((1.5, 60, 70), (0.2, 10, 5), (20, 3))
    named = dict(zip(("height", "weight", "heart"), rows.T, strict=True))
    predict_batch(ages, written(tmp_path / "a", **named, other=["x"] * 20), tmp_path / "a.parquet")
    predict_batch(ages, written(tmp_path / "b", row=list(rows)), tmp_path / "b.parquet")
    first, second = (pq.read_table(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert first.equals(second)
    with edge_sdk.load(ages) as model:
        for row, told in zip(rows, first.to_pylist(), strict=True):
            assert list(told["outputs"].values()) == [model.predict(row)[0].ravel().tolist()]


SPEC = ProcessingSpec((Color("rgb"), Resize(SIDE, SIDE), Normalize((0.0,) * 3, (255.0,) * 3), Layout("NCHW")))


def test_a_detector_gives_boxes_and_an_embedder_vectors(tmp_path) -> None:
    frame = np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8)
    frame[32:48, 16:32, 0] = 255
    source = written(tmp_path / "in.parquet", image=[encoded(frame), encoded(np.zeros_like(frame))])
    for name, data in (("yolo", yolo_onnx()), ("embedder", embedder_onnx())):
        (tmp_path / f"{name}.onnx").write_bytes(data)
    detector, embedder = tmp_path / "yolo-1.0.0.edge", tmp_path / "embedder-1.0.0.edge"
    (tmp_path / "labels.txt").write_text("red\ngreen\n")
    (tmp_path / "spec.json").write_text(json.dumps(SPEC.to_json()))
    packed = ["--version", "1.0.0", "--processing", tmp_path / "spec.json", "-o"]
    for model, path, options in (
        ("yolo", detector, ["--task", "detection", "--decoder", "yolo", "--labels", tmp_path / "labels.txt"]),
        ("embedder", embedder, ["--task", "embedding"]),
    ):
        done = run("pack", tmp_path / f"{model}.onnx", "--name", model, *packed, path, *options)
        assert done.returncode == 0, done.stderr
    predict_batch(detector, source, tmp_path / "boxes.parquet")
    rows = pq.read_table(tmp_path / "boxes.parquet").to_pylist()
    with edge_sdk.load(detector) as model:
        want = model.predict(frame).to_dict()["detections"]
    assert (rows[0]["detections"], rows[0]["label"]) == (want, "red")
    assert (rows[1]["detections"], rows[1]["label"], rows[1]["error"]) == ([], None, None)
    predict_batch(embedder, source, tmp_path / "vectors.parquet")
    (outputs, _) = pq.read_table(tmp_path / "vectors.parquet")["outputs"].to_pylist()
    with edge_sdk.load(embedder) as model:
        assert {name: values.ravel().tolist() for name, values in model.predict(frame).outputs.items()} == outputs


def test_a_plain_model_takes_tensors(tmp_path) -> None:
    (tmp_path / "plain.onnx").write_bytes(linear_onnx((1, 4), 2))
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    cells = [*rows, np.zeros(3, np.float32), None]
    source = written(tmp_path / "in.parquet", x=pa.array(cells, pa.list_(pa.float32())))
    assert predict_batch(tmp_path / "plain.onnx", source, tmp_path / "out.parquet").failed == 2
    folder = tmp_path / "arrays"
    folder.mkdir()
    for n, row in enumerate(rows):
        np.save(folder / f"{n}.npy", row)
    assert predict_batch(tmp_path / "plain.onnx", folder, tmp_path / "files.parquet").failed == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["outputs"].to_pylist()[:5] == pq.read_table(tmp_path / "files.parquet")["outputs"].to_pylist()
    assert [text and text[:9] for text in table["error"].to_pylist()] == [None] * 5 + ["3 numbers", "the cell "]


def test_an_empty_file_gives_an_empty_file(tiny_edge_bundle, tmp_path) -> None:
    source = written(tmp_path / "in.parquet", image=pa.array([], pa.binary()))
    assert predict_batch(tiny_edge_bundle.path, source, tmp_path / "out.parquet").rows == 0
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from edge_sdk.cloud.batch import predict_batch
model, source, output, moment = sys.argv[1:]
events = 0

def killer(event, arguments):
    global events
    watched = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
    if event in watched and output in str(arguments):
        events += 1
        if events == int(moment):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(killer)
predict_batch(Path(model), Path(source), Path(output), part_rows=8, workers=2)
"""


def killed(*arguments: object) -> int:
    return subprocess.run([sys.executable, "-P", "-c", KILLED, *map(str, arguments)], check=False).returncode


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_is_killed_again_and_again_gives_the_same_file(tiny_edge_bundle, tmp_path, pictures) -> None:
    rng = random.Random(7)
    predict_batch(tiny_edge_bundle.path, pictures, tmp_path / "whole.parquet", part_rows=8)
    want = (tmp_path / "whole.parquet").read_bytes()
    for attempt in range(2):
        output = tmp_path / f"killed-{attempt}.parquet"
        while killed(tiny_edge_bundle.path, pictures, output, rng.randint(1, 12)) == -signal.SIGKILL:
            assert not output.exists() or output.read_bytes() == want
        summary = predict_batch(tiny_edge_bundle.path, pictures, output, part_rows=8)
        assert (summary.rows, summary.failed) == (30, 3)
        assert output.read_bytes() == want
        assert not Path(f"{output}.parts").exists()


def begun(model: Path, source: Path, output: Path, moment: int = 9) -> Path:
    assert killed(model, source, output, moment) == -signal.SIGKILL
    parts = Path(f"{output}.parts")
    assert (parts / "000000.parquet").exists()
    assert not output.exists()
    return parts


def test_what_was_done_is_not_done_again_and_a_damaged_part_is(tiny_edge_bundle, tmp_path, pictures) -> None:
    output = tmp_path / "out.parquet"
    parts = begun(tiny_edge_bundle.path, pictures, output)
    done = sorted(parts.glob("0*.parquet"))
    done[-1].write_bytes(done[-1].read_bytes()[:-20])
    summary = predict_batch(tiny_edge_bundle.path, pictures, output, part_rows=8)
    assert summary.resumed == 8 * (len(done) - 1)
    predict_batch(tiny_edge_bundle.path, pictures, tmp_path / "whole.parquet", part_rows=8)
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_another_model_or_input_does_not_go_on_with_what_was_begun(tiny_edge_bundle, ages, tmp_path, pictures) -> None:
    output = tmp_path / "out.parquet"
    begun(tiny_edge_bundle.path, pictures, output)
    with pytest.raises(InputError, match="is there already and is of another name"):
        predict_batch(ages, written(tmp_path / "t", row=[[1.0, 2.0, 3.0]]), output)
    table = pq.read_table(pictures)
    pq.write_table(table.slice(0, 29), pictures, row_group_size=7)
    with pytest.raises(InputError, match="another input digest"):
        predict_batch(tiny_edge_bundle.path, pictures, output, part_rows=8)


def test_a_file_that_is_there_is_finished_or_somebody_elses(tiny_edge_bundle, tmp_path, pictures) -> None:
    output = tmp_path / "out.parquet"
    predict_batch(tiny_edge_bundle.path, pictures, output)
    before = output.stat()
    summary = predict_batch(tiny_edge_bundle.path, pictures, output)
    assert (summary.rows, summary.failed, summary.resumed) == (30, 3, 30)
    assert output.stat() == before
    for other in (pictures, tiny_edge_bundle.path):
        data = other.read_bytes()
        with pytest.raises(InputError, match="remove it, or choose another output"):
            predict_batch(tiny_edge_bundle.path, pictures, other)
        assert other.read_bytes() == data


def test_two_runs_do_not_write_one_output(tiny_edge_bundle, tmp_path, pictures) -> None:
    output = tmp_path / "out.parquet"

    def second(done: int, *_: int) -> None:
        if done == 15:
            with pytest.raises(StorageError, match="another run is at work"):
                predict_batch(tiny_edge_bundle.path, pictures, output, part_rows=8)

    assert predict_batch(tiny_edge_bundle.path, pictures, output, part_rows=8, on_progress=second).rows == 30


def test_a_damaged_input_ends_the_run_and_keeps_what_is_done(tiny_edge_bundle, tmp_path, pictures) -> None:
    data = bytearray(pictures.read_bytes())
    group = pq.read_metadata(pictures).row_group(3).column(0)
    at = group.dictionary_page_offset or group.data_page_offset
    data[at : at + 40] = b"\xff" * 40
    pictures.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read from row"):
        predict_batch(tiny_edge_bundle.path, pictures, tmp_path / "out.parquet", part_rows=8)
    assert len(list((tmp_path / "out.parquet.parts").glob("0*.parquet"))) == 2
    assert not (tmp_path / "out.parquet").exists()


def test_the_command_tells_what_became_of_it(tiny_edge_bundle, tmp_path, pictures) -> None:
    output = tmp_path / "out.parquet"
    done = run("batch", tiny_edge_bundle.path, pictures, output, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["rows"], told["failed"], told["output"]) == (30, 3, str(output))
    bad = written(tmp_path / "bad.parquet", image=[b"nothing"])
    done = run("batch", tiny_edge_bundle.path, bad, tmp_path / "none.parquet")
    assert (done.returncode, done.stdout) == (1, f"{tmp_path / 'none.parquet'}: 1 rows; 1 failed\n")


def test_what_cannot_be_done_is_one_line(tiny_edge_bundle, tmp_path, pictures) -> None:
    two = written(tmp_path / "two.parquet", a=[b"x"], b=[b"y"])
    cases = [
        (tiny_edge_bundle.path, tmp_path / "none.parquet", tmp_path / "o", "there is no Parquet file or folder"),
        (tiny_edge_bundle.path, tiny_edge_bundle.path, tmp_path / "o", "is not a Parquet file"),
        (tiny_edge_bundle.path, two, tmp_path / "o", "several columns may hold"),
        (tiny_edge_bundle.path, pictures, tmp_path / "no" / "o", "there is no folder"),
        (tmp_path / "none.onnx", pictures, tmp_path / "o", "there is no model"),
    ]
    for model, source, output, message in cases:
        with pytest.raises(InputError, match=message):
            predict_batch(model, source, output)
    done = run("batch", tiny_edge_bundle.path, pictures, tmp_path / "o", "--workers", "0")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_a_full_disk_is_one_line_and_the_run_goes_on_elsewhere_later(tiny_edge_bundle, full_disk, pictures) -> None:
    for n in range(64):  # until nothing fits
        try:
            (full_disk / f"filler{n}").write_bytes(bytes(1 << 20))
        except OSError:
            break
    done = run("batch", tiny_edge_bundle.path, pictures, full_disk / "out.parquet")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
