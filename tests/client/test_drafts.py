"""Requests that share what is the same of them are on the wire what they would be if each were made by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.client.drafts import Draft, Head, Message, merge
from edge_sdk.client.payload import Contract
from edge_sdk.protocol import Encoding, add_input, messages, set_parameter
from edge_sdk.protocol.names import DECISION_PARAMETER, ENCODING_PARAMETER, PRIORITY_PARAMETER

CONTRACT = Contract("m", "x", "UINT8", (-1, 4), ("captured", "jpeg", "tensor"), None, None, None, None, None)
SIZES = st.sampled_from([1, 5, 126, 127, 128, 16_383, 16_384, 70_000])


@st.composite
def inputs(draw: st.DrawFn) -> tuple[Encoding, list[np.ndarray[Any, Any]]]:
    """Return inputs that are alike, and how they travel."""
    encoding: Encoding = draw(st.sampled_from(["captured", "jpeg", "tensor"]))
    n, size = draw(st.integers(1, 5)), draw(SIZES)
    if encoding == "jpeg":
        return encoding, [np.array([bytes([k]) * draw(SIZES)], object) for k in range(n)]
    shape = (1, size) if encoding == "tensor" else (size, 1)
    return encoding, [np.full(shape, k, np.uint8) for k in range(n)]


PARAMETERS = st.fixed_dictionaries(
    {}, optional={PRIORITY_PARAMETER: st.integers(1, 300), DECISION_PARAMETER: st.sampled_from(["d", "d" * 200])}
)


def plain(tensor: np.ndarray[Any, Any], encoding: Encoding, parameters: dict[str, int | str]) -> Message:
    request = messages.ModelInferRequest(model_name="m")
    add_input(request, "x", tensor)
    if encoding != "tensor":
        set_parameter(request.parameters, ENCODING_PARAMETER, encoding)
    for name, value in parameters.items():
        set_parameter(request.parameters, name, value)
    return Message(request)


@given(inputs(), PARAMETERS)
def test_a_draft_is_the_message_that_it_stands_for_alone_and_among_others(
    made: tuple[Encoding, list[np.ndarray[Any, Any]]], parameters: dict[str, int | str]
) -> None:
    encoding, tensors = made
    head = Head(CONTRACT, tensors[0], encoding)
    drafts, others = [], []
    for n, tensor in enumerate(tensors):
        own = {name: f"{value}{n}" if isinstance(value, str) else value for name, value in parameters.items()}
        draft, other = Draft(head, tensor, "seen"), plain(tensor, encoding, own)
        for name, value in own.items():
            draft.set(name, value)
        assert draft.size == other.size == draft.request.ByteSize()
        assert draft.request == other.request
        assert (draft.raw, draft.decision) == (other.raw, other.decision)
        assert draft.stacks(CONTRACT) == other.stacks(CONTRACT) == (encoding != "tensor" or tensor.ndim == 2)
        drafts.append(draft)
        others.append(other)
    assert len({draft.kind for draft in drafts}) == len({other.kind for other in others}) == 1
    assert merge(drafts) == merge(others)
    assert [draft.request for draft in drafts] == [other.request for other in others], "and none has changed"


def test_what_differs_in_more_than_its_input_and_name_is_of_another_kind() -> None:
    row = np.zeros(4, np.uint8)
    heads = [Head(CONTRACT, row, "captured"), Head(CONTRACT, row[None], "tensor")]
    drafts = [Draft(head, row, "") for head in heads for _ in range(3)]
    drafts[1].set(PRIORITY_PARAMETER, 2)
    drafts[2].set(DECISION_PARAMETER, "d")
    drafts[4].set(PRIORITY_PARAMETER, 3)
    drafts[5].set(PRIORITY_PARAMETER, 2)
    assert len({draft.kind for draft in drafts}) == 6


def test_a_parameter_that_is_set_later_is_in_the_message_as_well() -> None:
    draft = Draft(Head(CONTRACT, np.zeros(4, np.uint8), "captured"), np.ones(4, np.uint8), "")
    before = draft.request, draft.size
    draft.set(PRIORITY_PARAMETER, 7)
    assert PRIORITY_PARAMETER not in before[0].parameters
    assert draft.request.parameters[PRIORITY_PARAMETER].int64_param == 7
    assert draft.size == draft.request.ByteSize() > before[1]
