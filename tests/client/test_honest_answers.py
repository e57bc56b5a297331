"""Whatever becomes of a call, `certified` is true only of what the certificate promises.

Every mode meets every cloud, bundle, deadline and option. What an answer may then be is told here once
more, from the rule, the certificate and what the cloud is, and not from how the client works.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_sdk
from edge_sdk.bundle import Bundle
from edge_sdk.cascade.policy import Policy
from edge_sdk.client import Budget, HybridModel, PrivacyRule
from edge_sdk.errors import EscalationError
from edge_sdk.types import Classification
from outside.bundles import build_tiny_bundle
from outside.network import MisbehavingNetwork, free_port
from outside.odd import OddCloud
from outside.pairs import Pair, with_policy
from outside.services import Service

PATIENT = 20.0
SHORT = 0.25  # seconds: what a black hole costs

MODES = ("edge", "hybrid", "prefer_cloud", "cloud")
CLOUDS = ("right", "foreign", "nowhere", "nonsense", "hole")
BUNDLES = ("certified", "plain", "other")
DEADLINES = (0.0, None, PATIENT)
EXTRAS = ("none", "cache", "audits", "spent", "private")


@dataclass(frozen=True)
class Case:
    mode: str
    cloud: str
    bundle: str
    deadline: float | None
    extra: str

    def __str__(self) -> str:
        return f"{self.mode}-{self.cloud}-{self.bundle}-{self.deadline}-{self.extra}"


CASES = [
    case
    for case in itertools.starmap(Case, itertools.product(MODES, CLOUDS, BUNDLES, DEADLINES, EXTRAS))
    if not (case.cloud == "hole" and case.deadline is None)  # it waits, as it should
    and not (case.extra == "audits" and case.mode != "hybrid")
]


@dataclass(frozen=True)
class World:
    """Where the clouds are, where the bundles are, and which cloud model each certificate names."""

    addresses: dict[str, str]
    bundles: dict[str, Path]
    named: dict[str, str | None]


@pytest.fixture(scope="module")
def world(pair: Pair, cloud: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("honest")
    foreign = build_tiny_bundle(folder, name="foreign", seed=9).path
    digest = Bundle.open(foreign).manifest.model_digest
    Bundle.open(pair.edge).rewrite(folder / "plain.edge", cascade=Policy(threshold=0.9).to_json())
    other = with_policy(pair.edge, folder / "other.edge", cloud_digest=digest)
    with (
        Service("serve", foreign, "--grpc-port", "0") as service,
        OddCloud("nan") as odd,
        MisbehavingNetwork(int(cloud.rpartition(":")[2])) as network,
    ):
        network.set("blackhole")
        yield World(
            {
                "right": cloud,
                "foreign": service.ready["grpc"],
                "nowhere": f"127.0.0.1:{free_port()}",
                "nonsense": odd.address,
                "hole": network.address,
            },
            {"certified": pair.edge, "plain": folder / "plain.edge", "other": other},
            {"certified": pair.cloud_digest, "plain": None, "other": digest},
        )


def connect(world: World, case: Case) -> HybridModel:
    extras: dict[str, dict[str, Any]] = {
        "none": {},
        "cache": {"cache": 8},
        "audits": {"audit_rate": 1.0},
        "spent": {"budget": Budget(bytes=1, period=1e6)},  # no request is as small
        "private": {"privacy": [PrivacyRule()]},
    }
    deadline = SHORT if case.cloud == "hole" and case.deadline else case.deadline
    options = {"audit_rate": 0, **extras[case.extra]} if case.mode == "hybrid" else extras[case.extra]
    return edge_sdk.connect(
        world.bundles[case.bundle], cloud=world.addresses[case.cloud], mode=case.mode, deadline=deadline, **options
    )


def why_there_is_no_cloud(case: Case) -> set[str]:
    """Return the reasons that may be given for an answer that the cloud was to give; empty where it gives one."""
    if case.extra == "private":
        return {"privacy"}
    if case.deadline == 0:
        return {"deadline"}
    if case.cloud == "nowhere":
        return {"offline"}
    if case.cloud == "hole":
        return {"deadline", "breaker", "offline"}
    if case.extra == "spent":
        return {"budget"}
    return {"rejected"} if case.cloud == "nonsense" else set()


def check(world: World, case: Case, bundle: str, answer: Classification, keeps: bool, *, heard: bool) -> None:
    """Hold one answer against what may be said; ``heard`` is whether a cloud model has answered before."""
    failures = why_there_is_no_cloud(case)
    named, asks = world.named[bundle], case.mode in ("prefer_cloud", "cloud")
    digests = {"right": world.named["certified"], "foreign": world.named["other"]}
    right = digests.get(case.cloud) == named is not None
    wanted = asks or (case.mode == "hybrid" and (not keeps or case.extra == "audits"))

    if case.mode == "edge" or not wanted:
        assert (answer.source, answer.reason) == ("edge", "confident" if keeps else "forced")
    elif failures:
        assert answer.source == "edge"
        kept_by_rule = case.mode == "hybrid" and keeps  # a lost audit leaves things as they were
        assert answer.reason in ({"confident"} if kept_by_rule else failures)
    else:
        assert answer.source in ({"cloud", "cache"} if case.extra == "cache" else {"cloud"})
        assert answer.reason == ("forced" if asks else "escalated" if not keeps else "audit")
        assert answer.model_digest == digests[case.cloud]

    if answer.certified:
        assert named is not None, "there is no certificate"
        assert answer.source != "edge" or keeps, "the rule wanted the cloud"
        assert answer.source == "edge" or answer.model_digest == named, "another cloud model answered"
    elif named is not None:
        # and it is not just always false
        assert not (answer.source == "edge" and keeps and not heard)
        assert not (answer.source != "edge" and right)


def go_through(world: World, case: Case, pair: Pair) -> None:
    with connect(world, case) as model:
        heard, certified = False, 0
        for bundle in (case.bundle, "certified"):
            if bundle != case.bundle:
                model.swap(world.bundles[bundle])
                heard = False
            for frame, keeps in (
                (pair.easy[0], True),
                (pair.hard[0], False),
                (pair.hard[0], False),
                (pair.easy[1], True),
            ):
                if case.mode == "cloud" and (failures := why_there_is_no_cloud(case)):
                    with pytest.raises(EscalationError, match=rf"\(({'|'.join(failures)})\)"):
                        model.predict(frame)
                    continue
                answer = model.predict(frame)
                check(world, case, bundle, answer, keeps, heard=heard)
                heard |= answer.source != "edge"
                certified += answer.certified
        counters = model.counters
    assert sum(counters["reasons"].values()) == counters["requests"]
    assert counters["certified"] == certified


@pytest.mark.parametrize("case", random.Random(0).sample(CASES, 120), ids=str)
def test_no_answer_claims_more_than_the_certificate_promises(world: World, pair: Pair, case: Case) -> None:
    go_through(world, case, pair)


@pytest.mark.slow
def test_nor_does_any_other(world: World, pair: Pair) -> None:
    for case in CASES:
        go_through(world, case, pair)


def test_a_deadline_of_zero_waits_for_nothing_and_takes_what_is_known(pair: Pair, cloud: str) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT, cache=8) as model:
        known = model.predict(pair.hard[0])
        model.deadline = 0
        again, other = model.predict(pair.hard[0]), model.predict(pair.hard[1])
        assert model.counters["escalated"] + model.counters["failed_uploads"] == 1
    assert (known.source, again.source, again.certified) == ("cloud", "cache", True)
    assert (other.source, other.reason, other.certified) == ("edge", "deadline", False)


def test_no_deadline_waits_as_long_as_the_cloud_takes(pair: Pair) -> None:
    answers: list[Classification] = []
    with OddCloud("busy") as odd, edge_sdk.connect(pair.edge, cloud=odd.address, deadline=None) as model:
        waiting = threading.Thread(target=lambda: answers.append(model.predict(pair.hard[0])))
        waiting.start()
        waiting.join(1.0)
        assert waiting.is_alive()
        assert not answers
        odd.close()
        waiting.join(PATIENT)
        assert len(answers) == 1


def test_the_edge_itself_is_not_cut_short(pair: Pair, cloud: str) -> None:
    frame = np.zeros((3000, 3000, 3), np.uint8)
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=1e-9) as model:
        assert model.predict(frame).source == "edge"
