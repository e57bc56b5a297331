"""Rows, windows and sound train as images do, and their processing goes where the model goes."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from edge_sdk.cloud.training import architecture, data, load_trained
from edge_sdk.cloud.training.contract import Contract, enforce
from edge_sdk.cloud.training.loop import train
from edge_sdk.cloud.training.own import network_of
from edge_sdk.cloud.training.profiling import profile
from edge_sdk.cloud.training.specification import check_values, processing_for
from edge_sdk.datasets import Dataset, Splits, split
from edge_sdk.errors import CompressionError, DataError
from edge_sdk.main import main
from edge_sdk.processing import Categories, Impute, ProcessingSpec, check_skew
from edge_sdk.processing.keras import ProcessingLayer

# Keras turns TensorFlow's tensors into arrays in a way that NumPy 2 finds old
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

COLUMNS = ("age", "dose", "ward")
WORDS = ("east", "north", "rare")


def patients(count: int = 500, *, seed: int = 0) -> Dataset:
    """Rows of two numbers, a few of them missing, and a text; ill by a rule with a little noise."""
    rng = np.random.default_rng(seed)
    age, dose, ward = rng.normal(50, 15, count), rng.lognormal(1, 0.6, count), rng.integers(0, 2, count).astype(float)
    ill = (age - 50) / 15 + ward - np.log(dose) + rng.normal(0, 0.2, count) > -0.5
    age[rng.random(count) < 0.05] = np.nan
    ward[:3] = 2  # too rare to be known
    rows = np.stack([age, dose, ward], axis=1)
    return Dataset(rows, ill.astype(np.int64), ("well", "ill"), columns=COLUMNS, words={"ward": WORDS})


@functools.cache
def splits() -> Splits:
    return split(patients(), spec="patients")


def write_csv(path: Path, count: int = 500) -> str:
    found = patients(count)
    lines = [",".join([*COLUMNS, "outcome"])]
    for (age, dose, ward), label in zip(np.asarray(found.images), found.labels, strict=True):
        text = "" if np.isnan(age) else f"{age:.4f}"
        lines.append(f"{text},{dose:.4f},{WORDS[int(ward)]},{found.classes[label]}")
    path.write_text("\n".join(lines) + "\n")
    return f"table:{path}#outcome"


def with_train(images: np.ndarray, **changes: object) -> Splits:
    return replace(splits(), train=replace(splits().train, images=images, hashes=(), **changes))


# ---- which processing


def test_rows_are_filled_clipped_standardised_and_their_texts_looked_up_by_what_training_knows() -> None:
    spec = processing_for(splits().train)
    assert [step.op for step in spec.steps] == ["columns", "categories", "impute", "clip", "standardize"]
    looked_up = spec.find(Categories)
    assert looked_up is not None
    assert looked_up.values == ("east", "north")
    made = data.processed(splits().train, spec)
    assert made.shape[1:] == spec.output_shape[1:] == (5,)
    numbers = made[:, :2]
    assert np.abs(numbers.mean(axis=0)).max() < 0.05
    assert np.abs(numbers).max() < 8
    check_skew(spec, [np.asarray(row) for row in splits().train.images[:20]], keras=ProcessingLayer)


def test_one_outlier_and_a_constant_column_do_no_harm() -> None:
    rows = np.random.default_rng(0).normal(size=(2000, 3))
    rows[0, 0], rows[:, 1] = 1e9, 7.0
    rows[:, 2] = 0.0
    rows[5, 2] = 1.0  # a flag that is rare
    made = data.processed(found := Dataset(rows, np.arange(2000) % 2, ("a", "b")), processing_for(found))
    assert np.abs(made[:, 0]).max() < 10
    assert np.ptp(made[:, 1]) == 0
    assert made[5, 2] != made[6, 2]


def test_windows_and_sound_have_processing_of_their_own() -> None:
    rng, labels = np.random.default_rng(0), np.arange(60) % 2
    windows = Dataset(rng.normal(9.81, 2, (60, 32, 3)), labels, ("a", "b"))
    assert processing_for(windows).output_shape == (1, 32, 3)
    sound = Dataset(rng.normal(0, 0.1, (60, 4000)).astype(np.float32), labels, ("a", "b"), sample_rate=8000)
    spec = processing_for(sound)
    assert spec.modality == "audio"
    made = data.processed(sound, spec)
    assert made.shape[1:] == spec.output_shape[1:]
    assert abs(made.mean()) < 0.05
    assert abs(made.std() - 1) < 0.05
    with pytest.raises(DataError, match="shorter than one frame of 25 ms"):
        processing_for(replace(sound, images=np.zeros((60, 100), np.float32)))


def test_what_training_cannot_take_is_refused_by_its_form() -> None:
    tensors = Dataset(np.zeros((60, 8, 8, 3), np.float32), np.arange(60) % 2, ("a", "b"))
    with pytest.raises(DataError, match=r"the data are float32 \[n, 8, 8, 3\]; training takes images \(uint8\), rows"):
        processing_for(tensors)
    with pytest.raises(DataError, match="a size of 32 pixels is for images"):
        processing_for(patients(40), size=32)


def test_a_column_of_nothing_and_an_infinite_number_are_named() -> None:
    rows = np.array(splits().train.images)
    rows[3, 1] = np.inf
    with pytest.raises(DataError, match="column 'dose' has 1 values in train that are infinite"):
        train(with_train(rows))
    rows[3, 1] = -1e31
    with pytest.raises(DataError, match="column 'dose' has numbers beyond 1e\\+30, too large for float32"):
        train(with_train(rows))
    rows[:, 1] = np.nan
    with pytest.raises(DataError, match="column 'dose' has no number in training"):
        processing_for(with_train(rows).train)
    bare = processing_for(splits().train, impute=False)
    assert bare.find(Impute) is None
    with pytest.raises(
        DataError, match=r"'age' has .* values in train that are missing, and the teacher to start from"
    ):
        check_values(splits(), bare)


# ---- contract


def test_a_contract_of_rows_is_by_column(tmp_path: Path) -> None:
    contract = Contract.of(profile(splits()))
    contract.write(tmp_path / "c.json")
    assert Contract.read(tmp_path / "c.json") == contract
    assert contract.columns == COLUMNS
    assert contract.words == {"ward": WORDS}
    assert contract.check(profile(split(patients(seed=5)))) == []


def test_data_that_break_a_contract_of_rows_are_told_by_column() -> None:
    contract = Contract.of(profile(splits()))

    def broken(images: np.ndarray, **changes: object) -> list[str]:
        return contract.check(profile(with_train(images, **changes)))

    rows = np.array(splits().train.images)
    rows[:40, 0] = np.nan
    assert any("of column 'age' are missing, more than" in said for said in broken(rows))
    rows = np.array(splits().train.images)
    rows[:, 1] *= 1000  # milligrams for grams
    assert any(said.startswith("values of column 'dose' are from") for said in broken(rows))
    assert any(said.startswith("the mean of column 'dose' is") for said in broken(rows))
    parts = {
        name: replace(getattr(splits(), name), words={"ward": ("east", "north", "west")}) for name in splits().digests
    }
    assert contract.check(profile(replace(splits(), **parts))) == ["column 'ward' has texts that are not known: west"]
    parts = {name: replace(getattr(splits(), name), columns=("age", "mass", "ward")) for name in splits().digests}
    assert contract.check(profile(replace(splits(), **parts))) == ["there is no column 'dose'"]
    leaked = np.array(splits().train.images)
    leaked[:20] = np.asarray(splits().test.images)[:20]
    with pytest.raises(DataError, match="20 inputs of other splits occur in training"):
        enforce(contract, with_train(leaked))
    leaked[:20, 1] = leaked[:20, 1].round(3)  # written with fewer digits
    assert any("are nearly the same as one for training" in said for said in broken(leaked))


# ---- training


def test_rows_train_by_the_command_from_a_checked_table_to_a_folder(tmp_path: Path) -> None:
    spec = write_csv(tmp_path / "p.csv")
    assert main(["train", "--data", spec, "--write-contract", str(tmp_path / "c.json")]) == 0
    options = ["--data", spec, "-o", str(tmp_path / "t"), "--contract", str(tmp_path / "c.json"), "--epochs", "25"]
    assert main(["train", *options]) == 0
    trained = load_trained(tmp_path / "t")
    assert trained.policy == "mixed_bfloat16"
    assert trained.metrics["test"]["value"] > 0.85
    assert trained.processing.modality == "table"
    assert trained.lineage["contract"]["found"]["words"] == {"ward": list(WORDS)}
    assert json.loads((tmp_path / "t" / "training.json").read_text())["processing"] == trained.processing.to_json()


@pytest.mark.slow
def test_windows_train(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 2
    windows = rng.normal(0, 1, (240, 24, 2)) + np.sin(np.arange(24))[:, None] * labels[:, None, None] * 3
    np.savez(tmp_path / "w.npz", x=windows, y=labels, columns=np.array(["x", "y"]))
    assert main(["train", "--data", f"npz:{tmp_path / 'w.npz'}", "-o", str(tmp_path / "t"), "--epochs", "10"]) == 0
    assert load_trained(tmp_path / "t").metrics["test"]["value"] > 0.8


# ---- a network of one's own


def own(shape: tuple[int, ...], classes: int, policy: str, *, last: str = "float32", **more: object) -> keras.Model:
    first = keras.layers.Dense(8, "relu", dtype=policy, name="first")
    return keras.Sequential([keras.Input(shape), first, keras.layers.Dense(classes, dtype=last, name="last", **more)])


def test_a_file_of_ones_own_trains_on_from_its_weights_in_its_own_precision(tmp_path: Path) -> None:
    shape = processing_for(splits().train).output_shape[1:]
    mine = own(shape, 2, "float32")
    mine.save(tmp_path / "mine.keras")
    network = network_of(str(tmp_path / "mine.keras"))
    trained = train(splits(), network=network, epochs=1, rate=1e-9)
    assert trained.policy == "float32"
    assert trained.lineage["network"].startswith("mine.keras sha256:")
    np.testing.assert_allclose(trained.body.get_weights()[0], mine.get_weights()[0], atol=1e-5)
    with pytest.raises(CompressionError, match="the network computes in float32, not in mixed_bfloat16"):
        train(splits(), network=network, epochs=1, precision="mixed_bfloat16")


def test_a_function_of_ones_own_is_named_by_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_for_a_test.py").write_text("def build(shape, classes, policy):\n    return None\n")
    build = network_of("mine_for_a_test:build")
    assert architecture.name_of(build) == "mine_for_a_test:build"
    with pytest.raises(CompressionError, match="not a Keras model of known inputs"):
        train(splits(), network=build)
    for text, said in (
        ("mine_for_a_test:other", "has no function 'other'"),
        ("nowhere_to_be_found:f", "cannot import nowhere_to_be_found"),
        ("mine_for_a_test", "should be FILE.keras or MODULE:FUNCTION"),
        ("none.keras", "there is no file none.keras"),
    ):
        with pytest.raises(CompressionError, match=said):
            network_of(text)
    (tmp_path / "no.keras").write_text("no")
    with pytest.raises(CompressionError, match=r"no\.keras is not a usable model"):
        train(splits(), network=network_of("no.keras"))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (lambda s, c, p: own(s, c, p, last="mixed_bfloat16"), "'last' computes in bfloat16; give it dtype='float32'"),
        (lambda s, c, p: own(s, c, p, activation="softmax"), "the output layer 'last' gives probabilities"),
        (lambda s, c, p: own(s, c + 1, p), r"the network gives \[n, 3\], and there are 2 classes"),
        (lambda s, c, p: own((9,), c, p), r"the network takes \[n, 9\], and the processed data are \[n, 5\]"),
        (lambda s, c, p: own(s, c, "bfloat16"), "'.*first.*' is bfloat16; take a mixed policy"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_it_trains(network: architecture.Architecture, said: str) -> None:
    with pytest.raises(CompressionError, match=said):
        train(splits(), network=network, precision="mixed_bfloat16")


def test_a_teacher_of_rows_is_gone_on_from_in_its_own_words() -> None:
    first = train(splits(), epochs=2, seed=1)
    words = {"ward": ("east", "north", "rare", "zeppelin")}
    later = {name: replace(getattr(splits(), name), words=words) for name in splits().digests}
    again = train(replace(splits(), **later), epochs=1, start=first, seed=1)
    assert again.processing == first.processing
    assert isinstance(again.processing, ProcessingSpec)
