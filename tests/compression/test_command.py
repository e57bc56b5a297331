"""What `edge-sdk compress` takes: models of any origin, told how they see; all else is one line and exit code 2."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from learning import CLASSES, stripes, stripes_npz, stripes_splits, teacher

from edge_sdk.bundle import Bundle
from edge_sdk.cloud.training.evaluate import logits_of, model_digest
from edge_sdk.compression import sources
from edge_sdk.compression.export import to_onnx
from edge_sdk.compression.ingest import to_float32
from edge_sdk.compression.pipeline import compress
from edge_sdk.compression.prune import sparsity
from edge_sdk.compression.report import Options
from edge_sdk.compression.stages import Course
from edge_sdk.compression.teaching import Prepared
from edge_sdk.datasets import Dataset, load_unlabelled, split
from edge_sdk.errors import CompressionError, DataError, InputError
from edge_sdk.main import main
from edge_sdk.processing import Letterbox, ProcessingSpec

# Keras turns TensorFlow's tensors into arrays in a way that NumPy 2 finds old
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning"),
]

START = (
    "import resource, signal, sys; from edge_sdk.main import main; "
    "signal.signal(signal.SIGINT, signal.default_int_handler); "  # which is ignored by what a shell runs beside itself
    "{}; sys.exit(main(sys.argv[1:]))"
)

KERAS_2 = """
import sys
import numpy as np
import tf_keras as keras
L = keras.layers
blocks = [(L.Conv2D(n, 3, 2, "same", use_bias=False), L.BatchNormalization(), L.ReLU()) for n in (8, 16)]
model = keras.Sequential([L.Input((12, 12, 1)), *blocks[0], *blocks[1], L.Flatten(), L.Dense(3)])
with np.load(sys.argv[1]) as file:
    model.set_weights([file[name] for name in file.files])
model.save(sys.argv[2])
"""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and models of a user's own that know nothing of their processing."""
    folder = tmp_path_factory.mktemp("own")
    stripes_npz(folder / "data.npz", len(stripes()))
    body, _ = to_float32(teacher().body, np.zeros((2, 12, 12, 1), np.float32) + np.eye(12, dtype=np.float32)[..., None])
    body.save(folder / "own.keras")
    (folder / "own.onnx").write_bytes(to_onnx(body, np.zeros((2, 12, 12, 1), np.float32)))
    (folder / "own.json").write_text(json.dumps(teacher().processing.to_json()))
    layers = keras.layers
    pool = [layers.Conv2D(4, 3, name="first"), layers.GlobalAveragePooling2D()]
    keras.Sequential([keras.Input((None, None, 1)), *pool, layers.Dense(3)]).save(folder / "open.keras")
    keras.Sequential([keras.Input((12, 12, 1)), layers.Flatten(), layers.Dense(5)]).save(folder / "five.keras")
    keras.Sequential([keras.Input((4,)), layers.Dense(3)]).save(folder / "table.keras")
    body.layers[-1].bias.assign(np.full(3, np.nan, np.float32))
    body.save(folder / "nan.keras")
    return folder


def letterboxing() -> ProcessingSpec:
    first, _, *others = teacher().processing.steps
    return ProcessingSpec((first, Letterbox(12, 12), *others))


def run(room: Path, out: Path, line: str) -> int:
    """Compress in that folder: files of it are named without it."""
    args = [str(room / word) if (room / word).is_file() else word for word in line.split()]
    return main(["compress", *args, "--data", f"npz:{room / 'data.npz'}", "-o", str(out / "small.edge")])


def test_a_model_file_of_ones_own_is_compressed_itself(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(room, tmp_path, "own.keras --processing own.json --prune 0 --quantize float16 --json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["parameters"]["model"] == printed["parameters"]["student"] == teacher().body.count_params()
    assert printed["accuracy"]["model"]["test"]["value"] == pytest.approx(teacher().metrics["test"]["value"], abs=0.02)
    assert set(printed["accuracy"]) == {"model", "student_float16"}
    manifest = Bundle.open(tmp_path / "small.edge").manifest
    assert manifest.artifacts[0].precision == "float16"
    assert ProcessingSpec.from_json(manifest.processing) == teacher().processing
    assert [path.name for path in tmp_path.iterdir()] == ["small.edge"]


@pytest.mark.slow
def test_all_methods_together_come_out_of_one_command(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = (
        "own.keras --processing own.json --epochs 1 --channels 0.5 --prune 0.5,logits=0 --cluster 8,logits=16 "
        "--quantize int8-trained --fallback 1 --distill own.onnx own.keras --json --unlabelled"
    )
    assert run(room, tmp_path, f"{line} npz:{room / 'data.npz'}") == 0
    printed = json.loads(capsys.readouterr().out)
    steps = ("distilled", "narrowed", "pruned", "clustered", "int8")
    assert set(printed["accuracy"]) == {"model", "teacher", *(f"student_{step}" for step in steps[1:])}
    assert printed["parameters"]["student"] < 0.6 * printed["parameters"]["model"]
    lineage = Bundle.open(tmp_path / "small.edge").manifest.lineage
    assert lineage["compression"]["cluster_layers"] == {"logits": 16}
    assert len(lineage["distilled_from"]) == 2


@pytest.mark.slow
def test_a_file_of_keras_2_is_compressed(room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tf_keras")
    np.savez(room / "weights.npz", *keras.saving.load_model(room / "own.keras").get_weights())
    files = [str(room / "weights.npz"), str(room / "legacy.h5")]
    subprocess.run([sys.executable, "-P", "-c", KERAS_2, *files], check=True, capture_output=True)
    line = "legacy.h5 --processing own.json --epochs 1 --prune 0 --quantize float32 --json"
    assert run(room, tmp_path, line) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (
        printed["accuracy"]["student_float32"]["test"]["value"] == printed["accuracy"]["model"]["test"]["value"] > 0.8
    )


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["float32", "dynamic", "int16x8", "int4"])
def test_every_precision_is_measured_on_the_devices_runtime(
    quantize: str, room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(room, tmp_path, f"own.keras --processing own.json --prune 0 --quantize {quantize} --json") == 0
    assert json.loads(capsys.readouterr().out)["accuracy"][f"student_{quantize}"]["test"]["value"] > 0.8


@pytest.mark.slow
def test_an_onnx_model_teaches_a_small_network_for_the_runtime_of_onnx(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "own.onnx --processing own.json --epochs 12 --prune 0 --runtime onnx --json"
    assert run(room, tmp_path, line) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["accuracy"]) == {"teacher", "student_distilled", "student_int8"}
    assert printed["accuracy"]["student_int8"]["test"]["value"] > 0.8
    assert Bundle.open(tmp_path / "small.edge").manifest.artifacts[0].runtime == "onnx"


def test_the_model_file_of_a_training_folder_is_taken_with_its_folder_only(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "taught"
    folder.mkdir()
    (folder / "training.json").write_text("{}")
    shutil.copy(room / "own.keras", folder / "model.keras")
    assert run(room, tmp_path, f"{folder / 'model.keras'} --processing unit") == 2
    assert f"name its folder, {folder}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("own.keras", "does not say what is done to an image before it; tell it by --processing"),
        ("none.keras --processing unit", "there is no model at none.keras"),
        ("data.npz --processing unit", "is a zip file, but not a model"),
        ("nan.keras --processing unit", "is not finite"),
        ("open.keras --processing unit", "takes [?, ?, 1], which leaves open what images are resized to"),
        ("five.keras --processing unit", "answers [5] and the data have 3 classes"),
        ("table.keras --processing unit", "it should take images [height, width, channels]"),
        ("own.keras --processing upside", "processing is 'upside'; it should be pixels, unit, signed"),
        ("own.keras --processing own.json --prune x", "--prune is 'x'; it should be a number"),
        ("own.keras --processing own.json --prune 0.5,last", "--prune is '0.5,last'; it should be a number, or such"),
        ("own.keras --processing own.json --prune 1.5", "prune is 1.5"),
        ("own.keras --processing own.json --channels 0.5,none=0.2", "ratios names 'none'"),
        ("own.keras --processing own.json --cluster 1", "clusters is 1; it must be from 2 to 256"),
        ("own.keras --processing own.json --backend tfmot --pattern 2:4", "tfmot takes one share"),
        ("own.keras --processing own.json --quantize int4 --fallback 1", "are those of int8 and int8-trained"),
        ("own.keras --processing own.json --runtime onnx --quantize int4", "a file of ONNX is of float32 or int8"),
        ("own.keras --processing own.json --distill five.keras", "answers [5] and the data have 3 classes"),
        ("own.keras --processing own.json --hint a=b", "hints follow a teacher, and there is none"),
        ("own.keras --processing own.json --unlabelled folder:none", "cannot read none"),
        ("own.onnx --processing own.json --keep", "has no layers to compress"),
        ("own.keras --processing own.json --distill own.onnx --prune 0 --hint logits=zzz", "has no tensor 'zzz'"),
    ],
)
def test_what_cannot_be_is_one_line(
    line: str, message: str, room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(room, tmp_path, line) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1 + error.count("WARNING")
    assert not (tmp_path / "small.edge").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--cluster 300", "clusters is 300; it must be from 2 to 256"),
        ("--pattern 4:2", "pattern is '4:2'"),
        ("--half-life 0", "half_life is 0.0; it must be a number above 0"),
        ("--half-life 3 --backend tfmot", "tfmot's worker weighs all samples alike"),
        ("--hint logits", "--hint: 'logits' should be NAME=VALUE"),
        ("--name Small", "name is 'Small'"),
        ("--teacher-out large!.edge", "name is 'large!'"),
    ],
)
def test_options_are_refused_before_data_and_models_are_read(
    line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compress", "none.keras", "--data", "npz:none.npz", "-o", str(tmp_path / "small.edge")]
    assert main(command + line.split()) == 2
    assert message in capsys.readouterr().err


def test_a_model_learns_on_from_the_recent_samples_that_it_was_trained_on() -> None:
    splits = stripes_splits()
    days = np.arange(len(splits.train), dtype=np.float64)
    timed = replace(splits, train=replace(splits.train, times=days * 86_400))
    trained = {"options": {"window": 50.0, "half_life": 10.0}}
    course = Course(timed, teacher().processing, Options().as_trained(trained))
    assert len(course.data) == 51
    assert course.data.weights is not None
    assert course.data.weights[-1] / course.data.weights[-11] == pytest.approx(2.0)
    np.testing.assert_array_equal(course.data.labels, splits.train.labels[-51:])
    joined = Course(timed, teacher().processing, Options(half_life=20.0), unlabelled=stripes(40, seed=5))
    assert joined.data.weights is not None
    assert len(joined.data.weights) == len(joined.data) == len(days) + 40
    assert Options(window=9.0, half_life=np.inf).as_trained(trained) == Options(window=9.0)
    assert Options().as_trained({}) == Options()
    with pytest.raises(DataError, match="do not say when they were taken"):
        Course(splits, teacher().processing, Options().as_trained(trained))


def test_a_model_that_only_guesses_is_remarked_on(room: Path, caplog: pytest.LogCaptureFixture) -> None:
    taken = sources.open_model(room / "open.keras", stripes_splits(), processing="unit", size=12)
    assert taken.processing.output_shape == (1, 12, 12, 1)
    assert "no better than guessing" in caplog.text


def test_a_model_in_memory_is_taken_in_as_a_file_is(room: Path) -> None:
    body, splits = teacher().body, stripes_splits()
    before = model_digest(body)
    taken = [sources.open_model(one, splits, processing=teacher().processing) for one in (body, room / "own.keras")]
    assert model_digest(body) == before
    frames = splits.test.images[:32]
    for one in taken:
        assert logits_of(one.model, frames).argmax(1).tolist() == logits_of(teacher().model, frames).argmax(1).tolist()


def test_what_is_said_of_processing_is_values_a_file_or_a_folder_of_training(room: Path, tmp_path: Path) -> None:
    teacher().save(tmp_path / "teacher")
    for text in (room / "own.json", tmp_path / "teacher"):
        assert sources.read_processing(str(text)) == teacher().processing
    taken = sources.open_model(room / "own.keras", stripes_splits(), processing=sources.read_processing("signed"))
    assert taken.processing == ProcessingSpec.image(12, 12, 1, 127.5, 127.5)
    with pytest.raises(InputError, match="knows its processing"):
        sources.open_model(tmp_path / "teacher", stripes_splits(), processing="unit")
    with pytest.raises(CompressionError, match="are images of 1 channels"):
        sources.open_model(
            room / "own.keras", stripes_splits(), processing=ProcessingSpec.image(12, 12, 1, order="NCHW")
        )


def test_unlabelled_images_are_learnt_from_unless_they_measure(tmp_path: Path) -> None:
    splits = stripes_splits()
    new = stripes(40, seed=5).images
    np.savez(tmp_path / "more.npz", x=np.concatenate([splits.calibration.images[:7], new]))
    more = load_unlabelled(f"npz:{tmp_path / 'more.npz'}")
    assert set(more.labels.tolist()) == {-1}
    course = Course(splits, teacher().processing, Options(), teachers=[teacher()], unlabelled=more)
    assert len(course.data) == len(splits.train) + 40
    assert (course.data.labels[len(splits.train) :] == -1).all()
    with pytest.raises(DataError, match="that measure"):
        Course(splits, teacher().processing, Options(), unlabelled=splits.calibration)


def test_unlabelled_images_may_lie_anywhere_in_a_folder(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    tmp_path.joinpath("deep").mkdir()
    for at, path in enumerate(("a.png", "deep/b.png")):
        image.fromarray(np.full((5, 5), 60 * at, np.uint8)).save(tmp_path / path)
    assert len(load_unlabelled(f"folder:{tmp_path}")) == 2


def test_images_of_differing_size_are_resized_and_anything_else_is_one_error(room: Path, tmp_path: Path) -> None:
    small, large = stripes(300, side=12), stripes(300, side=16)
    images, labels = (*small.images, *large.images), np.concatenate([small.labels, large.labels])
    splits = split(Dataset(images, labels, CLASSES), spec="mixed", seed=0)
    model = sources.open_model(room / "own.keras", splits, processing=teacher().processing)
    wide = keras.Sequential([keras.Input((24, 24, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    options = {"out": tmp_path / "x.edge", "name": "x", "version": "1.0.0", "keep": True}
    with pytest.raises(CompressionError, match=r"differ in size, the teacher takes \[24, 24, 1\] and the model \[12"):
        compress(model, splits, teacher=Prepared(wide, ProcessingSpec.image(24, 24, 1)), **options)
    with pytest.raises(CompressionError, match="letterboxes, for which the images should have one size; they differ"):
        sources.open_model(room / "own.keras", splits, processing=letterboxing())
    assert not list(tmp_path.iterdir())


def command(line: str, out: Path, first: str = "pass") -> list[str]:
    """Return a command of a process of its own, which does something before."""
    return [sys.executable, "-P", "-c", START.format(first), *line.split(), "-o", str(out)]


@pytest.mark.slow
def test_an_interrupt_leaves_the_model_of_the_last_finished_step(room: Path, tmp_path: Path) -> None:
    line = "compress own.keras --data npz:data.npz --processing own.json --cluster 8 --epochs 200"
    left = tmp_path / "small.finished.keras"
    with subprocess.Popen(
        command(line, tmp_path / "small.edge"), cwd=room, stderr=subprocess.PIPE, text=True
    ) as process:
        while not left.exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1].count("is in") == 1
    assert process.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == [left.name]
    assert sparsity(keras.saving.load_model(left)).share == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("line", "first", "message"),
    [
        pytest.param(
            "compress own.keras --data npz:data.npz --processing own.json --prune 0",
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({8 << 10},) * 2)",
            "File too large",
            marks=pytest.mark.slow,
        ),
        (
            "compress own.keras --data npz:data.npz --processing own.json",
            f"resource.setrlimit(resource.RLIMIT_AS, ({1 << 30},) * 2)",
            "may take 1.0 GiB of addresses (ulimit -v); TensorFlow needs 4 GiB",
        ),
    ],
    ids=["disk", "memory"],
)
def test_a_full_disk_and_too_little_memory_are_one_line(
    line: str, first: str, message: str, room: Path, tmp_path: Path
) -> None:
    found = subprocess.run(
        command(line, tmp_path / "no.edge", first), cwd=room, capture_output=True, text=True, check=False
    )
    assert found.returncode == 2
    assert message in found.stderr
    assert found.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "other"}, "backend is 'other'"),
        ({"runtime": "other"}, "runtime is 'other'"),
        ({"seed": -1}, "seed is -1"),
        ({"backend": "tfmot", "prune": 0.0}, "nothing for tfmot to do"),
        ({"channels": 1.0}, "channels is 1.0"),
    ],
)
def test_options_that_cannot_be_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        Options(**changes)
