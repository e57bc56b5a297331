"""Journal files: nothing waits for them, nothing fails with them, and what is in them is read again."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edge_sdk.cascade.journal import Feedback
from edge_sdk.client.journal import KEY_FILE, Journal, Reader, keep_key, read_key
from edge_sdk.errors import InputError, JournalError, StorageError
from outside.disk import limited_file_size
from outside.sources import ROOT

LABELS = [Feedback(f"{n:08x}", float(n), n % 10) for n in range(3000)]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def write(folder: Path, records: list[Feedback], **options: object) -> dict[str, int]:
    journal = Journal(folder, **options)
    for record in records:
        journal.put(record)
    journal.close()
    return journal.counters


def test_what_is_put_in_comes_out_in_the_same_order(tmp_path):
    assert write(tmp_path, LABELS) == {"written": 3000, "lost": 0}
    reader = Reader(tmp_path)
    assert list(reader) == LABELS
    assert reader.torn == 0
    (file,) = files(tmp_path)
    assert list(Reader(file)) == LABELS
    assert file.stat().st_mode & 0o777 == 0o600


def test_many_threads_write_one_journal(tmp_path):
    journal = Journal(tmp_path, pause=0.01)
    parts = [LABELS[n::6] for n in range(6)]
    threads = [threading.Thread(target=lambda part=part: [journal.put(x) for x in part]) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.flush()
    assert sorted(Reader(tmp_path), key=lambda x: x.time) == LABELS
    journal.close()


def test_two_journals_may_share_a_folder(tmp_path):
    first, second = Journal(tmp_path), Journal(tmp_path)
    first.put(LABELS[0])
    second.put(LABELS[1])
    first.close()
    second.close()
    assert len(files(tmp_path)) == 2
    assert sorted(Reader(tmp_path), key=lambda x: x.time) == LABELS[:2]


def test_a_last_line_that_a_power_cut_has_torn_is_passed_over_wherever_it_is_torn(tmp_path):
    write(tmp_path, LABELS[:3])
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    ends = [n + 1 for n, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole) + 1):
        file.write_bytes(whole[:size])
        reader, whole_lines = Reader(tmp_path), sum(end <= size for end in ends)
        found = list(reader)
        complete = size + 1 in ends  # all of a line but its end
        assert found == LABELS[: whole_lines + complete]
        assert reader.torn == (0 if size == 0 or size in ends or complete else 1)
    file.write_bytes(whole + bytes(4096))  # what some file systems leave
    assert list(Reader(tmp_path)) == LABELS[:3]


def test_after_a_power_cut_a_new_file_is_begun_and_all_others_are_read(tmp_path):
    write(tmp_path, LABELS[:3])
    (file,) = files(tmp_path)
    file.write_bytes(file.read_bytes()[:-5])
    write(tmp_path, LABELS[3:5])
    reader = Reader(tmp_path)
    assert list(reader) == [*LABELS[:2], *LABELS[3:5]]
    assert reader.torn == 1


WRITER = """
import sys
from edge_sdk.cascade.journal import Feedback
from edge_sdk.client.journal import Journal
journal = Journal(sys.argv[1], pause=0.005, file_bytes=20_000, max_bytes=1 << 30)
n = 0
while True:
    journal.put(Feedback(f"{n:08x}", float(n), n % 10))
    n += 1
    if n % 50 == 0:
        journal.flush()
        print(n, flush=True)
"""


@pytest.mark.parametrize("lines", [5, 17, 60])
def test_a_process_that_is_killed_while_it_writes_leaves_all_that_was_durable(tmp_path, lines):
    command = [sys.executable, "-P", "-c", WRITER, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(lines):
            durable = int(process.stdout.readline())
        process.kill()
    reader = Reader(tmp_path)
    found = list(reader)
    assert len(found) >= durable
    assert found == [Feedback(f"{n:08x}", float(n), n % 10) for n in range(len(found))]
    assert reader.torn <= 1


def test_a_damaged_line_elsewhere_is_named(tmp_path):
    write(tmp_path, LABELS[:5])
    (file,) = files(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], b"{damage}\n", *lines[3:]]))
    with pytest.raises(JournalError, match=rf"{file.name}, line 3: not a record of a journal"):
        list(Reader(tmp_path))
    file.write_bytes(b"x" * (3 << 20))
    with pytest.raises(JournalError, match=r"line 1: .*over the limit"):
        list(Reader(tmp_path))


def test_files_rotate_and_the_oldest_go(tmp_path):
    journal = Journal(tmp_path, file_bytes=2000, max_bytes=8000)
    for n in range(0, 1000, 10):
        for record in LABELS[n : n + 10]:
            journal.put(record)
        assert journal.flush()
    journal.close()
    assert journal.counters == {"written": 1000, "lost": 0}
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 8000 + 2000
    found = list(Reader(tmp_path))
    assert 50 <= len(found) < 1000
    assert found == LABELS[1000 - len(found) : 1000], "what is left is the latest, without a gap"


def test_a_queue_that_is_full_loses_records_and_counts_them(tmp_path):
    journal = Journal(tmp_path, queue=10)
    with limited_file_size(0):  # nothing can be written
        for record in LABELS[:500]:
            journal.put(record)
        assert journal.flush()
    assert journal.counters == {"written": 0, "lost": 500}
    journal.put(LABELS[500])
    journal.close()
    assert list(Reader(tmp_path)) == [LABELS[500]], "and goes on when the disk does"
    journal.put(LABELS[501])
    assert journal.counters == {"written": 1, "lost": 501}, "after closing, too"


def test_a_disk_that_takes_half_a_batch_leaves_no_half_a_line(tmp_path):
    journal = Journal(tmp_path)
    for record in LABELS[:10]:
        journal.put(record)
    assert journal.flush()
    (file,) = files(tmp_path)
    size = file.stat().st_size
    with limited_file_size(size + 100):
        for record in LABELS[10:20]:
            journal.put(record)
        assert journal.flush()
    assert file.stat().st_size == size
    for record in LABELS[20:30]:
        journal.put(record)
    journal.close()
    assert list(Reader(tmp_path)) == [*LABELS[:10], *LABELS[20:30]]
    assert journal.counters == {"written": 20, "lost": 10}


def test_a_full_disk_is_no_error_of_the_caller_and_is_over_when_there_is_room(full_disk):
    filler = full_disk / "filler"
    journal = Journal(full_disk / "journal")
    with filler.open("wb", buffering=0) as stream, pytest.raises(OSError):
        while True:
            stream.write(bytes(4096))
    for record in LABELS[:100]:
        journal.put(record)
    assert journal.flush()
    assert journal.counters == {"written": 0, "lost": 100}
    filler.unlink()
    journal.put(LABELS[100])
    journal.close()
    assert list(Reader(full_disk / "journal")) == [LABELS[100]]


def test_a_folder_that_vanishes_costs_records_only(tmp_path):
    journal = Journal(tmp_path / "journal")
    (tmp_path / "journal").rmdir()
    journal.put(LABELS[0])
    assert journal.flush()
    journal.close()
    assert journal.counters == {"written": 0, "lost": 1}


def test_a_record_that_has_no_form_takes_no_other_with_it(tmp_path):
    def fail() -> Feedback:
        raise ValueError("it cannot be made")

    nameless = [LABELS[0], Feedback("line\nbreak", 0.0, 1), fail, Feedback("nan", float("nan"), 1), LABELS[1]]
    assert write(tmp_path, nameless) == {"written": 2, "lost": 3}
    assert list(Reader(tmp_path)) == LABELS[:2]


def test_putting_does_not_wait_for_the_disk(tmp_path):
    journal = Journal(tmp_path, pause=3600.0)
    before = time.thread_time()
    for record in LABELS[:1000]:
        journal.put(record)
    assert not files(tmp_path), "nothing is written on the caller's thread"
    assert time.thread_time() - before < 1.0
    journal.close()
    assert len(list(Reader(tmp_path))) == 1000


def test_of_tasks_of_one_name_the_last_is_done_on_the_journals_thread_and_again_where_it_fails(tmp_path):
    done = []
    journal = Journal(tmp_path, pause=3600.0)
    journal.soon("a", lambda: done.append(1))
    journal.soon("a", lambda: done.append(threading.current_thread().name))
    assert journal.flush()
    assert done == ["edge-sdk-journal"]

    def fail_once() -> None:
        done.append("again")
        if len(done) < 3:
            raise OSError("the disk")

    journal.soon("a", fail_once)
    assert not journal.flush(timeout=0.2)
    while len(done) < 2:  # it has failed: a busy machine takes longer
        time.sleep(0.01)
    assert journal.flush()
    journal.close()
    assert done == ["edge-sdk-journal", "again", "again"]


def test_no_journal_is_said_in_one_line(tmp_path):
    with pytest.raises(JournalError, match="there is no journal"):
        Reader(tmp_path / "missing")
    with pytest.raises(JournalError, match=r"no \.jsonl files"):
        Reader(tmp_path)
    with pytest.raises(JournalError, match=r"line 1"):
        list(Reader(ROOT / "README.md"))


@pytest.mark.parametrize("option", ["max_bytes", "file_bytes", "queue", "pause"])
def test_limits_that_make_no_sense_are_refused(tmp_path, option):
    with pytest.raises(InputError, match=f"journal's {option} is 0"):
        Journal(tmp_path, **{option: 0})


def test_one_key_is_made_and_kept(tmp_path):
    key = keep_key(tmp_path)
    assert len(key) == 32
    assert keep_key(tmp_path) == key == read_key(tmp_path / KEY_FILE)
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]
    for content in ("", "zz", "00" * 15, "00" * 65, "é"):
        (tmp_path / KEY_FILE).write_text(content)
        with pytest.raises(InputError, match=r"holds (no|a) key"):
            keep_key(tmp_path)
    with pytest.raises(StorageError):
        read_key(tmp_path)
