"""A server that speaks the protocol and says nonsense: the edge answers, at once, and nothing is raised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest

import edge_sdk
from edge_sdk.protocol import add_output, messages
from edge_sdk.protocol.names import (
    ENCODINGS_PROPERTY,
    LABELS_PROPERTY,
    PROCESSING_PROPERTY,
    QUANTIZATION_PROPERTY,
    SERVICE,
)

PATIENT = 20.0  # seconds: an answer that is waited for would take as long


class OddCloud:
    """One model, ``m``, of which the server says and answers what a test likes."""

    def __init__(self) -> None:
        self.properties: dict[str, str] = {}
        self.shape = [1, -1, -1, 3]
        self.change: Callable[[Any], None] = lambda response: None
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        methods = {"RepositoryIndex": self._index, "ModelMetadata": self._metadata, "ModelInfer": self._infer}
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                method,
                request_deserializer=messages.METHODS[name][0].FromString,
                response_serializer=messages.METHODS[name][1].SerializeToString,
            )
            for name, method in methods.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _index(self, request: Any, context: Any) -> Any:
        response = messages.RepositoryIndexResponse()
        response.models.add(name="m", version="1", state="READY")
        return response

    def _metadata(self, request: Any, context: Any) -> Any:
        response = messages.ModelMetadataResponse(name="m", versions=["1"], properties=self.properties)
        response.inputs.add(name="x", datatype="FP32", shape=self.shape)
        return response

    def _infer(self, request: Any, context: Any) -> Any:
        response = messages.ModelInferResponse(model_name="m")
        add_output(response, "y", np.full((1, 3), 1 / 3, np.float32))
        self.change(response)
        return response

    def close(self) -> None:
        self._server.stop(0).wait()


@pytest.fixture
def odd_cloud() -> Iterator[OddCloud]:
    made = OddCloud()
    yield made
    made.close()


HUGE = (
    '{"steps":[{"op":"color","mode":"rgb"},'
    '{"op":"resize","height":8192,"width":8192,"method":"bilinear","antialias":false}]}'
)


@pytest.mark.parametrize(
    "properties",
    [
        {LABELS_PROPERTY: "[" * 100_000},
        {LABELS_PROPERTY: "[1]"},
        {QUANTIZATION_PROPERTY: '{"scale":1,"zero_point":1e999}'},
        {QUANTIZATION_PROPERTY: '{"scale":1,"zero_point":1e300}'},
        {QUANTIZATION_PROPERTY: "[]"},
        {PROCESSING_PROPERTY: "{"},
        {PROCESSING_PROPERTY: HUGE},
        {ENCODINGS_PROPERTY: "smoke"},
    ],
)
def test_nonsense_about_a_model_is_rejected_and_nobody_waits(pair, odd_cloud: OddCloud, properties: dict) -> None:
    odd_cloud.properties = properties
    with edge_sdk.connect(pair.edge, cloud=odd_cloud.address, deadline=PATIENT) as model:
        assert {model.predict(frame).reason for frame in pair.hard[:2]} == {"rejected"}


def test_an_answer_whose_shape_no_array_can_have_is_rejected(pair, odd_cloud: OddCloud) -> None:
    def change(response: Any) -> None:
        response.outputs[0].shape[:] = [0, 2**62, 2**62]
        response.raw_output_contents[0] = b""

    odd_cloud.change = change
    with edge_sdk.connect(pair.edge, cloud=odd_cloud.address, deadline=PATIENT) as model:
        assert model.predict(pair.hard[0]).reason == "rejected"


def test_the_nonsense_here_is_all_that_stands_between_this_cloud_and_an_answer(pair, odd_cloud: OddCloud) -> None:
    with edge_sdk.connect(pair.edge, cloud=odd_cloud.address, deadline=PATIENT) as model:
        assert model.predict(pair.hard[0]).reason == "escalated"
