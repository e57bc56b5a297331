"""Privacy rules in a hybrid model: what they keep never reaches the network, and answers say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edge_sdk
from edge_sdk.client import Cloud, PrivacyRule, Question
from edge_sdk.client.journal import Reader
from edge_sdk.errors import EscalationError, InputError
from edge_sdk.frames import as_frame
from outside.bundles import tiny_images
from outside.network import MisbehavingNetwork
from outside.pictures import SECRET, picture
from outside.wire import requests_in

PATIENT = 20.0
KEEP = PrivacyRule()
OURS = PrivacyRule(where={"tenant": {"ours"}})


@pytest.fixture
def proxy(cloud: str) -> Iterator[MisbehavingNetwork]:
    """Return a proxy in front of the cloud that keeps what devices send."""
    with MisbehavingNetwork(int(cloud.rpartition(":")[2])) as made:
        yield made


def sent(proxy: MisbehavingNetwork) -> list[np.ndarray]:
    """Return the pictures that have been on the wire."""
    pictures = []
    for request in requests_in(proxy.recorded):
        shape = tuple(request.inputs[0].shape)
        pictures.append(np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(shape))
    return pictures


def test_an_input_that_may_not_leave_is_answered_by_the_edge_and_not_certified(pair, proxy) -> None:
    with edge_sdk.connect(pair.edge, cloud=proxy.address, deadline=PATIENT, privacy=[KEEP]) as model:
        doubtful, sure = model.predict(pair.hard[0]), model.predict(pair.easy[0])
        counters = model.counters
    assert (doubtful.source, doubtful.reason, doubtful.certified) == ("edge", "privacy", False)
    assert (sure.source, sure.reason, sure.certified) == ("edge", "confident", True)
    assert counters["reasons"] == {"confident": 1, "privacy": 1}
    assert counters["privacy"] == {"kept": 1, "reduced": 0}
    assert counters["bytes_sent"] == counters["bytes_failed"] == 0
    assert sent(proxy) == []


def test_the_context_of_a_call_decides(pair, proxy) -> None:
    with edge_sdk.connect(pair.edge, cloud=proxy.address, deadline=PATIENT, privacy=[OURS]) as model:
        reasons = [
            model.predict(pair.hard[0], context).reason
            for context in ({"tenant": "ours"}, {"tenant": "theirs"}, {}, None)
        ]
        streamed = [answer.reason for answer in model.stream(pair.hard[:2], context={"tenant": "theirs"})]
        with pytest.raises(InputError, match="the context is str; it should be a mapping"):
            model.predict(pair.hard[0], "ours")
    assert reasons == ["privacy", "escalated", "privacy", "privacy"]
    assert streamed == ["escalated"] * 2
    assert len(sent(proxy)) == 3


@pytest.mark.parametrize("mode", ["hybrid", "prefer_cloud", "cloud"])
def test_a_rule_by_label_has_the_edge_answer_first_in_every_mode(pair, proxy, mode: str) -> None:
    with edge_sdk.load(pair.edge) as alone:
        labels = [alone.predict(frame).label for frame in pair.hard]
    rules = [PrivacyRule(labels={"red"}), PrivacyRule(when=lambda question: question.label == "green")]
    answered = []
    with edge_sdk.connect(pair.edge, cloud=proxy.address, mode=mode, deadline=PATIENT, privacy=rules) as model:
        for frame in pair.hard:
            try:
                answered.append(model.predict(frame).source)
            except EscalationError as error:
                assert "(privacy)" in str(error)  # noqa: PT017
                answered.append("edge")
    assert answered == ["cloud" if label == "blue" else "edge" for label in labels]
    assert set(labels) == {"red", "green", "blue"}
    pictures, allowed = sent(proxy), [f for f, label in zip(pair.hard, labels, strict=True) if label == "blue"]
    assert np.array_equal(np.array(pictures), np.array(allowed))


@pytest.mark.parametrize("mode", ["prefer_cloud", "cloud"])
def test_a_predicate_sees_the_frame_and_cannot_change_it(pair, proxy, mode: str) -> None:
    seen: list[Question] = []

    def keep(question: Question) -> bool:
        seen.append(question)
        question.frame[:] = 0
        return False

    rules = [PrivacyRule(when=keep)]
    frame = pair.hard[0].copy()
    with edge_sdk.connect(pair.edge, cloud=proxy.address, mode=mode, deadline=PATIENT, privacy=rules) as model:
        try:
            assert model.predict(frame).reason == "privacy"  # it failed, so it is taken as meant
        except EscalationError:
            assert mode == "cloud"
    assert np.array_equal(frame, pair.hard[0])
    assert seen[0].label in ("red", "green", "blue")
    assert sent(proxy) == []


def test_audits_are_kept_too_and_count_as_missing(guarded, pair, proxy, tmp_path: Path) -> None:
    options = {"deadline": PATIENT, "audit_rate": 1.0, "journal": tmp_path, "privacy": [OURS]}
    with edge_sdk.connect(guarded, cloud=proxy.address, **options) as model:
        kept = model.predict(pair.easy[0], {"tenant": "ours"})
        free = model.predict(pair.easy[0], {"tenant": "theirs"})
        counters = model.counters
    assert (kept.source, kept.reason, kept.certified) == ("edge", "confident", True)
    assert (free.source, free.reason) == ("cloud", "audit")
    assert counters["audits"] == {"asked": 2, "answered": 1, "missing": 1, "disagreed": counters["audits"]["disagreed"]}
    assert counters["privacy"]["kept"] == 1
    first, second = list(Reader(tmp_path))
    assert (first.outcome.missing, first.input) == ("privacy", "")  # not even a hash
    assert second.input.startswith("sha256:")
    assert len(sent(proxy)) == 1


def test_inputs_that_may_not_leave_whole_are_not_hashed_either(pair, proxy, tmp_path: Path) -> None:
    smaller = PrivacyRule(where={"tenant": {"smaller"}}, max_side=16)
    with edge_sdk.connect(
        pair.edge, cloud=proxy.address, deadline=PATIENT, journal=tmp_path, privacy=[OURS, smaller], audit_rate=0
    ) as model:
        for tenant in ("ours", "smaller", "theirs"):
            model.predict(pair.hard[0], {"tenant": tenant})
    assert [record.input[:6] for record in Reader(tmp_path)] == ["", "", "sha256"]


@pytest.mark.parametrize("encoding", ["auto", "captured", "jpeg"])
def test_a_reduced_picture_is_all_that_is_sent_and_its_answer_is_not_certified(pair, proxy, encoding: str) -> None:

    rules = [PrivacyRule(region_of_interest=(0.5, 0.0, 0.5, 1.0)), PrivacyRule(max_side=5)]
    with edge_sdk.connect(
        pair.edge, cloud=Cloud(proxy.address, encoding=encoding), mode="prefer_cloud", deadline=PATIENT, privacy=rules
    ) as model:
        answer = model.predict(picture())
        assert (answer.source, answer.certified, model.certificate_void) == ("cloud", False, None)
        assert model.counters["privacy"] == {"kept": 0, "reduced": 1}
    (request,) = requests_in(proxy.recorded)
    assert SECRET not in proxy.recorded_bytes
    if encoding == "jpeg":
        assert as_frame(bytes(request.raw_input_contents[0][4:])).shape == (1, 5, 3)
    else:
        assert list(request.inputs[0].shape) == [1, 5, 3]


def test_a_jpeg_file_is_sent_without_its_metadata(pair, proxy) -> None:
    data = picture(6)
    with edge_sdk.connect(pair.edge, cloud=proxy.address, mode="cloud", deadline=PATIENT) as model:
        answer = model.predict(data)
    assert answer.certified  # every pixel is there
    (request,) = requests_in(proxy.recorded)
    assert request.raw_input_contents[0][4:6] == b"\xff\xd8"
    assert SECRET not in proxy.recorded_bytes


def test_labels_of_another_model_are_checked_when_it_is_taken_into_use(pair, cloud, tmp_path: Path) -> None:
    from edge_sdk.packing import pack
    from edge_sdk.processing import ProcessingSpec
    from outside.bundles import tiny_onnx, train_tiny

    processing = ProcessingSpec.image(8, 8, 3)
    other = tmp_path / "other-1.0.0.edge"
    pack(
        tiny_onnx(*train_tiny(processing)),
        runtime="onnx",
        name="other",
        version="1.0.0",
        labels=("rot", "green", "blue"),
        processing=processing,
        output="logits",
        golden_inputs=list(tiny_images(4, 1)[0]),
        path=other,
    )
    rules = [PrivacyRule(labels={"red"})]
    with edge_sdk.connect(pair.edge, cloud=cloud, mode="prefer_cloud", privacy=rules) as model:
        before = model.bundle_digest
        with pytest.raises(InputError, match="no label 'red'"):
            model.swap(other)
        assert model.bundle_digest == before
        model.swap(other, privacy=[PrivacyRule(labels={"rot"})])
        assert model.bundle_digest != before


def test_rules_that_fit_no_model_are_refused(pair) -> None:
    with pytest.raises(InputError, match="no label 'person'"):
        edge_sdk.connect(pair.edge, cloud="localhost:1", privacy=[PrivacyRule(labels={"person"})])
    with pytest.raises(InputError, match="a list of rules"):
        edge_sdk.connect(pair.edge, cloud="localhost:1", privacy=PrivacyRule())
