"""Random rules and frames in every mode and encoding: no byte that may not leave is in a request, or on the wire."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

import edge_sdk
from edge_sdk.client import Cloud, Question
from edge_sdk.client.payload import Capture, Contract
from edge_sdk.client.privacy import check_rules, judge, needs_answer
from edge_sdk.client.rungs import prepare
from edge_sdk.errors import EscalationError
from edge_sdk.processing import ProcessingSpec
from outside.forbidden import LABELS, TENANTS, allowed, as_file, check, frame_of, random_rule
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
        request, _ = prepare(CONTRACT, encoding, capture.reduced(reduction), SPEC)
        check(request, encoding.partition(",")[0], may, capture.pixels)
    return kept, reduced


def test_no_forbidden_byte_is_in_thousands_of_random_requests() -> None:
    kept, reduced = fuzz(0, 4_000)
    assert kept > 500
    assert reduced > 1_000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_forbidden_byte_is_in_a_hundred_thousand_random_requests() -> None:
    kept, reduced = fuzz(1, 100_000)
    assert kept > 12_500
    assert reduced > 25_000


@pytest.fixture
def proxy(cloud: str) -> Iterator[MisbehavingNetwork]:
    with MisbehavingNetwork(int(cloud.rpartition(":")[2])) as made:
        yield made


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
@pytest.mark.timeout(300)
def test_no_forbidden_byte_is_on_the_wire_of_three_thousand_requests(pair, proxy) -> None:
    kept, arrived = over_the_wire(pair, proxy, 3_000)
    assert kept > 200
    assert arrived > 500


@pytest.mark.parametrize("seed", [0, 1])
def test_no_forbidden_byte_is_among_all_that_a_server_gets(pair, cloud, seed: int) -> None:
    counts, leaks = fuzz_wire(pair, metadata_of(cloud, "teacher"), 500, seed)
    assert leaks == []
    assert counts["inputs"] >= 500
    assert counts["kept"] > 20
    assert counts["reduced"] > 100


def test_that_server_finds_what_leaves_where_the_rules_are_not_in_force(pair, cloud) -> None:
    _, leaks = fuzz_wire(pair, metadata_of(cloud, "teacher"), 500, 0, enforce=False)
    assert leaks
