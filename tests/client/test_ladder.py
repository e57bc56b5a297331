"""The payload ladder against a real server: what goes over the wire, and what answers then stand under."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edge_sdk
from edge_sdk.bundle import Bundle
from edge_sdk.cascade import Policy
from edge_sdk.cascade.policy import Rung
from edge_sdk.client import Budget, Cloud, PrivacyRule
from edge_sdk.client.payload import Capture
from edge_sdk.client.rungs import Ladder, prepare
from edge_sdk.encodings import SentAs
from edge_sdk.errors import EscalationError, InputError
from edge_sdk.protocol import read_parameters
from outside.bundles import SIDE
from outside.network import MisbehavingNetwork
from outside.wire import lengths_in, requests_in

PATIENT = 20.0
A_DAY = 86_400.0  # so much that no network is slow: on a busy machine little is known of one but that
LADDER = ("captured", "jpeg:75", "resized")
RUNGS = tuple(Rung(name, 0, accuracy) for name, accuracy in zip(LADDER, (0.97, 0.96, 0.9), strict=True))
AGES = 1e9
SMALL = 100_000  # bytes that a message may have at most: a scene's pixels are more, and its JPEG is less


def scene(side: int = 480) -> np.ndarray:
    """Return a picture like a photograph: smooth, with a little noise; uint8 [side, side, 3]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side] / side
    levels = np.stack([120 + 60 * np.sin(3 * x), 110 + 50 * y, 100 + 40 * np.cos(2 * x * y)], axis=-1)
    return np.clip(levels + rng.normal(0, 2, levels.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def laddered(pair, tmp_path_factory) -> Path:
    """Return the edge bundle, certified for several encodings; it would escalate everything."""
    bundle = Bundle.open(pair.edge)
    policy = Policy.from_json(bundle.manifest.cascade)
    path = tmp_path_factory.mktemp("ladder") / "laddered.edge"
    certificate = replace(policy.certificate, rungs=RUNGS)
    bundle.rewrite(path, cascade=replace(policy, threshold=1.1, certificate=certificate).to_json())
    return path


@pytest.fixture
def proxy(cloud: str) -> Iterator[MisbehavingNetwork]:
    """Return a proxy in front of the cloud that keeps what devices send."""
    with MisbehavingNetwork(int(cloud.rpartition(":")[2])) as made:
        yield made


def sent(proxy: MisbehavingNetwork) -> list[str]:
    """Return as what each picture has been on the wire."""
    return [str(read_parameters(r.parameters).get("edge_encoding", "tensor")) for r in requests_in(proxy.recorded)]


def too_long(proxy: MisbehavingNetwork) -> int:
    """Return how many messages were begun that are more than a small server takes, of which it need not read all."""
    return sum(length > SMALL for length in lengths_in(proxy.recorded))


@pytest.mark.parametrize("mode", ["hybrid", "prefer_cloud", "cloud"])
def test_it_begins_small_and_rises_to_every_pixel_where_the_network_allows_it(laddered, proxy, mode: str) -> None:
    with edge_sdk.connect(laddered, cloud=proxy.address, mode=mode, deadline=A_DAY) as model:
        answers = [model.predict(scene()) for _ in range(6)]
        assert model.certificate_void is None
    assert [(answer.source, answer.certified) for answer in answers] == [("cloud", True)] * 6
    assert sent(proxy) == ["resized", *["captured"] * 5]


def test_a_narrow_way_is_not_blocked_by_what_does_not_fit_through(laddered, proxy) -> None:
    with edge_sdk.connect(laddered, cloud=proxy.address, deadline=PATIENT, audit_rate=0) as model:
        model.predict(scene())  # learns what the server has
        model.deadline = 3.0
        proxy.set("delay", seconds=0.3)  # each 64 KiB: 691 kB of pixels would take longer than there is
        answers = [model.predict(scene()) for _ in range(3)]
    narrow = sent(proxy)[1:]
    assert [answer.source for answer in answers].count("cloud") >= 2
    assert narrow.count("captured") <= 1, "at most the one that found it out"


def test_a_budget_of_bytes_is_spent_on_smaller_forms_of_more_inputs(laddered, proxy) -> None:
    budget = Budget(bytes=800_000, period=AGES, burst=0.5)  # not one picture as captured
    with edge_sdk.connect(laddered, cloud=proxy.address, deadline=PATIENT, budget=budget, audit_rate=0) as model:
        answers = [model.predict(scene()) for _ in range(8)]
    assert [answer.reason for answer in answers] == ["escalated"] * 8
    assert "captured" not in sent(proxy)


def test_what_came_as_a_file_goes_as_it_came(laddered, proxy) -> None:
    stream = io.BytesIO()
    Image.fromarray(scene()).save(stream, "JPEG", quality=90)
    with edge_sdk.connect(laddered, cloud=proxy.address, deadline=PATIENT, audit_rate=0) as model:
        for _ in range(5):
            answer = model.predict(stream.getvalue())
    assert answer.certified
    last = requests_in(proxy.recorded)[-1]
    assert read_parameters(last.parameters)["edge_encoding"] == "jpeg"
    assert Image.open(io.BytesIO(last.raw_input_contents[0][4:])).quantization == Image.open(stream).quantization


@pytest.mark.parametrize(
    ("encoding", "wire"), [("jpeg:60", "jpeg"), ("resized", "resized"), ("jpeg:60+side:64", "jpeg")]
)
def test_an_app_may_say_what_is_sent_and_is_told_that_nobody_certified_it(pair, proxy, encoding, wire) -> None:
    cloud = Cloud(proxy.address, encoding=encoding)
    with edge_sdk.connect(pair.edge, cloud=cloud, mode="prefer_cloud", deadline=PATIENT) as model:
        answer = model.predict(scene())
        assert (answer.source, answer.certified) == ("cloud", False)
        assert f"sees pictures as {encoding}" in model.certificate_void
    assert sent(proxy) == [wire]


def test_where_rules_leave_none_of_what_the_app_wants_sent_nothing_is_and_privacy_is_the_reason(pair, proxy) -> None:
    cloud, rule = Cloud(proxy.address, encoding="jpeg:60+side:64"), PrivacyRule(region_of_interest=(0.0, 0.0, 0.5, 1.0))
    with edge_sdk.connect(pair.edge, cloud=cloud, mode="prefer_cloud", deadline=PATIENT, privacy=[rule]) as model:
        answer = model.predict(scene())
        assert model.counters["encodings"] == {}
    assert (answer.source, answer.reason) == ("edge", "privacy")
    assert sent(proxy) == []


def test_what_the_cloud_saw_is_counted_by_its_name(pair, proxy) -> None:
    cloud = Cloud(proxy.address, encoding="jpeg:60")
    with edge_sdk.connect(pair.edge, cloud=cloud, mode="prefer_cloud", deadline=PATIENT) as model:
        for _ in range(2):
            model.predict(scene())
        assert model.counters["encodings"] == {"jpeg:60": 2}
        assert 'edge_sdk_escalations_total{encoding="jpeg:60"} 2' in model.metrics()


def test_a_rung_that_was_certified_alone_is_what_is_sent(pair, proxy, tmp_path) -> None:
    bundle = Bundle.open(pair.edge)
    policy = Policy.from_json(bundle.manifest.cascade)
    validity = {**policy.certificate.validity, "encoding": "resized"}
    path = tmp_path / "resized.edge"
    bundle.rewrite(path, cascade=replace(policy, certificate=replace(policy.certificate, validity=validity)).to_json())
    with edge_sdk.connect(path, cloud=proxy.address, deadline=PATIENT, audit_rate=0) as model:
        answer = model.predict(pair.hard[0])
        assert (answer.source, answer.certified) == ("cloud", True)
    (request,) = requests_in(proxy.recorded)
    assert list(request.inputs[0].shape) == [SIDE, SIDE, 3]


def test_resized_pictures_of_several_callers_are_answered_each_by_its_own(pair, proxy) -> None:
    cloud = Cloud(proxy.address, encoding="resized")
    with edge_sdk.connect(pair.edge, cloud=cloud, mode="cloud", deadline=PATIENT) as model:
        frames = [*pair.hard[:12], *pair.easy[:12]]
        alone = [model.predict(frame).scores for frame in frames]
        with ThreadPoolExecutor(12) as pool:
            together = list(pool.map(lambda frame: model.predict(frame).scores, frames))
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_privacy_rules_hold_on_every_rung(laddered, proxy) -> None:
    rules = [PrivacyRule(max_side=40)]
    with edge_sdk.connect(laddered, cloud=proxy.address, deadline=PATIENT, privacy=rules, audit_rate=0) as model:
        answers = [model.predict(scene()) for _ in range(5)]
    assert not any(answer.certified for answer in answers), "no rung was certified for what rules leave"
    for request in requests_in(proxy.recorded):
        if request.inputs[0].datatype == "BYTES":
            assert max(Image.open(io.BytesIO(request.raw_input_contents[0][4:])).size) <= 40
        else:
            assert max(request.inputs[0].shape) <= 40


@pytest.fixture(params=["fast", "grpc"])
def small_server(pair, request: pytest.FixtureRequest) -> Iterator[Callable[[int], str]]:
    """Return a function that starts a server whose messages have a limit."""
    running = []

    def start(limit: int) -> str:
        code = (
            "import json, sys; from pathlib import Path; from edge_sdk.cloud.server import ServerConfig, run;"
            "run(ServerConfig(paths=[Path(sys.argv[1])], grpc_port=0, max_message_bytes=int(sys.argv[2]),"
            " front=sys.argv[3]),"
            " lambda ready, names: print(json.dumps(dict(ready)), flush=True))"
        )
        command = [sys.executable, "-c", code, str(pair.cloud), str(limit), request.param]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return str(json.loads(running[-1].stdout.readline())["grpc"])

    yield start
    for process in running:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@pytest.mark.parametrize("wanted", ["auto", "captured,jpeg:75,resized"])
def test_a_message_above_the_servers_limit_takes_a_lower_rung_in_the_same_call(
    laddered, small_server, wanted: str
) -> None:
    address = small_server(SMALL)
    with (
        MisbehavingNetwork(int(address.rpartition(":")[2])) as proxy,
        edge_sdk.connect(
            laddered, cloud=Cloud(proxy.address, encoding=wanted), deadline=PATIENT, audit_rate=0
        ) as model,
    ):
        answers = []
        while not too_long(proxy):  # until it was worth a try: a busy machine begins with less
            answers.append(model.predict(scene()))
        answers += [model.predict(scene()) for _ in range(6)]
        counters = model.counters
    assert {(answer.source, answer.certified) for answer in answers} == {("cloud", True)}
    assert too_long(proxy) == 1, "the limit is remembered"
    assert counters["escalated"] == len(answers)


def test_a_small_server_lowers_no_payload_of_another(laddered, small_server) -> None:
    small, large = (int(small_server(limit).rpartition(":")[2]) for limit in (SMALL, 2**24))
    with MisbehavingNetwork(small) as to_small, MisbehavingNetwork(large) as to_large:
        cloud = Cloud([to_small.address, to_large.address], encoding="captured,jpeg:75", balance="round_robin")
        # without a deadline the best is what is wanted, however slow the network seems on a busy machine
        with edge_sdk.connect(laddered, cloud=cloud, deadline=None, audit_rate=0) as model:
            while len(sent(to_small)) < 4 or len(sent(to_large)) < 4:  # both are known, and the limit is
                assert model.predict(scene()).certified
            before = len(sent(to_small))
            assert set(sent(to_large)) == {"captured"}
            assert too_long(to_small) == 1
            to_large.set("reset")
            assert all(model.predict(scene()).certified for _ in range(4)), "made anew for the one that is left"
        assert len(sent(to_small)) - before >= 4
        assert too_long(to_small) == 1


def test_a_limit_below_every_rung_is_a_reason_and_no_error(pair, small_server) -> None:
    with edge_sdk.connect(pair.edge, cloud=small_server(600), mode="prefer_cloud", deadline=PATIENT) as model:
        answers = [model.predict(scene()) for _ in range(2)]
    assert {(answer.source, answer.reason) for answer in answers} == {("edge", "rejected")}


def test_every_pixel_can_go_as_a_smaller_tensor_where_it_is_too_large(pair, small_server) -> None:
    with edge_sdk.connect(pair.edge, cloud=small_server(10_000), mode="prefer_cloud", deadline=PATIENT) as model:
        answer = model.predict(scene())
    assert (answer.source, answer.certified) == ("cloud", True), "the cloud's own processing, done here"


class Choosing:
    """A pilot that takes what it is told to, and remembers what it was offered."""

    def __init__(self, choice):
        from edge_sdk.cascade.ladder import Making

        self.choice, self.offers, self.making = choice, [], Making()

    def choose(self, offers, remaining, confidence):
        self.offers = list(offers)
        return self.choice

    def made(self, name, pixels, size, seconds):
        self.making = self.making.learn(name, pixels, size, seconds)


def test_sizes_of_jpeg_are_learned_and_not_all_of_it_is_encoded(laddered, cloud) -> None:
    from edge_sdk.client.escalation import CloudLink

    link = CloudLink(Cloud(cloud))
    try:
        with edge_sdk.load(laddered) as model:
            spec = model.processor.spec
            link.begin(Capture.of(scene(), spec), None, labels=model.labels, edge_spec=spec).wait()
        pilot = Choosing(1)
        ladder = Ladder(SentAs.parse_all("jpeg:90,jpeg:60,resized"), pilot, (None, 0.9, None))
        for _ in range(20):
            message = prepare(link.known, "auto", Capture.of(scene(), spec), spec, ladder=ladder)
    finally:
        link.close()
    assert message.seen == "jpeg:60"
    size = len(message.raw) - 4
    assert pilot.offers[1].size == pytest.approx(size, rel=0.01)
    assert pilot.offers[1].seconds > 0
    assert set(pilot.making.sizes) == {"jpeg:60"}, "the others were never made"
    assert pilot.offers[2].size == SIDE * SIDE * 3
    assert [offer.accuracy for offer in pilot.offers] == [1.0, 0.9, pytest.approx(0.89)]


class Sparing(Choosing):
    """A pilot that takes the first offer of at most so many bytes."""

    def choose(self, offers, remaining, confidence):
        return next(n for n, offer in enumerate(offers) if offer.size <= self.choice)


def test_a_file_that_became_much_larger_than_expected_is_chosen_anew(laddered, cloud) -> None:
    from edge_sdk.client.escalation import CloudLink

    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)  # 3 times as large as a photograph
    link = CloudLink(Cloud(cloud))
    try:
        with edge_sdk.load(laddered) as model:
            spec = model.processor.spec
            link.begin(Capture.of(noise, spec), None, labels=model.labels, edge_spec=spec).wait()
        ladder = Ladder(SentAs.parse_all("jpeg:90,resized"), Sparing(30_000))
        draft = prepare(link.known, "auto", Capture.of(noise, spec), spec, ladder=ladder)
        still = prepare(
            link.known, "auto", Capture.of(noise, spec), spec, ladder=replace(ladder, pilot=Sparing(1_000_000))
        )
    finally:
        link.close()
    assert draft.seen == "resized"
    assert still.seen == "jpeg:90"
    assert len(still.raw) > 30_000


@pytest.mark.parametrize(
    "encoding", ["", "jpeg:0", "png,captured", "captured,captured", "tensor,captured", "auto,jpeg"]
)
def test_no_ladder_is_made_of_what_is_none(encoding: str) -> None:
    with pytest.raises(InputError, match="or auto, or tensor alone"):
        Cloud("host:1", encoding=encoding)


def test_a_server_that_offers_none_of_what_is_wanted_is_a_reason(pair, tmp_path) -> None:
    from outside.services import Service

    with edge_sdk.load(pair.cloud) as model:
        plain = tmp_path / "plain.onnx"
        plain.write_bytes(Bundle.open(pair.cloud).read(model.manifest.artifacts[0].file))
    with Service("serve", plain, "--grpc-port", "0") as server:
        cloud = Cloud(server.ready["grpc"], encoding="jpeg:50,resized")
        with (
            edge_sdk.connect(pair.edge, cloud=cloud, mode="cloud", deadline=PATIENT) as model,
            pytest.raises(EscalationError, match="takes tensor, not jpeg:50,resized"),
        ):
            model.predict(scene())
        with edge_sdk.connect(pair.edge, cloud=server.ready["grpc"], mode="cloud", deadline=PATIENT) as model:
            answer = model.predict(scene())
    assert (answer.source, answer.certified) == ("cloud", False), "any server of the protocol takes tensors"
