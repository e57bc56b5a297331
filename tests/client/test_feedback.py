"""Feedback that reaches the server that answered, and the key by which it chooses a version."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import edge_sdk
from edge_sdk.client import Cloud
from edge_sdk.errors import InputError
from edge_sdk.protocol.names import KEY_PARAMETER
from outside.network import MisbehavingNetwork
from outside.odd import OddCloud


def wait_for(is_so: Callable[[], bool]) -> None:
    ends = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.01)


def connect(pair, cloud: OddCloud | str, **options):
    address = cloud if isinstance(cloud, str) else cloud.address
    return edge_sdk.connect(
        pair.edge, cloud=Cloud(address, feedback=True), **{"mode": "cloud", "deadline": 20.0, **options}
    )


@pytest.mark.parametrize("mode", ["hybrid", "prefer_cloud", "cloud"])
def test_the_server_hears_whether_its_answer_was_right(pair, mode: str) -> None:
    with OddCloud(hears=True) as cloud, connect(pair, cloud, mode=mode) as model:
        first, second = (model.predict(frame) for frame in pair.hard[:2])
        model.feedback(first.decision_id, first.label)
        model.feedback(second.decision_id, (second.index + 1) % 3)
        wait_for(lambda: model.counters["feedback"]["sent"] == 2)
        assert [(one.model_name, one.model_version, one.decision_id, one.reward) for one in cloud.rewards] == [
            ("m", "3", first.decision_id, 1.0),
            ("m", "3", second.decision_id, 0.0),
        ]


def test_labels_of_answers_that_are_not_the_clouds_are_told_to_nobody(pair, tmp_path: Path) -> None:
    with OddCloud(hears=True) as cloud, connect(pair, cloud, mode="hybrid", journal=tmp_path / "journal") as model:
        easy = model.predict(pair.easy[0])
        assert easy.source == "edge"
        model.feedback(easy.decision_id, easy.label)
        model.feedback("of another process", 0)
        hard = model.predict(pair.hard[0])
        model.feedback(hard.decision_id, hard.label)
        model.feedback(hard.decision_id, hard.label)
        wait_for(lambda: model.counters["feedback"]["sent"] == 1)
        assert model.counters["feedback"]["unknown"] == 3
        assert [one.decision_id for one in cloud.rewards] == [hard.decision_id]
    lines = "".join(path.read_text() for path in (tmp_path / "journal").glob("*.jsonl"))
    assert lines.count('"kind":"feedback"') == 4


def test_a_server_without_an_ear_is_no_trouble(pair, tmp_path: Path) -> None:
    with OddCloud() as cloud, connect(pair, cloud, mode="hybrid", journal=tmp_path / "journal") as model:
        for frame in pair.hard[:3]:
            answer = model.predict(frame)
            model.feedback(answer.decision_id, answer.label)
        wait_for(lambda: model.counters["feedback"]["unsupported"] == 3)
        assert model.predict(pair.hard[0]).source == "cloud"
        assert 'edge_sdk_rewards_total{result="unsupported"} 3' in model.metrics()
    lines = "".join(path.read_text() for path in (tmp_path / "journal").glob("*.jsonl"))
    assert lines.count('"kind":"feedback"') == 3


def test_a_reward_that_is_refused_is_said_once_a_minute(pair, caplog) -> None:
    with OddCloud(hears=True) as cloud, connect(pair, cloud) as model:
        cloud.change = lambda response: setattr(response, "model_version", "0")
        for frame in pair.hard[:2]:
            answer = model.predict(frame)
            model.feedback(answer.decision_id, answer.label)
        wait_for(lambda: model.counters["feedback"]["refused"] == 2)
    assert [text for text in caplog.messages if "learns from no rewards" in text] == [
        f"{cloud.address} takes no reward: INVALID_ARGUMENT: version 0 learns from no rewards"
    ]


def test_a_reward_waits_while_the_server_is_gone_and_holds_up_nobody(pair) -> None:
    with (
        OddCloud(hears=True) as cloud,
        MisbehavingNetwork(cloud.port) as network,
        connect(pair, network.address, mode="prefer_cloud") as model,
    ):
        answers = [model.predict(frame) for frame in pair.hard[:2]]
        network.set("reset")
        for answer in answers:
            model.feedback(answer.decision_id, answer.label)
        assert model.predict(pair.hard[0]).source == "edge"
        assert model.counters["feedback"]["waiting"] == 2
        network.set("pass")
        wait_for(lambda: model.counters["feedback"]["sent"] == 2)


def test_a_server_that_is_gone_for_good_holds_up_no_reward_of_another(pair) -> None:
    with OddCloud(hears=True) as first, OddCloud(hears=True) as second:
        cloud = Cloud([first.address, second.address], feedback=True)
        with edge_sdk.connect(pair.edge, cloud=cloud, mode="prefer_cloud", deadline=20.0) as model:
            while not first.requests:
                model.predict(pair.hard[0])
            lost = [model.predict(pair.hard[0]) for _ in range(12)]
            first.close()
            for answer in lost:
                model.feedback(answer.decision_id, answer.label)
            second.requests.clear()
            while not second.requests:
                answer = model.predict(pair.hard[0])
            model.feedback(answer.decision_id, answer.label)
            wait_for(lambda: second.rewards != [])
            assert model.counters["feedback"]["waiting"] == 12
        assert model.counters["feedback"]["lost"] == 12


def test_where_too_many_rewards_wait_the_oldest_are_lost(pair) -> None:
    with OddCloud(hears=True) as first, OddCloud(hears=True) as second:
        cloud = Cloud([first.address, second.address], feedback=True, coalesce=False)
        with edge_sdk.connect(pair.edge, cloud=cloud, mode="prefer_cloud", deadline=20.0) as model:
            while not first.requests:
                model.predict(pair.hard[0])
            with ThreadPoolExecutor(16) as pool:
                lost = list(pool.map(model.predict, [pair.hard[0]] * 1000))
            first.close()
            for answer in lost:
                model.feedback(answer.decision_id, answer.label)
            second.requests.clear()
            while not second.requests:
                answer = model.predict(pair.hard[0])
            model.feedback(answer.decision_id, answer.label)
            wait_for(lambda: second.rewards != [])
            assert model.counters["feedback"]["lost"] == 1


def test_what_nobody_could_be_told_at_the_end_is_lost(pair) -> None:
    with OddCloud(hears=True) as cloud, connect(pair, cloud) as model:
        answer = model.predict(pair.hard[0])
        cloud.close()
        model.feedback(answer.decision_id, answer.label)
        model.close()
        assert model.counters["feedback"]["lost"] == 1


def test_what_is_said_just_before_the_end_is_told(pair) -> None:
    with OddCloud(hears=True) as cloud:
        with connect(pair, cloud) as model:
            answers = [model.predict(frame) for frame in pair.hard[:5]]
            for answer in answers:
                model.feedback(answer.decision_id, answer.label)
        assert len(cloud.rewards) == 5


def test_no_server_is_told_anything_unless_asked_for(pair, tmp_path: Path) -> None:
    with OddCloud(hears=True) as cloud:
        options = {"cloud": cloud.address, "deadline": 20.0, "journal": tmp_path / "journal"}
        with edge_sdk.connect(pair.edge, **options) as model:
            answer = model.predict(pair.hard[0])
            model.feedback(answer.decision_id, answer.label)
            assert "feedback" not in model.counters
        assert cloud.rewards == []
        assert all(KEY_PARAMETER not in request.parameters for request in cloud.requests)


@pytest.mark.parametrize("mode", ["hybrid", "prefer_cloud", "cloud"])
def test_a_key_goes_with_every_request(pair, mode: str) -> None:
    with OddCloud() as cloud:
        with edge_sdk.connect(
            pair.edge, cloud=Cloud(cloud.address, key="device-17"), mode=mode, deadline=20.0
        ) as model:
            for frame in pair.hard[:2]:
                assert model.predict(frame).source == "cloud"
        assert [request.parameters[KEY_PARAMETER].string_param for request in cloud.requests] == ["device-17"] * 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key": ""}, "key is ''"),
        ({"key": "a\nb"}, "printable"),
        ({"key": "x" * 201}, "1 to 200"),
        ({"key": 17}, "key is int; it should be a text"),
        ({"feedback": 1}, "feedback is 1; it should be True or False"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Cloud("host:1", **options)
