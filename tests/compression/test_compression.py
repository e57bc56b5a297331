"""What compression promises: the same answers in float32, exact zeros, int8 files that devices load."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import stripes, stripes_npz, stripes_splits, teacher

import edge_sdk
from edge_sdk.bundle import Bundle
from edge_sdk.cloud.training import architecture, data, evaluate
from edge_sdk.compression import distill, export, ingest, quantize
from edge_sdk.compression.pipeline import CompressionReport, compress, export_teacher
from edge_sdk.compression.prune import MagnitudePruning, Pruning, polynomial, sparsity
from edge_sdk.compression.weights import prunable
from edge_sdk.datasets import split
from edge_sdk.errors import CompressionError, InputError
from edge_sdk.main import main
from edge_sdk.runtime import open_session
from edge_sdk.verification import verify

# Keras turns TensorFlow's tensors into arrays in a way that NumPy 2 finds old
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return data.processed(stripes_splits().validation, teacher().processing)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> CompressionReport:
    out = tmp_path_factory.mktemp("bundles") / "stripes.edge"
    return compress(teacher(), stripes_splits(), out=out, name="stripes", version="1.0.0", epochs=12, prune=0.5)


# ---- ingest


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])  # and the next is of mixed bfloat16
def test_a_model_of_any_policy_is_rebuilt_in_float32_with_the_same_answers(policy: str, samples: np.ndarray) -> None:
    keras.utils.set_random_seed(3)
    model = architecture.residual((12, 12, 1), 3, policy)
    copy, found = ingest.to_float32(model, samples)
    assert {layer.compute_dtype for layer in copy.layers} == {"float32"}
    assert {str(weight.dtype) for weight in copy.weights} == {"float32"}
    assert found.n == len(samples)
    assert found.argmax >= 0.98


def test_a_trained_mixed_teacher_keeps_every_clear_answer(samples: np.ndarray) -> None:
    trained = teacher()
    before = [weight.copy() for weight in trained.body.get_weights()]
    copy, found = ingest.to_float32(trained.body, samples)
    assert found.argmax >= 0.98
    assert found.logit_delta < 0.1 * found.logit_span
    assert all(np.array_equal(a, b) for a, b in zip(before, trained.body.get_weights(), strict=True))
    assert copy is not trained.body


def test_a_copy_that_disagrees_is_refused(samples: np.ndarray) -> None:
    class Forgetful(keras.layers.Layer):
        """Negates, but does not say so in its configuration: the copy will not."""

        sign = 1.0

        def call(self, x: object) -> object:
            return x * self.sign

    forgetful = Forgetful()
    forgetful.sign = -1.0
    inputs = keras.Input((12, 12, 1))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(forgetful(inputs))))
    known = keras.saving.custom_object_scope({"Forgetful": Forgetful})
    with known, pytest.raises(CompressionError, match="disagrees with it"):
        ingest.to_float32(model, samples)


# ---- prune


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1000), st.floats(0, 0.99), st.integers(0, 2000))
def test_sparsity_only_rises_and_ends_at_the_target(end: int, target: float, step: int) -> None:
    here, later = polynomial(step, end, target), polynomial(step + 1, end, target)
    assert 0.0 <= here <= later + 1e-12 <= target + 2e-12
    assert polynomial(end, end, target) == pytest.approx(target)


@pytest.mark.parametrize("target", [0.37, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.0, 0.9))])
def test_pruned_weights_are_exactly_zero_after_fine_tuning_with_momentum(target: float, samples: np.ndarray) -> None:
    keras.utils.set_random_seed(0)
    model = distill.student((12, 12, 1), 3)
    model.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pruning = MagnitudePruning(model, Pruning(target, every=2), steps=12)
    model.fit(
        samples,
        stripes_splits().validation.labels,
        batch_size=len(samples) // 4,
        epochs=3,
        verbose=0,
        callbacks=[pruning],
    )
    for _, kernel in prunable(model):
        value = keras.ops.convert_to_numpy(kernel)
        assert int((value == 0.0).sum()) == round(target * value.size)
    assert sparsity(model).share == pytest.approx(target, abs=0.01)


def test_pruning_takes_the_smallest_weights(samples: np.ndarray) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, use_bias=False)])
    model.set_weights([np.array([[0.1, -5.0], [3.0, 0.2], [-0.3, 2.0], [4.0, -0.4]], dtype=np.float32)])
    MagnitudePruning(model, Pruning(0.5), steps=1).on_train_end()
    assert np.array_equal(model.get_weights()[0] != 0, [[0, 1], [1, 0], [0, 1], [1, 0]])


def test_a_prune_share_out_of_range_is_refused(tmp_path: Path) -> None:
    for share in (-0.1, 1.0):
        with pytest.raises(CompressionError, match="prune is"):
            compress(teacher(), stripes_splits(), out=tmp_path / "x.edge", name="x", version="1.0.0", prune=share)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "version"), [("Stripes!", "1.0.0"), ("stripes", "one")])
def test_what_packing_would_refuse_is_refused_before_the_work(name: str, version: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it should be"):
        compress(teacher(), stripes_splits(), out=tmp_path / "x.edge", name=name, version=version)
    with pytest.raises(InputError, match="is a folder"):
        export_teacher(teacher(), stripes_splits(), out=tmp_path, name="stripes", version="1.0.0")


# ---- distill


@pytest.mark.slow
def test_distillation_moves_the_student_and_not_the_teacher(samples: np.ndarray) -> None:
    trained = teacher()
    before = trained.digest
    student = distill.student((12, 12, 1), 3)
    trainer = distill.Distillation(student, trained.body, temperature=2.0, alpha=1.0)
    assert {id(weight) for weight in trainer.weights} == {id(weight) for weight in student.weights}
    trainer.compile(keras.optimizers.Adam(3e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    # with alpha 1 the labels say nothing: what the student learns, the teacher taught
    wrong = (stripes_splits().validation.labels + 1) % 3
    trainer.fit(samples, wrong, batch_size=len(samples) // 2, epochs=15, verbose=0)
    taught = evaluate.logits_of(trained.body, samples).argmax(axis=1)
    assert np.mean(evaluate.logits_of(student, samples).argmax(axis=1) == taught) > 0.8
    assert trained.digest == before


# ---- export


@pytest.mark.slow
def test_an_int8_file_has_int8_ends_and_runs_in_the_device_runtime(samples: np.ndarray) -> None:
    model, _ = ingest.to_float32(teacher().body, samples)
    tflite = quantize.to_int8_tflite(model, samples)
    session = open_session(tflite, "litert")
    takes, gives = session.inputs[0], session.outputs[0]
    session.close()
    assert (takes.dtype, gives.dtype) == ("int8", "int8")
    assert takes.shape == (1, 12, 12, 1)
    assert takes.scale
    assert gives.scale
    validation = stripes_splits().validation
    answers = export.device_logits(tflite, "litert", teacher().processing, validation)
    assert ingest.agreement(evaluate.logits_of(model, samples), answers).argmax > 0.9


def test_an_onnx_file_says_what_keras_says_at_any_batch_size(
    samples: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, _ = ingest.to_float32(teacher().body, samples)
    session = open_session(export.to_onnx(model, samples), "onnx")
    for count in (1, 7):
        logits = session.run(samples[:count])[0]
        np.testing.assert_allclose(logits, evaluate.logits_of(model, samples[:count]), atol=1e-3)
    session.close()
    quantize.to_int8_tflite(model, samples[:8])
    assert not list(tmp_path.iterdir())  # converters leave nothing in the working folder


def test_no_representative_inputs_is_one_clear_error() -> None:
    with pytest.raises(CompressionError, match="needs representative inputs"):
        quantize.to_int8_tflite(distill.student((12, 12, 1), 3), np.empty((0, 12, 12, 1), np.float32))


# ---- the whole way


def test_the_whole_way_gives_a_bundle_that_devices_load_and_that_knows_its_origin(report: CompressionReport) -> None:
    bundle = Bundle.open(report.bundle)
    splits = stripes_splits()
    verify(bundle)
    assert bundle.manifest.labels == splits.classes
    assert bundle.manifest.artifacts[0].precision == "int8"
    assert bundle.manifest.lineage["splits"] == splits.digests
    assert bundle.manifest.lineage["teacher"]["digest"] == teacher().digest
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    assert report.accuracy["student_int8"]["test"]["value"] > 0.8
    assert bundle.manifest.metrics["accuracy"] == report.accuracy["student_int8"]
    with edge_sdk.load(report.bundle) as model:
        right = [
            model.predict(image).index == label
            for image, label in zip(splits.test.images, splits.test.labels, strict=True)
        ]
    # the figure in the bundle is the one that the device reproduces
    assert np.mean(right) == report.accuracy["student_int8"]["test"]["value"]


def test_the_report_is_json_and_sizes_are_those_of_the_files(report: CompressionReport) -> None:
    printed = json.loads(json.dumps(report.to_dict()))
    assert printed["sizes"]["bundle"] == report.bundle.stat().st_size
    assert printed["sizes"]["student_int8_zstd"] < printed["sizes"]["student_int8"]
    assert set(printed["seconds"]) == {"ingest", "distill", "prune", "quantize", "measure", "pack"}


@pytest.mark.slow
def test_a_model_itself_is_pruned_clustered_and_trained_for_int8_while_another_teaches_it(tmp_path: Path) -> None:
    before = teacher().digest
    options = {"prune": 0.6, "cluster": 8, "quantize": "int8-trained", "epochs": 1, "keep": True, "teacher": teacher()}
    report = compress(teacher(), stripes_splits(), out=tmp_path / "x.edge", name="x", version="1.0.0", **options)
    assert teacher().digest == before
    assert report.parameters["student"] == report.parameters["model"]
    assert "student_distilled" not in report.accuracy
    assert report.sparsity == pytest.approx(0.6, abs=0.01)
    assert report.sizes["student_int8_zstd"] < 0.5 * report.sizes["student_int8"]
    bundle = Bundle.open(report.bundle)
    verify(bundle)
    assert bundle.manifest.lineage["distilled_from"] == before
    assert bundle.manifest.lineage["compression"]["cluster"] == 8


@pytest.mark.slow
def test_a_model_itself_learns_from_another_where_nothing_is_pruned(tmp_path: Path) -> None:
    other, options = teacher(), {"prune": 0.0, "epochs": 1, "keep": True, "teacher": teacher()}
    report = compress(other, stripes_splits(), out=tmp_path / "x.edge", name="x", version="1.0.0", **options)
    assert "student_distilled" in report.accuracy
    student = Bundle.open(report.bundle).manifest.lineage["compression"]["student"]
    kept = compress(
        *(other, stripes_splits()), out=tmp_path / "y.edge", name="y", version="1.0.0", prune=0.0, keep=True
    )
    assert student != Bundle.open(kept.bundle).manifest.lineage["compression"]["student"]


@pytest.mark.parametrize(
    ("stopped", "raised"),
    [(KeyboardInterrupt, KeyboardInterrupt), pytest.param(MemoryError, CompressionError, marks=pytest.mark.slow)],
)
def test_an_interruption_leaves_the_model_of_the_last_finished_step(
    tmp_path: Path, stopped: type[BaseException], raised: type[BaseException]
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "cluster":
            raise stopped

    with pytest.raises(raised):
        compress(
            *(teacher(), stripes_splits()),
            out=tmp_path / "x.edge",
            name="x",
            version="1.0.0",
            keep=True,
            prune=0.5,
            cluster=4,
            epochs=1,
            on_progress=stop,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["x.finished.keras"]
    left = keras.saving.load_model(tmp_path / "x.finished.keras")
    assert sparsity(left).share == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"), [({"cluster": 1}, "clusters is 1"), ({"quantize": "int2"}, "quantize is 'int2'")]
)
def test_options_of_the_whole_way_are_refused_before_the_work(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CompressionError, match=message):
        compress(teacher(), stripes_splits(), out=tmp_path / "x.edge", name="x", version="1.0.0", **options)
    assert not list(tmp_path.iterdir())


def test_other_classes_and_other_splits_than_the_teachers_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "x.edge"
    other = split(stripes(), spec="stripes", seed=9)
    with pytest.raises(CompressionError, match="trained on other data or splits"):
        compress(teacher(), other, out=out, name="x", version="1.0.0")
    two = stripes()
    two = two.take(np.flatnonzero(two.labels < 3))
    renamed = split(type(two)(two.images, two.labels, ("a", "b", "c")))
    with pytest.raises(CompressionError, match="tells apart across, down, plain"):
        export_teacher(teacher(), renamed, out=out, name="x", version="1.0.0")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_both_bundles_and_prints_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = teacher().save(tmp_path / "teacher")
    spec = stripes_npz(tmp_path / "s.npz", len(stripes()))  # the same images: the same splits
    bundles = [
        "--small",
        "--distill",
        str(folder),
        "-o",
        str(tmp_path / "S.edge"),
        "--teacher-out",
        str(tmp_path / "cloud.edge"),
    ]
    assert main(["compress", str(folder), "--data", spec, *bundles, "--epochs", "1", "--prune", "0", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert Bundle.open(printed["bundle"]).manifest.name == "s"
    manifest = Bundle.open(printed["teacher_bundle"]).manifest
    assert manifest.name == "cloud"
    assert manifest.artifacts[0].runtime == "onnx"
    assert manifest.artifacts[0].inputs[0].shape[0] == -1
    test = stripes_splits().test
    with edge_sdk.load(printed["teacher_bundle"]) as model:
        probabilities = model.infer_tensor(data.processed(test, teacher().processing))
    assert evaluate.accuracy(probabilities, test.labels)["value"] == manifest.metrics["accuracy"]["test"]["value"]


def test_compressing_what_is_no_teacher_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = stripes_npz(tmp_path / "s.npz", 300)
    assert main(["compress", str(tmp_path / "none"), "--data", spec, "-o", str(tmp_path / "deep" / "s.edge")]) == 2
    error = capsys.readouterr().err
    assert "there is no model at" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "deep").exists()
