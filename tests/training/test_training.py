"""What training promises: a policy that fits the machine, float32 logits, the same weights again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from learning import network, stripes, stripes_npz, stripes_splits, teacher
from PIL import Image

from edge_sdk.cloud.training import architecture, data, evaluate, precision, strategy
from edge_sdk.cloud.training.loop import load_trained, train
from edge_sdk.cloud.training.strategy import Devices, Plan
from edge_sdk.datasets import load_splits
from edge_sdk.errors import CompressionError
from edge_sdk.main import main
from edge_sdk.processing.keras import ProcessingLayer

# Keras turns TensorFlow's tensors into arrays in a way that NumPy 2 finds old
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def flat_layers(model: keras.Model) -> list[keras.layers.Layer]:
    found = []
    for layer in model.layers:
        found += flat_layers(layer) if isinstance(layer, keras.Model) else [layer]
    return found


# ---- choosing


@pytest.mark.parametrize(
    ("wanted", "found", "plan"),
    [
        ("auto", Devices(), Plan("one", "cpu", 1)),
        ("auto", Devices(gpus=1), Plan("one", "gpu", 1)),
        ("auto", Devices(gpus=4), Plan("mirrored", "gpu", 4)),
        ("auto", Devices(gpus=4, tpu="local"), Plan("tpu", "tpu", 0, "local")),
        ("one", Devices(gpus=4), Plan("one", "gpu", 1)),
        ("mirrored", Devices(gpus=1), Plan("mirrored", "gpu", 1)),
        ("tpu", Devices(tpu="local"), Plan("tpu", "tpu", 0, "local")),
    ],
)
def test_a_strategy_is_chosen_by_wish_and_by_what_there_is(wanted: strategy.Wanted, found: Devices, plan: Plan) -> None:
    assert strategy.choose(wanted, found) == plan


@pytest.mark.parametrize("wanted", ["tpu", "mirrored", "many"])
def test_devices_that_are_not_there_are_refused(wanted: strategy.Wanted) -> None:
    with pytest.raises(CompressionError, match=wanted):
        strategy.choose(wanted, Devices())


@pytest.mark.parametrize(
    ("wanted", "accelerator", "policy"),
    [
        ("auto", "cpu", "mixed_bfloat16"),
        ("auto", "tpu", "mixed_bfloat16"),
        ("auto", "gpu", "mixed_float16"),
        ("float32", "gpu", "float32"),
    ],
)
def test_precision_follows_the_accelerator_unless_it_is_said(wanted: str, accelerator: str, policy: str) -> None:
    assert precision.policy(wanted, accelerator) == policy


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(CompressionError, match="unknown precision 'int4': expected one of auto, float32"):
        precision.policy("int4", "cpu")


def test_a_reduced_output_layer_is_refused_by_name() -> None:
    body = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, dtype="mixed_bfloat16", name="verdict")], name="body"
    )
    inputs = keras.Input((4,))
    with pytest.raises(CompressionError, match="'verdict' computes in bfloat16"):
        precision.require_float32_output(keras.Model(inputs, body(inputs)))


@pytest.mark.parametrize(("shape", "classes"), [((28, 28, 1), 10), ((32, 32, 3), 10), ((96, 96, 3), 4), ((7, 9, 1), 2)])
def test_every_teacher_computes_in_bfloat16_and_answers_in_float32(shape: tuple[int, int, int], classes: int) -> None:
    model = architecture.teacher(shape, classes, "mixed_bfloat16")
    precision.require_float32_output(model)
    assert {layer.compute_dtype for layer in model.layers if "conv" in layer.name} == {"bfloat16"}
    assert model.output.shape == (None, classes)


# ---- data


def test_augmentation_is_the_same_for_the_same_seed_and_leaves_labels_alone() -> None:
    dataset = stripes(48, channels=3)
    change = data.augmentation_for(dataset)
    assert change is not None
    assert change.flip

    def first(seed: int) -> tuple[np.ndarray, np.ndarray]:
        source = data.batches(np.asarray(dataset.images), dataset.labels, batch=16, seed=seed, augmentation=change)
        images, labels = next(iter(source))
        return images.numpy(), labels.numpy()

    (images, labels), (again, same), (other, _) = first(1), first(1), first(2)
    assert images.dtype == np.uint8
    assert (images == again).all()
    assert (labels == same).all()
    assert (images != other).any()


def test_a_warp_of_nothing_changes_nothing() -> None:
    dataset = stripes(16)
    still = data.Augmentation(rotate=0.0, zoom=0.0, shift=0.0)
    pixels = np.asarray(dataset.images)
    images, labels = next(iter(data.batches(pixels, dataset.labels, batch=16, seed=0, augmentation=still)))
    order = [int(np.flatnonzero((pixels == image).all(axis=(1, 2, 3)))[0]) for image in images.numpy()]
    assert sorted(order) == list(range(16))
    assert (dataset.labels[order] == labels.numpy()).all()


def test_grey_images_are_not_mirrored() -> None:
    change = data.augmentation_for(stripes(8))
    assert change is not None
    assert not change.flip


# ---- training


def test_a_teacher_trains_in_bfloat16_with_the_processing_as_its_first_layer() -> None:
    trained = teacher()
    layers = flat_layers(trained.model)
    assert trained.policy == "mixed_bfloat16"
    assert isinstance(layers[1], ProcessingLayer)
    assert layers[1].spec == trained.processing
    assert {layer.compute_dtype for layer in layers if "conv" in layer.name} == {"bfloat16"}
    assert layers[-1].compute_dtype == "float32"
    assert trained.metrics["test"]["value"] > 0.8
    assert trained.metrics["test"]["low"] < trained.metrics["test"]["value"] <= trained.metrics["test"]["high"]
    assert trained.history["loss"][-1] < trained.history["loss"][0]
    assert trained.lineage["splits"] == stripes_splits().digests


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights() -> None:
    first, again = (train(stripes_splits(), epochs=1, seed=5, network=network) for _ in range(2))
    assert first.digest == again.digest
    assert first.history == again.history


def test_a_teacher_survives_being_saved(tmp_path: Path) -> None:
    trained = teacher()
    folder = trained.save(tmp_path / "teacher")
    assert sorted(path.name for path in folder.iterdir()) == ["model.keras", "training.json"]
    loaded = load_trained(folder)
    images = np.asarray(stripes_splits().test.images)
    assert loaded.digest == trained.digest
    assert loaded.lineage == trained.lineage
    assert np.array_equal(evaluate.logits_of(loaded.model, images), evaluate.logits_of(trained.model, images))


def test_a_folder_without_a_teacher_or_with_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match="is not a folder of 'edge-sdk train'"):
        load_trained(tmp_path)
    folder = teacher().save(tmp_path / "teacher")
    record = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps({**record, "digest": "sha256:00"}))
    with pytest.raises(CompressionError, match=r"not the model that training\.json describes"):
        load_trained(folder)
    (folder / "model.keras").write_bytes(b"not a model")
    with pytest.raises(CompressionError, match="does not hold a usable teacher"):
        load_trained(folder)


def test_images_of_many_sizes_train_through_the_same_processing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 180)):
        (tmp_path / name).mkdir()
        for i in range(30):
            shape = (rng.integers(10, 20), rng.integers(10, 20), 3)
            noisy = np.clip(rng.normal(level, 20, shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / name / f"{i}.png")
    splits = load_splits(f"folder:{tmp_path}")
    trained = train(splits, epochs=2, size=8, network=network)
    assert trained.processing.output_shape == (1, 8, 8, 3)
    assert trained.metrics["test"]["n"] == len(splits.test)
    processed = data.processed(splits.test, trained.processing)
    assert processed.shape == (len(splits.test), 8, 8, 3)


def test_training_must_have_an_epoch() -> None:
    with pytest.raises(CompressionError, match="epochs is 0"):
        train(stripes_splits(), epochs=0)


def test_a_model_that_diverges_is_not_returned() -> None:
    def explosive(shape: tuple[int, int, int], classes: int, policy: str) -> keras.Model:
        inputs = keras.Input(shape)
        x = keras.layers.Rescaling(1e38)(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, keras.layers.Dense(classes, dtype="float32")(x), name="body")

    with pytest.raises(CompressionError, match="no longer finite"):
        train(stripes_splits(), epochs=1, network=explosive)


def test_wilsons_interval_is_the_published_one() -> None:
    # Newcombe (1998), table I: 81 of 263, and 0 of 20
    scores = np.eye(2)[np.r_[np.zeros(81, int), np.ones(182, int)]]
    found = evaluate.accuracy(scores, np.zeros(263, np.int64))
    assert found["low"] == pytest.approx(0.2553, abs=5e-5)
    assert found["high"] == pytest.approx(0.3662, abs=5e-5)
    nothing = evaluate.accuracy(np.eye(2)[np.ones(20, int)], np.zeros(20, np.int64))
    assert nothing["low"] == pytest.approx(0.0, abs=1e-12)
    assert nothing["high"] == pytest.approx(0.1611, abs=5e-5)


def test_keras_global_policy_is_left_alone() -> None:
    teacher()
    assert keras.config.dtype_policy().name == "float32"
    assert tf.config.list_physical_devices("CPU")


# ---- the command


def test_the_command_writes_a_teacher_and_prints_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = stripes_npz(tmp_path / "s.npz", 300)
    assert main(["train", "--data", spec, "-o", str(tmp_path / "t"), "--epochs", "1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["policy"] == "mixed_bfloat16"
    assert load_trained(tmp_path / "t").digest == printed["digest"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "npz:/does/not/exist.npz"], "No such file"),
        (["--data", "stars"], "unknown data 'stars'"),
        (["--data", "npz:s.npz", "--size", "-3"], "height must be an integer"),
        (["--data", "npz:s.npz", "--strategy", "tpu"], "needs the address of a TPU"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    stripes_npz(tmp_path / "s.npz", 200)
    assert main(["train", *arguments, "-o", str(tmp_path / "t")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("gigabytes", "says"),
    [
        (1, r"may take 1\.0 GiB of addresses \(ulimit -v\); TensorFlow needs 4 GiB"),
        pytest.param(5, "out of memory at step 1: take a smaller batch", marks=pytest.mark.slow),
    ],
    ids=["none", "little"],
)
def test_too_little_memory_is_one_line(gigabytes: int, says: str, tmp_path: Path) -> None:
    spec = stripes_npz(tmp_path / "s.npz", 300)
    start = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_AS, ({gigabytes << 30},) * 2); "
        "from edge_sdk.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = ["train", "--data", spec, "-o", str(tmp_path / "t"), "--size", "2000"]
    found = subprocess.run([sys.executable, "-P", "-c", start, *command], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert re.search(says, found.stderr)
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "t").exists()


def test_a_folder_that_cannot_be_written_is_found_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    spec = stripes_npz(tmp_path / "s.npz", 300)
    assert main(["train", "--data", spec, "-o", str(tmp_path / "file" / "t")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
