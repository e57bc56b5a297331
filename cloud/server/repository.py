"""A repository folder, ``NAME/VERSION/`` with a model file in each, as Triton has them; and what of it is served.

A version is a whole number. Its folder holds one ``.onnx``, ``.tflite`` or ``.edge`` file, or a folder
``NAME.savedmodel``; or it is itself an unpacked bundle or a SavedModel.
``NAME/config.pbtxt`` is read where it is there (`edge_sdk.cloud.server.settings.read_model_config`).

Changes are seen by sizes and times of files. One is acted upon when two looks in a row have seen it, so that a copy
has time to finish. A version that cannot be loaded changes nothing of what is served.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from edge_sdk.cloud.saved_model import SUFFIX, is_saved_model
from edge_sdk.cloud.server.lines import Line
from edge_sdk.cloud.server.models import RUNTIMES, load_model
from edge_sdk.cloud.server.settings import ModelSettings, Serving, labels_file, read_labels, read_model_config
from edge_sdk.cloud.server.table_files import SUFFIX as TABLE_SUFFIX
from edge_sdk.errors import EdgeSdkError, InputError, UnknownModelError, one_line
from edge_sdk.protocol.names import LABELS_PROPERTY

__all__ = ["Repository", "Shelf", "is_repository"]

_log = logging.getLogger("edge_sdk.cloud.server")
Print = tuple[tuple[str, int, int, int], ...]
Key = tuple[str, str]


class Shelf(Protocol):
    """Where models are served from: `edge_sdk.cloud.server.core.Core`."""

    def put(self, line: Line) -> None:
        """Serve a version."""

    def drop(self, name: str, version: str) -> None:
        """Serve it no longer."""

    def note(self, name: str, version: str, state: Any, reason: str = "") -> None:
        """Let it be known what is with a version; an empty state forgets it."""


@dataclass(frozen=True, slots=True)
class _Folder:
    path: Path
    settings: ModelSettings
    versions: tuple[str, ...]  # that there are, ascending
    labels: Path | None = None  # file of the names of classes

    def table(self, version: str) -> Path | None:
        """Return the Parquet file of a version's answers."""
        if not self.settings.table:
            return None
        own = self.path / version / self.settings.table  # the same where the path is absolute
        return own if own.exists() else self.path / self.settings.table

    def wanted(self) -> list[str]:
        policy, routing = self.settings.versions, self.settings.routing
        if policy == "all":
            return list(self.versions)
        wanted = {*(self.versions[-policy:] if isinstance(policy, int) else policy)}
        if routing is not None:
            wanted |= {*routing.versions}
        return [version for version in self.versions if version in wanted]


def is_repository(path: Path) -> bool:
    """Tell whether a path is a folder that is not itself a model: an unpacked bundle, or a SavedModel."""
    return path.is_dir() and not (path / "manifest.json").exists() and not is_saved_model(path)


class Repository:
    """Keeps what is served as a folder says.

    Parameters
    ----------
    root
        The folder.
    shelf
        Where its models are served.
    serving
        How.
    """

    def __init__(self, root: Path, shelf: Shelf, serving: Serving) -> None:
        self.root, self._shelf, self._serving = root, shelf, serving
        self._lock = threading.Lock()
        self._served: dict[Key, Print] = {}
        self._failed: dict[Key, Print] = {}
        self._seen: dict[Key, Print | None] = {}
        self._unloaded: set[str] = set()
        self._said: dict[str, str] = {}

    def open(self) -> None:
        """Serve what is there; a model that cannot be loaded is said in the index and in the log.

        Raises
        ------
        InputError
            There is no such folder, or no model in it.
        """
        if not self._names():
            raise InputError(f"{self.root} holds no models; they should be in NAME/VERSION/")
        self.sync(settled=True)

    def names(self) -> tuple[str, ...]:
        """Return the names of the models that there are."""
        return tuple(self._names())

    def sync(self, *, settled: bool = False) -> None:
        """Make what is served be what the folder says.

        Parameters
        ----------
        settled
            Do not wait for a second look at what has changed.
        """
        with self._lock:
            try:
                names = self._names()
            except InputError as error:  # a network folder that is away for a moment is no reason to stop serving
                self._say("", str(error))
                return
            self._say("", "")
            for name in dict.fromkeys([*names, *(name for name, _ in self._served)]):
                if name not in self._unloaded:
                    self._sync(name, settled)

    def load(self, name: str) -> None:
        """Load a model now, or anew where its files have changed.

        Raises
        ------
        UnknownModelError
            The folder has no such model.
        EdgeSdkError
            It cannot be loaded; what was served before still is.
        """
        with self._lock:
            if name not in self._names():
                raise UnknownModelError(f"there is no model {name[:80]!r} in the repository")
            self._unloaded.discard(name)
            for key in [key for key in self._failed if key[0] == name]:
                del self._failed[key]
            if error := self._sync(name, settled=True):
                raise error

    def unload(self, name: str) -> None:
        """Serve a model no longer, until it is loaded again; raise `UnknownModelError` where there is none."""
        with self._lock:
            if name not in self._names():
                raise UnknownModelError(f"there is no model {name[:80]!r} in the repository")
            self._unloaded.add(name)
            for key in [key for key in self._served if key[0] == name]:
                self._drop(key)
                self._shelf.note(*key, "UNAVAILABLE", "unloaded")

    def _sync(self, name: str, settled: bool) -> EdgeSdkError | None:
        try:
            folder = self._folder(name)
        except EdgeSdkError as error:
            self._say(name, str(error))
            return error
        self._say(name, "")
        wanted = [] if folder is None else folder.wanted()
        pending, failure = False, None
        for version in wanted:
            assert folder is not None
            paths = folder.path / version, folder.path / "config.pbtxt", folder.table(version), folder.labels
            key, files = (name, version), _fingerprint(*(path for path in paths if path is not None))
            if files == self._served.get(key):
                continue
            if files == self._failed.get(key):
                pending = True
            elif self._is_settled(key, files) or settled:
                failure = self._load(key, files, folder) or failure
                pending = pending or failure is not None
            else:
                pending = True
        if pending:
            return failure  # what is no longer wanted still answers until what is wanted does
        for key in [key for key in self._served if key[0] == name and key[1] not in wanted]:
            if self._is_settled(key, None) or settled:
                self._drop(key)
        return None

    def _load(self, key: Key, files: Print, folder: _Folder) -> EdgeSdkError | None:
        name, version = key
        served = key in self._served
        if not served:
            self._shelf.note(name, version, "LOADING")
        try:
            settings = folder.settings
            model = load_model(
                _model_file(folder.path / version),
                threads=settings.threads,
                providers=settings.chosen_providers,
                name=name,
                version=version,
                table=folder.table(version),
            )
            if folder.labels is not None and LABELS_PROPERTY not in model.properties:
                labels = json.dumps(read_labels(folder.labels), ensure_ascii=False)
                model = replace(model, properties={**model.properties, LABELS_PROPERTY: labels})
            self._shelf.put(Line(model, settings))
        except (EdgeSdkError, OSError, ValueError, MemoryError) as error:
            line = one_line(error, 300)
            self._failed[key] = files
            still = "; what was served before still is" if any(one[0] == name for one in self._served) else ""
            _log.error("model %s %s cannot be loaded: %s%s", name, version, line, still)
            self._shelf.note(name, version, "READY" if served else "UNAVAILABLE", line)
            return error if isinstance(error, EdgeSdkError) else InputError(f"{folder.path / version}: {line}")
        self._served[key] = files
        self._failed.pop(key, None)
        self._shelf.note(name, version, None)
        _log.info("model %s %s is served", name, version)
        return None

    def _drop(self, key: Key) -> None:
        del self._served[key]
        self._seen.pop(key, None)
        self._shelf.drop(*key)
        self._shelf.note(*key, None)
        _log.info("model %s %s is served no longer", *key)

    def _is_settled(self, key: Key, files: Print | None) -> bool:
        settled = key in self._seen and self._seen[key] == files
        self._seen[key] = files
        return settled

    def _names(self) -> list[str]:
        try:
            return sorted(
                entry.name for entry in os.scandir(self.root) if entry.is_dir() and not entry.name.startswith(".")
            )
        except OSError as error:
            raise InputError(f"cannot read the repository {self.root}: {error.strerror or error}") from error

    def _folder(self, name: str) -> _Folder | None:
        path = self.root / name
        try:
            found = [entry.name for entry in os.scandir(path) if entry.is_dir()]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        versions = sorted((one for one in found if one.isascii() and one.isdecimal() and one[0] != "0"), key=int)
        own: Mapping[str, Any] = {}
        labels = None
        if (path / "config.pbtxt").exists():
            own = read_model_config(path / "config.pbtxt", name)
            labels = labels_file(path / "config.pbtxt")
        return _Folder(path, self._serving.of(name, own), tuple(versions), labels)

    def _say(self, name: str, message: str) -> None:
        """Log a message once, until it is another."""
        if message and self._said.get(name) != message:
            _log.error("%s", message)
        self._said[name] = message


def _model_file(folder: Path) -> Path:
    if (folder / "manifest.json").exists() or is_saved_model(folder):
        return folder
    suffixes = (*RUNTIMES, ".edge", SUFFIX)
    found = (path for path in folder.iterdir() if path.suffix in suffixes)
    files = sorted(path for path in found if path.is_dir() == (path.suffix == SUFFIX))
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise InputError(f"{folder} should hold one .onnx, .tflite or .edge file or {SUFFIX} folder, not {names}")
    return files[0]


def _fingerprint(*paths: Path) -> Print:
    """Return what changes when a file does."""
    found = []
    for path in _files(paths):
        try:
            status = path.stat()
        except OSError:
            continue  # it went while we looked: the next look will tell
        found.append((str(path), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(sorted(found))


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir():
            for folder, _, names in os.walk(path):
                yield from (Path(folder, name) for name in names if not name.endswith(TABLE_SUFFIX))
        else:
            yield path
