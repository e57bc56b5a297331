"""What the repository service answers, to whom, and what it keeps."""

from __future__ import annotations

import json
import math
import queue
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_sdk import canonical
from edge_sdk.cloud.ota.broker import EmbeddedBroker, Engine
from edge_sdk.cloud.ota.gateway import Gateway, Origin
from edge_sdk.cloud.ota.reports import ReportLog, last_reports
from edge_sdk.cloud.ota.throttle import Throttle
from edge_sdk.errors import InputError, StorageError
from edge_sdk.ota.link import Broker, Link, Message
from edge_sdk.ota.topics import MAX_MESSAGE_BYTES, Topics
from outside.brokers import ENGINES
from outside.services import edge_sdk
from outside.updates import Fleet, make_bundle, wait_for


@pytest.fixture
def fleet(tmp_path: Path, broker: str) -> Iterator[Fleet]:
    made = Fleet(tmp_path, broker)
    made.ship(make_bundle(tmp_path, "1.0.0", golden_kib=300))
    made.serve()
    yield made
    made.stop()


class Device:
    """A client that says what it likes."""

    def __init__(self, fleet: Fleet, name: str = "cam-1") -> None:
        self.topics = Topics(fleet.name, name)
        self.inbox: queue.Queue[Message] = queue.Queue()
        self.stolen = f"stolen/{fleet.name}"
        filters = [(self.topics.reply, 0), (self.topics.desired, 1), (self.stolen, 0)]
        broker, session = Broker.parse(fleet.broker), f"{fleet.name}-{name}"
        self.link = Link(broker, session, subscriptions=filters, on_message=self.inbox.put, session_expiry=0)
        self.link.connect()

    def ask(self, request: object, correlation: bytes = b"1") -> Message:
        payload = request if isinstance(request, bytes) else json.dumps(request).encode()
        self.link.publish(self.topics.get, payload, correlation=correlation)
        while True:
            message = self.inbox.get(timeout=10)
            if message.topic == self.topics.reply:
                return message


@pytest.fixture
def device(fleet: Fleet) -> Iterator[Device]:
    made = Device(fleet)
    yield made
    made.link.close()


def test_blocks_come_with_status_size_and_the_requests_correlation(fleet: Fleet, device: Device) -> None:
    target = fleet.repository.bundles()["tiny-1.0.0"]
    data = fleet.repository.target_file("tiny-1.0.0").read_bytes()
    for block in (0, len(target.blocks) - 1):
        reply = device.ask({"target": target.stored_path, "block": block}, b"%d" % block)
        assert reply.correlation == b"%d" % block
        assert reply.properties == {"status": "200", "size": str(len(data))}
        assert reply.payload == data[block * 122_880 : (block + 1) * 122_880]
    assert device.ask({"target": target.stored_path, "block": len(target.blocks)}).properties["status"] == "416"


def test_a_full_block_with_its_headers_stays_below_the_message_limit() -> None:
    topic = Topics("f" * 64, "d" * 64).reply
    headers = 5 + 2 + len(topic) + 4 + (3 + 64) + 2 * (5 + len("status") + 10)
    assert 122_880 + headers <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"metadata": "timestamp.json"}, "200"),
        ({"metadata": "1.root.json", "block": 0}, "200"),
        ({"metadata": "99.root.json"}, "404"),
        ({"metadata": "../repository.json"}, "400"),
        ({"metadata": "..%2fkeys%2fonline.pem"}, "400"),
        ({"metadata": "../keys/online.pem"}, "400"),
        ({"metadata": "/etc/passwd"}, "400"),
        ({"metadata": "timestamp.json\n"}, "400"),
        ({"metadata": "timestamp.json\u0000"}, "400"),
        ({"target": "../keys/online.pem"}, "400"),
        ({"target": "bundles/../../keys/online.pem"}, "400"),
        ({"target": "bundles/" + "0" * 64 + "./../../../keys/online.pem"}, "400"),
        ({"target": "bundles/" + "0" * 64 + ".tiny.edge"}, "404"),
        ({"target": "assignments/" + "0" * 64 + ".cam-2.json"}, "403"),
        ({"target": "assignments/" + "0" * 64 + ".cam-2~faces.json"}, "403"),
        ({"target": "assignments/" + "0" * 64 + ".cam-11~faces.json"}, "403"),
        ({"target": "assignments/" + "0" * 64 + ".cam-1~faces.json"}, "404"),
        ({"target": "assignments/" + "0" * 64 + ".cam-1.json"}, "404"),
        ({"metadata": "timestamp.json", "block": -1}, "400"),
        ({"metadata": "timestamp.json", "block": "0"}, "400"),
        ({"metadata": "timestamp.json", "block": True}, "400"),
        ({"metadata": "timestamp.json", "block": 7}, "416"),
        ({"metadata": "timestamp.json", "target": "x"}, "400"),
        ({"metadata": "timestamp.json", "topic": "elsewhere"}, "400"),
        ({}, "400"),
        ([], "400"),
        (b"\xff", "400"),
        (b"{" * 2000, "400"),
        (b'{"metadata":"timestamp.json","metadata":"1.root.json"}', "400"),
    ],
)
def test_requests_get_a_status_and_never_a_file_of_another_folder(fleet: Fleet, request_: object, status: str) -> None:
    payload = request_ if isinstance(request_, bytes) else json.dumps(request_).encode()
    reply = Origin(fleet.repository.folder).answer("cam-1", payload)
    assert str(reply.status) == status
    assert bool(reply.data) == (status == "200")


def test_a_link_in_the_repository_is_not_followed(fleet: Fleet, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (fleet.repository.folder / "metadata" / "77.root.json").symlink_to(secret)
    reply = Origin(fleet.repository.folder).answer("cam-1", b'{"metadata":"77.root.json"}')
    assert (reply.status, reply.data) == (500, b"")


def test_the_answer_goes_to_the_devices_own_topic_whatever_it_asks_for(fleet: Fleet, device: Device) -> None:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.PUBLISH)
    properties.CorrelationData = b"9"
    properties.ResponseTopic = device.stolen
    device.link._client.publish(device.topics.get, b'{"metadata":"timestamp.json"}', qos=1, properties=properties)
    topics = set()
    while device.topics.reply not in topics:  # the hint may come before it, retained and live
        topics.add(device.inbox.get(timeout=10).topic)
    assert topics <= {device.topics.desired, device.topics.reply}


def test_hints_are_retained_and_follow_each_assignment(fleet: Fleet) -> None:
    first = Device(fleet)
    hint = {"counter": 1, "name": "tiny", "version": "1.0.0"}
    assert json.loads(first.inbox.get(timeout=10).payload) == hint
    fleet.repository.assign("cam-1", "tiny-1.0.0")
    while (said := json.loads(first.inbox.get(timeout=10).payload)) == hint:
        pass  # subscribed while it was announced: a broker may say it twice
    assert said == {**hint, "counter": 2}
    first.link.close()


def test_reports_are_on_disk_under_the_topics_device_and_once_each(fleet: Fleet, device: Device) -> None:
    report = {"id": "1", "state": "active", "device": "somebody-else"}
    for payload in (canonical.dumps(report), canonical.dumps(report), b"not json", b"[]", b'{"state":"no id"}'):
        device.link.publish(device.topics.update, payload)
    device.link.publish(device.topics.update, canonical.dumps({**report, "id": "2"}))
    wait_for(lambda: len(fleet.reports()) == 2)
    assert [(r["id"], r["device"]) for r in fleet.reports()] == [("1", "cam-1"), ("2", "cam-1")]


def test_no_report_that_a_device_can_think_of_ends_the_service(fleet: Fleet, device: Device) -> None:
    for depth in range(900, 1010):  # somewhere here is what can just be read, and not be written
        device.link.publish(device.topics.update, b'{"id":"%d","x":' % depth + b"[" * depth + b"]" * depth + b"}")
    device.link.publish(device.topics.update, canonical.dumps({"id": "x" * 10_000}))
    device.link.publish(device.topics.update, canonical.dumps({"id": "sound"}))
    wait_for(lambda: "sound" in [report["id"] for report in fleet.reports()])
    assert all(len(report["id"]) < 10 for report in fleet.reports())


def test_a_report_sent_while_the_service_was_down_arrives_later(fleet: Fleet, device: Device) -> None:
    fleet.stop()
    device.link.publish(device.topics.update, b'{"id":"late","state":"active"}')
    fleet.serve()
    wait_for(lambda: [r["id"] for r in fleet.reports()] == ["late"])


def test_a_report_line_that_was_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "reports.jsonl"
    path.write_bytes(b'{"id":"a"}\n{"id":"b","sta')
    log = ReportLog(path)
    assert not log.append({"id": "a"})
    assert log.append({"id": "b"})
    log.close()
    assert path.read_bytes().splitlines()[2] == b'{"id":"b"}'


def test_reports_go_on_where_the_disk_refused_the_second_half_of_turning_over(tmp_path: Path) -> None:
    path = tmp_path / "reports.jsonl"
    log = ReportLog(path, max_bytes=200)
    for number in range(6):
        if number == 3:  # the full file has its new name, and no other took the old one
            path.rename(tmp_path / "reports-000999.jsonl")
        assert log.append({"id": str(number), "device": "cam-1", "received": "x" * 60})
    log.close()
    lines = [line for file in tmp_path.glob("reports*.jsonl") for line in file.read_bytes().splitlines()]
    assert sorted(json.loads(line)["id"] for line in lines) == ["0", "1", "2", "3", "4", "5"]
    assert path.exists()


def test_a_report_that_meets_a_full_disk_leaves_no_half_line(full_disk: Path) -> None:
    log = ReportLog(full_disk / "reports.jsonl")
    log.append({"id": "a"})
    with pytest.raises(StorageError, match="No space left"):
        log.append({"id": "b", "filler": "x" * 100_000})
    log.append({"id": "b"})
    log.close()
    assert [json.loads(line)["id"] for line in (full_disk / "reports.jsonl").read_bytes().splitlines()] == ["a", "b"]


def test_a_report_waits_while_the_disk_fails(fleet: Fleet, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    append, failures = ReportLog.append, iter([True] * 3)

    def fails_at_first(self: ReportLog, report: dict) -> bool:
        if next(failures, False):
            raise StorageError("no space")
        return append(self, report)

    monkeypatch.setattr(ReportLog, "append", fails_at_first)
    device.link.publish(device.topics.update, b'{"id":"patient","state":"active"}')
    wait_for(lambda: [report["id"] for report in fleet.reports()] == ["patient"])


def test_a_report_log_that_cannot_be_written_is_one_line(unmakeable_path: Path) -> None:
    with pytest.raises(StorageError):
        ReportLog(unmakeable_path)


def test_full_logs_are_turned_over_and_the_oldest_removed(tmp_path: Path) -> None:
    log = ReportLog(tmp_path / "reports.jsonl", max_bytes=1000, keep=2)
    for number in range(100):
        log.append({"id": str(number), "device": f"cam-{number}", "received": f"{number:03}"})
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 3
    assert all((tmp_path / name).stat().st_size <= 1000 for name in files)
    assert len(last_reports(tmp_path)) < 100
    assert last_reports(tmp_path)["cam-99"]["id"] == "99"
    log = ReportLog(tmp_path / "reports.jsonl", max_bytes=1000, keep=2)
    assert not log.append({"id": "99"})
    assert not log.append({"id": "90"})  # in the last full file
    log.close()


def test_a_device_that_asks_too_much_is_told_so_and_others_are_served() -> None:
    seconds = iter([0.0] * 12 + [1.0] * 3)
    throttle = Throttle(2.0, 10, clock=lambda: next(seconds))
    assert [throttle.admits("a") for _ in range(11)] == [True] * 10 + [False]
    assert throttle.admits("b")
    assert [throttle.admits("a") for _ in range(3)] == [True, True, False]


def test_reports_of_a_device_that_reports_too_much_are_dropped_and_those_of_others_kept(
    tmp_path: Path, broker: str
) -> None:
    fleet = Fleet(tmp_path, broker)
    with Gateway(fleet.repository, Broker.parse(broker), fleet.name, reports=Throttle(0.001, 5)) as gateway:
        flood, other = Device(fleet), Device(fleet, "cam-2")
        for number in range(50):
            flood.link.publish(flood.topics.update, b'{"id":"%d"}' % number)
        wait_for(lambda: len(fleet.reports()) == 5)
        wait_for(lambda: sum(gateway._dropped.values()) == 45)
        other.link.publish(other.topics.update, b'{"id":"other"}')
        wait_for(lambda: len(fleet.reports()) == 6)
        gateway.step()
        assert not gateway._dropped
        for device in (flood, other):
            device.link.close()
        kept = [report["id"] for report in fleet.reports() if report["device"] == "cam-1"]
    assert kept == ["0", "1", "2", "3", "4"]


def test_a_device_over_its_limit_goes_on_at_the_services_rate(tmp_path: Path, broker: str) -> None:
    fleet = Fleet(tmp_path, broker)
    fleet.ship(make_bundle(tmp_path, "1.0.0", golden_kib=6000))
    blocks = len(fleet.repository.bundles()["tiny-1.0.0"].blocks)
    assert blocks > 50
    asked: list[bool] = []
    began = time.monotonic()
    # no second passes until a request is refused: however slowly the device asks on a busy machine, one is
    throttle = Throttle(50.0, 10, clock=lambda: time.monotonic() if False in asked else began)

    def admits(device: str) -> bool:
        asked.append(throttle.admits(device))
        return asked[-1]

    counting = SimpleNamespace(admits=admits, seconds=throttle.seconds)
    with Gateway(fleet.repository, Broker.parse(broker), fleet.name, throttle=counting):
        assert fleet.check(request_timeout=60) == "active"  # no request is late: only what was refused comes again
        seconds = time.monotonic() - began
    assert seconds >= (sum(asked) - 10) / 50.0
    assert 0 < asked.count(False) <= asked.count(True) / 2


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_at_which_nothing_or_no_number_of_requests_is_answered_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match=f"may make {rate} requests a second: say a number above 0"):
        Throttle(rate)


def test_the_service_takes_its_rate_as_an_option(tmp_path: Path) -> None:
    folder = Fleet(tmp_path, "").repository.folder
    done = edge_sdk("ota", "serve", folder, "--broker", "mqtt://127.0.0.1:1", "--fleet", "f", "--request-rate", "0")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "a device may make 0.0 requests a second: say a number above 0" in done.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_workers_share_requests_and_reports(tmp_path: Path, engine: Engine) -> None:
    with EmbeddedBroker(engine=engine) as embedded:
        fleet = Fleet(tmp_path, embedded.url)
        fleet.ship(make_bundle(tmp_path, "1.0.0", golden_kib=300))
        workers = [Gateway(fleet.repository, Broker.parse(fleet.broker), fleet.name, worker=n) for n in (1, 2)]
        answered = [0, 0]
        for number, gateway in enumerate(workers):

            def count(device: str, request: bytes, number: int = number, origin: Origin = gateway._origin) -> object:
                answered[number] += 1
                return origin.answer(device, request)

            gateway._origin = SimpleNamespace(answer=count)
        assert fleet.check() == "active"
        wait_for(lambda: sum(len(path.read_bytes().splitlines()) for path in logs(fleet)) == 5)
        assert all(answered)
        workers[1].close()
        left, device = answered[1], Device(fleet, "cam-2")
        assert {device.ask({"metadata": "timestamp.json"}).properties["status"] for _ in range(8)} == {"200"}
        assert answered[1] == left
        device.link.close()
        workers[0].close()
    assert last_reports(fleet.repository.folder)["cam-1"]["state"] == "active"


def logs(fleet: Fleet) -> list[Path]:
    return list(fleet.repository.folder.glob("reports*.jsonl"))


def test_topics_and_sessions_are_named_as_the_broker_wants_them(tmp_path: Path, broker: str) -> None:
    # the broker is shared with other tests: their sessions and topics have other names
    own, heard = uuid.uuid4().hex, []
    service, device = f"our-service-{own}", f"our-device-{own}"
    every, hear = [("#", 1)], lambda message: heard.append(message.topic)
    listener = Link(Broker.parse(broker), f"listener-{own}", subscriptions=every, on_message=hear, session_expiry=0)
    listener.connect()
    listener.publish(own, b"")
    wait_for(lambda: own in heard)  # from here on it hears all
    fleet = Fleet(tmp_path, broker, prefix="factory/2/", client_id=service)
    fleet.serve()
    fleet.ship_version("1.0.0")
    assert fleet.check(broker=Broker.parse(broker, prefix="factory/2/", client_id=device)) == "active"
    kinds = {"get", "reply", "desired", "update", "status"}
    topics = f"factory/2/edge/v1/{fleet.name}/device/cam-1/"
    wait_for(lambda: {topics + kind for kind in kinds} <= set(heard))
    assert not [topic for topic in heard if fleet.name in topic and not topic.startswith(topics)]
    with fleet.agent(broker=Broker.parse(broker, prefix="factory/2/", client_id=device)) as agent:
        agent.start()
        for name, link in ((service, fleet.gateway._link), (device, agent._link)):
            second = Link(Broker.parse(broker), name, session_expiry=0)  # a broker has one session of a name
            second.connect()
            wait_for(lambda link=link: not link.connected)
            second.close()
    fleet.stop()
    listener.close()


@pytest.mark.parametrize("prefix", ["/", "factory", "a//", "+/", "#/", "a/\n", "a/" * 33, "\u00e4/"])
def test_a_topic_prefix_of_another_form_is_refused(prefix: str) -> None:
    with pytest.raises(InputError, match="each ending with '/'"):
        Topics("f", "d", prefix)


def test_a_topic_prefix_that_is_none_is_one_line(tmp_path: Path) -> None:
    folder = Fleet(tmp_path, "").repository.folder
    agent = ["agent", "--state", tmp_path / "state", "--device", "cam-1", "--root", folder / "root.json"]
    for command in (["ota", "serve", folder], agent):
        done = edge_sdk(*command, "--broker", "mqtt://127.0.0.1:1", "--fleet", "f", "--topic-prefix", "factory")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "topic prefix 'factory' is not levels" in done.stderr
