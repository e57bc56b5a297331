"""A server that speaks the protocol and says nonsense: the edge answers, at once, and nothing is raised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import edge_sdk
from edge_sdk.errors import EscalationError
from edge_sdk.protocol.names import ENCODINGS_PROPERTY, LABELS_PROPERTY, PROCESSING_PROPERTY, QUANTIZATION_PROPERTY
from outside.odd import OddCloud

PATIENT = 20.0  # seconds: an answer that is waited for would take as long


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


def test_what_a_server_says_is_one_line_of_bounded_length_in_the_log(pair, odd_cloud: OddCloud, caplog) -> None:
    odd_cloud.properties = {ENCODINGS_PROPERTY: "\nERROR all is lost," * 100_000}
    options = {"cloud": odd_cloud.address, "mode": "cloud", "deadline": PATIENT}
    with edge_sdk.connect(pair.edge, **options) as model, pytest.raises(EscalationError) as caught:
        model.predict(pair.hard[0])
    for text in (str(caught.value), *caplog.messages):
        assert "\n" not in text
        assert len(text) < 1_200
    assert caplog.messages


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


class Shrinking(OddCloud):
    """Finds every message too large, and names a smaller limit each time."""

    def _infer(self, request: Any, context: Any) -> Any:
        self.calls += 1
        limit = 2**22 - 5000 * self.calls
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"Received message larger than max (99999999 vs. {limit})")


def test_a_server_whose_limit_shrinks_with_every_message_is_not_asked_for_ever(pair) -> None:
    with Shrinking() as cloud, edge_sdk.connect(pair.edge, cloud=cloud.address, deadline=None) as model:
        answer = model.predict(pair.hard[0])
        assert (answer.source, answer.reason) == ("edge", "rejected")
        assert cloud.calls < 20
