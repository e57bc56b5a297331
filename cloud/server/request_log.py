"""One line of JSON for each inference request: for those who must know what was asked, and how it ended."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TextIO

from edge_sdk.errors import StorageError

__all__ = ["Notes", "RequestLog"]

_log = logging.getLogger("edge_sdk.cloud.server")


class Notes(Protocol):
    """What is told of each request when it has ended."""

    def note(self, front: str, request_id: str, model: str, version: str, status: str, arrived: float) -> None:
        """As for `RequestLog.note`."""


class RequestLog:
    """Appends to a file, or writes to standard error.

    A line is ``{"at", "front", "id", "model", "version", "status", "ms"}``: when the request came, over
    which front, its own id, what it asked for, how it ended, as gRPC calls it (``OK``, ``NOT_FOUND``, …,
    ``CANCELLED`` where its client went), and how long it took. Nothing of its content.

    Parameters
    ----------
    path
        The file; ``-`` is standard error.

    Raises
    ------
    StorageError
        The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # line by line, so that whoever moves the file away or follows it sees whole lines
            self._file: TextIO = sys.stderr if str(path) == "-" else path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {os.strerror(error.errno or 0)}") from error
        self._failed = False

    def note(self, front: str, request_id: str, model: str, version: str, status: str, arrived: float) -> None:
        """Write one line.

        Parameters
        ----------
        front
            ``grpc``, ``stream`` or ``http``.
        request_id, model, version
            As the request says them; of each the first 200 characters are written.
        status
            How it ended.
        arrived
            `time.monotonic` reading of its arrival.
        """
        took = time.monotonic() - arrived
        line = {
            "at": datetime.fromtimestamp(time.time() - took, UTC).isoformat(timespec="milliseconds"),
            "front": front,
            "id": request_id[:200],
            "model": model[:200],
            "version": version[:200],
            "status": status,
            "ms": round(took * 1e3, 3),
        }
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:  # requests are answered all the same
            if not self._failed:
                _log.warning("requests are not logged any more: %s: %s", self._path, os.strerror(error.errno or 0))
            self._failed = True

    def close(self) -> None:
        """Close the file."""
        if self._file is not sys.stderr:
            try:
                self._file.close()
            except OSError:
                _log.debug("the last lines of %s are lost", self._path)
