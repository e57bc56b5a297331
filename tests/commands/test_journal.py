"""``edge-sdk journal``: decisions derived again, and thresholds judged, from the files of a device."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edge_sdk.bundle import Bundle
from edge_sdk.cascade import Policy
from edge_sdk.cascade.audit import Audit
from edge_sdk.cascade.journal import CloudAnswer, Feedback, LateAnswer, Outcome, Record, derive, key_id, rule_digest
from edge_sdk.client import Journal
from edge_sdk.client.journal import KEY_FILE, keep_key
from outside.services import edge_sdk as run

POLICY = Policy(0.8, 1.2)


@dataclass(frozen=True)
class Logged:
    """A bundle with a rule, and the journal of it."""

    bundle: Path
    folder: Path
    records: list[Record | Feedback]


def decisions(key: bytes, n: int, rate: float) -> list[Record | Feedback]:
    rng, audit, made = np.random.default_rng(0), Audit(key, rate), []
    for k in range(n):
        scores = rng.dirichlet([0.12] * 3).astype(np.float32)
        decision = derive(POLICY, scores, f"{k:x}", audit=audit)
        index = int(scores.argmax())
        cloud = CloudAnswer(index if rng.random() < 0.9 else (index + 1) % 3, 0.9, "t", "captured")
        made.append(
            Record(
                id=f"{k:x}",
                time=float(k),
                input="",
                model="m",
                rule=rule_digest(POLICY),
                scores=scores.astype("<f4").tobytes(),
                threshold=POLICY.threshold,
                audit_rate=rate,
                audit_key=key_id(key),
                decision=decision,
                outcome=Outcome("edge", "confident", True, index, cloud if decision.escalate else None),
            )
        )
        if k % 4 == 0:
            made.append(Feedback(f"{k:x}", k + 1e6, index))
    return made


def write(folder: Path, records: list[Record | Feedback]) -> None:
    journal = Journal(folder)
    for record in records:
        journal.put(record)
    journal.close()
    assert journal.counters["lost"] == 0


@pytest.fixture(scope="module")
def logged(files, tmp_path_factory) -> Logged:
    folder = tmp_path_factory.mktemp("journal")
    bundle = folder / "with-rule.edge"
    Bundle.open(files.bundle).rewrite(bundle, cascade=POLICY.to_json())
    records = decisions(keep_key(folder), 2000, 0.2)
    write(folder, records)
    return Logged(bundle, folder, records)


def test_every_decision_of_a_journal_is_derived_again(logged, files):
    done = run("journal", "replay", logged.folder, "--bundle", logged.bundle)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "2000 decisions, 2000 derived again bit for bit\n"
    (file,) = logged.folder.glob("*.jsonl")
    done = run("journal", "replay", file, "--bundle", logged.bundle, "--key-file", logged.folder / KEY_FILE, "--json")
    assert json.loads(done.stdout) == {"decisions": 2000, "matched": 2000, "problem": None, "torn": 0}


def test_a_decision_that_comes_out_otherwise_is_named_and_the_code_is_1(logged, tmp_path):
    forged = logged.records[:20]
    forged[4] = replace(forged[4], scores=forged[5].scores if isinstance(forged[5], Record) else forged[6].scores)
    write(tmp_path, forged)
    done = run("journal", "replay", tmp_path, "--bundle", logged.bundle, "--key-file", logged.folder / KEY_FILE)
    assert done.returncode == 1
    assert f"first that is not: decision {forged[4].id}, number" in done.stdout
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-9])
    done = run("journal", "replay", tmp_path, "--bundle", logged.bundle)
    assert done.returncode == 1
    assert "1 torn last lines were passed over" in done.stdout
    assert "which is not given" in done.stdout


def test_another_threshold_is_judged(logged):
    done = run("journal", "evaluate", logged.folder, "--threshold", 0.9, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout)
    assert (record["threshold"], record["requests"], record["labels"], record["unknown"]) == (0.9, 2000, 500, None)
    kept = np.mean([r.decision.value >= 0.9 for r in logged.records if isinstance(r, Record)])
    assert record["coverage"]["value"] == pytest.approx(kept)
    assert record["agreement"]["low"] < record["agreement"]["value"] < record["agreement"]["high"]
    assert record["agreement"]["value"] == pytest.approx(1 - kept * 0.1, abs=0.04)
    words = run("journal", "evaluate", logged.folder, "--threshold", 0.9).stdout
    assert "threshold 0.9, from 2000 decisions and 500 labels" in words
    assert f"answered by the edge   {record['coverage']['value']:.2%}, between" in words


def test_answers_that_came_late_are_estimated_from_as_if_they_had_come_in_time(logged, tmp_path):
    missed, late = [], []
    for record in logged.records:
        if isinstance(record, Record) and record.outcome.cloud is not None:
            late.append(LateAnswer(record.id, record.time + 1e5, record.outcome.cloud))
            missed.append(replace(record, outcome=replace(record.outcome, cloud=None, missing="offline")))
        else:
            missed.append(record)
    write(tmp_path / "missed", missed)
    write(tmp_path / "late", [*missed, *late])
    want, without, found = (
        json.loads(run("journal", "evaluate", folder, "--threshold", 0.9, "--json").stdout)
        for folder in (logged.folder, tmp_path / "missed", tmp_path / "late")
    )
    assert found == want
    assert without["agreement"]["value"] is None, "the control"
    key = logged.folder / KEY_FILE
    done = run("journal", "replay", tmp_path / "late", "--bundle", logged.bundle, "--key-file", key)
    assert done.stdout == "2000 decisions, 2000 derived again bit for bit\n"


def test_a_report_counts_all_answers(logged):
    done = run("journal", "report", logged.folder, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    wanted = np.mean([r.decision.reason == "escalated" for r in logged.records if isinstance(r, Record)])
    assert (report["answers"], report["labels"], report["edge"]) == (2000, 500, 1.0)
    assert report["withheld"] == pytest.approx(wanted)
    assert report["differs"]["low"] < 0.1 < report["differs"]["high"]
    assert report["harm"]["value"] == 0.0, "the labels say that the edge was right"
    words = run("journal", "report", logged.folder).stdout
    assert words.startswith("2000 answers, 500 labels; shares are of all answers\n  given by the edge      100.00%\n")
    assert "  harmed                 0.00%, between 0.00% and " in words


def test_what_cannot_be_estimated_is_said(logged, tmp_path):
    unaudited = [
        replace(record, decision=replace(record.decision, propensity=0.0))
        for record in logged.records
        if isinstance(record, Record) and record.decision.reason == "confident"
    ]
    write(tmp_path, unaudited)
    done = run("journal", "evaluate", tmp_path, "--threshold", 0.8)
    assert done.returncode == 0
    assert "as the cloud answers   between 0.00% and 100.00%, no estimate" in done.stdout
    assert "cannot be estimated: agreement at 0.8" in done.stdout
    done = run("journal", "evaluate", tmp_path, "--threshold", 0.8, "--json")
    assert json.loads(done.stdout)["agreement"] == {"value": None, "low": 0.0, "high": 1.0, "observed": 0}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("evaluate", "missing", "--threshold", "0.5"), "there is no journal missing"),
        (("evaluate", "FOLDER", "--threshold", "nan"), "threshold is nan"),
        (("evaluate", "FOLDER", "--threshold", "0.5", "--confidence", "2"), "confidence 2"),
        (("evaluate", "FOLDER", "--threshold", "0.5", "--rule", "x"), "no decisions of the rule x"),
        (("report", "FOLDER", "--confidence", "2"), "confidence is 2"),
        (("report", "missing"), "there is no journal missing"),
        (("replay", "FOLDER", "--bundle", "PLAIN"), "has no policy"),
        (("replay", "FOLDER", "--bundle", "BUNDLE", "--key-file", "missing"), "cannot read missing"),
        (("replay", "PLAIN", "--bundle", "BUNDLE"), "line 1: not a record"),
        (("replay", "FOLDER"), "required: --bundle"),
    ],
)
def test_bad_input_is_one_line_and_code_2(logged, files, arguments, says):
    names = {"FOLDER": logged.folder, "PLAIN": files.bundle, "BUNDLE": logged.bundle}
    done = run("journal", *(names.get(word, word) for word in arguments))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert says in line
