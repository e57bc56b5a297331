"""Every fault there is: each call is answered, says why, leaves nothing behind, and the cloud is found again.

``benchmarks/faults.py`` does the same with 10,000 calls a fault, and takes the time.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import edge_sdk
from edge_sdk.client import Cloud
from harness.attack import attack, seconds_until
from outside.faults import FAULTS, FaultyCloud, faulty_cloud

CALLS = 300
DEADLINE = 0.1
PATIENT = 5.0  # seconds: a deadline that a busy machine meets, where an answer comes at once
SOON = 1.0  # likewise, where the first connections may be dead
HANG = 30.0  # seconds: far beyond each deadline
RETURN = 60.0  # seconds within which a busy machine sees the cloud again

MOST_LINES = 8  # of the log: one a minute of each kind of trouble
LEFT = CALLS // 10  # threads, descriptors: where each call left one there were ten times as many

BROKEN = {"offline", "deadline", "breaker"}
SOME_GET_THROUGH = {"loss", "switching"}
UNUSABLE = {"exhausted", "denied", "crash", "nan", "shape", "empty", "noise", "labels"}


@pytest.fixture(scope="module")
def plain(pair) -> Iterator[FaultyCloud]:
    with faulty_cloud(pair.cloud) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def encrypted(pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultyCloud, Path]]:
    folder = tmp_path_factory.mktemp("tls")
    with faulty_cloud(pair.cloud, folder) as cloud:
        yield cloud, folder / "cert.pem"


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_breaks_each_call_is_answered_and_escalation_resumes(pair, request, caplog, fault: str) -> None:
    if fault == "certificate":
        faulty, ca = request.getfixturevalue("encrypted")
        cloud = Cloud(faulty.address(), tls_ca=ca)
    else:
        faulty = request.getfixturevalue("plain")
        cloud = Cloud(faulty.address())
    began = time.monotonic()
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=SOON) as model:

        def cloud_answers() -> bool:
            answer = model.predict(pair.hard[0])
            assert answer.certified == (answer.source == "cloud")
            return answer.certified

        def ask(frame) -> str:
            answer = model.predict(frame)
            assert answer.source == "cloud" or not answer.certified
            return answer.reason

        assert seconds_until(cloud_answers, RETURN) is not None, "the cloud was never there"
        model.deadline = PATIENT if fault in UNUSABLE else DEADLINE
        attack(ask, pair.hard, CALLS)
        counted = model.counters["requests"]
        faulty.begin(fault)
        try:
            seen = attack(ask, pair.hard, CALLS)
        finally:
            faulty.end()
        assert seen.answered == CALLS
        assert seen.latencies.max() < HANG
        assert model.counters["requests"] - counted == CALLS
        assert sum(model.counters["reasons"].values()) == model.counters["requests"]
        if fault in UNUSABLE:
            assert seen.outcomes["rejected"] > CALLS / 2
            assert set(seen.outcomes) <= {"rejected", *BROKEN}
        elif fault not in SOME_GET_THROUGH:
            assert sum(seen.outcomes.get(reason, 0) for reason in BROKEN) >= CALLS - 5
        assert seen.late.threads - seen.early.threads <= LEFT
        assert seen.late.descriptors - seen.early.descriptors <= LEFT
        model.deadline = SOON
        assert seconds_until(cloud_answers, RETURN) is not None, "escalation did not resume"
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    minutes = 1 + (time.monotonic() - began) // 60
    assert len(said) <= MOST_LINES * minutes, [record.getMessage() for record in said]


ASK_A_STRANGER = """
import sys, time
import edge_sdk
from edge_sdk.client import Cloud

bundle, address, ca = sys.argv[1:]
import numpy as np
frame = np.full((24, 24, 3), 90, np.uint8)
with edge_sdk.connect(bundle, cloud=Cloud(address, tls_ca=ca), mode="prefer_cloud", deadline=2.0) as model:
    end = time.monotonic() + 4
    while time.monotonic() < end:
        assert model.predict(frame).source == "edge"
        time.sleep(0.02)
"""


def test_a_wrong_certificate_fills_no_log_not_even_by_the_hand_of_grpc(pair, encrypted) -> None:
    cloud, ca = encrypted
    cloud.begin("certificate")
    try:
        done = subprocess.run(
            [sys.executable, "-c", ASK_A_STRANGER, pair.edge, cloud.address(), ca],
            check=True, capture_output=True, text=True, timeout=500,
        )  # fmt: skip
    finally:
        cloud.end()
    lines = done.stderr.splitlines()
    assert len(lines) == 1, lines
    assert "certificate" in lines[0]
