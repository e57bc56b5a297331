"""A download that begins with what a delta makes of the version that runs, so that only little is fetched.

The delta is fetched as a bundle is; each block that it makes is held against its signed hash as
one from the repository would be, and kept only then. So whatever a delta is or lacks, the
download goes on with the blocks that are missing after it: all of them, at worst.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

from edge_sdk.errors import EdgeSdkError, StorageError, TransferError, TrustError, one_line
from edge_sdk.files import make_folder, storage_errors
from edge_sdk.ota.channel import Source
from edge_sdk.ota.installer import Installer
from edge_sdk.ota.records import Assignment, Delta, Target
from edge_sdk.ota.slots import Installed
from edge_sdk.ota.transfer import Download
from edge_sdk.ota.trust import Trust

__all__ = ["Patches"]

log = logging.getLogger("edge_sdk.ota.patching")


class Patches:
    """Fetches and applies deltas.

    Parameters
    ----------
    folder
        Where a delta is collected; made if missing.
    trust, installer
        The device's: what is signed; what runs, and what must not be tried again.
    """

    def __init__(self, folder: Path, trust: Trust, installer: Installer) -> None:
        self._folder = folder
        self._trust = trust
        self._slots, self._memory = installer.slots, installer.memory
        self._failed: tuple[str, str, float] | None = None  # base, result, and bytes that were missing then

    def fill(self, download: Download, target: Target, assignment: Assignment, source: Source) -> str:
        """Put into a download what a delta from the active version makes; return why it did not help, or ''.

        Raises
        ------
        TransferError
            The source was stopped.
        StorageError
            What was collected of a delta cannot be removed.
        """
        active = self._slots.active
        if active is None or active.sha256 not in target.deltas or download.path.exists() or not download.missing():
            self.clear()
            return ""
        known_here = self._failed is not None and self._failed[:2] == (active.sha256, target.sha256)
        if known_here and self._failed is not None and download.missing_bytes() < self._failed[2]:
            return ""  # the file comes, and the delta did not
        try:
            delta = self._trust.delta(active.sha256, target, source)
            known = self._memory.failure(delta.sha256, assignment.counter)
            if known is not None:
                return ""  # said when it failed
            self._apply(delta, active, download, target, assignment, source)
        except (EdgeSdkError, ImportError, MemoryError) as error:
            if isinstance(error, StorageError):
                self.clear()  # it takes up room that the file needs
            # where nothing came since, the link was down, and the delta still is the shorter way
            until = download.missing_bytes() if isinstance(error, TransferError) else math.inf
            self._failed = (active.sha256, target.sha256, until)
            if known_here:
                return ""
            log.warning("the delta from %s cannot be used: %s", active.version, error)
            return f"the delta from {active.version} cannot be used, the file is fetched: {one_line(error, 300)}"
        return ""

    def _apply(
        self,
        delta: Delta,
        active: Installed,
        download: Download,
        target: Target,
        assignment: Assignment,
        source: Source,
    ) -> None:
        from edge_sdk.ota.delta import Base, unpatch  # NumPy and Zstandard: where there is a delta

        collected = Download(make_folder(self._folder), delta)
        collected.discard_others()
        fetched, missing = collected.missing(), download.missing()
        if collected.missing_bytes() >= download.missing_bytes():
            self.clear()  # most of the file is here already
            return
        # else it would be fetched for nothing, and at each look again
        download.check_space(len(missing), len(fetched) * delta.block_bytes)
        try:
            # before anything is fetched: the base is what it was, every byte
            with Base(self._slots.path(active.slot), active.sha256) as base:
                path = collected.fetch(source)
                with storage_errors(path, "read"), path.open("rb") as stream:
                    download.fill(unpatch(stream, base, target.size))
        except TrustError as error:
            self._memory.fail(delta.sha256, assignment.counter, one_line(error, 300), for_good=False)
            collected.discard()
            raise
        collected.discard()

    def clear(self) -> None:
        """Remove what was collected of deltas."""
        if self._folder.exists():
            with storage_errors(self._folder, "clear"):
                for path in self._folder.iterdir():
                    path.unlink()
