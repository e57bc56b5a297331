"""Inputs that the cloud could not see wait in an outbox, and their answers come into the journal when it can."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

import edge_sdk
from edge_sdk.cascade.journal import LateAnswer, Record
from edge_sdk.cascade.offpolicy import columns
from edge_sdk.client import Budget, Outbox, PrivacyRule
from edge_sdk.client.journal import Reader
from edge_sdk.errors import InputError, StorageError
from outside.network import MisbehavingNetwork
from outside.pairs import with_policy
from outside.pictures import SECRET, picture
from outside.wire import requests_in

PATIENT = 20.0


@pytest.fixture
def link(cloud: str):
    """Return a network in front of the cloud that is unplugged."""
    with MisbehavingNetwork(int(cloud.rpartition(":")[2])) as made:
        made.set("refuse")
        yield made


def late(folder: Path) -> list[LateAnswer]:
    return [record for record in Reader(folder) if isinstance(record, LateAnswer)]


def emptied(outbox: Outbox) -> None:
    assert outbox.flush(PATIENT)
    assert outbox.wait_until_empty(PATIENT), outbox.counters


def test_what_could_not_be_asked_is_asked_when_the_link_is_back_and_answered_in_the_journal(pair, link, tmp_path):
    with (
        Outbox(tmp_path / "outbox", share=1.0) as outbox,
        edge_sdk.connect(pair.edge, cloud=link.address, journal=tmp_path / "journal", outbox=outbox) as model,
    ):
        offline = [model.predict(frame) for frame in pair.hard[:6]]
        model.predict(pair.easy[0])
        assert outbox.flush()
        assert outbox.counters["waiting"] == 6
        assert model.counters["outbox"] == outbox.counters
        link.set("pass")
        emptied(outbox)
        model.deadline = PATIENT
        online = [model.predict(frame) for frame in pair.hard[:6]]
        assert outbox.counters["sent"] == 6
    assert {answer.source for answer in offline} == {"edge"}
    assert not any(answer.certified for answer in offline)
    found = late(tmp_path / "journal")
    assert [answer.id for answer in found] == [answer.decision_id for answer in offline]
    assert [answer.cloud.index for answer in found] == [answer.index for answer in online]
    assert {(answer.cloud.model, answer.cloud.encoding) for answer in found} == {(pair.cloud_digest, "captured")}
    assert list((tmp_path / "outbox").glob("*.parcel")) == []
