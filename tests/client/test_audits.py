"""Audits on the way: who gets what, what is written down, and when the certificate is void."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edge_sdk
from edge_sdk.bundle import Bundle
from edge_sdk.cascade.audit import Audit
from edge_sdk.cascade.journal import Feedback, Record, key_id
from edge_sdk.cascade.offpolicy import columns, evaluate
from edge_sdk.cascade.policy import Policy
from edge_sdk.cascade.replay import replay
from edge_sdk.client import Budget, Cloud, Journal
from edge_sdk.client.journal import KEY_FILE, Reader, keep_key, read_key
from edge_sdk.errors import InputError, StorageError
from outside.bundles import build_tiny_bundle
from outside.network import free_port

PATIENT = 20.0
KEY = bytes(range(32))


def records(folder: Path) -> list[Record]:
    return [record for record in Reader(folder) if isinstance(record, Record)]


# ---- who gets what


def test_an_audited_answer_is_the_clouds_and_says_so(guarded, pair, cloud) -> None:
    with edge_sdk.connect(guarded, cloud=cloud, deadline=PATIENT, audit_rate=1.0) as model:
        answer = model.predict(pair.easy[0])
        counters = model.counters
    assert (answer.source, answer.reason, answer.certified) == ("cloud", "audit", True)
    assert answer.model_digest == pair.cloud_digest
    assert counters["audits"] == {"asked": 1, "answered": 1, "missing": 0, "disagreed": 0}
    assert counters["reasons"] == {"audit": 1}


def test_a_lost_audit_leaves_the_confident_answer_as_it_was(guarded, pair) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    with edge_sdk.connect(guarded, cloud=nowhere, deadline=PATIENT, audit_rate=1.0) as model:
        sure, doubtful = model.predict(pair.easy[0]), model.predict(pair.hard[0])
        counters = model.counters
    assert (sure.source, sure.reason, sure.certified) == ("edge", "confident", True)
    assert (doubtful.source, doubtful.reason, doubtful.certified) == ("edge", "offline", False)
    assert counters["audits"] == {"asked": 1, "answered": 0, "missing": 1, "disagreed": 0}


def test_the_coin_of_a_known_key_falls_as_it_would_anywhere(guarded, pair, cloud, tmp_path: Path) -> None:
    options = {"audit_rate": 0.3, "audit_key": KEY, "journal": tmp_path, "deadline": PATIENT}
    with edge_sdk.connect(guarded, cloud=cloud, **options) as model:
        answers = [model.predict(pair.easy[n % len(pair.easy)]) for n in range(60)]
    audit = Audit(KEY, 0.3)
    with edge_sdk.load(guarded) as edge:
        rule = edge.policy.decide(edge.infer(pair.easy[0]).probabilities)
    expected = ["audit" if audit.decide(rule, answer.decision_id).escalate else "confident" for answer in answers]
    assert [answer.reason for answer in answers] == expected
    assert 5 <= expected.count("audit") <= 35
    assert {record.decision.propensity for record in records(tmp_path)} == {0.3}


def test_by_default_one_in_a_hundred_is_audited_where_a_guard_can_watch_and_else_none(
    guarded, pair, cloud, tmp_path: Path
) -> None:
    for bundle, rate in ((guarded, 0.01), (pair.edge, None)):
        folder = tmp_path / bundle.stem
        with edge_sdk.connect(bundle, cloud=cloud, deadline=PATIENT, journal=folder) as model:
            model.predict(pair.easy[0])
        assert [record.audit_rate for record in records(folder)] == [rate]
    with edge_sdk.connect(guarded, cloud=cloud, deadline=PATIENT, audit_rate=0, journal=tmp_path / "off") as model:
        model.predict(pair.easy[0])
    assert [record.audit_rate for record in records(tmp_path / "off")] == [None]


def test_the_audit_key_is_kept_beside_the_journal_for_its_user_alone_or_is_the_callers(
    guarded, pair, cloud, tmp_path: Path
) -> None:
    for _ in range(2):
        with edge_sdk.connect(guarded, cloud=cloud, deadline=PATIENT, journal=tmp_path) as model:
            model.predict(pair.easy[0])
    kept = read_key(tmp_path / KEY_FILE)
    assert len(kept) == 32
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert {record.audit_key for record in records(tmp_path)} == {key_id(kept)}
    with edge_sdk.connect(guarded, cloud=cloud, journal=tmp_path / "own", audit_key=KEY) as model:
        model.predict(pair.easy[0])
    assert not (tmp_path / "own" / KEY_FILE).exists()
    assert keep_key(tmp_path) == kept


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"audit_rate": 1.5}, "rate of an audit is 1.5"),
        ({"audit_key": b"short"}, "key of an audit has 5 bytes"),
        ({"audit_rate": 0.1, "mode": "cloud"}, "mode hybrid, not cloud"),
        ({"journal": "somewhere", "mode": "edge"}, "mode hybrid, not edge"),
    ],
)
def test_wrong_options_are_refused_and_nothing_is_left_behind(guarded, tmp_path, monkeypatch, options, says) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        edge_sdk.connect(guarded, cloud="127.0.0.1:1", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_cannot_be_begun_is_an_error_at_once(guarded, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="create the folder"):
        edge_sdk.connect(guarded, cloud="127.0.0.1:1", journal=tmp_path / "file" / "below")
    (tmp_path / KEY_FILE).write_text("no key")
    with pytest.raises(InputError, match="holds no key"):
        edge_sdk.connect(guarded, cloud="127.0.0.1:1", journal=tmp_path)


# ---- what voids the certificate


def test_the_guard_voids_the_certificate_of_a_model_made_worse_and_no_restart_brings_it_back(
    guarded, worse, pair, cloud, tmp_path: Path, caplog
) -> None:
    options = {"cloud": cloud, "deadline": PATIENT, "audit_rate": 1.0, "journal": tmp_path / "journal"}
    with edge_sdk.connect(guarded, **options) as model:
        assert all(model.predict(frame).certified for frame in pair.easy[:60]), "the control"
        assert model.certificate_void is None
        model.swap(worse)
        answers = [model.predict(frame) for frame in pair.easy[:40]]
        assert answers[0].certified
        assert not answers[-1].certified
        assert "confident answers disagree with the cloud more often" in model.certificate_void
        counters = model.counters
        assert counters["certificate_void"] == model.certificate_void
        assert counters["audits"]["disagreed"] >= 3
        model.swap(guarded)
        assert model.predict(pair.easy[0]).certified, "it was not this one's alarm"
        model.swap(worse)
        assert not model.predict(pair.easy[0]).certified
    assert caplog.text.count("the certificate is void") == 2  # said once, and again after the swap
    with edge_sdk.connect(worse, **options) as model:
        assert not model.predict(pair.easy[0]).certified


def test_the_guard_counts_no_lost_audits(guarded, pair, tmp_path: Path) -> None:
    options = {"cloud": f"127.0.0.1:{free_port()}", "audit_rate": 1.0, "journal": tmp_path}
    with edge_sdk.connect(guarded, deadline=PATIENT, **options) as model:
        for frame in pair.easy[:5]:
            model.predict(frame)
    assert not list(tmp_path.glob("guard-*.json"))


def test_while_another_model_answers_nothing_is_certified_and_afterwards_it_is(
    guarded, pair, cloud, service, tmp_path: Path
) -> None:
    foreign = build_tiny_bundle(tmp_path, name="foreign", seed=9).path
    address = service("serve", foreign, pair.cloud, "--grpc-port", "0").ready["grpc"]
    with edge_sdk.connect(guarded, cloud=f"{address}/foreign", deadline=PATIENT, audit_rate=0) as model:
        assert model.predict(pair.easy[0]).certified
        assert not model.predict(pair.hard[0]).certified
        assert not model.predict(pair.easy[0]).certified, "the pair that was certified is not the one at work"
        assert "another cloud model answers" in model.certificate_void
    with edge_sdk.connect(guarded, cloud=f"{address}/teacher", deadline=PATIENT, audit_rate=0) as model:
        assert model.predict(pair.hard[0]).certified
        assert model.certificate_void is None


def test_the_guard_hears_only_the_model_and_the_encoding_that_were_certified(
    guarded, pair, cloud, service, tmp_path: Path
) -> None:
    foreign = build_tiny_bundle(tmp_path, name="foreign", seed=9).path
    address = service("serve", foreign, "--grpc-port", "0").ready["grpc"]
    ways = {"foreign": (address, "auto"), "lossy": (cloud, "jpeg"), "certified": (cloud, "auto")}
    for name, (target, encoding) in ways.items():
        options = {"deadline": PATIENT, "audit_rate": 1.0, "journal": tmp_path / name}
        with edge_sdk.connect(guarded, cloud=Cloud(target, encoding=encoding), **options) as model:
            for frame in pair.easy[:3]:
                assert model.predict(frame).reason == "audit"
            assert model.counters["audits"]["answered"] == 3
    heard = {name for name in ways if list((tmp_path / name).glob("guard-*.json"))}
    assert heard == {"certified"}


@pytest.mark.parametrize(
    ("encoding", "certified"), [("auto", True), ("captured", True), ("tensor", True), ("jpeg", False)]
)
def test_a_lossy_encoding_is_not_what_was_certified(guarded, pair, cloud, encoding: str, certified: bool) -> None:
    with edge_sdk.connect(guarded, cloud=Cloud(cloud, encoding=encoding), deadline=PATIENT, audit_rate=0) as model:
        assert model.predict(pair.hard[0]).certified is certified
        assert model.predict(pair.easy[0]).certified is certified
        assert (model.certificate_void is None) is certified


def test_a_picture_that_came_as_jpeg_shows_the_cloud_what_the_edge_saw(guarded, pair, cloud) -> None:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pair.hard[0]).save(stream, "JPEG", quality=95)
    with edge_sdk.connect(guarded, cloud=Cloud(cloud, encoding="jpeg"), mode="prefer_cloud", deadline=PATIENT) as model:
        assert model.predict(stream.getvalue()).certified


# ---- what is written down

REPLAY = """
import json, sys
from pathlib import Path
from edge_sdk.bundle import Bundle
from edge_sdk.cascade.replay import replay
from edge_sdk.cascade.policy import Policy
from edge_sdk.client.journal import Reader, read_key
rules = [Policy.from_json(Bundle.open(sys.argv[1]).manifest.cascade)]
report = replay(Reader(sys.argv[2]), rules, [read_key(Path(sys.argv[2]) / "audit.key")])
print(json.dumps([report.decisions, report.matched, report.problem]))
"""


def test_predictions_are_replayed_in_another_process_and_another_threshold_is_judged(
    guarded, pair, cloud, tmp_path: Path
) -> None:
    frames = [*pair.easy[:70], *pair.hard[:30]]
    with edge_sdk.connect(guarded, cloud=cloud, deadline=PATIENT, audit_rate=0.3, journal=tmp_path) as model:
        answers = [model.predict(frame) for frame in frames]
        for answer in answers:
            model.feedback(answer.decision_id, answer.label)
        model.feedback(answers[0].decision_id, answers[0].index)
        with pytest.raises(InputError, match="no class 'mauve'; there are red"):
            model.feedback(answers[0].decision_id, "mauve")
        with pytest.raises(InputError, match="no class 3"):
            model.feedback(answers[0].decision_id, 3)
    logged = records(tmp_path)
    assert [record.id for record in logged] == [answer.decision_id for answer in answers]
    for record, answer in zip(logged, answers, strict=True):
        outcome = record.outcome
        assert (outcome.source, outcome.reason, outcome.certified) == (answer.source, answer.reason, answer.certified)
        assert outcome.timing == answer.timing
        assert (outcome.cloud is not None) == (answer.source == "cloud")
        if outcome.cloud is not None:
            assert (outcome.cloud.index, outcome.cloud.model) == (answer.index, pair.cloud_digest)
            assert (outcome.cloud.encoding, outcome.missing) == ("captured", None)
            assert outcome.bytes_sent > frames[0].nbytes
    hashed = [record.input for record in logged if record.decision.escalate]
    assert len(set(hashed)) == len(hashed) > 30
    assert {record.input for record in logged if not record.decision.escalate} == {""}
    done = subprocess.run(
        [sys.executable, "-P", "-c", REPLAY, guarded, tmp_path], capture_output=True, text=True, check=False
    )
    assert json.loads(done.stdout) == [100, 100, None], done.stderr
    result = evaluate(columns(Reader(tmp_path)), 0.9)
    assert (result.requests, result.labels, result.unknown) == (100, 100, None)


def test_many_threads_share_one_journal_and_every_decision_is_in_it_once(guarded, pair, cloud, tmp_path: Path) -> None:
    frames = [*pair.easy[:20], *pair.hard[:5]]
    with edge_sdk.connect(guarded, cloud=cloud, deadline=PATIENT, audit_rate=0.2, journal=tmp_path) as model:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda n: model.predict(frames[n % len(frames)]), range(300)))
        policy, counters = model.edge.policy, model.counters
    logged = records(tmp_path)
    assert sorted(record.id for record in logged) == sorted(answer.decision_id for answer in answers)
    assert replay(logged, [policy], [read_key(tmp_path / KEY_FILE)]).passed
    reasons = Counter(record.outcome.reason for record in logged)
    assert reasons == counters["reasons"]
    assert counters["audits"]["answered"] == reasons["audit"] > 0
    assert counters["network"]["round_trip_ms"] > 0.0


def test_inputs_that_the_cloud_was_to_see_are_hashed_unless_the_journal_says_otherwise(
    guarded, pair, cloud, tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "bare", hash_inputs=False)
    for into in (tmp_path / "hashed", journal):
        with edge_sdk.connect(guarded, cloud=cloud, deadline=PATIENT, audit_rate=0, journal=into) as model:
            model.predict(pair.easy[0])
            model.predict(pair.hard[0])
    journal.close()
    kept, asked = records(tmp_path / "hashed")
    assert kept.input == "", "the cloud was not asked"
    assert asked.input == "sha256:" + hashlib.sha256(pair.hard[0].tobytes()).hexdigest()
    assert [record.input for record in records(tmp_path / "bare")] == ["", ""]


def test_audited_inputs_are_hashed(guarded, pair, cloud, tmp_path: Path) -> None:
    with edge_sdk.connect(guarded, cloud=cloud, deadline=PATIENT, audit_rate=1.0, journal=tmp_path) as model:
        assert model.predict(pair.easy[0]).reason == "audit"
    (record,) = records(tmp_path)
    assert record.input == "sha256:" + hashlib.sha256(pair.easy[0].tobytes()).hexdigest()


@pytest.mark.parametrize("refused", ["budget", "offline"])
def test_no_input_is_hashed_that_nobody_sees(guarded, pair, cloud, tmp_path: Path, refused: str) -> None:
    options = {"budget": Budget(bytes=1)} if refused == "budget" else {}
    address = cloud if refused == "budget" else f"127.0.0.1:{free_port()}"
    with edge_sdk.connect(guarded, cloud=address, deadline=PATIENT, journal=tmp_path, **options) as model:
        assert {model.predict(frame).reason for frame in pair.hard[:3]} == {refused}
    assert {record.input for record in records(tmp_path)} == {""}


def test_no_input_is_hashed_in_time_that_is_not_there(guarded, pair, cloud, tmp_path: Path) -> None:
    with edge_sdk.connect(guarded, cloud=cloud, deadline=0, journal=tmp_path) as model:
        assert model.predict(pair.hard[0]).reason == "deadline"
    (record,) = records(tmp_path)
    assert record.input == ""


def test_a_missing_answer_says_why(guarded, pair, tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    with edge_sdk.connect(guarded, cloud=nowhere, deadline=PATIENT, audit_rate=1.0, journal=tmp_path) as model:
        model.predict(pair.easy[0])
        model.predict(pair.hard[0])
    sure, doubtful = records(tmp_path)
    assert (sure.decision.reason, sure.outcome.reason, sure.outcome.missing) == ("audit", "confident", "offline")
    assert (doubtful.outcome.reason, doubtful.outcome.missing, doubtful.outcome.cloud) == ("offline", "offline", None)


def test_a_journal_of_ones_own_outlives_the_model(guarded, pair, cloud, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with edge_sdk.connect(guarded, cloud=cloud, deadline=PATIENT, journal=journal) as model:
        answer = model.predict(pair.easy[0])
    with edge_sdk.connect(guarded, cloud=cloud, deadline=PATIENT, journal=journal) as model:
        model.feedback(answer.decision_id, 0)
    journal.close()
    assert journal.counters == {"written": 2, "lost": 0}
    assert len(list(Reader(tmp_path))) == 2


def test_feedback_takes_ids_of_answers_and_classes_alone(guarded, cloud, tmp_path: Path) -> None:
    with edge_sdk.connect(guarded, cloud=cloud, journal=tmp_path) as model:
        for wrong in (5, None, "", "x" * 201, "a\nb", "\ud800"):
            with pytest.raises(InputError, match="decision_id of an answer"):
                model.feedback(wrong, 0)
        for wrong in (True, 1.5, None, float("nan"), 3, -1):
            with pytest.raises(InputError, match="there is no class"):
                model.feedback("of an answer long ago", wrong)
        model.feedback("of an answer long ago", np.int64(1))
    (entry,) = Reader(tmp_path)
    assert entry == Feedback("of an answer long ago", entry.time, 1)


def test_feedback_without_a_journal_is_refused(guarded, pair, cloud) -> None:
    with edge_sdk.connect(guarded, cloud=cloud) as model, pytest.raises(InputError, match="no journal for feedback"):
        model.feedback("a", 0)


def test_a_full_disk_costs_records_and_no_answer(guarded, pair, cloud, full_disk: Path, caplog) -> None:
    journal = Journal(full_disk / "journal")
    with edge_sdk.connect(
        guarded, cloud=cloud, deadline=PATIENT, audit_rate=0, audit_key=KEY, journal=journal
    ) as model:
        for n in range(400):
            assert model.predict(pair.easy[n % len(pair.easy)]).label
            if n % 40 == 39:
                assert journal.flush()
        counters = model.counters["journal"]
    journal.close()
    assert counters["lost"] > 0
    assert counters["written"] > 0
    assert caplog.text.count("loses records") == 1
    assert len(records(full_disk / "journal")) == counters["written"]


def test_a_guard_that_cannot_be_read_is_not_forgotten_silently(guarded, pair, cloud, tmp_path: Path) -> None:
    with edge_sdk.connect(guarded, cloud=cloud, deadline=PATIENT, audit_rate=1.0, journal=tmp_path) as model:
        model.predict(pair.easy[0])
    (kept,) = tmp_path.glob("guard-*.json")
    kept.write_bytes(b"[[1")
    with pytest.raises(InputError, match="remove it to begin anew"):
        edge_sdk.connect(guarded, cloud="127.0.0.1:1", journal=tmp_path)


def test_models_that_share_a_journal_keep_a_guard_each(guarded, pair, cloud, tmp_path: Path) -> None:
    other = tmp_path / "other.edge"
    bundle = Bundle.open(guarded)
    policy = Policy.from_json(bundle.manifest.cascade)
    bundle.rewrite(other, cascade=replace(policy, threshold=policy.threshold / 2).to_json())
    options = {"cloud": cloud, "deadline": PATIENT, "audit_rate": 1.0, "journal": Journal(tmp_path / "journal")}
    with edge_sdk.connect(guarded, **options) as one, edge_sdk.connect(other, **options) as two:
        for model in (one, two, one):
            assert model.predict(pair.easy[0]).reason == "audit"
    options["journal"].close()
    counts = sorted(json.loads(file.read_text())["audits"] for file in (tmp_path / "journal").glob("guard-*.json"))
    assert counts == [1, 2]
