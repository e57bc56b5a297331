"""Watchers see every epoch, change nothing, and say which extra they need."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from learning import network, stripes_npz, stripes_splits, teacher

from edge_sdk.cloud.training import Options, tracking
from edge_sdk.cloud.training.loop import train
from edge_sdk.errors import CompressionError, MissingExtraError
from edge_sdk.main import main

# Keras turns TensorFlow's tensors into arrays in a way that NumPy 2 finds old
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    found = {}
    for file in folder.iterdir():
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    return found


def test_what_tensorboard_is_given_is_the_history_and_changes_nothing(tmp_path: Path) -> None:
    plain = train(stripes_splits(), network=network, epochs=2, batch=48, precision="float32")
    with tracking.tensorboard(tmp_path / "events") as watch:
        seen = train(stripes_splits(), network=network, epochs=2, batch=48, precision="float32", watchers=[watch])
    assert seen.digest == plain.digest
    found = scalars(tmp_path / "events")
    for name in ("loss", "accuracy", "validation"):
        for epoch, value in enumerate(seen.history[name]):
            assert found[name, 4 * (epoch + 1)] == pytest.approx(value)
    assert found["rate", 8] == pytest.approx(0.0, abs=1e-6)


def test_patience_ends_a_run_that_does_not_learn_and_takes_the_best() -> None:
    stopped = train(stripes_splits(), network=network, epochs=9, batch=48, precision="float32", rate=1e-9, patience=2)
    validation = stopped.history["validation"]
    best = validation.index(max(validation))
    assert len(validation) == best + 3 < 9
    assert stopped.metrics["validation"]["value"] == max(validation)


@pytest.mark.parametrize("package", ["optuna", "mlflow"])
def test_a_package_that_is_missing_is_named_with_its_extra(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_sdk.cloud.training.search import search

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"edge-sdk\[(search|mlflow)\]"):
        if package == "optuna":
            search(stripes_splits(), Options(), trials=1, folder=tmp_path)
        else:
            with tracking.mlflow("sqlite://", Options()):
                pass


@pytest.mark.filterwarnings("ignore")  # MLflow's own, about its database
def test_mlflow_is_given_the_options_and_every_epoch(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'edge-sdk[mlflow]'")
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    with tracking.mlflow(uri, Options(seed=4)) as watch:
        for step in (5, 10):
            watch(step, {"loss": 1.0 / step})
    (run,) = mlflow.search_runs(experiment_names=["edge-sdk"], output_format="list")
    assert run.data.params["seed"] == "4"
    history = mlflow.MlflowClient(uri).get_metric_history(run.info.run_id, "loss")
    assert [(row.step, row.value) for row in history] == [(5, 0.2), (10, 0.1)]


@pytest.mark.slow
def test_a_search_finds_a_rate_that_learns_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'edge-sdk[search]'")
    from edge_sdk.cloud.training.search import search

    options = Options(epochs=1, batch=48, precision="float32", rate=1e-3)
    told: list[Any] = []

    def look(trials: int) -> Options:
        told.clear()
        return search(
            stripes_splits(),
            options,
            trials=trials,
            folder=tmp_path,
            network=network,
            on_progress=lambda *values: told.append(values),
        )

    first = look(2)
    assert told == [("search", 1, 2), ("search", 2, 2)]
    assert look(2) == first
    assert told == []
    look(3)
    assert told == [("search", 3, 3)]
    assert first.epochs == 1
    with pytest.raises(CompressionError, match="trials is 0"):
        look(0)


# ---- the command


def test_a_contract_is_written_without_training_and_holds_its_own_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, file = stripes_npz(tmp_path / "s.npz", 300), tmp_path / "c.json"
    assert main(["train", "--data", spec, "--write-contract", str(file)]) == 0
    assert "correct what is only so by chance" in capsys.readouterr().out
    other = stripes_npz(tmp_path / "few.npz", 60)
    assert main(["train", "--data", other, "-o", str(tmp_path / "t"), "--contract", str(file)]) == 2
    assert "60 inputs are fewer than 150" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_a_command_without_a_target_says_what_it_could_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "mnist"]) == 2
    assert "-o DIR trains, --write-contract FILE only measures" in capsys.readouterr().err


def test_training_starts_from_a_teacher_with_its_processing_and_only_of_the_same_classes() -> None:
    start = teacher()
    again = train(stripes_splits(), network=network, epochs=1, batch=48, start=start, rate=1e-9, decay=0.0)
    assert again.lineage["start"] == start.digest
    assert again.processing == start.processing
    kernels = [value for value in start.model.get_weights() if value.ndim > 1]
    for old, new in zip(kernels, [value for value in again.model.get_weights() if value.ndim > 1], strict=True):
        assert abs(old - new).max() < 1e-6
    with pytest.raises(CompressionError, match="other classes"):
        train(stripes_splits(), network=network, epochs=1, start=replace(start, classes=("a", "b", "c")))
