"""How long before its deadline an answer has to be ready."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from edge_sdk.cloud.server.margin import Margin
from edge_sdk.protocol import add_input, messages
from edge_sdk.protocol.names import SERVICE

OFFERING = Path(__file__).parents[2] / "benchmarks" / "offering.py"
WIDE = 1024


def test_the_margin_stays_near_the_longest_way_and_shrinks_slowly() -> None:
    margin = Margin()
    assert margin.seconds(0.0) == 0.0, "nothing is known"
    for at in range(100):
        margin.learn(0.0, 0.020)
        assert margin.seconds(0.020) <= 0.020, at
    assert margin.seconds(0.020) > 0.019
    margin.learn(0.020, 0.021)
    assert margin.seconds(0.021) > 0.018, "one short way changes little"
    for _ in range(2000):
        margin.learn(0.020, 0.021)
    assert margin.seconds(0.021) < 0.0011


def test_what_was_learned_is_forgotten_when_nothing_is_answered_any_more() -> None:
    margin = Margin()
    margin.learn(0.0, 0.1)
    assert margin.seconds(0.2) > 0
    assert margin.seconds(1.0) == 0.0
    margin.learn(1.0, 1.0)
    assert margin.seconds(1.0) == 0.0, "and does not come back"


def perceptron() -> bytes:
    """Return a model of which batches cost little more than one item: float32 [N, 8] → [N, 8]."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    sizes = ((8, WIDE), (WIDE, WIDE), (WIDE, 8))
    weights = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), f"w{i}") for i, s in enumerate(sizes)]
    nodes = [helper.make_node("MatMul", [("x", "h0", "h1")[i], f"w{i}"], [("h0", "h1", "y")[i]]) for i in range(3)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 8]) for name in "xy")
    graph = helper.make_graph(nodes, "perceptron", [x], [y], weights)
    model: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    return model


def test_a_server_that_is_asked_for_twice_what_it_can_do_goes_on_answering_in_time(
    service, tmp_path: Path, grpc_front: str
) -> None:
    model, message = tmp_path / "perceptron.onnx", tmp_path / "message"
    model.write_bytes(perceptron())
    request = messages.ModelInferRequest(model_name="perceptron")
    add_input(request, "x", np.ones((1, 8), np.float32))
    message.write_bytes(request.SerializeToString())
    server = service("serve", model, "--front", grpc_front, "--grpc-port", "0")
    command = [sys.executable, "-P", OFFERING, server.ready["grpc"], f"/{SERVICE}/ModelInfer", message]

    def offer(*options: str) -> tuple[list[float], dict[str, int]]:
        said = subprocess.run([*map(str, command), *options], check=True, capture_output=True, text=True).stdout
        return json.loads(said)["answers"], json.loads(said)["ends"]

    for _ in range(8):  # the machine may be busy with other work, and busier with it than a moment before
        calm, failed = offer("--seconds", "0.5")
        assert failed == {}
        deadline = 20 + 600 / (2e-3 * len(calm))  # ms in which it answers 600, beside what the way takes
        answers, _ = offer("--seconds", "1", "--rate", str(4 * len(calm)), "--timeout", f"{1000 * deadline:.0f}u")
        in_time = sum(took < deadline for took in answers)
        if in_time > len(calm):
            break
    else:
        raise AssertionError(f"{in_time} answers in a second were in time, of a server that gives {2 * len(calm)}")
    assert offer("--seconds", "0.5")[1] == {}, "and it is well again"
    assert server.stop() == 0
