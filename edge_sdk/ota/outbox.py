"""Reports that survive a crash: a queue in SQLite whose rows leave only on the broker's acknowledgement.

A report is put under a key. A key is accepted once in the life of the state folder, so that an
agent may put the same fact again after a crash, when it cannot know whether it already did.
Not thread-safe: one thread owns the outbox.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_sdk.errors import StorageError

__all__ = ["Outbox", "Pending"]

_KEEP_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Pending:
    """One report that was not acknowledged yet."""

    number: int
    payload: bytes


class Outbox:
    """A durable first-in-first-out queue of reports.

    Parameters
    ----------
    path
        The database file; created if it is missing. One that is damaged, or no database, is set aside
        as ``<name>.damaged`` and a new one is begun.

    Raises
    ------
    StorageError
        The file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) or not path.exists():
                raise StorageError(f"cannot open the outbox {path}: {error}") from error
            path.replace(path.with_name(path.name + ".damaged"))
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            # a report is put when `put` returns: removing the journal is the commit, and only EXTRA syncs that
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("PRAGMA synchronous = EXTRA")
            db.execute("CREATE TABLE IF NOT EXISTS report (number INTEGER PRIMARY KEY AUTOINCREMENT, payload BLOB)")
            db.execute("CREATE TABLE IF NOT EXISTS seen (number INTEGER PRIMARY KEY, key TEXT UNIQUE)")
            [(verdict,)] = db.execute("PRAGMA quick_check(1)")
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
        except BaseException:
            db.close()
            raise
        return db

    def put(self, key: str, payload: bytes) -> bool:
        """Store a report durably; return False if one of that key was stored before.

        Raises
        ------
        StorageError
            The disk refuses.
        """
        with self._errors("write"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                new = self._db.execute("INSERT OR IGNORE INTO seen (key) VALUES (?)", (key,)).rowcount == 1
                if new:
                    self._db.execute("INSERT INTO report (payload) VALUES (?)", (payload,))
                    self._db.execute(
                        "DELETE FROM seen WHERE number <= (SELECT max(number) FROM seen) - ?", (_KEEP_KEYS,)
                    )
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # on a full disk SQLite has rolled back by itself
                    self._db.execute("ROLLBACK")
                raise
        return new

    def pending(self, after: int = 0, limit: int = 100) -> list[Pending]:
        """Return unacknowledged reports in order, those numbered above ``after``; may raise `StorageError`."""
        with self._errors("read"):
            rows = self._db.execute(
                "SELECT number, payload FROM report WHERE number > ? ORDER BY number LIMIT ?", (after, limit)
            )
            return [Pending(number, bytes(payload)) for number, payload in rows]

    def done(self, number: int) -> None:
        """Remove a report that the broker acknowledged; may raise `StorageError`."""
        with self._errors("write"):
            self._db.execute("DELETE FROM report WHERE number = ?", (number,))

    def __len__(self) -> int:
        with self._errors("read"):
            return int(self._db.execute("SELECT count(*) FROM report").fetchone()[0])

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"cannot {doing} the outbox {self._path}: {error}") from error

    def close(self) -> None:
        """Close the database file."""
        self._db.close()
