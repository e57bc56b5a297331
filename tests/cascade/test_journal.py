"""The journal: every decision can be derived again, in any process, and nothing else is taken for a record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk import canonical
from edge_sdk.cascade import Certificate, Policy
from edge_sdk.cascade.audit import Audit
from edge_sdk.cascade.deferral import fit_head
from edge_sdk.cascade.journal import (
    CloudAnswer,
    Feedback,
    LateAnswer,
    Outcome,
    Record,
    derive,
    key_id,
    parse,
    rule_digest,
)
from edge_sdk.cascade.replay import replay
from edge_sdk.errors import EdgeSdkError, JournalError
from edge_sdk.types import Timing

KEY = bytes(range(32))
CERTIFICATE = Certificate(0.01, 0.95, 1000, 3, 0.01, 0.5, {}, disagreements=25)


def policies() -> list[Policy]:
    """Return a rule for every signal."""
    rng = np.random.default_rng(0)
    scores, labels = rng.dirichlet(np.full(5, 0.3), 400), rng.integers(0, 5, 400)
    head = fit_head(scores, rng.dirichlet(np.full(5, 0.3), 400), labels)
    return [
        Policy(0.7, 1.3, certificate=CERTIFICATE),
        Policy(0.4, 0.9, "margin"),
        Policy(0.5, 1.1, "entropy"),
        Policy(1.5, 1.7, "energy"),
        Policy(0.1, 1.0, "learned", head=head),
    ]


def records(policy: Policy, n: int, *, rate: float | None = 0.2, seed: int = 1) -> list[Record]:
    rng = np.random.default_rng(seed)
    made = []
    rows = rng.dirichlet(np.full(5, 0.3), n).astype(np.float32)
    rows[::7] = np.eye(5, dtype=np.float32)[0]  # exact zeros, as of an int8 softmax
    rows[49::50] = 0.0  # nothing that a rule can read
    for k, row in enumerate(rows):
        threshold = policy.threshold + (0.05 if k % 3 == 0 else 0.0)
        audit = None if rate is None else Audit(KEY, rate)
        name = f"{seed:x}{k:08x}"
        decision = derive(policy, row, name, audit=audit, threshold=threshold)
        cloud = CloudAnswer(k % 5, 0.9, "sha256:cloud", "captured") if decision.escalate else None
        edge = Outcome("edge", "confident", True, int(row.argmax()), timing=Timing(1.0, 2.5, 0.1, 0.0, 3.7))
        made.append(
            Record(
                id=name,
                time=1.7e9 + k / 3,
                input="sha256:00",
                model="sha256:edge",
                rule=rule_digest(policy),
                scores=row.astype("<f4").tobytes(),
                threshold=threshold,
                audit_rate=rate,
                audit_key=None if rate is None else key_id(KEY),
                decision=decision,
                outcome=edge if cloud is None else Outcome("cloud", "escalated", True, 1, cloud, bytes_sent=99),
            )
        )
    return made


def test_a_record_comes_back_from_its_line_as_it_was():
    for policy in policies():
        for record in records(policy, 100):
            line = record.to_line()
            assert parse(line) == record
            assert canonical.dumps(canonical.loads(line)) == line, "canonical"
            assert b"\n" not in line
    lost = replace(record, outcome=replace(record.outcome, cloud=None, missing="deadline"))
    label, late = Feedback("abc", 1.5, 3), LateAnswer("abc", 2.5, CloudAnswer(3, 0.5, "sha256:cloud", "captured"))
    assert [parse(x.to_line()) for x in (lost, label, late)] == [lost, label, late]
    assert canonical.dumps(canonical.loads(late.to_line())) == late.to_line(), "canonical"


def test_the_digest_of_a_rule_is_that_of_what_decides_and_not_of_its_certificate():
    policy = policies()[0]
    assert rule_digest(policy) == rule_digest(replace(policy, certificate=None))
    assert len({rule_digest(policy) for policy in policies()}) == 5
    assert rule_digest(replace(policy, threshold=np.nextafter(0.7, 1.0).item())) != rule_digest(policy)


REPLAY = """
import json, sys
from edge_sdk import canonical
from edge_sdk.cascade.journal import parse
from edge_sdk.cascade.policy import Policy
from edge_sdk.cascade.replay import replay
rules = [Policy.from_json(canonical.loads(line.encode())) for line in open(sys.argv[1])]
report = replay(map(parse, open(sys.argv[2], "rb").read().splitlines()), rules, [bytes.fromhex(sys.argv[3])])
print(json.dumps([report.decisions, report.matched, report.problem]))
"""


@pytest.mark.parametrize("pure", ["", "1"], ids=["kernels", "numpy alone"])
def test_every_decision_is_derived_again_bit_for_bit_in_another_process(tmp_path, pure):
    rules = policies()
    logged = [record for policy in rules for record in records(policy, 400)]
    reasons = {record.decision.reason for record in logged}
    assert reasons == {"confident", "escalated", "audit"}, "the control: all kinds are there"
    (tmp_path / "rules").write_bytes(b"\n".join(canonical.dumps(policy.to_json()) for policy in rules))
    (tmp_path / "log").write_bytes(b"".join(record.to_line() + b"\n" for record in logged))
    command = [sys.executable, "-P", "-c", REPLAY, tmp_path / "rules", tmp_path / "log", KEY.hex()]
    env = {**os.environ, "EDGE_SDK_PURE": pure}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=env)
    assert json.loads(done.stdout) == [2000, 2000, None], done.stderr


def test_decisions_about_boxes_are_derived_again_also_where_there_were_none():
    policy, audit, logged = Policy(0.4, signal="detections"), Audit(KEY, 0.5), []
    for boxes in range(40):
        scores = np.random.default_rng(boxes).random(boxes % 4).astype(np.float32)
        decision = derive(policy, scores, f"{boxes}", audit=audit)
        made = records(policies()[0], 1)[0]
        made = replace(made, id=f"{boxes}", rule=rule_digest(policy), scores=scores.tobytes(), decision=decision)
        logged.append(parse(replace(made, threshold=0.4, audit_rate=0.5).to_line()))
    assert {record.decision.reason for record in logged} == {"confident", "escalated", "audit"}
    assert replay(logged, [policy], [KEY]).passed


def test_a_replay_names_the_first_decision_that_does_not_come_out_as_logged():
    policy = policies()[0]
    logged = records(policy, 60)
    decision = logged[11].decision
    for field, changed in (
        ("value", np.nextafter(decision.value, 2.0).item()),
        ("confidence", np.nextafter(decision.confidence, 2.0).item()),
        ("escalate", not decision.escalate),
        ("propensity", 0.5),
    ):
        forged = [*logged]
        forged[11] = replace(logged[11], decision=replace(decision, **{field: changed}))
        report = replay(forged, [policy], [KEY])
        assert (report.decisions, report.matched, report.passed) == (60, 59, False)
        assert f"decision {logged[11].id}, number 12: {field} was logged as {changed!r}" in report.problem
    assert replay(logged, [policy], [KEY]).passed


def test_a_replay_without_the_rule_or_the_key_says_which_is_wanted():
    policy = policies()[0]
    logged = records(policy, 5)
    assert f"made by the rule {rule_digest(policy)}, which is not given" in replay(logged, []).problem
    assert f"with the key {key_id(KEY)}, which is not given" in replay(logged, [policy], [KEY[::-1]]).problem
    assert replay(records(policy, 5, rate=None), [policy]).passed
    lowered = [replace(logged[0], threshold=0.69)]
    assert "is below the rule's" in replay(lowered, [policy], [KEY]).problem
    assert replay([Feedback("a", 0.0, 1), LateAnswer("a", 0.0, CloudAnswer(1, 0.5, "", ""))], []).passed


def test_the_id_of_a_key_tells_keys_apart_and_not_what_they_are():
    assert key_id(KEY) == key_id(bytes(KEY)) != key_id(KEY[::-1])
    assert len(key_id(KEY)) == 16


LINE = records(policies()[0], 3)[1].to_line()


def changed(**fields: object) -> bytes:
    return json.dumps({**json.loads(LINE), **fields}).encode()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "not JSON"),
        (b"[]", "not an object"),
        (b"\xff", "not JSON"),
        (changed(format=2), "its format is 2; this SDK reads 1"),
        (changed(kind="dream"), "its kind is 'dream'"),
        (changed(more=1), "should be an object with"),
        (changed(scores="AAAA"), "3 bytes, which is no float32 array"),
        (changed(scores="A!AA"), "not a record"),
        (changed(id="x" * 300), "at most 200 characters"),
        (changed(id="a\nb"), "should be a text"),
        (changed(time=True), "should be a number"),
        (changed(audit={"rate": 2, "key": "a"}), "should be from 0 to 1"),
        (changed(decision=None), "should be an object with"),
        (b'{"format":1,"kind":"feedback","id":"a","time":0,"label":-1}', "should be a count"),
        (b'{"format":1,"kind":"late","id":"a","time":0,"cloud":null}', "should be an object with"),
        (b'{"format":1,"kind":"late","id":"a","time":0}', "should be an object with"),
        (b" " * (2 << 20), "over the limit"),
    ],
)
def test_what_is_no_record_is_refused_in_one_line(line, why):
    with pytest.raises(JournalError, match=why) as caught:
        parse(line)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_line_is_read_as_a_record_or_refused_and_nothing_else(data):
    line = bytearray(LINE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(line) - 1))
        end = at + data.draw(st.sampled_from([0, 1, 5]))
        line[at:end] = data.draw(st.binary(max_size=4) | st.sampled_from([b"1e999", b"null", b"{}", b"[[", b'"']))
        line = line or bytearray(b"{")
    try:
        record = parse(bytes(line))
    except EdgeSdkError:
        return
    assert parse(record.to_line()) == record


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(json.loads(LINE))), JSON, st.booleans())
def test_any_value_in_any_field_is_read_or_refused(field, value, nested):
    record = json.loads(LINE)
    if nested and isinstance(record[field], dict):
        record[field] = dict.fromkeys(record[field], value)
    else:
        record[field] = value
    try:
        read = parse(json.dumps(record).encode())
    except EdgeSdkError:
        return
    assert parse(read.to_line()) == read
    replay([read], policies(), [KEY])
