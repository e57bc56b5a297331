"""A model in two parts answers as the whole does, and by the fallback where the cloud does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import edge_sdk
from edge_sdk import canonical
from edge_sdk.client.split import SplitModel
from edge_sdk.compression.split import write_split
from edge_sdk.errors import EscalationError, InputError, ModelClosedError
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec
from outside.network import MisbehavingNetwork, free_port
from outside.services import Service

SPEC = ProcessingSpec.image(8, 8, 3)
LABELS = ("red", "green", "blue")
FRAMES = list(np.random.default_rng(5).integers(0, 256, (4, 20, 20, 3)).astype(np.uint8))


def whole_onnx() -> bytes:
    """Return convolution, ReLU, mean, dense: float32 [1, 8, 8, 3] → [1, 3] and the mean [1, 4]."""
    rng = np.random.default_rng(1)
    weights = {
        "kernel": rng.normal(size=(4, 3, 3, 3)),
        "dense": rng.normal(size=(4, 3)),
    }
    nodes = [
        helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["conv"], strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "whole",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


@dataclass(frozen=True)
class Parts:
    whole: Path
    head: Path
    tail: Path
    digest: str


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder = tmp_path_factory.mktemp("parts")
    write_split(whole_onnx(), ["relu"], folder / "head.onnx", folder / "tail.onnx")
    common = {"version": "1.0.0", "processing": SPEC, "runtime": "onnx"}
    pack(whole_onnx(), path=folder / "whole.edge", name="whole", labels=LABELS, output="logits", **common)
    head = (folder / "head.onnx").read_bytes()
    pack(head, path=folder / "head.edge", name="head", labels=(), task="embedding", **common)
    tail = folder / "tail.onnx"
    return Parts(folder / "whole.edge", folder / "head.edge", tail, canonical.sha256(tail.read_bytes()))


@pytest.fixture(scope="module")
def tail(parts: Parts) -> Iterator[str]:
    with Service("serve", parts.tail, "--grpc-port", "0") as process:
        yield process.ready["grpc"]


def test_two_parts_answer_as_the_whole_does(parts, tail):
    with (
        edge_sdk.load(parts.whole) as whole,
        SplitModel(
            edge_sdk.load(parts.head), tail, fallback=edge_sdk.load(parts.whole), deadline=30, tail_digest=parts.digest
        ) as model,
    ):
        for frame in FRAMES:
            answer, expected = model.predict(frame), whole.predict(frame)
            assert (answer.source, answer.reason, answer.certified) == ("cloud", "forced", False)
            assert answer.model_digest == parts.digest
            assert answer.label == expected.label
            np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-5)
            assert answer.timing.cloud_ms > 0


def test_without_the_whole_model_the_answer_is_its_outputs(parts, tail):
    with edge_sdk.load(parts.whole) as whole, SplitModel(edge_sdk.load(parts.head), tail, deadline=None) as model:
        (expected,) = whole.run(whole.processor(FRAMES[0]))
        answer = model.predict(FRAMES[0])
        assert list(answer.outputs) == ["logits"]
        np.testing.assert_allclose(answer["logits"], expected[0], atol=1e-5)


@pytest.mark.parametrize(("deadline", "reason"), [(30, "offline"), (0, "deadline")])
def test_where_the_cloud_does_not_answer_the_fallback_does_and_says_why(parts, deadline, reason):
    nobody = f"127.0.0.1:{free_port()}"
    with (
        edge_sdk.load(parts.whole) as whole,
        SplitModel(edge_sdk.load(parts.head), nobody, fallback=edge_sdk.load(parts.whole), deadline=deadline) as model,
    ):
        answer = model.predict(FRAMES[0])
        assert (answer.source, answer.reason, answer.certified) == ("edge", reason, False)
        assert answer.scores == whole.predict(FRAMES[0]).scores
        assert answer.model_digest == whole.digest


def test_without_a_fallback_it_is_an_error(parts):
    with (
        SplitModel(edge_sdk.load(parts.head), f"127.0.0.1:{free_port()}", deadline=30) as model,
        pytest.raises(EscalationError, match=r"no usable answer \(offline\)"),
    ):
        model.predict(FRAMES[0])


def test_a_server_that_ends_is_replaced_by_the_fallback(parts):
    with Service("serve", parts.tail, "--grpc-port", "0") as process:
        options = {"fallback": edge_sdk.load(parts.whole), "deadline": 10}
        with SplitModel(edge_sdk.load(parts.head), process.ready["grpc"], **options) as model:
            assert model.predict(FRAMES[0]).source == "cloud"
            process.kill()
            for frame in FRAMES:
                answer = model.predict(frame)
                assert answer.source == "edge"
                assert answer.reason in ("offline", "deadline", "breaker")


def test_a_black_hole_costs_the_deadline_and_no_more(parts, tail):
    with (
        MisbehavingNetwork(int(tail.rpartition(":")[2])) as network,
        SplitModel(
            edge_sdk.load(parts.head), network.address, fallback=edge_sdk.load(parts.whole), deadline=1
        ) as model,
    ):
        model.predict(FRAMES[0])
        network.set("blackhole")
        for frame in FRAMES * 3:
            answer = model.predict(frame)
            assert answer.source == "edge"
            assert answer.reason in ("deadline", "breaker", "offline")
            assert answer.timing.total_ms < 10_000  # a call that hangs would hang for good


def test_another_second_part_is_not_believed(parts, tail):
    wrong = canonical.sha256(b"of another training")
    with (
        SplitModel(edge_sdk.load(parts.head), tail, deadline=30, tail_digest=wrong) as model,
        pytest.raises(EscalationError, match=r"rejected.*not the second part"),
    ):
        model.predict(FRAMES[0])


def test_a_server_of_another_model_is_not_asked(parts, cloud):
    with (
        SplitModel(edge_sdk.load(parts.head), cloud, fallback=edge_sdk.load(parts.whole), deadline=30) as model,
    ):
        assert model.predict(FRAMES[0]).reason == "rejected"


def test_a_head_of_another_task_and_a_bad_deadline_are_refused(parts, tail):
    with edge_sdk.load(parts.whole) as whole, pytest.raises(InputError, match="embedding"):
        SplitModel(whole, tail)
    with edge_sdk.load(parts.head) as head, pytest.raises(InputError, match="deadline"):
        SplitModel(head, tail, deadline=-1)


def test_a_closed_model_says_so(parts, tail):
    model = SplitModel(edge_sdk.load(parts.head), tail)
    model.close()
    model.close()
    with pytest.raises(ModelClosedError):
        model.predict(FRAMES[0])
