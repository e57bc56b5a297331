"""The guards of certificates, shared by all processes that write to one journal.

A guard is a file in the journal's folder. Each process updates its own copy at once, and on the journal's
thread adds what it saw to the file, under a lock: audits of all of them count together, and an alarm
of one is the alarm of all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from edge_sdk import canonical
from edge_sdk.cascade.audit import Guard
from edge_sdk.cascade.policy import Certificate
from edge_sdk.client.journal import Journal
from edge_sdk.errors import EdgeSdkError, InputError
from edge_sdk.files import storage_errors, write_durably

__all__ = ["Guards"]

_LOCK = "guards.lock"
_MOST_BYTES = 1 << 20


class Guards:
    """Guards by name; thread-safe.

    Parameters
    ----------
    journal
        In whose folder they are kept; None keeps them in memory.
    alarmed
        Called with the name and the guard when an alarm is heard, be it of another process.
    """

    def __init__(self, journal: Journal | None, alarmed: Callable[[str, Guard], None]) -> None:
        self._journal, self._alarmed = journal, alarmed
        self._lock = threading.Lock()
        self._guards: dict[str, Guard] = {}
        self._unwritten: dict[str, list[bool]] = {}  # audits that the file does not have yet

    def take(self, name: str, certificate: Certificate) -> Guard:
        """Return a guard as it was left, so that no restart silences an alarm; or a fresh one.

        Raises
        ------
        CertificateError
            The certificate does not say how often the two models disagreed.
        InputError, StorageError
            The file cannot be read.
        """
        fresh = Guard.of(certificate)
        with self._lock:
            if name not in self._guards:
                self._guards[name] = self._read(name) or fresh
            return self._guards[name]

    def update(self, name: str, disagrees: bool) -> Guard:
        """Return a guard after one more audit."""
        with self._lock:
            self._guards[name] = guard = self._guards[name].update(disagrees)
            if self._journal is not None:
                self._unwritten.setdefault(name, []).append(disagrees)
        if self._journal is not None:
            self._journal.soon(name, partial(self._share, name))
        return guard

    def _share(self, name: str) -> None:
        """Add what was seen here to the file, and take over what others saw."""
        assert self._journal is not None
        with _locked(self._journal.folder / _LOCK):
            with self._lock:
                fresh = list(self._unwritten[name])
                own = self._guards[name]
                guard = self._read(name) or own.reset()
            for disagrees in fresh:
                guard = guard.update(disagrees)
            if own.alarm and not guard.alarm:  # others had agreements between: once said, it is said
                guard = own
            write_durably(self._path(name), canonical.dumps(guard.to_json()), mode=0o600)
        with self._lock:
            rest = self._unwritten[name] = self._unwritten[name][len(fresh) :]
            for disagrees in rest:
                guard = guard.update(disagrees)
            self._guards[name] = guard
        if guard.alarm:
            self._alarmed(name, guard)

    def _read(self, name: str) -> Guard | None:
        if self._journal is None:
            return None
        path = self._path(name)
        with storage_errors(path, "read"):
            if not path.exists():
                return None
            with path.open("rb") as stream:
                data = stream.read(_MOST_BYTES)
        try:
            return Guard.from_json(canonical.loads(data))
        except (EdgeSdkError, TypeError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}; remove it to begin anew") from error

    def _path(self, name: str) -> Path:
        """Return where a guard is kept: each by itself, for several models may share a journal's folder."""
        assert self._journal is not None
        return self._journal.folder / f"guard-{name.rpartition(':')[2][:16]}.json"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for other processes, and keep them waiting."""
    import fcntl  # only of who keeps a journal, for Windows has none

    with storage_errors(path), path.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # until it is closed
        yield
