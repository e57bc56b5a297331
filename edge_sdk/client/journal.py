"""Journal files: written behind the caller's back, bounded, and read again whatever became of them.

A journal is a folder of files, one record a line, oldest name first. `Journal.put` never waits and
never raises: a thread writes what has queued up once a second and makes it durable. What finds no
room, in the queue or on the disk, is counted as lost. A file is only ever appended to by the process
that made it, so a power cut can tear nothing but its last line.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from pathlib import Path

from edge_sdk.cascade.audit import LEAST_KEY
from edge_sdk.cascade.journal import MAX_LINE_BYTES, Entry, LateAnswer, parse
from edge_sdk.errors import InputError, JournalError
from edge_sdk.files import fsync_dir, make_folder, storage_errors, write_durably

__all__ = ["KEY_FILE", "Journal", "Reader", "keep_key", "late_answers", "read_key"]

_log = logging.getLogger("edge_sdk.client")

KEY_FILE = "audit.key"
_SUFFIX = ".jsonl"
_LATE = b'"kind":"late"'  # as canonical JSON has it
_QUIET_SECONDS = 60.0  # between two complaints about the same disk

_Waiting = Entry | Callable[[], Entry]


class Journal:
    """A folder that records are written to; thread-safe.

    Parameters
    ----------
    folder
        Made where it is not there. Only this user may read what is written.
    max_bytes
        Of all files in it; the oldest are removed to stay below.
    file_bytes
        Of one file, about; then the next is begun.
    queue
        Records that may wait to be written; more are lost.
    pause
        Seconds between two writes: what a power cut may take.
    hash_inputs
        Whether records hold the SHA-256 of inputs that the cloud was asked about. It is taken while the
        cloud works.

    Raises
    ------
    StorageError
        The folder cannot be made.
    InputError
        A limit is not above 0.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        max_bytes: int = 256 << 20,
        file_bytes: int = 16 << 20,
        queue: int = 10_000,
        pause: float = 1.0,
        hash_inputs: bool = True,
    ) -> None:
        for name, limit in (("max_bytes", max_bytes), ("file_bytes", file_bytes), ("queue", queue), ("pause", pause)):
            if not limit > 0:
                raise InputError(f"the journal's {name} is {limit}; it should be above 0")
        self.folder = make_folder(Path(folder))
        self.hash_inputs = hash_inputs
        self._max_bytes, self._file_bytes, self._limit, self._pause = max_bytes, file_bytes, queue, pause
        self._descriptor: int | None = None
        self._path = Path()
        self._size = 0
        self._changed = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._awaited: dict[int, Future[bool]] = {}  # by the identity of what is in the queue
        self._tasks: dict[str, Callable[[], None]] = {}
        self._put = self._written = self._lost = 0
        self._hurried = self._closing = False
        self._quiet_until = 0.0
        self._thread = threading.Thread(target=self._run, name="edge-sdk-journal", daemon=True)
        self._thread.start()

    @property
    def counters(self) -> dict[str, int]:
        """Records ``written``, and ``lost`` for want of room or of a disk that takes them."""
        with self._changed:
            return {"written": self._written, "lost": self._lost}

    def put(self, record: _Waiting) -> None:
        """Take a record to be written, or what makes it on the journal's thread; never waits, never raises."""
        with self._changed:
            self._put += 1
            if self._closing or len(self._queue) >= self._limit:
                self._lost += 1
                return
            self._queue.append(record)
            if len(self._queue) * 2 >= self._limit:
                self._changed.notify_all()

    def append(self, record: Entry) -> Future[bool]:
        """Take a record to be written now, and tell when that is over: true where it is durable, at the latest then.

        False is that nobody knows: a failing disk may have kept it all the same.
        """
        told: Future[bool] = Future()
        with self._changed:
            self._put += 1
            if self._closing:
                self._lost += 1
                told.set_result(False)
                return told
            self._awaited[id(record)] = told
            self._queue.append(record)
            self._hurried = True
            self._changed.notify_all()
        return told

    def soon(self, name: str, task: Callable[[], None]) -> None:
        """Take something to be done on the journal's thread, in place of what has that name; never waits or raises.

        What raises is done again a moment later.
        """
        with self._changed:
            self._tasks[name] = task

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything taken so far is written or lost; False where the timeout came first."""
        with self._changed:
            goal = self._put
            self._hurried = True
            self._changed.notify_all()
            return self._changed.wait_for(
                lambda: self._written + self._lost >= goal and not self._tasks, timeout=timeout
            )

    def close(self, timeout: float = 10.0) -> None:
        """Write what has queued up, within the timeout. Closing twice is no error."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)

    def __repr__(self) -> str:
        return f"<Journal {self.folder}>"

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closing or self._hurried or len(self._queue) * 2 >= self._limit, timeout=self._pause
                )
                batch, self._queue = self._queue, deque()
                tasks, closing, self._hurried = dict(self._tasks), self._closing, False
            written, failed, done = 0, True, {}
            try:
                written = self._write(batch)
                failed = False
                for name, task in tasks.items():
                    task()
                    done[name] = task
            except Exception as error:  # noqa: BLE001 - whatever it is, the next batch is written
                if time.monotonic() >= self._quiet_until:
                    _log.warning("the journal %s loses records: %s", self.folder, error)
                    self._quiet_until = time.monotonic() + _QUIET_SECONDS
            with self._changed:
                self._written += written
                self._lost += len(batch) - written
                self._tasks = {name: task for name, task in self._tasks.items() if done.get(name) is not task}
                told = [(future, record) for record in batch if (future := self._awaited.pop(id(record), None))]
                self._changed.notify_all()
                over = closing and not self._queue
            for future, record in told:
                future.set_result(not failed and _line(record) is not None)
            if over:
                break
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _write(self, batch: deque[_Waiting]) -> int:
        """Append records to the file and make them durable; return how many."""
        if not batch:
            return 0
        lines = [line for record in batch if (line := _line(record)) is not None]
        data = b"".join(lines)
        descriptor = self._open()
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        except OSError:
            self._take_back(descriptor)
            raise
        self._size += len(data)
        if self._size >= self._file_bytes:
            self._leave()
        return len(lines)

    def _open(self) -> int:
        if self._descriptor is None:
            self._remove_oldest()
            name = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f"-{time.time_ns() % 10**9:09d}"
            self._path = self.folder / f"{name}-{secrets.token_hex(2)}{_SUFFIX}"
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            self._size = 0
            fsync_dir(self.folder)
        return self._descriptor

    def _take_back(self, descriptor: int) -> None:
        """Remove what was written in part, so that the next record begins a line of its own."""
        try:
            os.ftruncate(descriptor, self._size)
        except OSError:
            self._leave()  # its last line stays torn, which readers pass over

    def _leave(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _remove_oldest(self) -> None:
        sizes = {path: path.stat().st_size for path in _files(self.folder)}
        total = sum(sizes.values()) + self._file_bytes
        for path, size in sizes.items():
            if total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size


class Reader:
    """The records of a journal, from its folder or from one of its files, in the order of the files.

    Attributes
    ----------
    torn
        Last lines that were passed over because a power cut or a full disk had torn them; counted
        while reading.

    Raises
    ------
    JournalError
        There is no journal; while reading, where another line than the last is no record.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.torn = 0
        if not self._path.exists():
            raise JournalError(f"there is no journal {self._path}")
        self._files = _files(self._path) if self._path.is_dir() else [self._path]
        if not self._files:
            raise JournalError(f"there are no {_SUFFIX} files in {self._path}")

    def __iter__(self) -> Iterator[Entry]:
        self.torn = 0
        for path in self._files:
            with storage_errors(path, "read"), path.open("rb") as stream:
                number = 0
                while line := stream.readline(MAX_LINE_BYTES + 2):
                    number += 1
                    try:
                        yield parse(line.removesuffix(b"\n"))
                    except JournalError as error:
                        if line.endswith(b"\n") or len(line) > MAX_LINE_BYTES:
                            raise JournalError(f"{path}, line {number}: {error}") from error
                        self.torn += 1


def late_answers(folder: Path, among: Collection[str]) -> set[str]:
    """Return of which of these decisions a journal holds late answers.

    Raises
    ------
    StorageError
        A file cannot be read.
    """
    found: set[str] = set()
    for path in _files(folder) if among else []:
        with storage_errors(path, "read"):
            try:
                stream = path.open("rb")
            except FileNotFoundError:  # another process has removed its oldest
                continue
            with stream:
                while line := stream.readline(MAX_LINE_BYTES + 2):
                    if _LATE not in line:
                        continue
                    try:
                        record = parse(line.removesuffix(b"\n"))
                    except JournalError:
                        continue
                    if isinstance(record, LateAnswer) and record.id in among:
                        found.add(record.id)
    return found


def _line(entry: _Waiting) -> bytes | None:
    """Return a record as a line, or None where it has no form: it must not take others with it."""
    try:
        line = (entry() if callable(entry) else entry).to_line()
        parse(line)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is one record's
        _log.warning("a record cannot be written down: %s", error)
        return None
    return line + b"\n"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{_SUFFIX}") if path.is_file())


def read_key(path: Path) -> bytes:
    """Read an audit's key from a file: hexadecimal, as `keep_key` writes it.

    Raises
    ------
    StorageError, InputError
        The file cannot be read, or holds no key of at least 16 bytes.
    """
    with storage_errors(path, "read"), path.open("rb") as stream:
        data = stream.read(1024)
    try:
        key = bytes.fromhex(data.decode("ascii"))
    except ValueError as error:
        raise InputError(f"{path} holds no key: it should be hexadecimal") from error
    if not LEAST_KEY <= len(key) <= 64:
        raise InputError(f"{path} holds a key of {len(key)} bytes; it should have 16 to 64")
    return key


def keep_key(folder: Path) -> bytes:
    """Return the audit's key that is kept in a folder; one is made where there is none, for this user alone.

    Raises
    ------
    StorageError, InputError
        The file cannot be written or read, or holds no key.
    """
    path = folder / KEY_FILE
    if not path.exists():
        fresh = folder / f".{KEY_FILE}.{secrets.token_hex(4)}"
        write_durably(fresh, secrets.token_bytes(32).hex().encode() + b"\n", mode=0o600)
        try:
            os.link(fresh, path)  # fails where another process was first
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            with storage_errors(path):
                fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
        fsync_dir(folder)
    return read_key(path)
