"""What ingest promises: any policy and origin becomes float32 with the same answers, and no code is run."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from edge_sdk.cloud.training import evaluate
from edge_sdk.compression import archives, teachers
from edge_sdk.compression.export import to_onnx
from edge_sdk.compression.ingest import ingest
from edge_sdk.errors import CompressionError, EdgeSdkError, InputError

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning",
    "ignore:You are saving your model as an HDF5 file",
)


@keras.saving.register_keras_serializable("tests")
class Doubled(keras.layers.Layer):
    """A layer of somebody's own."""

    def call(self, x: Any) -> Any:
        return 2 * x


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (64, 8, 8, 3)).astype(np.float32)


def mixed() -> keras.Model:
    """Nested, and of four policies."""
    keras.utils.set_random_seed(0)
    inside = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.BatchNormalization(dtype="bfloat16"),
            layers.Conv2D(4, 3, dtype="mixed_float16"),
            layers.PReLU(dtype="float16"),
        ],
        name="inside",
    )
    taken = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", dtype="mixed_bfloat16")(taken)
    x = Doubled(dtype="mixed_bfloat16")(inside(x))
    return keras.Model(taken, layers.Dense(3, dtype="float32")(layers.Flatten(dtype="float16")(x)), name="mixed")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "mixed.keras"
    mixed().save(path)
    return path


# ---- any policy


def test_a_mix_of_policies_in_nested_models_becomes_float32_and_the_original_stays(inputs: np.ndarray) -> None:
    model = mixed()
    before = [value.copy() for value in model.get_weights()]
    keras.config.set_dtype_policy("mixed_float16")  # what trained it may have set this for everything
    try:
        found = ingest(model, inputs)
        assert keras.config.dtype_policy().name == "mixed_float16"
    finally:
        keras.config.set_dtype_policy("float32")
    every = list(found.model._flatten_layers(include_self=True))
    assert {layer.compute_dtype for layer in every} == {"float32"}
    assert {str(weight.dtype) for weight in found.model.weights} == {"float32"}
    assert found.agreement.argmax >= 0.98
    assert found.agreement.logit_delta < 0.1 * found.agreement.logit_span
    assert found.policies == ("bfloat16", "float16", "float32", "mixed_bfloat16", "mixed_float16")
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert model.get_layer("inside").layers[0].compute_dtype == "bfloat16"


def test_a_file_is_ingested_as_the_model_in_it_and_stays_as_it_is(file: Path, inputs: np.ndarray) -> None:
    before = file.read_bytes()
    found = ingest(file, inputs)
    assert found.source == "keras"
    np.testing.assert_allclose(
        evaluate.logits_of(found.model, inputs), evaluate.logits_of(ingest(mixed(), inputs).model, inputs), atol=1e-5
    )
    assert file.read_bytes() == before


def test_the_bound_on_agreement_is_the_callers(inputs: np.ndarray) -> None:
    with pytest.raises(CompressionError, match="disagrees with it"):
        ingest(mixed(), inputs, least=1.01)


# ---- models that cannot be worked on


def test_weights_that_are_not_numbers_are_named(inputs: np.ndarray) -> None:
    model = mixed()
    model.layers[1].kernel.assign(model.layers[1].kernel * np.nan)
    with pytest.raises(CompressionError, match=r"conv2d.*/kernel.*not finite"):
        ingest(model, inputs)


def test_an_open_extent_is_refused_until_it_is_given(inputs: np.ndarray) -> None:
    taken = keras.Input((None, None, 3))
    model = keras.Model(taken, layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(taken))))
    with pytest.raises(CompressionError, match="leaves an extent open"):
        ingest(model, inputs)
    found = ingest(model, inputs, shape=(8, 8, 3))
    assert found.model.input_shape == (None, 8, 8, 3)
    assert found.agreement.argmax == 1.0
    with pytest.raises(InputError, match="shape is"):
        ingest(model, inputs, shape=(8, 8, 1))


def test_a_class_without_configuration_is_refused(inputs: np.ndarray) -> None:
    class Own(keras.Model):
        def __init__(self, units: int) -> None:
            super().__init__()
            self.dense = layers.Dense(units)

        def call(self, x: Any) -> Any:
            return self.dense(layers.Flatten()(x))

    model = Own(3)
    with pytest.raises(CompressionError, match="has no weights yet"):
        ingest(model, inputs)
    model(inputs)
    with pytest.raises(CompressionError):
        ingest(model, inputs)


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize` method:UserWarning")
def test_text_layers_and_models_quantized_by_keras_are_named(inputs: np.ndarray) -> None:
    words = keras.Sequential(
        [keras.Input((4,)), layers.IntegerLookup(vocabulary=[1, 2], name="words"), layers.Dense(2)]
    )
    with pytest.raises(CompressionError, match=r"'words' \(IntegerLookup\) has no form on devices"):
        ingest(words, np.zeros((2, 4), np.int64))
    dense = keras.Sequential([keras.Input((8,)), layers.Dense(4, name="small")])
    dense.quantize("int8")
    with pytest.raises(CompressionError, match=r"'small' of .* is quantized by Keras already"):
        ingest(dense, np.zeros((2, 8), np.float32))


# ---- code in files


def test_lambdas_are_refused_in_memory_and_in_files_by_name(tmp_path: Path, inputs: np.ndarray) -> None:
    taken = keras.Input((8, 8, 3))
    hidden = keras.Sequential([layers.Lambda(lambda x: x + 1, name="sly")], name="hidden")
    model = keras.Model(taken, layers.Dense(2)(layers.Flatten()(hidden(taken))))
    model.save(tmp_path / "m.keras")
    model.save(tmp_path / "m.h5")
    for source in (model, tmp_path / "m.keras", tmp_path / "m.h5"):
        with pytest.raises(CompressionError, match="'sly' is a Lambda"):
            ingest(source, inputs)


def test_pickles_and_what_may_hold_them_are_refused(tmp_path: Path, file: Path, inputs: np.ndarray) -> None:
    (tmp_path / "m.pt").write_bytes(b"anything")
    (tmp_path / "m.keras").write_bytes(b"\x80\x04.")
    changed(file, tmp_path / "z.keras", lambda members: members | {"model.weights.npz": b""})
    for name in ("m.pt", "m.keras", "z.keras"):
        with pytest.raises(CompressionError, match="runs the code in it"):
            ingest(tmp_path / name, inputs)


def test_a_class_that_nobody_registered_is_refused_before_anything_is_loaded(
    tmp_path: Path, file: Path, inputs: np.ndarray
) -> None:
    def rename(members: dict[str, bytes]) -> dict[str, bytes]:
        config = members["config.json"].replace(b"tests>Doubled", b"strangers>Doubled").replace(b"keras.layers", b"os")
        return members | {"config.json": config}

    with pytest.raises(CompressionError, match="is not known here; import the module"):
        ingest(changed(file, tmp_path / "m.keras", rename), inputs)


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("keras.config", "function"),
        ("keras.utils", "get_file"),
        ("os", "system"),
        ("os", "function"),
        ("keras.models", "load_model"),
    ],
)
def test_what_is_no_part_of_a_model_is_refused_wherever_a_configuration_names_it(
    module: str, kind: str, tmp_path: Path, file: Path, inputs: np.ndarray
) -> None:
    def plant(members: dict[str, bytes]) -> dict[str, bytes]:
        config = json.loads(members["config.json"])
        planted = {"module": module, "class_name": kind, "config": "enable_unsafe_deserialization"}
        config["config"]["layers"][1]["config"]["activation"] = planted | {"registered_name": kind}
        return members | {"config.json": json.dumps(config).encode()}

    with pytest.raises(CompressionError, match="is not known here"):
        ingest(changed(file, tmp_path / "m.keras", plant), inputs)


@pytest.mark.parametrize(
    "planted",
    [
        {"module": "subprocess", "class_name": "getoutput"},
        {"module": "tf_keras.utils", "class_name": "get_file"},
        {"module": "keras.models", "class_name": "load_model"},
        {"module": "subprocess", "class_name": "__typespec__", "spec_name": "getoutput"},
        {"class_name": "ClassMethod", "config": {"cls_symbol": "io.gfile", "method_name": "remove"}},
        {"module": "keras.layers", "class_name": "TFOpLambda", "config": {"function": "io.write_file"}},
    ],
)
def test_a_file_that_says_it_is_of_keras_2_may_call_no_more_than_one_of_keras_3(
    planted: dict[str, object], tmp_path: Path, file: Path, inputs: np.ndarray
) -> None:
    def plant(members: dict[str, bytes]) -> dict[str, bytes]:
        config = json.loads(members["config.json"])
        config["config"]["layers"] = [planted | {"name": "sly", "inbound_nodes": [["_CONSTANT_VALUE", -1, "x", {}]]}]
        metadata = json.dumps({"keras_version": "2.15.0"}).encode()
        return members | {"config.json": json.dumps(config).encode(), "metadata.json": metadata}

    with pytest.raises(CompressionError, match=r"that Keras 3 has not|has no counterpart here"):
        ingest(changed(file, tmp_path / "m.keras", plant), inputs)


def test_a_file_of_two_kinds_is_read_as_the_one_that_was_inspected(
    tmp_path: Path, file: Path, inputs: np.ndarray
) -> None:
    def cut(members: dict[str, bytes]) -> dict[str, bytes]:
        return members | {"config.json": b"{}"}

    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3, name="inspected")])
    model.save(tmp_path / "m.h5")
    hidden = changed(file, tmp_path / "hidden.keras", cut).read_bytes()
    (tmp_path / "both.keras").write_bytes((tmp_path / "m.h5").read_bytes() + hidden)
    assert zipfile.is_zipfile(tmp_path / "both.keras")
    taken = ingest(tmp_path / "both.keras", inputs)
    assert [layer.name for layer in taken.model.layers][-1] == "inspected"


def test_members_that_lead_out_links_and_sizes_are_refused(
    tmp_path: Path, file: Path, inputs: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CompressionError, match="leads out of it"):
        ingest(changed(file, tmp_path / "a.keras", lambda members: members | {"../x": b""}), inputs)
    with h5py.File(tmp_path / "links.h5", "w") as linked:
        linked.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {}})
        linked["secret"] = h5py.ExternalLink("/etc/other.h5", "/")
    with pytest.raises(CompressionError, match="'secret' in it is a link"):
        ingest(tmp_path / "links.h5", inputs)
    monkeypatch.setattr(archives, "MOST_BYTES", 100)
    with pytest.raises(CompressionError, match="at most 100 are read"):
        ingest(file, inputs)


def test_what_is_no_model_is_one_clear_error(tmp_path: Path, inputs: np.ndarray) -> None:
    (tmp_path / "notes.keras").write_text("not a model")
    with h5py.File(tmp_path / "weights.h5", "w") as weights:
        weights["kernel"] = np.zeros(3)
    for name, said in (
        ("none.keras", "there is no model"),
        ("notes.keras", "no model that"),
        ("weights.h5", "weights"),
    ):
        with pytest.raises(InputError, match=said):
            ingest(tmp_path / name, inputs)
    with pytest.raises(InputError, match="no inputs"):
        ingest(mixed(), inputs[:0])


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 10**9), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_file_is_inspected_without_another_error_than_ours(
    file: Path, tmp_path_factory: pytest.TempPathFactory, at: int, value: int, cut: bool
) -> None:
    damaged = bytearray(file.read_bytes())
    at %= len(damaged)
    damaged[at] = value
    path = tmp_path_factory.getbasetemp() / "damaged.keras"
    path.write_bytes(damaged[:at] if cut else damaged)
    said = ""
    try:
        archives.inspect(path)
    except EdgeSdkError as error:
        said = str(error)
    assert "\n" not in said


# ---- teachers


def test_an_onnx_file_and_a_saved_model_teach_what_the_model_says(tmp_path: Path, inputs: np.ndarray) -> None:
    model = ingest(mixed(), inputs).model
    (tmp_path / "m.onnx").write_bytes(to_onnx(model, inputs))
    model.export(tmp_path / "saved", verbose=False)
    expected = evaluate.logits_of(model, inputs)
    for source in (model, tmp_path / "m.onnx", tmp_path / "saved"):
        np.testing.assert_allclose(teachers.open_teacher(source)(inputs), expected, atol=1e-4)
    with pytest.raises(InputError, match="use it as a teacher"):
        ingest(tmp_path / "m.onnx", inputs)


# ---- Keras 2


LEGACY = """
import sys
import tf_keras as keras
keras.utils.set_random_seed(0)
keras.mixed_precision.set_global_policy("mixed_bfloat16")
L = keras.layers
taken = x = L.Input((8, 8, 3))
x = L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(L.Rescaling(0.5)(x)))
y = L.SeparableConv2D(4, 1)(L.DepthwiseConv2D(3, padding="same")(x))
x = L.LeakyReLU()(L.Add()([x, y])) * 2.0 / 3.0 - 1.0 + y
x = keras.Sequential([L.Conv2D(4, 1), L.PReLU(shared_axes=[1, 2]), L.ReLU(6.0)])(x)
x = L.LSTM(8, return_sequences=True)(L.Reshape((8, 32))(x))
x = L.Bidirectional(L.GRU(4, return_sequences=True))(x)
x = L.GlobalAveragePooling1D()(L.LayerNormalization()(L.MultiHeadAttention(2, 4)(x, x)))
model = keras.Model(taken, L.Dense(3, dtype="float32")(L.Dropout(0.1)(x)))
for path in sys.argv[1:]:
    model.save(path)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)  # four processes that import TensorFlow
def test_models_of_keras_2_are_bridged_with_the_same_answers(tmp_path: Path, inputs: np.ndarray) -> None:
    pytest.importorskip("tf_keras")
    paths = [tmp_path / name for name in ("m.h5", "m.keras", "saved")]
    subprocess.run([sys.executable, "-P", "-c", LEGACY, *map(str, paths)], check=True, capture_output=True)
    for path, source in zip(paths, ("tf_keras", "tf_keras", "saved_model"), strict=True):
        found = ingest(path, inputs)
        assert found.source == source
        assert found.agreement.logit_delta < 0.05 * found.agreement.logit_span  # bfloat16 against float32
        assert type(found.model).__module__.startswith("keras.")


def changed(file: Path, path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> Path:
    """Write a model file with other members."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in change(members).items():
            archive.writestr(name, data)
    return path
