"""Guards of certificates that several models and processes share, because they write to one journal."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import edge_sdk
from edge_sdk.cascade.audit import Guard
from edge_sdk.cascade.policy import Certificate
from edge_sdk.client import Journal
from edge_sdk.client.guards import Guards
from edge_sdk.errors import InputError

PATIENT = 20.0
SOON = 30.0  # seconds that a busy machine may take for what is done once a second
CERTIFICATE = Certificate(0.01, 0.95, 1000, 1, 0.01, 0.5, {}, disagreements=5)
NAME = "sha256:0123456789abcdef0123"


def kept(folder: Path) -> Guard:
    (path,) = folder.glob("guard-*.json")
    return Guard.from_json(json.loads(path.read_bytes()))


class Watcher:
    """A journal of one folder and the guards in it, as a process has them."""

    def __init__(self, folder: Path) -> None:
        self.heard: list[Guard] = []
        self.journal = Journal(folder)
        self.guards = Guards(self.journal, lambda name, guard: self.heard.append(guard))
        self.guards.take(NAME, CERTIFICATE)

    def see(self, *disagreements: bool) -> None:
        for disagrees in disagreements:
            self.guards.update(NAME, disagrees)
        assert self.journal.flush()


def test_audits_of_all_count_together_and_none_twice(tmp_path: Path) -> None:
    first, second = Watcher(tmp_path), Watcher(tmp_path)
    first.see(False, False, True)
    second.see(False)
    first.see(False)
    second.see(False, False)
    guard = Guard.of(CERTIFICATE)
    for disagrees in (False, False, True, False, False, False, False):
        guard = guard.update(disagrees)
    assert kept(tmp_path) == guard


def test_an_alarm_of_one_is_the_alarm_of_all_and_of_those_to_come(tmp_path: Path) -> None:
    first, second = Watcher(tmp_path), Watcher(tmp_path)
    first.see(*[True] * 20)
    assert first.heard[-1].alarm
    assert not second.heard
    second.see(False)
    assert second.heard[-1].alarm
    assert Watcher(tmp_path).guards.take(NAME, CERTIFICATE).alarm


def test_what_the_disk_refuses_is_written_later(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path / "journal")
    moved = (tmp_path / "journal").rename(tmp_path / "moved")
    watcher.guards.update(NAME, False)
    assert not watcher.journal.flush(timeout=0.5)
    moved.rename(tmp_path / "journal")
    watcher.see(True)
    assert (kept(tmp_path / "journal").audits, kept(tmp_path / "journal").disagreements) == (2, 1)


def test_a_file_that_is_no_guard_is_said_in_one_line(tmp_path: Path) -> None:
    Watcher(tmp_path).see(False)
    (path,) = tmp_path.glob("guard-*.json")
    path.write_text("{}")
    with pytest.raises(InputError, match=rf"{path.name} cannot be read.*remove it to begin anew"):
        Guards(Journal(tmp_path), lambda name, guard: None).take(NAME, CERTIFICATE)


WORK = """
import sys
import numpy as np
import edge_sdk
bundle, cloud, folder, frames, n = sys.argv[1:]
with edge_sdk.connect(bundle, cloud=cloud, deadline=20.0, audit_rate=1.0, journal=folder) as model:
    for frame in np.load(frames)[: int(n)]:
        assert model.predict(frame).reason == "audit"
"""


def test_processes_that_share_a_journal_lose_no_audit(guarded, pair, cloud, tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "frames.npy", np.stack(pair.easy[:40]))
    command = [sys.executable, "-P", "-c", WORK, guarded, cloud, tmp_path / "journal", tmp_path / "frames.npy"]
    processes = [subprocess.Popen([*command, str(n)]) for n in (40, 30, 20)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert kept(tmp_path / "journal").audits == 90


def test_models_that_share_a_journal_share_the_alarm(guarded, worse, pair, cloud, tmp_path: Path) -> None:
    options = {"cloud": cloud, "deadline": PATIENT, "audit_rate": 1.0, "journal": tmp_path}
    with edge_sdk.connect(worse, **options) as one, edge_sdk.connect(worse, **options) as other:
        while one.certificate_void is None:
            for frame in pair.easy[:40]:
                one.predict(frame)
        assert other.certificate_void is None
        end = time.monotonic() + SOON
        while other.certificate_void is None:
            other.predict(pair.easy[0])
            assert time.monotonic() < end
            time.sleep(0.1)
        assert not other.predict(pair.easy[0]).certified
