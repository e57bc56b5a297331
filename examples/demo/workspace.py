"""The folder that a demo works in."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge_sdk.errors import InputError
from edge_sdk.files import make_folder, storage_errors, write_durably

__all__ = ["prepare"]

_MARKER = ".edge-sdk-demo"
_FOLDERS = ("models", "repository", "device", "logs", "records")
_FILES = ("report.json", "report.html")
_MADE = ("models", "logs", "records")  # the others are made by those who use them


def prepare(out: Path) -> None:
    """Make a folder ready: what an earlier demo left is removed, what is anybody else's is refused.

    Raises
    ------
    InputError
        It is a file, or holds something that is not from a demo.
    StorageError
        It cannot be made or written.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; it should be a folder")
    with storage_errors(out, "use the folder"):
        if out.is_dir() and any(out.iterdir()) and not (out / _MARKER).exists():
            raise InputError(f"--out {out} is not empty and not from an earlier demo; choose another folder")
        make_folder(out)
        write_durably(out / _MARKER, b"")
        for name in _FOLDERS:
            if (out / name).exists():
                shutil.rmtree(out / name)
        for name in _FILES:
            (out / name).unlink(missing_ok=True)
        for name in _MADE:
            make_folder(out / name)
