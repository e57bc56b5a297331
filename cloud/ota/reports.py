"""Devices' reports on the repository's disk: lines of JSON, in files of bounded size."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections import deque
from pathlib import Path
from typing import Any

from edge_sdk import canonical
from edge_sdk.files import fsync_dir, storage_errors

__all__ = ["ReportLog", "last_reports"]

_REMEMBERED = 10_000  # ids, so that they fit into memory whatever devices send


class ReportLog:
    """Reports as lines of JSON, each on disk before `append` returns; a report sent twice is kept once.

    A full file becomes ``NAME-000001.jsonl`` and so on beside it, and the oldest of these are removed.

    Parameters
    ----------
    path
        The file in use, ``NAME.jsonl``.
    max_bytes
        Size at which it is full.
    keep
        Full files that are kept.

    Raises
    ------
    StorageError
        The file cannot be written.
    """

    def __init__(self, path: Path, *, max_bytes: int = 64 << 20, keep: int = 15) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._lock = threading.Lock()
        self._recent: deque[str] = deque(maxlen=_REMEMBERED)
        with storage_errors(path):
            full = _full_files(path)
            lines = [line for file in full[-1:] for line in file.read_bytes().split(b"\n")]
            self._file = path.open("a+b", buffering=0)
            self._file.seek(0)
            lines += self._file.read().split(b"\n")
            if lines[-1]:  # the power failed within a line: end it, so that the next one is whole
                self._file.write(b"\n")
        for line in lines[-_REMEMBERED:]:
            try:
                self._recent.append(json.loads(line)["id"])
            except (ValueError, KeyError, TypeError):
                continue
        self._known = set(self._recent)
        fsync_dir(path.parent)

    def append(self, report: dict[str, Any]) -> bool:
        """Write one report durably; return False if its ``id`` is known.

        Raises
        ------
        InputError
            The report is not JSON.
        StorageError
            The disk refuses; no part of the line stays.
        """
        identity, line = str(report["id"]), canonical.dumps(report) + b"\n"
        with self._lock:
            if identity in self._known:
                return False
            with storage_errors(self._path):
                end = self._file.seek(0, os.SEEK_END)
                if end and end + len(line) > self._max_bytes:
                    self._turn_over()
                    end = 0
                try:
                    if self._file.write(line) != len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(self._file.fileno())
                except OSError:
                    self._file.truncate(end)
                    raise
            if len(self._recent) == _REMEMBERED:
                self._known.discard(self._recent[0])
            self._recent.append(identity)
            self._known.add(identity)
            return True

    def __contains__(self, identity: str) -> bool:
        """Whether a report of this id is known, of the last 10,000."""
        with self._lock:
            return identity in self._known

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _turn_over(self) -> None:
        full = _full_files(self._path)
        number = int(full[-1].stem.rpartition("-")[2]) + 1 if full else 1
        fresh = self._path.with_name(f".{self._path.name}.next").open("w+b", buffering=0)
        try:
            if self._path.exists():  # not where the disk refused the second step last time
                self._path.rename(self._path.with_name(f"{self._path.stem}-{number:06}.jsonl"))
            Path(fresh.name).rename(self._path)
        except OSError:
            fresh.close()
            raise
        self._file.close()
        self._file = fresh
        for old in full[: max(0, len(full) + 1 - self._keep)]:
            old.unlink(missing_ok=True)
        fsync_dir(self._path.parent)


def last_reports(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the last report of each device, or ``DEVICE/MODEL``, in a repository's logs, those of all workers.

    Raises
    ------
    StorageError
        A file cannot be read.
    """
    last: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("reports*.jsonl")):
        with storage_errors(path, "read"), path.open("rb") as stream:
            for line in stream:
                try:
                    report = json.loads(line)
                    place = f"{report['device']}/{report['model']}" if report.get("model") else report["device"]
                    known = last.get(place)
                    if known is None or report["received"] >= known["received"]:
                        last[place] = report
                except (ValueError, KeyError, TypeError):
                    continue
    return last


def _full_files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}-[0-9][0-9][0-9][0-9][0-9][0-9].jsonl"))
