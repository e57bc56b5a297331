"""Many threads ask one cloud at once: each gets the answer to its own picture, and what goes wrong stays its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_sdk
from edge_sdk.client import Cloud
from edge_sdk.errors import EscalationError
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec
from outside.bundles import CLASSES, SIDE, tiny_images
from outside.network import free_port

THREADS, PATIENT = 16, 20.0


def in_a_crowd(model: Any, frames: Sequence[np.ndarray], ask: Callable[[np.ndarray], Any]) -> list[Any]:
    """Ask about the frames from many threads at once, again and again until some of them went together."""
    end = time.monotonic() + PATIENT
    with ThreadPoolExecutor(THREADS) as pool:
        while True:
            answers = list(pool.map(ask, frames))
            if model.counters["waves"]["sent"]:
                return answers
            assert time.monotonic() < end, "nobody travels together"


@pytest.mark.parametrize("mode", ["cloud", "hybrid", "prefer_cloud"])
def test_everyone_gets_the_answer_to_their_own_picture(pair, cloud: str, mode: Any) -> None:
    frames = pair.hard[:40]
    with edge_sdk.load(pair.cloud) as teacher:
        expected = [teacher.predict(frame) for frame in frames]
    with edge_sdk.connect(pair.edge, cloud=cloud, mode=mode, deadline=PATIENT) as model:
        answers = in_a_crowd(model, frames, model.predict)
        counters = model.counters
    assert [answer.source for answer in answers] == ["cloud"] * len(frames)
    assert all(answer.certified for answer in answers)
    np.testing.assert_allclose([a.scores for a in answers], [e.scores for e in expected], atol=1e-5)
    waves = counters["waves"]
    assert 2 * waves["sent"] <= waves["inputs"] <= counters["escalated"] == counters["requests"]
    assert counters["bytes_sent"] >= counters["requests"] * frames[0].nbytes


def test_a_link_may_be_told_not_to(pair, cloud: str) -> None:
    there = Cloud(cloud, coalesce=False)
    with edge_sdk.connect(pair.edge, cloud=there, mode="cloud", deadline=PATIENT) as model:
        with ThreadPoolExecutor(THREADS) as pool:
            assert {answer.source for answer in pool.map(model.predict, pair.hard[:40])} == {"cloud"}
        assert model.counters["waves"] == {"sent": 0, "inputs": 0}


def divides_by_the_brightest() -> bytes:
    """Return an ONNX model whose answer to a black picture is not a number."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(SIDE * SIDE * 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"], axis=1),
            helper.make_node("MatMul", ["flat", "weights"], ["sums"]),
            helper.make_node("ReduceMax", ["flat"], ["brightest"], axes=[1], keepdims=1),
            helper.make_node("Div", ["sums", "brightest"], ["logits"]),
        ],
        "divides",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_an_answer_that_is_no_number_is_of_no_use_to_one_and_no_harm_to_others(service, tmp_path: Path) -> None:
    path = tmp_path / "divides.edge"
    spec = ProcessingSpec.image(SIDE, SIDE, 3)
    pack(
        divides_by_the_brightest(), runtime="onnx", path=path, name="divides", version="1.0.0", labels=CLASSES,
        processing=spec, output="logits",
    )  # fmt: skip
    address = service("serve", path, "--grpc-port", "0").ready["grpc"]
    frames = [np.zeros_like(frame) if n % 8 == 0 else frame for n, frame in enumerate(tiny_images(48, seed=5)[0])]
    with edge_sdk.connect(path, cloud=address, mode="cloud", deadline=PATIENT) as model:

        def ask(frame: np.ndarray) -> str:
            try:
                return model.predict(frame).source
            except EscalationError as error:
                return "no number" if "NaN" in str(error) else str(error)

        answers = in_a_crowd(model, frames, ask)
    assert answers == ["cloud" if frame.any() else "no number" for frame in frames]


def test_a_crowd_at_a_dead_link_is_answered_by_the_edge(pair) -> None:
    with (
        edge_sdk.connect(pair.edge, cloud=f"127.0.0.1:{free_port()}", deadline=1.0) as model,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        answers = list(pool.map(model.predict, pair.hard[:20] * 10))
    assert {(answer.source, answer.certified) for answer in answers} == {("edge", False)}
