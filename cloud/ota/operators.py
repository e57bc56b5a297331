"""Who did what to a repository, and who may.

What devices believe is decided by keys alone. Operators' roles keep people who can write the
folder from actions that are not theirs by mistake; the log says what was done, by which account
of the operating system, each line bound to the one before by its digest.
"""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_sdk import canonical
from edge_sdk.errors import EdgeSdkError, InputError, StorageError
from edge_sdk.files import fsync_dir, storage_errors, write_durably

__all__ = ["ROLES", "Operators"]

ROLES = {
    "publisher": "adds and withdraws bundles",
    "assigner": "assigns bundles to devices, and withdraws assignments",
    "registrar": "enrols and revokes devices",
    "server": "serves, and signs snapshot and timestamp anew",
    "keeper": "replaces keys, signs offline roles anew, names operators",
}
"""Roles, and what each may do."""


def account() -> str:
    """Return the name of the account that this process runs under."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # containers run under numbers that have no name
        return f"uid-{os.geteuid()}"


class Operators:
    """The operators of a repository, ``operators.json``, and its log, ``audit.jsonl``.

    While no operator is named, whoever can write the folder may do everything.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "operators.json"
        self._log = folder / "audit.jsonl"

    def roles(self) -> dict[str, list[str]]:
        """Return the roles of each operator; raise `StorageError` if the file is damaged."""
        try:
            document = canonical.loads(self._path.read_bytes(), limit=1 << 20)["operators"]
            return {str(name): [str(role) for role in roles] for name, roles in document.items()}
        except FileNotFoundError:
            return {}
        except (OSError, InputError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(f"{self._path} cannot be read: {error}; nobody is allowed anything") from error

    def set_roles(self, name: str, roles: Sequence[str]) -> None:
        """Give an operator these roles and no others; none takes the operator off the list.

        Raises
        ------
        InputError
            A role is unknown, or nobody would be left to name operators.
        """
        unknown = sorted(set(roles) - set(ROLES))
        if unknown:
            raise InputError(f"there is no role {unknown[0]!r}; there are {', '.join(ROLES)}")
        named = {**self.roles(), name: sorted(set(roles))}
        if not roles:
            del named[name]
        if named and not any("keeper" in given for given in named.values()):
            raise InputError("an operator has to have the role keeper, or nobody could name operators any more")
        write_durably(self._path, canonical.dumps({"format": 1, "operators": named}))

    @contextmanager
    def acting(self, action: str, role: str, **details: object) -> Iterator[dict[str, Any]]:
        """Write an action into the log before it begins and after it ended, and refuse it to who has not the role.

        Yields a dictionary; what is put into it is written with the end.

        Raises
        ------
        InputError
            The operator has not the role.
        """
        who = account()
        self.write({"who": who, "action": action, "phase": "begins", **details})
        result: dict[str, Any] = {}
        try:
            named = self.roles()
            if named and role not in named.get(who, ()):
                raise InputError(f"{who} has not the role {role}, which {action} asks for; a keeper can give it")
            yield result
        except EdgeSdkError as error:
            self.write({"who": who, "action": action, "phase": "refused", "reason": str(error)})
            raise
        self.write({"who": who, "action": action, "phase": "done", **result})

    def write(self, record: dict[str, Any]) -> None:
        """Append a line, bound to the one before, and make it durable."""
        with storage_errors(self._log):
            new = not self._log.exists()
            with self._log.open("a+b", buffering=0) as stream:
                last = _last_line(stream.fileno())
                time = datetime.now(UTC).isoformat(timespec="milliseconds")
                line = canonical.dumps({**record, "time": time, "after": canonical.sha256(last)})
                torn = last and not last.endswith(b"\n")  # the power failed within it
                stream.write((b"\n" if torn else b"") + line + b"\n")
                os.fsync(stream.fileno())
        if new:
            fsync_dir(self._log.parent)

    def actions(self) -> tuple[list[dict[str, Any]], int | None]:
        """Return the lines of the log, and the number of the first that does not follow the one before."""
        if not self._log.exists():
            return [], None
        with storage_errors(self._log, "read"):
            lines = self._log.read_bytes().split(b"\n")[:-1]
        records, broken, last = [], None, b""
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                follows = record["after"] == canonical.sha256(last)
            except (ValueError, KeyError, TypeError):
                last = line  # cut by the power: the next one follows it as it is
                continue
            if not follows and broken is None:
                broken = number
            records.append(record)
            last = line + b"\n"
        return records, broken


def _last_line(descriptor: int) -> bytes:
    """Return the last line of a file, with its end if it has one."""
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, 1 << 16, max(0, size - (1 << 16)))
    return data[data.rfind(b"\n", 0, -1) + 1 :]
