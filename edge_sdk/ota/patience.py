"""Wrong blocks are waited out: whoever carries them can delay an update, and not end it.

That the bytes which arrived are not the signed ones says something of their carrier, nothing of
the version. So they are asked for again, after pauses that grow; what matches its hash is kept.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_sdk import canonical
from edge_sdk.errors import InputError, TransferError, TrustError, one_line
from edge_sdk.files import storage_errors, write_durably
from edge_sdk.ota.channel import Source
from edge_sdk.ota.transfer import Download

__all__ = ["Patience"]

log = logging.getLogger("edge_sdk.ota.patience")


class Patience:
    """When a file whose blocks were wrong is asked for again; durable, and begun anew if damaged.

    Parameters
    ----------
    path
        Where the pause is kept over a restart.
    pauses
        The first and the longest, in seconds. Each is twice the one before, and up to a half shorter by chance.
    clock
        Returns seconds; one that is set back makes no pause longer than the longest.
    """

    def __init__(self, path: Path, pauses: tuple[float, float], clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._first, self._longest = pauses
        self._clock = clock
        self._trial, self._reason, self._rounds, self._until = "", "", 0, 0.0
        try:
            document = canonical.loads(path.read_bytes(), limit=16_384)
            self._trial, self._reason = str(document["trial"]), str(document["reason"])
            self._rounds, self._until = int(document["rounds"]), float(document["until"])
        except FileNotFoundError:
            pass
        except (OSError, InputError, KeyError, TypeError, ValueError, OverflowError) as error:
            log.warning("%s cannot be read and is begun anew: %s", path, error)

    def rounds(self, trial: str) -> int:
        """Return how often blocks were wrong in a trial: a file under one assignment."""
        return self._rounds if trial == self._trial else 0

    def pause(self, trial: str) -> str | None:
        """Return why a file is not asked for now, or None."""
        if not self.rounds(trial) or not 0 < self._until - self._clock() <= self._longest:
            return None
        return self._reason

    def fetch(self, download: Download, trial: str, sources: Sequence[Source]) -> Path:
        """Return the whole, checked file, from the first source that has the signed bytes.

        Raises
        ------
        TrustError
            None has; a pause begins.
        TransferError, StorageError
            As of `Download.fetch`.
        """
        wrong: TrustError | None = None
        for source in sources:
            try:
                path = download.fetch(source)
            except TrustError as error:
                wrong = error
            except TransferError:
                if wrong is None:
                    raise
            else:
                if self._rounds:
                    self._rounds = 0
                    with storage_errors(self._path, "remove"):
                        self._path.unlink(missing_ok=True)
                return path
        assert wrong is not None
        rounds = self.rounds(trial) + 1
        pause = min(self._longest, self._first * 2 ** min(rounds - 1, 30)) * random.uniform(0.5, 1)
        self._trial, self._rounds, self._until = trial, rounds, self._clock() + pause
        self._reason = f"{one_line(wrong, 400)}; it is asked for again in {pause:.0f} s"
        document = {"format": 1, "trial": trial, "reason": self._reason, "rounds": rounds, "until": int(self._until)}
        write_durably(self._path, canonical.dumps(document))
        raise TrustError(self._reason) from wrong
