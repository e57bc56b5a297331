"""The time a device goes by: its clock, but never before what it has seen of signed time.

A clock may stand at 1970 after each start, and whoever answers a device's time requests may set
it as he likes. So two rules. The time never falls behind a floor that is kept on disk, and the
floor rises only on signed evidence: to the moment that verified metadata names as that of its
signing, and to a reading of the clock at which a whole set of metadata was verified as not
expired, which is before a signed expiry. A clock far ahead finds everything expired, leaves no
trace, and can be set right.

The floor belongs to the keys whose signatures raised it. Where the root replaces these keys, as
it does after a compromise, the floor they raised is given up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from edge_sdk import canonical
from edge_sdk.errors import InputError
from edge_sdk.files import write_durably

__all__ = ["TrustedTime"]

log = logging.getLogger("edge_sdk.ota.clock")

_WORTH_A_WRITE = timedelta(hours=1)  # flash wears; what a cut may take back is an hour at most
_END = datetime.max.replace(tzinfo=UTC, microsecond=0)
_FORM = "%Y-%m-%dT%H:%M:%SZ"


def _elapsed() -> float:
    # counts what was slept as well, where there is such a clock
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _system() -> datetime:
    return datetime.now(UTC)


class TrustedTime:
    """A clock with a floor that survives restarts.

    Parameters
    ----------
    path
        File of the floor; one that is damaged is begun anew.
    clock
        Returns what the device's clock says, UTC.
    elapsed
        Returns seconds that no setting of the clock changes.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], datetime] = _system,
        elapsed: Callable[[], float] = _elapsed,
    ) -> None:
        self._path = path
        self._clock = clock
        self._elapsed = elapsed
        self._floor: datetime | None = None
        self._written: datetime | None = None
        self._keys: frozenset[str] = frozenset()
        self._since = elapsed()
        try:
            document = canonical.loads(path.read_bytes(), limit=16_384)
            self._floor = self._written = datetime.strptime(document["floor"], _FORM).replace(tzinfo=UTC)
            self._keys = frozenset(str(key) for key in document["keys"])
        except FileNotFoundError:
            pass
        except (OSError, InputError, KeyError, TypeError, ValueError) as error:
            log.warning("%s cannot be read and is begun anew: %s", path, error)

    def now(self) -> datetime:
        """Return the time: the clock's, or the floor and what passed since it rose, whichever is later."""
        reading = self._clock()
        if self._floor is None:
            return reading
        return max(reading, self._risen(self._floor))

    def rise(self, to: datetime, keys: Iterable[str]) -> None:
        """Raise the floor on the evidence that these keys signed; durable where it rose by an hour or more.

        Raises
        ------
        StorageError
            The floor cannot be stored.
        """
        owners = frozenset(keys)
        anew = owners != self._keys
        floor = to.replace(microsecond=0)
        if self._floor is not None and (not anew or not self._keys):
            floor = max(floor, self._risen(self._floor))
        self._floor, self._keys, self._since = floor, owners, self._elapsed()
        if anew or self._written is None or floor - self._written >= _WORTH_A_WRITE:
            self._save(floor)

    def drop_unless(self, keys: Iterable[str]) -> bool:
        """Give up the floor if other keys than these raised it; return whether it was given up.

        A floor that nobody signed, as enrolment leaves it on the device itself, stays.
        """
        owners = frozenset(keys)
        if self._floor is None or not owners or not self._keys or owners == self._keys:
            return False
        log.warning("the keys that signed the time %s were replaced: it counts no more", self._floor)
        self._floor, self._keys = None, frozenset()
        return True

    def _risen(self, floor: datetime) -> datetime:
        passed = timedelta(seconds=max(0, int(self._elapsed() - self._since)))
        return floor + min(passed, _END - floor)

    def _save(self, floor: datetime) -> None:
        document = {"format": 1, "floor": floor.strftime(_FORM), "keys": sorted(self._keys)}
        write_durably(self._path, canonical.dumps(document))
        self._written = floor
