"""What export promises: every file was loaded, compared and timed on the device's runtime, or there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import edge_sdk
from edge_sdk.compression.export import FORMS, Exports, export, session_logits, zstd_bytes
from edge_sdk.compression.exportable import exportable
from edge_sdk.compression.ingest import ingest
from edge_sdk.errors import CompressionError, InputError
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec
from edge_sdk.runtime import open_session
from harness.blocks import BLOCKS, POLICIES, task, trained

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning",
    "ignore:.*:DeprecationWarning:(onnx|onnxruntime|tf2onnx|litert_quantizer).*",
)

DEFAULT = ("litert:float32", "litert:int8", "onnx:float32", "onnx:int8")


@keras.saving.register_keras_serializable("tests")
class Strange(keras.layers.Layer):
    """A layer that no device has."""

    def call(self, x: Any) -> Any:
        return ops.svd(x, compute_uv=False)


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return ingest(trained("conv + batch norm", "mixed_bfloat16"), task("image", 100, seed=1)[0]).model


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    return task("image", 200, seed=1)[0]


@pytest.fixture(scope="module")
def representative() -> np.ndarray:
    return task("image", 64, seed=0)[0]


@pytest.fixture(scope="module")
def every(network: keras.Model, inputs: np.ndarray, representative: np.ndarray) -> Exports:
    return export(network, inputs, forms=FORMS, representative=representative)


def check_block(block: str, policy: str, count: int) -> None:
    kind = BLOCKS[block][0]
    inputs = task(kind, count, seed=1)[0]
    model = ingest(trained(block, policy), inputs).model
    exports = export(model, inputs, forms=DEFAULT, representative=task(kind, 200, seed=0)[0])
    assert exports.refused == {}
    for artifact in exports.artifacts:
        assert artifact.agreement.argmax >= (0.97 if artifact.precision == "int8" else 0.995), artifact.form


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_of_every_policy_has_all_four_files(block: str, policy: str) -> None:
    check_block(block, policy, 1000)
    keras.backend.clear_session()


def test_every_form_is_loaded_compared_and_weighed(every: Exports, inputs: np.ndarray, network: keras.Model) -> None:
    assert every.refused == {}
    assert tuple(artifact.form for artifact in every.artifacts) == FORMS
    for artifact in every.artifacts:
        assert artifact.raw == len(artifact.data)
        assert artifact.zstd == zstd_bytes(artifact.data) < artifact.raw
        assert artifact.agreement.n == len(inputs)
        if artifact.form in DEFAULT:
            assert artifact.agreement.argmax >= (0.97 if artifact.precision == "int8" else 0.995), artifact.form
        session = open_session(artifact.data, artifact.runtime)
        same = session_logits(session, inputs).argmax(axis=1) == network.predict(inputs, verbose=0).argmax(axis=1)
        session.close()
        assert np.mean(same) == artifact.agreement.argmax
    assert every["litert:float16"].raw < every["litert:float32"].raw
    assert "data" not in every.to_dict()["artifacts"][0]


def test_an_artifact_becomes_a_bundle_with_its_processing_and_golden_examples(every: Exports, tmp_path: Path) -> None:
    artifact = every["litert:int8"]
    rng = np.random.default_rng(0)
    bundle = pack(
        artifact.data,
        runtime=artifact.runtime,
        precision=artifact.precision,
        path=tmp_path / "block.edge",
        name="block",
        version="1.0.0",
        labels=["a", "b", "c", "d"],
        processing=ProcessingSpec.image(12, 12, 3, mean=[128.0] * 3, std=[64.0] * 3),
        output="logits",
        golden_inputs=[rng.integers(0, 256, (12, 12, 3), np.uint8) for _ in range(4)],
    )
    with edge_sdk.load(bundle.path) as model:
        assert model.predict(rng.integers(0, 256, (12, 12, 3), np.uint8)).label in "abcd"


def test_a_form_that_is_too_slow_or_too_different_is_refused_and_the_others_are_kept(
    network: keras.Model, inputs: np.ndarray, representative: np.ndarray
) -> None:
    forms = ("litert:float32", "litert:int8")
    slow = export(network, inputs, forms=forms, representative=representative, slowest=1e-9)
    assert [artifact.form for artifact in slow.artifacts] == ["litert:float32"]
    assert "times as long is asked for" in slow.refused["litert:int8"]
    with pytest.raises(CompressionError, match=r"there is no litert:int8: .* µs"):
        slow["litert:int8"]
    different = export(network, inputs, forms=forms[:1], least=1.01)
    assert different.artifacts == ()
    assert "are asked for" in different.refused["litert:float32"]


def test_an_operation_that_devices_have_not_is_named_with_its_layer() -> None:
    taken = keras.Input((4, 4))
    model = keras.Model(taken, layers.Dense(2)(Strange(name="strange")(taken)))
    found = export(model, np.zeros((2, 4, 4), np.float32), forms=("litert:float32", "onnx:float32"))
    for why in found.refused.values():
        assert "Svd of" in why
        assert "strange" in why
        assert "\n" not in why
    assert len(found.refused) == 2


def test_representative_inputs_that_cannot_be_are_refused_before_the_work(
    network: keras.Model, inputs: np.ndarray
) -> None:
    for given, said in (
        (None, "got none"),
        (inputs[:0], "got none"),
        (inputs[:4, :6], r"representative inputs are float32\[6, 12, 3\]; the model takes float32\[12, 12, 3\]"),
        (inputs[:4] * np.nan, "hold NaN or infinity"),
    ):
        with pytest.raises(CompressionError, match=said):
            export(network, inputs, representative=given)
    with pytest.raises(InputError, match="they should be of litert:float32"):
        export(network, inputs, forms=("litert:int3",))
    with pytest.raises(InputError, match="no inputs"):
        export(network, inputs[:0])


def test_recurrent_layers_over_open_or_many_steps_are_named() -> None:
    for steps in (None, 300):
        taken = keras.Input((steps, 3))
        model = keras.Model(taken, layers.Dense(2)(layers.LSTM(2, name="memory")(taken)))
        with pytest.raises(CompressionError, match="'memory' runs over"):
            exportable(model)


def test_a_model_is_unrolled_and_split_into_groups_without_being_changed() -> None:
    taken = keras.Input((6, 4))
    x = layers.Conv1D(4, 3, groups=2, padding="causal")(taken)
    model = keras.Model(taken, layers.Bidirectional(layers.GRU(2))(x))
    x = np.random.default_rng(0).normal(size=(5, 6, 4)).astype(np.float32)
    ready, notes = exportable(model)
    assert [note.partition(": ")[2] for note in notes].count("unrolled over 6 steps") == 2
    assert any("2 groups" in note for note in notes)
    np.testing.assert_allclose(ready.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)
    assert not model.layers[2].forward_layer.unroll
