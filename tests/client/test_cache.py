"""Answers of the cloud that are given again: only for the same input, of the same models, and never to audits."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import edge_sdk
from edge_sdk.client import Cache, PrivacyRule
from edge_sdk.client.journal import Reader
from edge_sdk.client.outcomes import Outcome
from edge_sdk.errors import InputError
from outside.bundles import build_tiny_bundle
from outside.network import MisbehavingNetwork, free_port

PATIENT = 20.0


def said(number: int) -> Outcome:
    return Outcome(np.array([number], np.float32), "escalated", digest="x")


def test_the_same_input_is_answered_again_without_the_network(pair, cloud, tmp_path: Path) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT, cache=16, journal=tmp_path) as model:
        first, sent = model.predict(pair.hard[0]), model.counters["bytes_sent"]
        again, other = model.predict(pair.hard[0].copy()), model.predict(pair.hard[1])
        counters = model.counters
    assert (first.source, other.source) == ("cloud", "cloud")
    assert (again.source, again.reason, again.certified) == ("cache", "escalated", True)
    assert (again.scores, again.model_digest) == (first.scores, first.model_digest)
    assert again.decision_id != first.decision_id
    assert counters["bytes_sent"] == 2 * sent
    assert counters["answered"] == {"edge": 0, "cloud": 2, "cache": 1}
    assert (counters["requests"], counters["escalated"]) == (3, 2)
    assert counters["cache"] == {"hits": 1, "misses": 2, "entries": 2}
    record = list(Reader(tmp_path))[1]
    assert (record.outcome.source, record.outcome.cloud.model, record.outcome.bytes_sent) == (
        "cache",
        pair.cloud_digest,
        0,
    )


@pytest.mark.parametrize("mode", ["cloud", "prefer_cloud"])
def test_modes_that_ask_always_are_answered_again_too(pair, cloud, mode: str) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, mode=mode, deadline=PATIENT, cache=16) as model:
        answers = [model.predict(pair.easy[0]) for _ in range(3)]
        assert model.counters["escalated"] == len([answer for answer in answers if answer.source == "cloud"])
    assert [answer.source for answer in answers][1:] == ["cache", "cache"]
    assert {(answer.reason, answer.certified) for answer in answers} == {("forced", True)}


def test_without_a_cache_the_cloud_is_asked_every_time(pair, cloud) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT) as model:
        assert [model.predict(pair.hard[0]).source for _ in range(2)] == ["cloud", "cloud"]
        assert model.counters["cache"] == {"hits": 0, "misses": 0, "entries": 0}


def test_an_audit_always_sees_the_cloud(guarded, pair, cloud) -> None:
    with edge_sdk.connect(guarded, cloud=cloud, deadline=PATIENT, cache=16, audit_rate=1.0) as model:
        answers = [model.predict(pair.easy[0]) for _ in range(3)]
        counters = model.counters
    assert [(answer.source, answer.reason) for answer in answers] == [("cloud", "audit")] * 3
    assert counters["audits"]["answered"] == 3
    assert counters["cache"] == {"hits": 0, "misses": 0, "entries": 0}


def test_an_update_of_the_edge_model_voids_what_is_kept(pair, net, cloud) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT, cache=16) as model:
        assert [model.predict(pair.hard[0]).source for _ in range(3)][1:] == ["cache", "cache"]
        model.swap(net)
        assert model.counters["cache"]["entries"] == 0
        assert model.predict(pair.hard[0]).source == "cloud"


def test_an_update_of_the_clouds_model_voids_what_is_kept(pair, service, tmp_path: Path) -> None:
    port, other = free_port(), build_tiny_bundle(tmp_path, name="teacher", seed=5)
    first = service("serve", pair.cloud, "--grpc-port", port, "--http-port", "off", "--metrics-port", "off")
    with edge_sdk.connect(pair.edge, cloud=f"127.0.0.1:{port}", deadline=PATIENT, cache=16) as model:
        assert [model.predict(pair.hard[0]).source for _ in range(3)][1:] == ["cache", "cache"]
        first.stop()
        service("serve", other.path, "--grpc-port", port, "--http-port", "off", "--metrics-port", "off")
        seen = threading.Event()
        while not seen.wait(0.05):  # until an input that is not kept has met the new model
            if model.predict(pair.hard[1]).source == "cloud":
                seen.set()
        answer = model.predict(pair.hard[0])
    assert (answer.source, answer.certified) == ("cloud", False)
    assert answer.model_digest != pair.cloud_digest


def test_what_the_certified_model_said_is_known_while_the_cloud_is_away(pair, cloud) -> None:
    with (
        MisbehavingNetwork(int(cloud.rpartition(":")[2])) as proxy,
        edge_sdk.connect(pair.edge, cloud=proxy.address, deadline=PATIENT, cache=16) as model,
    ):
        assert model.predict(pair.hard[0]).source == "cloud"
        proxy.set("refuse")
        assert model.predict(pair.hard[1]).source == "edge"
        answer = model.predict(pair.hard[0])
    assert (answer.source, answer.certified) == ("cache", True)


def test_what_another_model_said_is_not_given_on_while_it_is_away(pair, service, tmp_path: Path) -> None:
    other = build_tiny_bundle(tmp_path, name="teacher", seed=5)
    foreign = service("serve", other.path, "--grpc-port", "0").ready["grpc"]
    with (
        MisbehavingNetwork(int(foreign.rpartition(":")[2])) as proxy,
        edge_sdk.connect(pair.edge, cloud=proxy.address, deadline=PATIENT, cache=16) as model,
    ):
        sources = [model.predict(pair.hard[0]).source for _ in range(3)]
        proxy.set("refuse")
        model.predict(pair.hard[1])
        answer = model.predict(pair.hard[0])
    assert sources == ["cloud", "cache", "cache"]
    assert (answer.source, answer.certified) == ("edge", False)


def test_what_rules_keep_is_not_answered_from_the_cache(pair, cloud) -> None:
    rules = [PrivacyRule(where={"tenant": {"ours"}})]
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT, cache=16, privacy=rules) as model:
        theirs = [model.predict(pair.hard[0], {"tenant": "theirs"}).source for _ in range(3)]
        ours = model.predict(pair.hard[0], {"tenant": "ours"})
    assert theirs[1:] == ["cache", "cache"]
    assert (ours.source, ours.reason) == ("edge", "privacy")


def test_reduced_pictures_have_answers_of_their_own(pair, cloud) -> None:
    rules = [PrivacyRule(where={"tenant": {"ours"}}, max_side=6)]
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT, cache=16, privacy=rules) as model:
        answers = [model.predict(pair.hard[0], {"tenant": who}) for who in ("a", "a", "a", "ours", "ours", "a")]
    assert [answer.source for answer in answers][1:] == ["cache", "cache", "cloud", "cache", "cache"]
    assert [answer.certified for answer in answers] == [True, True, True, False, False, True]


def test_the_answer_not_asked_for_the_longest_goes_first() -> None:
    cache = Cache(2)
    cache.put("a", said(1))
    cache.put("b", said(2))
    assert cache.get("a") is not None
    cache.put("c", said(3))
    assert [cache.get(key) is not None for key in "abc"] == [True, False, True]
    assert cache.counters == {"hits": 3, "misses": 1, "entries": 2}


def test_an_old_answer_is_asked_for_anew() -> None:
    cache = Cache(2, max_age=1e-9)
    cache.put("a", said(1))
    threading.Event().wait(0.001)
    assert cache.get("a") is None
    assert cache.counters["entries"] == 0


def test_many_threads_use_one_cache_within_its_bounds() -> None:
    cache = Cache(8)

    def use(seed: int) -> int:
        rng, hits = np.random.default_rng(seed), 0
        for key in rng.integers(0, 16, 2000).tolist():
            found = cache.get(key)
            if found is None:
                cache.put(key, said(key))
            else:
                assert found.probabilities[0] == key
                hits += 1
        return hits

    with ThreadPoolExecutor(4) as pool:
        hits = sum(pool.map(use, range(4)))
    assert cache.counters == {"hits": hits, "misses": 8000 - hits, "entries": 8}


@pytest.mark.parametrize("options", [{"entries": 0}, {"entries": 1.5}, {"entries": True}, {"max_age": 0}])
def test_a_cache_without_room_or_time_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="the cache's"):
        Cache(**options)
