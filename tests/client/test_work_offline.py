"""Inputs that the cloud could not see wait in an outbox, and their answers come into the journal when it can."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import edge_sdk
from edge_sdk.cascade.journal import LateAnswer, Record
from edge_sdk.cascade.offpolicy import columns
from edge_sdk.client import Budget, Journal, Outbox, PrivacyRule
from edge_sdk.client.journal import Reader
from edge_sdk.errors import InputError
from edge_sdk.frames import as_frame
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec
from edge_sdk.protocol import read_parameters
from outside.bundles import tiny_onnx, train_tiny
from outside.disk import limited_file_size
from outside.network import MisbehavingNetwork
from outside.odd import OddCloud
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
    reader = Reader(folder) if any(folder.glob("*.jsonl")) else ()
    return [record for record in reader if isinstance(record, LateAnswer)]


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


def test_answers_that_come_late_count_in_estimates_as_those_that_came_in_time(pair, link, tmp_path):
    with (
        Outbox(tmp_path / "outbox", share=1.0) as outbox,
        edge_sdk.connect(pair.edge, cloud=link.address, journal=tmp_path / "journal", outbox=outbox) as model,
    ):
        for frame in pair.hard[:8]:
            model.predict(frame)
        assert outbox.flush()
        link.set("pass")
        emptied(outbox)
    records = list(Reader(tmp_path / "journal"))
    decisions = [record for record in records if isinstance(record, Record)]
    assert np.isnan(columns(decisions).agrees).all(), "the control: none came in time"
    answers = {answer.id: answer.cloud.index for answer in late(tmp_path / "journal")}
    agrees = [record.outcome.index == answers[record.id] for record in decisions]
    assert columns(records).agrees.tolist() == [float(x) for x in agrees]
    second = [LateAnswer(x.id, x.time + 1, x.cloud.__class__(9, 1.0, "", "")) for x in late(tmp_path / "journal")]
    assert columns([*second, *records][len(second) :] + second).agrees.tolist() == [float(x) for x in agrees]


def test_what_a_rule_keeps_never_enters_and_what_is_reduced_enters_reduced(pair, link, tmp_path):
    always = with_policy(pair.edge, tmp_path / "always.edge", cloud_digest=None, threshold=1.0)
    rules = [PrivacyRule(where={"tenant": {"clinic"}}), PrivacyRule(where={"tenant": {"school"}}, max_side=5)]
    folder = tmp_path / "outbox"
    with (
        Outbox(folder, share=1.0) as outbox,
        edge_sdk.connect(
            always, cloud=link.address, journal=tmp_path / "journal", outbox=outbox, privacy=rules
        ) as model,
    ):
        kept = model.predict(picture(), {"tenant": "clinic"})
        assert outbox.flush()
        assert (kept.reason, outbox.counters["waiting"]) == ("privacy", 0)
        answers = [model.predict(picture(), {"tenant": name}) for name in ("school", "shop")]
        assert outbox.flush()
        files = sorted(folder.glob("*.parcel"))
        assert len(files) == 2
        assert not any(SECRET in file.read_bytes() for file in files)
        assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
        link.set("pass")
        emptied(outbox)
        assert model.counters["privacy"]["kept"] == 1
    reduced, whole = requests_in(link.recorded)
    assert SECRET not in link.recorded_bytes
    assert max(reduced.inputs[0].shape) == 5
    assert read_parameters(whole.parameters)["edge_encoding"] == "jpeg"
    assert [read_parameters(x.parameters)["edge_decision_id"] for x in (reduced, whole)] == [
        answer.decision_id for answer in answers
    ]
    assert {read_parameters(x.parameters)["priority"] for x in (reduced, whole)} == {1000}
    assert [answer.cloud.encoding for answer in late(tmp_path / "journal")] == ["captured+side:5", "captured"]


@pytest.mark.parametrize(
    ("rule", "leave"),
    [
        (PrivacyRule(), 0),
        (PrivacyRule(where={"tenant": {"ours"}}), 1),
        (PrivacyRule(where={"door": {"front"}}), 0),  # a value that could not be kept: nobody can tell
        (PrivacyRule(when=lambda question: question.context["tenant"] == "ours"), 1),
        (PrivacyRule(max_side=12), 2),  # as small already
        (PrivacyRule(max_side=11), 0),
        (PrivacyRule(region_of_interest=(0.0, 0.0, 1.0, 0.5)), 2),
        (PrivacyRule(region_of_interest=(0.25, 0.0, 0.5, 0.5)), 0),
    ],
    ids=["all", "tenant", "unknown", "predicate", "as small", "smaller", "as wide", "narrower"],
)
def test_rules_of_now_hold_for_what_was_kept_under_others(pair, link, tmp_path, rule: PrivacyRule, leave: int):
    options = {"cloud": link.address, "journal": tmp_path / "journal"}
    before = [PrivacyRule(region_of_interest=(0.0, 0.0, 1.0, 0.5)), PrivacyRule(max_side=12)]
    with edge_sdk.connect(pair.edge, outbox=tmp_path / "outbox", privacy=before, **options) as model:
        for tenant in ("ours", "theirs"):
            model.predict(pair.hard[0], {"tenant": tenant, "door": object()})
    link.set("pass")
    with (
        Outbox(tmp_path / "outbox", share=1.0) as outbox,
        edge_sdk.connect(pair.edge, outbox=outbox, privacy=[rule], **options),
    ):
        assert outbox.counters["waiting"] <= 2
        emptied(outbox)
        assert (outbox.counters["sent"], outbox.counters["refused"]) == (leave, 2 - leave)
    assert len(late(tmp_path / "journal")) == len(requests_in(link.recorded)) == leave


@pytest.mark.parametrize("options", [{}, {"mode": "cloud"}, {"mode": "edge"}])
def test_an_outbox_without_a_journal_is_refused(pair, tmp_path, options):
    with pytest.raises(InputError, match="an outbox needs the mode hybrid and a journal"):
        edge_sdk.connect(pair.edge, cloud="127.0.0.1:1", outbox=tmp_path / "outbox", **options)


def test_one_outbox_is_that_of_one_model(pair, tmp_path):
    options = {"cloud": "127.0.0.1:1", "journal": tmp_path / "journal"}
    with Outbox(tmp_path / "outbox") as outbox:
        with (
            edge_sdk.connect(pair.edge, outbox=outbox, **options),
            pytest.raises(InputError, match="is in use by another model"),
        ):
            edge_sdk.connect(pair.edge, outbox=outbox, **options)
        with edge_sdk.connect(pair.edge, outbox=outbox, **options):
            pass  # and afterwards that of another


def other_labels(folder: Path) -> Path:
    """Return a bundle of the same inputs whose classes have other names."""
    processing = ProcessingSpec.image(8, 8, 3)
    path = folder / "other.edge"
    pack(
        tiny_onnx(*train_tiny(processing)),
        runtime="onnx",
        name="other",
        version="1.0.0",
        labels=("r", "g", "b"),
        processing=processing,
        output="logits",
        golden_inputs=[np.zeros((8, 8, 3), np.uint8)],
        path=path,
    )
    return with_policy(path, folder / "other-policy.edge", cloud_digest=None)


def test_inputs_of_a_model_with_other_labels_wait_until_such_a_one_is_back(pair, link, tmp_path):
    with (
        Outbox(tmp_path / "outbox", share=1.0) as outbox,
        edge_sdk.connect(pair.edge, cloud=link.address, journal=tmp_path / "journal", outbox=outbox) as model,
    ):
        model.predict(pair.hard[0])
        model.swap(other_labels(tmp_path))
        assert outbox.flush()
        link.set("pass")
        assert not outbox.wait_until_empty(1.5)
        assert outbox.counters["waiting"] == 1
        model.swap(pair.edge)
        emptied(outbox)
    assert len(late(tmp_path / "journal")) == 1


def test_an_input_whose_answer_is_in_the_journal_already_is_not_answered_again(pair, link, tmp_path):
    """As after a process that died between writing the answer and removing the input."""
    folder, options = tmp_path / "outbox", {"cloud": link.address, "journal": tmp_path / "journal"}
    with edge_sdk.connect(pair.edge, outbox=folder, **options) as model:
        for frame in pair.hard[:4]:
            model.predict(frame)
    shutil.copytree(folder, tmp_path / "copy")
    link.set("pass")
    with Outbox(folder, share=1.0) as outbox, edge_sdk.connect(pair.edge, outbox=outbox, **options):
        emptied(outbox)
    before, sent = late(tmp_path / "journal"), len(requests_in(link.recorded))
    assert (len(before), sent) == (4, 4)
    with (
        Outbox(tmp_path / "copy", share=1.0) as outbox,
        edge_sdk.connect(pair.edge, outbox=outbox, **options) as model,
    ):
        emptied(outbox)
    assert late(tmp_path / "journal") == before
    assert len(requests_in(link.recorded)) == sent, "nor sent again"


def test_an_answer_that_the_disk_did_not_take_keeps_its_input_waiting(pair, link, tmp_path):
    journal = Journal(tmp_path / "journal", pause=0.05)
    with Outbox(tmp_path / "outbox", share=1.0) as outbox:
        with edge_sdk.connect(pair.edge, cloud=link.address, journal=journal, outbox=outbox) as model:
            for frame in pair.hard[:3]:
                model.predict(frame)
            assert outbox.flush()
            assert journal.flush()
            with limited_file_size(0):
                lost = journal.counters["lost"]
                link.set("pass")
                end = time.monotonic() + PATIENT
                while journal.counters["lost"] == lost:
                    assert time.monotonic() < end
                    time.sleep(0.02)
                assert outbox.counters["waiting"] == 3
            emptied(outbox)
        assert outbox.counters["sent"] == 3
    journal.close()
    assert len(late(tmp_path / "journal")) == 3
    assert len(requests_in(link.recorded)) == 3, "what was answered is not asked again"


@pytest.mark.parametrize("oddity", ["nan", "labels", "exhausted", "crash"])
def test_what_a_cloud_answers_that_cannot_be_used_leaves_inputs_waiting(pair, tmp_path, oddity):
    with (
        OddCloud(oddity) as odd,
        Outbox(tmp_path / "outbox", share=1.0) as outbox,
        edge_sdk.connect(
            pair.edge, cloud=f"127.0.0.1:{odd.port}", deadline=PATIENT, journal=tmp_path / "journal", outbox=outbox
        ) as model,
    ):
        assert model.predict(pair.hard[0]).reason == "rejected"
        assert outbox.flush()
        assert not outbox.wait_until_empty(1.0)
        assert outbox.counters["waiting"] == 1
        assert outbox.counters["sent"] == outbox.counters["refused"] == 0
    assert late(tmp_path / "journal") == []


def test_an_input_that_is_rejected_lets_others_go_first(pair, tmp_path):
    answered = []

    def first_is_not_usable(response):
        if not answered:
            response.raw_output_contents[0] = np.full(3, np.nan, np.float32).tobytes()
        answered.append(response)

    with OddCloud() as odd, Outbox(tmp_path / "outbox", share=1.0) as outbox:
        odd.change = first_is_not_usable
        with edge_sdk.connect(
            pair.edge, cloud=odd.address, deadline=0, journal=tmp_path / "journal", outbox=outbox
        ) as model:
            first, second = (model.predict(frame).decision_id for frame in pair.hard[:2])
            emptied(outbox)
    assert [answer.id for answer in late(tmp_path / "journal")] == [second, first]


def test_a_file_that_the_disk_does_not_give_back_lets_others_go_first(pair, link, tmp_path):
    folder, options = tmp_path / "outbox", {"cloud": link.address, "journal": tmp_path / "journal"}
    with edge_sdk.connect(pair.edge, outbox=folder, **options) as model:
        for frame in pair.hard[:3]:
            model.predict(frame)
    first = min(folder.glob("*.parcel"))
    first.unlink()
    first.mkdir()  # opening it fails, for root, too
    link.set("pass")
    with Outbox(folder, share=1.0) as outbox, edge_sdk.connect(pair.edge, outbox=outbox, **options):
        end = time.monotonic() + PATIENT
        while outbox.counters["sent"] < 2:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert outbox.counters["waiting"] == 1


def test_pictures_may_be_kept_as_jpeg_and_the_journal_says_what_the_cloud_saw(pair, link, tmp_path):
    always = with_policy(pair.edge, tmp_path / "always.edge", cloud_digest=None, threshold=1.0)
    smooth = np.repeat(np.repeat(np.arange(0, 240, 10, np.uint8)[:, None], 400, 1)[..., None], 3, 2)
    rules = [PrivacyRule(where={"tenant": {"school"}}, max_side=100)]
    with (
        Outbox(tmp_path / "outbox", encoding="jpeg:60", share=1.0) as outbox,
        edge_sdk.connect(
            always, cloud=link.address, journal=tmp_path / "journal", outbox=outbox, privacy=rules
        ) as model,
    ):
        model.predict(smooth, {"tenant": "shop"})
        model.predict(smooth, {"tenant": "school"})
        model.predict(picture(), {"tenant": "shop"})
        assert outbox.flush()
        first = min((tmp_path / "outbox").glob("*.parcel"))
        assert first.stat().st_size * 4 < smooth.nbytes
        link.set("pass")
        emptied(outbox)
    seen = [answer.cloud.encoding for answer in late(tmp_path / "journal")]
    assert seen == ["jpeg:60", "jpeg:60+side:100", "captured"]
    shapes = [as_frame(bytes(x.raw_input_contents[0][4:])).shape for x in requests_in(link.recorded)]
    assert shapes == [(24, 400, 3), (6, 100, 3), (24, 40, 3)]


def test_closing_does_not_wait_for_a_cloud_that_swallows_what_is_sent(pair, link, tmp_path):
    link.set("pass")
    with Outbox(tmp_path / "outbox", share=1.0) as outbox:
        model = edge_sdk.connect(
            pair.edge, cloud=link.address, deadline=PATIENT, journal=tmp_path / "journal", outbox=outbox
        )
        assert model.predict(pair.hard[0]).source == "cloud"
        link.set("blackhole")
        model.deadline = 0
        model.predict(pair.hard[1])
        assert outbox.flush()
        sent, end = len(requests_in(link.recorded)), time.monotonic() + PATIENT
        while len(requests_in(link.recorded)) == sent == 1:
            assert time.monotonic() < end
            time.sleep(0.02)
        started = time.monotonic()
        model.close()
        assert time.monotonic() - started < 9.0, "far below the time that an answer has"
        assert outbox.counters["waiting"] == 1


def test_a_file_that_is_damaged_is_passed_over_and_the_others_are_sent(pair, link, tmp_path):
    folder, options = tmp_path / "outbox", {"cloud": link.address, "journal": tmp_path / "journal"}
    with edge_sdk.connect(pair.edge, outbox=folder, **options) as model:
        for frame in pair.hard[:4]:
            model.predict(frame)
    first, second, third, _ = sorted(folder.glob("*.parcel"))
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:-1])
    data = bytearray(third.read_bytes())
    data[len(data) // 2] ^= 1
    third.write_bytes(data)
    link.set("pass")
    with Outbox(folder, share=1.0) as outbox, edge_sdk.connect(pair.edge, outbox=outbox, **options):
        emptied(outbox)
        assert (outbox.counters["sent"], outbox.counters["damaged"]) == (1, 3)
    assert len(late(tmp_path / "journal")) == 1


def test_sending_leaves_most_of_the_budget_to_escalations_that_somebody_waits_for(pair, link, tmp_path):
    budget = Budget(calls=80, period=1e6)  # a bucket of 20, which does not refill while this runs
    with (
        Outbox(tmp_path / "outbox", share=0.25) as outbox,
        edge_sdk.connect(
            pair.edge, cloud=link.address, journal=tmp_path / "journal", outbox=outbox, budget=budget, deadline=0
        ) as model,
    ):
        for frame in (pair.hard * 2)[:12]:
            model.predict(frame)
        assert outbox.flush()
        link.set("pass")
        assert not outbox.wait_until_empty(3.0)
        model.deadline = PATIENT
        answers = Counter(model.predict(frame).reason for frame in (pair.hard * 2)[:13])
    assert 1 <= len(late(tmp_path / "journal")) <= 6, "a quarter of a bucket, or what is above three quarters of it"
    assert answers["escalated"] == 13


def test_what_comes_a_second_time_bears_the_name_that_it_bore_the_first_time(pair, link, tmp_path):
    link.set("pass")
    with (
        Outbox(tmp_path / "outbox", share=1.0) as outbox,
        edge_sdk.connect(pair.edge, cloud=link.address, journal=tmp_path / "journal", outbox=outbox) as model,
    ):
        model.deadline = PATIENT
        assert model.predict(pair.hard[0]).source == "cloud"
        link.set("delay", seconds=2.0)
        model.deadline = 1.0  # in which it is sent, on a busy machine too
        answer = model.predict(pair.hard[1])
        assert answer.reason == "deadline"
        link.set("pass")
        emptied(outbox)
    names = [read_parameters(x.parameters)["edge_decision_id"] for x in requests_in(link.recorded)]
    assert names.count(answer.decision_id) == 2, "the second of three requests was sent, and sent again"
    assert len(names) == 3


CAMERA = """
import os, signal, sys, time
import numpy as np
import edge_sdk
from edge_sdk.client import Outbox
edge, cloud, folder, frames, moment = sys.argv[1:]
events = 0

def killer(event, arguments):
    global events
    if event in ("open", "os.remove", "os.rename") and folder in str(arguments[0]):
        events += 1
        named = not moment.isdigit() and event == moment.split()[0] and moment.split()[1] in str(arguments[0])
        if named or moment == str(events):
            os.kill(os.getpid(), signal.SIGKILL)

if moment:
    sys.addaudithook(killer)
outbox = Outbox(folder + "/outbox", share=1.0)
model = edge_sdk.connect(edge, cloud=cloud, journal=folder + "/journal", outbox=outbox, deadline=0)
frames = np.load(frames)
print("ready", flush=True)
n = 0
while True:
    names = [model.predict(frames[n % len(frames)]).decision_id for n in range(n, n + 3)]
    n += 3
    assert outbox.flush()
    print(*names, flush=True)
    if moment:
        time.sleep(0.03)  # else thousands wait when the first is sent
"""


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_at_any_moment_loses_no_input_and_answers_none_twice(pair, link, tmp_path, kills):
    """Real processes, each killed while it puts and sends, on a network that comes and goes."""
    chance, durable = random.Random(5), set()
    np.save(tmp_path / "frames.npy", np.stack(pair.hard))
    arguments = [pair.edge, link.address, tmp_path, tmp_path / "frames.npy", ""]
    for turn in range(kills):
        link.set(chance.choice(["pass", "pass", "pass", "refuse"]))
        command = [sys.executable, "-P", "-c", CAMERA, *map(str, arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            said = process.stdout.readline() if turn == kills - 1 else ""  # a busy machine may have queued nothing yet
            time.sleep(chance.uniform(0.0, 0.5))
            process.kill()
            said += process.stdout.read()
        durable.update(name for line in said.splitlines(keepends=True) if line.endswith("\n") for name in line.split())
    assert durable, "the control: something was queued"
    every_one_is_answered_once(pair, link, tmp_path, durable)


def every_one_is_answered_once(pair, link, folder: Path, durable: set[str]) -> None:
    """Let another process send the rest, and look into the journal."""
    link.set("pass")
    with (
        Outbox(folder / "outbox", share=1.0) as outbox,
        edge_sdk.connect(pair.edge, cloud=link.address, journal=folder / "journal", outbox=outbox),
    ):
        assert outbox.wait_until_empty(120), outbox.counters
        assert outbox.counters["damaged"] == outbox.counters["lost"] == outbox.counters["expired"] == 0
    answered = Counter(answer.id for answer in late(folder / "journal"))
    assert durable <= answered.keys()
    assert set(answered.values()) <= {1}


@pytest.mark.parametrize(
    "moment",
    ["os.remove .parcel", "os.rename /.0", "os.rename .outbox", "open .jsonl", "open .parcel"],
    ids=["answered", "not yet queued", "not yet begun", "answered, not written", "before sending"],
)
def test_a_process_that_dies_at_the_worst_moments_answers_every_input_once(pair, link, tmp_path, moment):
    """Killed by itself just before the first such call: removing an input, naming its file, opening the journal."""
    np.save(tmp_path / "frames.npy", np.stack(pair.hard))
    link.set("pass")
    arguments = [pair.edge, link.address, tmp_path, tmp_path / "frames.npy", moment]
    command = [sys.executable, "-P", "-c", CAMERA, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == -9, done.stderr
    left = [path.name.split("-")[-1].removesuffix(".parcel") for path in (tmp_path / "outbox").glob("*.parcel")]
    if moment.startswith("os.remove"):
        assert {x.id for x in late(tmp_path / "journal")} & set(left), "the control: answered, and not removed"
    every_one_is_answered_once(pair, link, tmp_path, set(left))
    assert [path.name for path in (tmp_path / "outbox").iterdir() if path.name != "outbox"] == []


@pytest.mark.slow
def test_a_process_that_dies_at_any_file_that_it_opens_names_or_removes_answers_every_input_once(pair, link, tmp_path):
    """One process after the other over the same folders, each killed one file later than the last."""
    np.save(tmp_path / "frames.npy", np.stack(pair.hard))
    link.set("pass")
    durable: set[str] = set()
    for moment in range(1, 61):
        arguments = [pair.edge, link.address, tmp_path, tmp_path / "frames.npy", moment]
        command = [sys.executable, "-P", "-c", CAMERA, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == -9, done.stderr
        durable.update(name for line in done.stdout.splitlines() for name in line.split() if name != "ready")
    assert durable, "the control: something was queued"
    every_one_is_answered_once(pair, link, tmp_path, durable)
