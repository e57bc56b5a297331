"""What distillation promises: the student moves towards its teachers, whoever they are, and nothing else moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edge_sdk.cloud.training.data import Augmentation
from edge_sdk.cloud.training.evaluate import logits_of, model_digest
from edge_sdk.compression.distill import Guidance, Hint, distill
from edge_sdk.compression.export import to_onnx
from edge_sdk.compression.fitting import Fitting, FittingData
from edge_sdk.compression.prune import prune, sparsity
from edge_sdk.errors import CompressionError
from edge_sdk.processing import ProcessingSpec

# Keras turns TensorFlow's tensors into arrays in a way that NumPy 2 finds old
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning"),
]

CLASSES = 4
SHORT = Fitting(epochs=10, batch=32, rate=0.02)
ONCE = Fitting(epochs=1, batch=64)


def network(width: int, seed: int, *, name: str, softmax: bool = False) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 2), name="processed")
    x = layers.Conv2D(width, 3, padding="same", activation="tanh", name="early")(inputs)
    x = layers.MaxPooling2D(name="late")(x) if width == 4 else layers.MaxPooling2D(3, name="late")(x)
    x = layers.Dense(CLASSES, name="logits", activation="softmax" if softmax else None)(layers.Flatten(name="flat")(x))
    return keras.Model(inputs, x, name=name)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(192, 6, 6, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def teacher() -> keras.Model:
    model = network(8, 1, name="teacher")
    model.set_weights([3.0 * weight for weight in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def onnx(teacher: keras.Model, x: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "teacher.onnx"
    path.write_bytes(to_onnx(teacher, x[:8]))
    return path


def same(student: keras.Model, teacher: keras.Model, x: np.ndarray) -> float:
    return float(np.mean(logits_of(student, x).argmax(1) == logits_of(teacher, x).argmax(1)))


@pytest.mark.parametrize(
    "kind", ["keras", "onnx", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("function", "logits"))]
)
def test_a_student_without_labels_learns_to_answer_as_its_teacher(
    kind: str, x: np.ndarray, teacher: keras.Model, onnx: Path
) -> None:
    source = {
        "keras": teacher,
        "onnx": onnx,
        "function": lambda batch: logits_of(teacher, batch),
        "logits": logits_of(teacher, x),
    }[kind]
    student = network(4, 2, name="student")
    before = model_digest(student), model_digest(teacher)
    steps: list[tuple[str, int, int]] = []
    taught = distill(
        student, FittingData(x), teacher=source, fitting=SHORT, on_progress=lambda *step: steps.append(step)
    )
    assert (model_digest(student), model_digest(teacher)) == before
    assert 1 - same(taught, teacher, x) <= 0.6 * (1 - same(student, teacher, x))
    assert steps[-1] == ("distill", 60, 60)
    assert [layer.name for layer in taught.layers] == [layer.name for layer in student.layers]


def test_the_same_teacher_teaches_the_same_whether_asked_before_or_in_keras_or_in_onnx(
    x: np.ndarray, teacher: keras.Model, onnx: Path
) -> None:
    sources: list[Any] = [teacher, str(onnx), logits_of(teacher, x)]
    first, *others = [
        distill(network(4, 2, name="student"), FittingData(x), teacher=source, fitting=ONCE) for source in sources
    ]
    for other in others:
        for one, two in zip(first.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-4)


def test_a_model_learns_from_a_teacher_while_it_is_pruned(x: np.ndarray, teacher: keras.Model) -> None:
    student = network(4, 2, name="student")
    before = model_digest(student), model_digest(teacher)
    data = FittingData(x, (logits_of(teacher, x).argmax(1) + 1) % CLASSES)  # always another answer than the teacher's
    misled, taught = (
        prune(student, data, share=0.5, fitting=replace(SHORT, learning=learning))
        for learning in (None, Guidance(teachers=[teacher], alpha=1.0))
    )
    assert (model_digest(student), model_digest(teacher)) == before
    assert sparsity(taught).share == sparsity(misled).share == pytest.approx(0.5, abs=0.01)
    assert same(misled, teacher, x) < same(student, teacher, x) < same(taught, teacher, x)


def test_alpha_decides_between_labels_and_teacher(x: np.ndarray, teacher: keras.Model) -> None:
    answers = logits_of(teacher, x).argmax(1)
    data = FittingData(x, (answers + 1) % CLASSES)  # always another answer than the teacher's
    agree = {
        alpha: same(
            distill(network(8, 2, name="student"), data, teacher=teacher, alpha=alpha, fitting=SHORT), teacher, x
        )
        for alpha in (0.0, 1.0)
    }
    assert agree[0.0] < 0.2
    assert agree[1.0] > 0.7


def test_samples_labelled_minus_one_are_taught_by_the_teacher_alone(x: np.ndarray, teacher: keras.Model) -> None:
    unlabelled = FittingData(x, np.full(len(x), -1))
    taught = distill(network(8, 2, name="student"), unlabelled, teacher=teacher, alpha=0.0, fitting=SHORT)
    assert same(taught, teacher, x) > 0.7


def test_an_ensemble_teaches_the_mean_of_its_probabilities(x: np.ndarray, teacher: keras.Model, onnx: Path) -> None:
    logits = logits_of(teacher, x)
    opposite = logits[:, ::-1].copy()
    soft = [np.exp(each - each.max(1, keepdims=True)) for each in (logits, opposite)]
    mean = np.log(sum(each / each.sum(1, keepdims=True) for each in soft) / 2)
    student = network(4, 2, name="student")
    options: dict[str, Any] = {"temperature": 1.0, "alpha": 1.0, "fitting": ONCE}
    several = distill(student, FittingData(x), teacher=[onnx, opposite], **options)
    one = distill(student, FittingData(x), teacher=mean, **options)
    for first, second in zip(several.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-4)


@pytest.mark.parametrize("kind", [pytest.param("keras", marks=pytest.mark.slow), "onnx"])
def test_hints_bring_the_insides_of_both_closer(kind: str, x: np.ndarray, teacher: keras.Model, onnx: Path) -> None:
    import onnx as reader

    # the converter may turn pictures inside; what the last layer takes is flat
    flat = [node.input[0] for node in reader.load(onnx).graph.node if node.op_type in ("MatMul", "Gemm")][-1]
    source, own, shown = {"keras": (teacher, "early", "early"), "onnx": (onnx, "flat", flat)}[kind]
    student = network(8, 2, name="student")

    def apart(model: keras.Model) -> float:
        first, second = (
            logits_of(keras.Model(m.inputs, m.get_layer(own).output), x).reshape(len(x), -1) for m in (model, teacher)
        )
        cosine = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
        return float(1.0 - cosine.mean())

    hints = (Hint(own, shown, weight=20.0),)
    hinted = distill(student, FittingData(x), teacher=source, hints=hints, fitting=SHORT)
    assert apart(hinted) < 0.7 * apart(student)
    assert len(hinted.outputs) == 1


def test_hints_bridge_other_widths_and_sides(x: np.ndarray, teacher: keras.Model) -> None:
    student = network(4, 2, name="student")
    hints = (Hint("early", "early"), Hint("early", "late", weight=0.5))
    taught = distill(student, FittingData(x), teacher=teacher, hints=hints, fitting=ONCE)
    assert taught.count_params() == student.count_params()  # the projections are thrown away


def test_a_softmax_at_the_end_is_read_as_probabilities_on_both_sides(x: np.ndarray, teacher: keras.Model) -> None:
    soft = network(8, 1, name="soft", softmax=True)
    soft.set_weights(teacher.get_weights())
    student = network(4, 2, name="student", softmax=True)
    plain = network(4, 2, name="student")
    plain.set_weights(student.get_weights())
    first = distill(student, FittingData(x), teacher=soft, fitting=ONCE)
    second = distill(plain, FittingData(x), teacher=teacher, fitting=ONCE)
    for one, two in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-3)


def test_frames_are_augmented_and_the_teacher_sees_what_the_student_sees() -> None:
    spec = ProcessingSpec.image(6, 6, 3)
    frames = np.random.default_rng(0).integers(0, 256, (64, 6, 6, 3), dtype=np.uint8)
    seen: list[np.ndarray] = []

    def teacher(batch: np.ndarray) -> np.ndarray:
        seen.append(batch)
        return np.zeros((len(batch), CLASSES), np.float32)

    student = keras.Sequential([keras.Input((6, 6, 3)), layers.Flatten(), layers.Dense(CLASSES)])
    fitting = Fitting(epochs=1, batch=32, augmentation=Augmentation(flip=True))
    distill(student, FittingData(frames, processing=spec), teacher=teacher, fitting=fitting)
    batches = [batch for batch in seen if len(batch) == 32]
    assert len(batches) == 2
    assert all(batch.dtype == np.float32 and 0.0 <= batch.min() < batch.max() <= 1.0 for batch in batches)
    originals = {frame.tobytes() for frame in (frames / 255).astype(np.float32).round(4)}
    assert not any(frame.round(4).tobytes() in originals for batch in batches for frame in batch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.5}, "temperature is 0.5; it must be at least 1"),
        ({"alpha": 1.5}, "alpha is 1.5; it must be from 0 to 1"),
        ({"teacher": []}, "there is no teacher"),
        ({"teacher": 3}, "not int"),
        ({"teacher": "/none.onnx"}, "/none.onnx: the teacher cannot be read"),
        ({"teacher": b"nonsense"}, "the teacher is not an ONNX model"),
        ({"teacher": np.zeros((5, CLASSES))}, r"\[5, 4\]; 192 samples and 4 classes need \[192, 4\]"),
        ({"teacher": np.full((192, CLASSES), np.nan)}, "not finite"),
        ({"hints": (Hint("none", "early"),)}, "the student 'student' has no layer 'none'"),
        ({"hints": (Hint("early", "none"),)}, "the teacher 'teacher' has no layer 'none'"),
        ({"hints": (Hint("late", "late"),)}, r"'late' \[3, 3, 4\] cannot follow 'late' \[2, 2, 8\]"),
        ({"warmth": 1}, "unknown option 'warmth' of Distilling"),
    ],
)
def test_what_does_not_fit_is_refused(
    options: dict[str, Any], message: str, x: np.ndarray, teacher: keras.Model
) -> None:
    with pytest.raises(CompressionError, match=message):
        distill(network(4, 2, name="student"), FittingData(x), **{"teacher": teacher, **options})


def test_other_classes_other_inputs_and_labels_out_of_range_are_refused(x: np.ndarray, teacher: keras.Model) -> None:
    student = network(4, 2, name="student")
    other = keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten(), layers.Dense(7)], name="other")
    with pytest.raises(CompressionError, match="the teacher 'other' gives 7 logits, and the student 4"):
        distill(student, FittingData(x), teacher=other)
    small = keras.Sequential([keras.Input((5, 5, 2)), layers.Flatten(), layers.Dense(CLASSES)], name="small")
    with pytest.raises(CompressionError, match=r"the teacher 'small' takes \(5, 5, 2\), and the data are \(6, 6, 2\)"):
        distill(student, FittingData(x), teacher=small)
    with pytest.raises(CompressionError, match="label 3 is 9; the student has 4 classes, and -1 means unlabelled"):
        distill(student, FittingData(x, np.r_[0, 1, -1, 9, np.zeros(len(x) - 4, int)]), teacher=teacher)
    changing = Fitting(epochs=1, augmentation=Augmentation())
    with pytest.raises(CompressionError, match="logits computed before are of the samples as they are"):
        distill(student, FittingData(x), teacher=logits_of(teacher, x), fitting=changing)
