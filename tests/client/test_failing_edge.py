"""The edge model itself fails: the cloud answers where it may be asked, and nothing is made up where it may not.

A peer's fallback never fired when the local model raised.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edge_sdk
from edge_sdk.client import PrivacyRule
from edge_sdk.errors import ModelError
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec
from outside.bundles import CLASSES, SIDE, tiny_images, train_tiny
from outside.network import free_port
from outside.pairs import with_policy

PATIENT = 20.0
WHITE = np.full((24, 24, 3), 255, np.uint8)


def failing_onnx(weights: np.ndarray, bias: np.ndarray) -> bytes:
    """Return the tiny classifier, which looks up a place that is not there when a picture is white."""
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, value: object, dtype: type) -> object:
        return numpy_helper.from_array(np.asarray(value, dtype), name)

    graph = helper.make_graph(
        [
            helper.make_node("ReduceMin", ["image"], ["darkest"], keepdims=0),
            helper.make_node("Greater", ["darkest", "limit"], ["white"]),
            helper.make_node("Cast", ["white"], ["place"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "place"], ["nothing"]),
            helper.make_node("Flatten", ["image"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["dense"]),
            helper.make_node("Add", ["dense", "nothing"], ["logits"]),
        ],
        "failing",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [
            constant("limit", 0.99, np.float32),
            constant("table", [0.0], np.float32),
            constant("weights", weights, np.float32),
            constant("bias", bias, np.float32),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def failing(pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, spec = tmp_path_factory.mktemp("failing"), ProcessingSpec.image(SIDE, SIDE, 3)
    options = {"runtime": "onnx", "name": "failing", "version": "1.0.0", "labels": CLASSES, "output": "logits"}
    golden = list(tiny_images(4, 1)[0])
    path = folder / "plain.edge"
    pack(failing_onnx(*train_tiny(spec)), processing=spec, golden_inputs=golden, path=path, **options)
    return with_policy(path, folder / "failing.edge", cloud_digest=pair.cloud_digest)


@pytest.mark.parametrize("mode", ["hybrid", "prefer_cloud"])
def test_the_cloud_answers_for_an_edge_model_that_fails(pair, failing: Path, cloud: str, mode: str) -> None:
    with edge_sdk.connect(failing, cloud=cloud, mode=mode, deadline=PATIENT) as model:
        model.predict(pair.hard[0])
        answer = model.predict(WHITE)
        assert (answer.source, answer.reason) == ("cloud", "forced")
        counters = model.counters
    assert counters["requests"] == 2
    assert counters["answered"]["cloud"] == 2


@pytest.mark.parametrize("mode", ["hybrid", "prefer_cloud", "edge"])
def test_without_a_cloud_the_failure_is_told(failing: Path, mode: str) -> None:
    with (
        edge_sdk.connect(failing, cloud=f"127.0.0.1:{free_port()}", mode=mode, deadline=PATIENT) as model,
        pytest.raises(ModelError, match="ONNX Runtime failed"),
    ):
        model.predict(WHITE)


def test_what_a_rule_may_keep_by_label_stays_where_there_is_no_label(failing: Path, cloud: str) -> None:
    rules = [PrivacyRule(labels={"red"})]
    with edge_sdk.connect(failing, cloud=cloud, deadline=PATIENT, privacy=rules) as model:
        with pytest.raises(ModelError):
            model.predict(WHITE)
        assert model.counters["bytes_sent"] == model.counters["bytes_failed"] == 0
