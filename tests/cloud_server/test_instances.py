"""How many threads run a model where nothing is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_sdk.cloud.server.core import Core
from edge_sdk.cloud.server.settings import Serving
from edge_sdk.cloud.server.shares import available_cores
from outside.models import identity_onnx


def chain(products: int, wide: int) -> bytes:
    """Return a model that multiplies a vector by a square matrix so many times."""
    weight = numpy_helper.from_array(np.eye(wide, dtype=np.float32), "w")
    nodes = [helper.make_node("MatMul", [f"t{n}", "w"], [f"t{n + 1}"]) for n in range(products)]
    ends = [helper.make_tensor_value_info(f"t{n}", TensorProto.FLOAT, ["n", wide]) for n in (0, products)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


@pytest.mark.parametrize(
    ("wide", "settings", "many"),
    [
        (1024, {"max_batch": 1}, True),
        (1024, {"max_batch": 1, "threads": 1000}, False),
        (1024, {"max_batch": 1, "instances": 1}, False),
        (1024, {"max_batch": 16}, True),  # whose batches pay, and take long: all read the weights once
        (16, {"max_batch": 1}, False),  # microseconds, on a busy machine too
    ],
)
def test_a_model_that_takes_long_alone_or_in_full_batches_has_an_instance_a_core(
    tmp_path: Path, wide: int, settings: dict[str, int], many: bool
):
    (tmp_path / "chain.onnx").write_bytes(chain(64, wide))
    core = Core.load([tmp_path / "chain.onnx"], Serving(models={"chain": {"threads": 1, **settings}}))
    try:
        assert core.settings("chain").instances == (available_cores() if many else 1)
    finally:
        core.close()


def test_a_model_that_could_not_be_warmed_up_has_one_instance(tmp_path: Path):
    (tmp_path / "texts.onnx").write_bytes(identity_onnx("STRING", ["n", 2]))
    core = Core.load([tmp_path / "texts.onnx"])
    try:
        assert core.settings("texts").instances == 1
    finally:
        core.close()
