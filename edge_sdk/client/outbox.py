"""Store and forward: inputs that the cloud should have seen, kept on the disk until it can.

An outbox is a folder of files, one input each. `Outbox.put` never waits and never raises: a thread makes
what has been put durable. What finds no room is counted as lost. Both a power cut and a kill leave every
file whole or away, and a file is removed only when its answer is in the journal; see
`edge_sdk.client.forwarding`. Time is taken from the clock that does not go back: an input ages while a
process runs, and between processes by the calendar, unless that says what cannot be.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from edge_sdk.client.depot import Depot, Entry, size_on_disk
from edge_sdk.client.parcels import MOST_BYTES, Parcel
from edge_sdk.encodings import SentAs
from edge_sdk.errors import InputError, MissingExtraError
from edge_sdk.runtime import forks

__all__ = ["Outbox"]

_log = logging.getLogger("edge_sdk.client")

_QUIET_SECONDS = 60.0  # between two complaints about the same disk
_TIDY_SECONDS = 30.0  # between two looks for what has grown too old


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
    encoding
        What becomes of pictures: ``captured`` keeps every pixel, and JPEG files as they come; ``jpeg:75``
        compresses other pictures at that quality, to a tenth or less.
    share
        Of the time, and of the budget, in (0, 1]: what sending may take from escalations that somebody waits for.

    Raises
    ------
    StorageError
        The folder cannot be made or read, is that of another process, or of another version of the SDK.
    InputError
        A limit is out of its range, or the encoding is none.
    MissingExtraError
        Pictures are to be compressed, and Pillow is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        max_bytes: int = 256 << 20,
        max_items: int = 10_000,
        max_age: float = 7 * 86_400.0,
        queue_bytes: int = 64 << 20,
        encoding: str = "captured",
        share: float = 0.25,
    ) -> None:
        limits = {"max_bytes": max_bytes, "max_items": max_items, "max_age": max_age, "queue_bytes": queue_bytes}
        for name, limit in limits.items():
            if not limit > 0:
                raise InputError(f"the outbox's {name} is {limit}; it should be above 0")
        if not 0.0 < share <= 1.0:
            raise InputError(f"the outbox's share is {share}; it should be above 0, up to 1")
        sent_as = SentAs.parse(encoding)
        if sent_as.reduction.takes:
            raise InputError(f"the outbox's encoding is {encoding!r}; what is taken off is for privacy rules to say")
        if sent_as.quality is not None and importlib.util.find_spec("PIL") is None:
            raise MissingExtraError("Pillow", "image")
        self._quality = sent_as.quality
        self.folder = Path(folder)
        self.share = share
        self._max_bytes, self._max_items, self._max_age, self._most_queued = max_bytes, max_items, max_age, queue_bytes
        self._changed = threading.Condition()
        self._queue: deque[Parcel] = deque()
        self._queued_bytes = self._queued_items = self._settled = 0
        self._counts = dict.fromkeys(("sent", "expired", "lost", "refused", "damaged"), 0)
        self._taken: Entry | None = None
        self._closing = self._claimed = False
        self._quiet_until = 0.0
        self._depot = Depot(self.folder)
        self._entries = {entry.id: entry for entry in self._depot.found}  # by id, oldest first
        self._bytes = sum(entry.size for entry in self._depot.found)
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
        self._depot.close()

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
        try:
            return self._depot.read(entry)
        except InputError as error:
            _log.warning("outbox %s: %s is passed over: %s", self.folder, entry.path.name, error)
            self.remove(entry, "damaged")
            return None

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
        tidy_at = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._queue, timeout=_TIDY_SECONDS)
                batch, self._queue = self._queue, deque()
                done = self._closing and not batch
            if time.monotonic() >= tidy_at:
                self._tidy()
                tidy_at = time.monotonic() + min(_TIDY_SECONDS, self._max_age)
            if done:
                break
            for parcel in batch:
                self._write(parcel)
        self._depot.close()

    def _tidy(self) -> None:
        for entry in self.waiting():
            if self._age(entry) >= self._max_age and entry is not self._taken:
                self.remove(entry, "expired")

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
        parts = parcel.sealed(self._quality).parts()
        size = sum(map(len, parts))
        if size > MOST_BYTES or size_on_disk(size) > self._max_bytes:
            raise InputError(f"an input of {size} bytes is too large for the outbox")
        self._make_room(size_on_disk(size))
        return self._depot.write(parcel, parts)

    def _make_room(self, size: int) -> None:
        for entry in self.waiting() if not self._has_room(size) else ():
            if self._has_room(size):
                return
            if entry is not self._taken:
                self.remove(entry, "lost")

    def _has_room(self, size: int) -> bool:
        with self._changed:
            return self._bytes + size <= self._max_bytes and len(self._entries) < self._max_items

    def _age(self, entry: Entry) -> float:
        return time.monotonic() - entry.born

    def _complain(self, error: Exception) -> None:
        if time.monotonic() >= self._quiet_until:
            _log.warning("outbox %s: %s", self.folder, error)
            self._quiet_until = time.monotonic() + _QUIET_SECONDS
