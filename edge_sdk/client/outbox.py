"""Store and forward: inputs that the cloud should have seen, kept on the disk until it can.

An outbox is a folder of files, one input each. `Outbox.put` never waits and never raises: a thread makes
what has been put durable. What finds no room is counted as lost. Both a power cut and a kill leave every
file whole or away, and a file is removed only when its answer is in the journal; see
`edge_sdk.client.forwarding`. Time is taken from the clock that does not go back: an input ages while a
process runs, and between processes by the calendar, unless that says what cannot be.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from edge_sdk.client.parcels import FORMAT, MOST_BYTES, Parcel
from edge_sdk.errors import InputError, StorageError
from edge_sdk.files import fsync_dir, make_folder, storage_errors, write_durably
from edge_sdk.runtime import forks

__all__ = ["Entry", "Outbox"]

_log = logging.getLogger("edge_sdk.client")

_NAME = re.compile(r"([0-9]{16})-([0-9]{1,12})-([0-9a-f]{16})-([0-9a-f]{1,64})\.parcel")
_BEGUN = re.compile(r"\.([0-9]{16}$|outbox\.)")
_FORMAT_FILE = "outbox"
_FORMAT_TEXT = b"edge-sdk outbox %d\n"
_BLOCK = 4096  # what a file takes of a disk is a multiple of this
_SANE_TIME = 1_700_000_000.0  # before, a clock has not been set
_QUIET_SECONDS = 60.0  # between two complaints about the same disk
_TIDY_SECONDS = 30.0  # between two looks for what has grown too old


@dataclass(slots=True, eq=False)
class Entry:
    """One input on the disk.

    Attributes
    ----------
    number
        Its place in the queue.
    id, kind
        As of its `Parcel`.
    path, size
        Its file, and the bytes that it takes.
    born
        Reading of the monotonic clock from which it ages.
    """

    number: int
    id: str
    kind: str
    path: Path
    size: int
    born: float


class Outbox:
    """A durable, bounded queue of inputs for the cloud; thread-safe, of one process at a time.

    Give it, or its folder, to `edge_sdk.connect`, together with a journal, where the answers go.

    Parameters
    ----------
    folder
        Made where it is not there. Only this user may read what is written.
    max_bytes, max_items
        Of all files in it; the oldest leave first.
    max_age
        Seconds after which an input leaves unsent.
    queue_bytes
        Memory for inputs that wait for the disk; more are lost.
    share
        Of the time, and of the budget, in (0, 1]: what sending may take from escalations that somebody waits for.

    Raises
    ------
    StorageError
        The folder cannot be made or read, is that of another process, or of another version of the SDK.
    InputError
        A limit is out of its range.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        max_bytes: int = 256 << 20,
        max_items: int = 10_000,
        max_age: float = 7 * 86_400.0,
        queue_bytes: int = 64 << 20,
        share: float = 0.25,
    ) -> None:
        limits = {"max_bytes": max_bytes, "max_items": max_items, "max_age": max_age, "queue_bytes": queue_bytes}
        for name, limit in limits.items():
            if not limit > 0:
                raise InputError(f"the outbox's {name} is {limit}; it should be above 0")
        if not 0.0 < share <= 1.0:
            raise InputError(f"the outbox's share is {share}; it should be above 0, up to 1")
        self.folder = make_folder(Path(folder))
        self.share = share
        self._max_bytes, self._max_items, self._max_age, self._most_queued = max_bytes, max_items, max_age, queue_bytes
        self._changed = threading.Condition()
        self._queue: deque[Parcel] = deque()
        self._queued_bytes = self._queued_items = self._bytes = self._settled = self._next = 0
        self._entries: dict[str, Entry] = {}  # by id, oldest first
        self._counts = dict.fromkeys(("sent", "expired", "lost", "refused", "damaged"), 0)
        self._taken: Entry | None = None
        self._closing = self._claimed = False
        self._quiet_until = 0.0
        self._lock = _own(self.folder)
        try:
            self._find()
        except BaseException:
            self._lock.close()
            raise
        self._thread = threading.Thread(target=self._run, name="edge-sdk-outbox", daemon=True)
        self._thread.start()
        forks.watch(self)

    @property
    def counters(self) -> dict[str, int]:
        """What became of inputs, since this was made.

        Returns
        -------
        dict
            ``waiting``: durable, and not sent yet, and ``bytes`` that they take, both now; ``sent``: their
            answer is in the journal; ``expired``: left unsent for their age; ``lost``: left unsent for want
            of room; ``refused``: may not leave any more, or never could; ``damaged``: files that could not
            be read again.
        """
        with self._changed:
            return {"waiting": len(self._entries), "bytes": self._bytes, **self._counts}

    def put(self, parcel: Parcel) -> None:
        """Take an input to be kept; never waits, never raises. Its array may be changed afterwards."""
        size = parcel.nbytes
        with self._changed:
            fits = not self._closing and self._queued_bytes + size <= self._most_queued
            fits = fits and self._queued_items < self._max_items
            if not fits or size > MOST_BYTES:
                self._counts["lost"] += 1
                return
            self._queued_bytes += size
            self._queued_items += 1
        try:
            parcel = parcel.copied()
        except MemoryError:
            with self._changed:
                self._settle(size, lost=True)
            return
        with self._changed:
            self._queue.append(parcel)
            self._changed.notify_all()

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything put so far is durable, or lost; False where the timeout came first."""
        with self._changed:
            goal = self._settled + self._queued_items
            return self._changed.wait_for(lambda: self._settled >= goal, timeout=timeout)

    def wait_until_empty(self, timeout: float = 10.0) -> bool:
        """Wait until nothing waits to be sent; False where the timeout came first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._entries and not self._queued_items, timeout=timeout)

    def close(self, timeout: float = 10.0) -> None:
        """Make durable what has been put, within the timeout. Closing twice is no error."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)

    def after_fork(self) -> None:
        """Give the folder up in a child of this process: it is the parent's, and must not outlive it here."""
        self._changed = threading.Condition()
        self._closing = True
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Outbox {self.folder}>"

    # what the sender uses

    def claim(self) -> None:
        """Become its only sender, until `release`; raise `InputError` where there is one."""
        with self._changed:
            if self._claimed:
                raise InputError(f"the outbox {self.folder} is in use by another model; give each one of its own")
            self._claimed = True

    def release(self) -> None:
        """Let another sender have it."""
        with self._changed:
            self._claimed, self._taken = False, None

    def take(self, kind: str, skip: Callable[[Entry], bool]) -> Entry | None:
        """Return the oldest input of a kind that is not to be skipped, or None; it stays until `remove`.

        The one that was taken last may leave from then on.
        """
        with self._changed:
            self._taken = None
            for entry in self._entries.values():
                if entry.kind == kind and self._age(entry) < self._max_age and not skip(entry):
                    self._taken = entry
                    break
            return self._taken

    def read(self, entry: Entry) -> Parcel | None:
        """Return an input that was taken; None where its file is damaged, which removes it.

        Raises
        ------
        StorageError
            The disk does not give it back.
        """
        with storage_errors(entry.path, "read"):
            if not entry.path.exists():
                self.remove(entry, "damaged")
                return None
            with entry.path.open("rb") as stream:
                data = stream.read(MOST_BYTES + 1)
        try:
            parcel = Parcel.from_bytes(data)
            if (parcel.id, parcel.kind) != (entry.id, entry.kind):
                raise InputError("its file is named as another")
        except InputError as error:
            _log.warning("outbox %s: %s is passed over: %s", self.folder, entry.path.name, error)
            self.remove(entry, "damaged")
            return None
        return parcel

    def remove(self, entry: Entry, why: str) -> None:
        """Remove an input, which is counted as ``sent``, ``expired``, ``lost``, ``refused`` or ``damaged``."""
        try:
            entry.path.unlink(missing_ok=True)
        except OSError as error:
            self._complain(error)  # it is found again by the next process, which sees what became of it
        with self._changed:
            if self._entries.pop(entry.id, None) is not None:
                self._bytes -= entry.size
                self._counts[why] += 1
                self._changed.notify_all()

    def waiting(self) -> list[Entry]:
        """Return all that wait to be sent, the oldest first."""
        with self._changed:
            return list(self._entries.values())

    # the thread of the disk

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._queue, timeout=_TIDY_SECONDS)
                batch, self._queue = self._queue, deque()
                done = self._closing and not batch
            for entry in self.waiting():
                if self._age(entry) >= self._max_age and entry is not self._taken:
                    self.remove(entry, "expired")
            if done:
                break
            for parcel in batch:
                self._write(parcel)
        self._lock.close()

    def _write(self, parcel: Parcel) -> None:
        size, entry = parcel.nbytes, None
        try:
            if parcel.id not in self._entries:
                entry = self._keep(parcel)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next is written
            self._complain(error)
        with self._changed:
            if entry is not None:
                self._entries[entry.id] = entry
                self._bytes += entry.size
            self._settle(size, lost=entry is None)

    def _settle(self, size: int, *, lost: bool) -> None:
        self._counts["lost"] += lost
        self._queued_bytes -= size
        self._queued_items -= 1
        self._settled += 1
        self._changed.notify_all()

    def _keep(self, parcel: Parcel) -> Entry:
        """Write one input to a file of its own, durably."""
        data = parcel.sealed().to_bytes()
        size = _on_disk(len(data))
        if len(data) > MOST_BYTES or size > self._max_bytes:
            raise InputError(f"an input of {len(data)} bytes is too large for the outbox")
        self._make_room(size)
        number, self._next = self._next, self._next + 1
        name = f"{number:016d}-{max(0, int(parcel.time))}-{parcel.kind}-{parcel.id}.parcel"
        if _NAME.fullmatch(name) is None:
            raise InputError(f"an input is named {parcel.id!r}, which no file can be")
        path, temporary = self.folder / name, self.folder / f".{number:016d}"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(path)
            fsync_dir(self.folder)
        except BaseException:
            for file in (temporary, path):
                file.unlink(missing_ok=True)
            raise
        return Entry(number, parcel.id, parcel.kind, path, size, time.monotonic())

    def _make_room(self, size: int) -> None:
        waiting = [entry for entry in self.waiting() if entry is not self._taken]
        for entry in waiting:
            with self._changed:
                if self._bytes + size <= self._max_bytes and len(self._entries) < self._max_items:
                    return
            self.remove(entry, "lost")

    def _age(self, entry: Entry) -> float:
        return time.monotonic() - entry.born

    def _find(self) -> None:
        """See what an earlier process has left."""
        now, wall, found = time.monotonic(), time.time(), []
        with storage_errors(self.folder, "read"):
            for file in list(os.scandir(self.folder)):
                match = _NAME.fullmatch(file.name)
                if match is None:
                    if _BEGUN.match(file.name):  # and never finished
                        Path(file.path).unlink(missing_ok=True)
                    continue
                put_at, size = float(match[2]), _on_disk(file.stat().st_size)
                # a time that is yet to come, or from before the clock was set, says nothing: it ages from now
                age = max(0.0, wall - put_at) if put_at >= _SANE_TIME else 0.0
                found.append(Entry(int(match[1]), match[4], match[3], Path(file.path), size, now - age))
        for entry in sorted(found, key=lambda entry: entry.number):
            self._next = entry.number + 1
            if self._entries.setdefault(entry.id, entry) is entry:
                self._bytes += entry.size

    def _complain(self, error: Exception) -> None:
        if time.monotonic() >= self._quiet_until:
            _log.warning("outbox %s: %s", self.folder, error)
            self._quiet_until = time.monotonic() + _QUIET_SECONDS


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _own(folder: Path) -> BinaryIO:
    """Lock a folder until the returned file is closed, and see to its version."""
    import fcntl  # which not every system has that needs no outbox

    path = folder / _FORMAT_FILE
    if not path.exists():
        write_durably(path, _FORMAT_TEXT % FORMAT, mode=0o600)
    with storage_errors(path, "open"):
        handle = path.open("rb")
    try:
        with storage_errors(path, "lock"):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(
                    f"the outbox {folder} is in use: give every process, and every outbox in it, a folder of its own"
                ) from None
            said = handle.read(100)
        if said != _FORMAT_TEXT % FORMAT:
            shown = said.decode("ascii", "replace").strip()
            raise StorageError(
                f"{folder} holds {shown!r}, and this SDK reads 'edge-sdk outbox {FORMAT}': "
                "let the version that made it empty it, or give another folder"
            )
    except BaseException:
        handle.close()
        raise
    return handle
