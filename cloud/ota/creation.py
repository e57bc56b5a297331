"""A repository made: all of it or none."""

from __future__ import annotations

import shutil
from pathlib import Path

from tuf.api.metadata import Root

from edge_sdk.cloud.ota.keys import KeyFolder
from edge_sdk.cloud.ota.rolefiles import RoleFiles
from edge_sdk.cloud.ota.roles import DELEGATED, KEYS, first_metadata
from edge_sdk.files import fsync_dir, make_folder, storage_errors, write_durably

__all__ = ["create"]


def create(folder: Path, keys: KeyFolder, files: RoleFiles, *, roots: int, threshold: int, bins: int) -> None:
    """Make keys and metadata aside; the folder is a repository when ``metadata`` gets its name, at last.

    Parameters
    ----------
    folder
        The repository's folder.
    keys
        Where the keys are made.
    files
        Where the metadata will be.
    roots, threshold
        Number of root keys, and how many of them must sign.
    bins
        Hashed bins of each delegated role; a power of two.
    """
    keys.begin(folder)
    for name in DELEGATED:
        make_folder(folder / "targets" / name)
        fsync_dir(folder / "targets")
    root_signers = [keys.create(f"root-{number + 1}") for number in range(roots)]
    signers = {name: keys.create(name) for name in KEYS}
    aside = folder / ".metadata"
    with storage_errors(aside):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        unfinished = RoleFiles(aside, files.lifetimes)
        for name, metadata in first_metadata(root_signers, threshold, signers, bins, files.lifetimes):
            data = unfinished.write(name, metadata)
            if isinstance(metadata.signed, Root):
                write_durably(folder / "root.json", data)
        aside.rename(files.folder)
    fsync_dir(folder)
    keys.finish()
