"""A bundle as it is used: opened, checked as a whole, and read member by member."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

from edge_sdk import canonical
from edge_sdk.bundle import archive
from edge_sdk.bundle.archive import MANIFEST
from edge_sdk.bundle.manifest import FORMAT, Manifest
from edge_sdk.errors import BundleError, BundleFormatError, BundleIntegrityError, InputError
from edge_sdk.files import fsync_dir, make_folder, storage_errors, write_durably

__all__ = ["Bundle", "build_bundle", "write_bundle"]


class Bundle:
    """An opened bundle whose every byte has been checked against its manifest.

    Use `Bundle.open` for a file or an unpacked folder, `Bundle.from_bytes` for bytes in memory, and `Bundle.of`
    for any of them.

    Attributes
    ----------
    manifest
        What the bundle says about itself.
    path
        The file or folder it was opened from; None for bytes.
    """

    def __init__(self, members: Mapping[str, bytes | memoryview], path: Path | None) -> None:
        self._members = members
        self.path = path
        if MANIFEST not in members:
            raise BundleFormatError(f"{MANIFEST} is missing")
        self.manifest = Manifest.from_bytes(bytes(members[MANIFEST]))
        self.digest = canonical.sha256(bytes(members[MANIFEST]))
        self._check()

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open a ``.edge`` file or the folder it was unpacked to.

        Raises
        ------
        InputError
            There is no such file or folder.
        BundleError
            It is not a bundle, is damaged, or is made for a newer format; the message names it.
        """
        path = Path(path)
        try:
            with storage_errors(path, "read"):
                folder = path.is_dir()
            if folder:
                return cls(_read_folder(path), path)
            return cls(archive.decode(_read_file(path)), path)
        except BundleError as error:
            raise type(error)(f"{path}: {error}") from error

    @classmethod
    def from_bytes(cls, data: bytes) -> Bundle:
        """Open a bundle that is in memory; raise `BundleError` as `open` does."""
        return cls(archive.decode(data), None)

    @classmethod
    def of(cls, source: str | os.PathLike[str] | bytes | IO[bytes]) -> Bundle:
        """Open a bundle from its path, its bytes, or a file opened for reading in binary mode.

        Raises
        ------
        InputError
            There is no such file or folder, it cannot be read, or the argument is none of these.
        BundleError
            As `open` does.
        """
        if isinstance(source, str | os.PathLike):
            return cls.open(Path(source))
        if isinstance(source, bytes | bytearray | memoryview):
            return cls.from_bytes(bytes(source))
        try:
            data = source.read(archive.MAX_BUNDLE_BYTES + 1)
        except AttributeError:
            raise InputError(f"a bundle is a path, bytes or an open file, not {type(source).__name__}") from None
        except (OSError, ValueError) as error:  # closed, or text that is none
            raise InputError(f"cannot read the bundle: {error}") from error
        if not isinstance(data, bytes):
            raise InputError("a bundle should be a file opened in binary mode ('rb')")
        return cls.from_bytes(data)

    @property
    def members(self) -> tuple[str, ...]:
        """Member names, the manifest first."""
        return (MANIFEST, *sorted(self.manifest.files))

    def read(self, member: str) -> bytes:
        """Return one member's bytes; raise `InputError` where there is no such member."""
        try:
            return bytes(self._members[member])
        except KeyError:
            raise InputError(f"the bundle has no member {member!r}; it has {', '.join(self.members)}") from None

    def file(self, member: str) -> Path | None:
        """Return the path of a member that lies on disk as a plain file, else None."""
        return self.path / member if self.path is not None and self.path.is_dir() else None

    def unpack(self, folder: str | Path) -> Bundle:
        """Write the members as plain files into a new folder, durably, and open that.

        Raises
        ------
        StorageError
            The folder exists already or cannot be written; nothing is left half-written.
        """
        folder = Path(folder)
        with storage_errors(folder, "create the folder"):
            folder.mkdir(parents=True)
        try:
            for member in reversed(self.members):  # the manifest last: a folder without one is unfinished
                target = folder / member
                make_folder(target.parent)
                write_durably(target, self.read(member))
            for path in folder.iterdir():
                if path.is_dir():
                    fsync_dir(path)
            fsync_dir(folder)
            fsync_dir(folder.parent)
        except BaseException:
            import shutil  # only who unpacks needs it

            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Bundle.open(folder)

    def rewrite(self, path: str | Path, *, members: Mapping[str, bytes] | None = None, **changes: object) -> Bundle:
        """Write a copy with some manifest fields (such as ``cascade``) and members replaced.

        The model card is rendered anew, so that it says what the manifest says. Fields of a newer
        minor format are not carried over, so the copy does not claim to be of that format.
        """
        from edge_sdk.bundle.card import CARD, render

        manifest = replace(self.manifest, format=FORMAT, **changes)  # type: ignore[arg-type]
        kept = {name: self.read(name) for name in self.manifest.files}
        return write_bundle(path, manifest, kept | {CARD: render(manifest).encode()} | dict(members or {}))

    def _check(self) -> None:
        expected, found = set(self.manifest.files), set(self._members) - {MANIFEST}
        if expected != found:
            odd = min(expected ^ found)
            raise BundleIntegrityError(f"member {odd} is {'missing' if odd in expected else 'not in the manifest'}")
        for name, digest in self.manifest.files.items():
            if canonical.sha256(self._members[name]) != digest:
                raise BundleIntegrityError(f"member {name} is damaged: its digest is not the manifest's")
        for artifact in self.manifest.artifacts:
            if len(self._members[artifact.file]) != artifact.size:
                raise BundleIntegrityError(f"member {artifact.file} is not the size the manifest says")


def build_bundle(manifest: Manifest, members: Mapping[str, bytes]) -> Bundle:
    """Return a bundle in memory; see `write_bundle` for parameters and errors."""
    return Bundle.from_bytes(_encode(manifest, members))


def write_bundle(path: str | Path, manifest: Manifest, members: Mapping[str, bytes]) -> Bundle:
    """Write a ``.edge`` file durably and return it opened (and so checked).

    Parameters
    ----------
    path
        The file to write; replaced at once if it exists.
    manifest
        Its ``files`` are filled in from ``members``.
    members
        Bytes of every member but the manifest.

    Raises
    ------
    BundleError
        The manifest does not describe the members.
    StorageError
        The file cannot be written.
    """
    path = Path(path)
    data = _encode(manifest, members)
    Bundle.from_bytes(data)  # never write what could not be read
    write_durably(path, data)
    return Bundle.open(path)


def _encode(manifest: Manifest, members: Mapping[str, bytes]) -> bytes:
    manifest = replace(manifest, files={name: canonical.sha256(data) for name, data in members.items()})
    return archive.encode({MANIFEST: manifest.to_bytes(), **members})


def _read_file(path: Path) -> bytes:
    if not path.exists():
        raise InputError(f"there is no bundle at {path}")
    if not path.is_file():
        raise BundleFormatError("this is neither a file nor a folder")
    with storage_errors(path, "read"):
        if path.stat().st_size > archive.MAX_BUNDLE_BYTES:
            raise BundleFormatError(f"{path.stat().st_size} bytes are over the limit of {archive.MAX_BUNDLE_BYTES}")
        return path.read_bytes()


def _read_folder(folder: Path) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    size = 0
    with storage_errors(folder, "read"):
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise BundleFormatError(f"{path.relative_to(folder)} is a link or a special file")
            if path.is_file():
                size += path.stat().st_size
                if len(members) >= archive.MAX_MEMBERS or size > archive.MAX_BUNDLE_BYTES:
                    raise BundleFormatError(
                        f"its files are over the limit of {archive.MAX_MEMBERS} or of {archive.MAX_BUNDLE_BYTES} bytes"
                    )
                members[path.relative_to(folder).as_posix()] = path.read_bytes()
    return members
