"""When a device may fetch bundles, and how fast. Metadata, hints and reports are small and always go."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from pathlib import Path
from time import monotonic
from typing import Any

from edge_sdk.errors import InputError, TransferError
from edge_sdk.ota.channel import Reply, Source

__all__ = ["Hours", "Ruled", "Rules"]

_LOOK_SECONDS = 1.0

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class Hours:
    """A part of each day, in the device's local time; one that ends before it begins goes over midnight."""

    begin: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Hours:
        """Read ``HH:MM-HH:MM``; raise `InputError` if it has another form."""
        match = _HOURS.fullmatch(text)
        if match is None:
            raise InputError(f"hours {text!r} are not of the form 22:00-06:00")
        begin_hour, begin_minute, end_hour, end_minute = map(int, match.groups())
        return cls(time(begin_hour, begin_minute), time(end_hour, end_minute))

    def __contains__(self, moment: time) -> bool:
        if self.begin <= self.end:
            return self.begin <= moment < self.end
        return moment >= self.begin or moment < self.end

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}-{self.end:%H:%M}"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a download has to keep to. Where it may not begin or go on, the device is idle and looks again.

    Attributes
    ----------
    bytes_per_second
        Average rate of blocks.
    hours
        When bundles may be fetched.
    metered
        Returns whether the link costs money now; nothing is fetched then. Asked once a second.
    hold
        Nothing is fetched while a file of this name exists: a link that is metered, work that must not be disturbed.

    Raises
    ------
    InputError
        The rate is not positive.
    """

    bytes_per_second: float | None = None
    hours: Hours | None = None
    metered: Callable[[], bool] | None = None
    hold: Path | None = None

    def __post_init__(self) -> None:
        if self.bytes_per_second is not None and not self.bytes_per_second > 0:
            raise InputError(f"a rate of {self.bytes_per_second} bytes a second is not above 0")

    def check(self, now: time | None = None) -> None:
        """Raise `TransferError` if nothing may be fetched at this time of the day, by default now."""
        if self.hours is not None and (now or datetime.now().astimezone().time()) not in self.hours:
            raise TransferError(f"an update waits for the hours {self.hours}")
        if self.metered is not None and self.metered():
            raise TransferError("an update waits: the link is metered")
        if self.hold is not None and self.hold.exists():
            raise TransferError(f"an update waits while there is {self.hold}")


class Ruled:
    """A source that looks once a second whether rules still allow to fetch; what has come by then is kept.

    Parameters
    ----------
    source
        Where blocks come from.
    rules
        Checked by whoever begins a download.
    """

    def __init__(self, source: Source, rules: Rules) -> None:
        self._source, self._rules, self._due = source, rules, monotonic() + _LOOK_SECONDS

    def fetch(self, requests: Sequence[Mapping[str, Any]], /) -> Iterator[tuple[int, Reply]]:
        """Yield the reply to each request with its index; raise `TransferError` where nothing may be fetched now."""
        for answer in self._source.fetch(requests):
            yield answer
            if monotonic() >= self._due:
                self._rules.check()
                self._due = monotonic() + _LOOK_SECONDS
