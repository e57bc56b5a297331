"""Random rules and frames in every mode and encoding: no byte that may not leave is in a request, or on the wire."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

import edge_sdk
from edge_sdk.client import Cloud, Question, escalation
from edge_sdk.client.drafts import Message
from edge_sdk.client.payload import Capture, Contract
from edge_sdk.client.privacy import check_rules, judge, needs_answer
from edge_sdk.client.rungs import MOST_BYTES, prepare
from edge_sdk.client.sending import Sending
from edge_sdk.encodings import Reduction
from edge_sdk.errors import EscalationError
from edge_sdk.processing import ProcessingSpec
from outside.forbidden import (
    FORBIDDEN,
    LABELS,
    TENANTS,
    allowed,
    as_file,
    check,
    coded_frame,
    find_leak,
    frame_of,
    random_rule,
)
from outside.network import MisbehavingNetwork
from outside.wire import requests_in
from outside.wirefuzz import fuzz_wire, metadata_of

SPEC = ProcessingSpec.image(8, 8, 3)
CONTRACT = Contract(
    model="m",
    input="image",
    datatype="FP32",
    shape=(-1, 8, 8, 3),
    encodings=("captured", "jpeg", "resized", "tensor"),
    labels=LABELS,
    outputs="logits",
    quantization=None,
    processing=SPEC,
    digest="d",
)


def fuzz(seed: int, n: int) -> tuple[int, int]:
    """Build ``n`` requests as the client does, and return how many were kept and how many reduced."""
    rng = np.random.default_rng(seed)
    kept = reduced = 0
    for i in range(n):
        if i % 8 == 0:
            rules = [random_rule(rng) for _ in range(rng.integers(1, 4))]
            checked = check_rules(rules, LABELS, "image")
        answer = LABELS[rng.integers(3)]
        context = {"tenant": TENANTS[rng.integers(3)]} if rng.random() < 0.8 else {}
        # prefer_cloud and cloud ask before the edge has answered where no rule needs to know
        label = None if rng.random() < 0.5 and not needs_answer(checked) else answer
        may = allowed(rules, label, context, 16)
        frame = frame_of(rng, np.ones((16, 16), bool) if may is None else may[0])
        encoding = ("auto", "captured", "captured,jpeg:60", "resized", "tensor", "captured", "auto", "jpeg")[i % 8]
        reduction = judge(checked, Question(frame, label, context))
        assert (reduction is None) == (may is None)
        if reduction is None or may is None:
            kept += 1
            continue
        reduced += reduction.takes
        came_as_file = i % 16 == 0 or (encoding == "jpeg" and may[0].all())
        capture = Capture.of(as_file(frame) if came_as_file else frame, SPEC)
        if came_as_file and not may[0].all():  # compression has mixed what is apart
            capture = replace(capture, pixels=frame)
        request = prepare(CONTRACT, encoding, capture.reduced(reduction), SPEC).request
        check(request, encoding.partition(",")[0], may, capture.pixels)
    return kept, reduced


def test_no_forbidden_byte_is_in_thousands_of_random_requests() -> None:
    kept, reduced = fuzz(0, 4_000)
    assert kept > 500
    assert reduced > 1_000


@pytest.mark.slow
def test_no_forbidden_byte_is_in_a_hundred_thousand_random_requests() -> None:
    kept, reduced = fuzz(1, 100_000)
    assert kept > 12_500
    assert reduced > 25_000


@pytest.fixture
def proxy(cloud: str) -> Iterator[MisbehavingNetwork]:
    with MisbehavingNetwork(int(cloud.rpartition(":")[2])) as made:
        yield made


@pytest.mark.parametrize("encoding", ["captured", "jpeg", "resized", "tensor"])
def test_a_picture_of_more_detail_than_may_leave_is_told_from_one_that_was_reduced(encoding: str) -> None:
    rng = np.random.default_rng(3)
    for most in range(1, 5):
        frame = coded_frame(rng, (np.ones((16, 16), bool), most), 16)
        reduction = Reduction(max_side=most)
        for capture, leaks in ((Capture(frame, None), True), (Capture(frame, None).reduced(reduction), False)):
            request = prepare(CONTRACT, encoding, capture, SPEC).request
            assert (find_leak(request) is not None) == leaks, (most, leaks)


def over_the_wire(pair, proxy: MisbehavingNetwork, n: int) -> tuple[int, int]:
    """Ask ``n`` times over a network that breaks, and return how many were kept, and how many arrived there."""
    rng = np.random.default_rng(2)
    kept = arrived = 0
    modes = ("hybrid", "prefer_cloud", "cloud")
    with edge_sdk.load(pair.edge) as edge:
        for i in range(n // 50):
            rules, encoding = (
                [random_rule(rng) for _ in range(rng.integers(1, 3))],
                ("auto", "captured", "jpeg", "tensor")[i % 4],
            )
            options = {"deadline": 20.0, "mode": modes[i % 3], "privacy": rules, "cache": 8}
            proxy.recorded.clear()
            expected: list[np.ndarray] = []
            with edge_sdk.connect(pair.edge, cloud=Cloud(proxy.address, encoding=encoding), **options) as model:
                for j in range(50):
                    if j % 25 == 17:
                        proxy.set("drop", limit=300)  # the answer is cut off: whoever asks again sends it again
                    elif j % 25 == 20:
                        proxy.set("pass")
                        time.sleep(0.25)  # a connection that was lost is left alone for a moment
                    frame = pair.hard[rng.integers(len(pair.hard))].copy()
                    frame[:, :, rng.integers(3)] ^= rng.integers(0, 8, frame.shape[:2], dtype=np.uint8)  # each its own
                    context = {"tenant": TENANTS[rng.integers(3)]} if rng.random() < 0.8 else {}
                    before = len(requests_in(proxy.recorded))
                    asked = edge.predict(frame).label if needs_answer(rules) or modes[i % 3] == "hybrid" else None
                    may = allowed(rules, asked, context, 24)
                    try:
                        answer = model.predict(frame, context)
                        assert answer.source == "edge" or may is not None
                    except EscalationError:
                        pass
                    if may is not None and may[0].all() and may[1] == 24:
                        expected.append(frame)
                    elif may is not None:
                        expected.append(frame[np.ix_(may[0].any(1), may[0].any(0))])
                    else:
                        kept += 1
                        assert len(requests_in(proxy.recorded)) == before
                        # no row of it is anywhere, whole or in part
                        assert not any(frame[row].tobytes()[:24] in proxy.recorded_bytes for row in range(0, 24, 6))
            sizes = {picture.tobytes() for picture in expected}
            for request in requests_in(proxy.recorded):
                arrived += 1
                if encoding in ("jpeg", "tensor"):
                    continue
                seen = request.raw_input_contents[0]
                shape = tuple(request.inputs[0].shape)
                # every picture on the wire is one that might leave, or fewer pixels than any that might
                assert seen in sizes or any(r.max_side is not None and max(shape[:2]) <= r.max_side for r in rules)
    return kept, arrived


def test_no_forbidden_byte_is_on_the_wire_retries_included(pair, proxy) -> None:
    kept, arrived = over_the_wire(pair, proxy, 300)
    assert kept > 20
    assert arrived > 50


@pytest.mark.slow
def test_no_forbidden_byte_is_on_the_wire_of_three_thousand_requests(pair, proxy) -> None:
    kept, arrived = over_the_wire(pair, proxy, 3_000)
    assert kept > 200
    assert arrived > 500


@pytest.mark.parametrize("seed", [0, 1])
def test_no_forbidden_byte_is_among_all_that_a_server_gets(pair, cloud, seed: int) -> None:
    enough = {"kept": 20, "reduced": 100}
    counts, leaks = fuzz_wire(pair, metadata_of(cloud, "teacher"), 500, seed, until=enough)
    assert leaks == []
    assert counts["inputs"] >= 500
    assert counts["kept"] > 20
    assert counts["reduced"] > 100


def test_that_server_finds_what_leaves_where_the_rules_are_not_in_force(pair, cloud) -> None:
    _, leaks = fuzz_wire(pair, metadata_of(cloud, "teacher"), 500, 0, enforce=False)
    assert leaks


@pytest.mark.parametrize(
    ("path", "proof"), [("failing", "again elsewhere"), ("other", "at other"), ("large", "again smaller")]
)
def test_no_forbidden_byte_is_among_what_is_sent_again(pair, cloud, path: str, proof: str) -> None:
    counts, leaks = fuzz_wire(
        pair, metadata_of(cloud, "teacher"), 250, 5, paths=(path,), until={proof: 0, "reduced": 20}
    )
    assert leaks == []
    assert counts[proof] > 0
    assert counts["reduced"] > 20


def brightened(message: Message) -> Message:
    """Return a message of the same size, all of it forbidden."""
    request = type(message.request)()
    request.CopyFrom(message.request)
    request.raw_input_contents[0] = bytes([FORBIDDEN]) * len(request.raw_input_contents[0])
    return Message(request, message.seen)


def test_that_server_finds_what_only_a_second_endpoint_is_sent(pair, cloud, monkeypatch) -> None:
    send = Sending._send

    def leak(self: Sending, endpoint, contract, *, apart: bool = False) -> None:
        if self._tried and endpoint not in self._tried:
            self._message = brightened(self._message)
        send(self, endpoint, contract, apart=apart)

    monkeypatch.setattr(Sending, "_send", leak)
    _, leaks = fuzz_wire(pair, metadata_of(cloud, "teacher"), 3_000, 0, paths=("failing",))
    assert leaks


def test_that_server_finds_what_leaks_where_a_message_is_made_anew_for_another_model(pair, cloud, monkeypatch) -> None:
    fitting = Sending._fitting

    def leak(self: Sending, contract: Contract) -> Message:
        message = fitting(self, contract)
        return message if message is self._message else brightened(message)

    monkeypatch.setattr(Sending, "_fitting", leak)
    _, leaks = fuzz_wire(pair, metadata_of(cloud, "teacher"), 3_000, 0, paths=("other",))
    assert leaks


def test_that_server_finds_what_a_smaller_message_shows_of_the_whole_picture(pair, cloud, monkeypatch) -> None:
    reduced, wholes = Capture.reduced, {}

    def remember(self: Capture, reduction) -> Capture:
        less = reduced(self, reduction)
        wholes[id(less)] = wholes.get(id(self), (self, self))[0], less
        return less

    def leak(contract, wanted, capture, spec, **options):
        if options["most_bytes"] < MOST_BYTES and id(capture) in wholes:
            capture = replace(capture, pixels=wholes[id(capture)][0].pixels)
        return prepare(contract, wanted, capture, spec, **options)

    monkeypatch.setattr(Capture, "reduced", remember)
    monkeypatch.setattr(escalation, "prepare", leak)
    _, leaks = fuzz_wire(pair, metadata_of(cloud, "teacher"), 3_000, 0, paths=("large",))
    assert leaks
