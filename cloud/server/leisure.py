"""Rests of the event loop while more is asked than can be answered.

Each request that comes wakes the loop, which takes a processor, and what its caches hold, from a model that runs. To
refuse a few of them in one turn takes less than to refuse each as it comes. So where some are refused, and what waits
keeps the models at work for much longer, the loop rests between turns. What comes meanwhile waits in its sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["Leisure"]

_SHARE = 0.125  # of the time for which the models have work
_LEAST_SECONDS, _MOST_SECONDS = 1e-3, 4e-3  # a shorter rest spares too little; in a longer one answers wait


class Leisure:
    """Used on the event loop.

    Parameters
    ----------
    lasts
        Returns for how many seconds the models have work without the loop; 0 where one of them needs it.
    sleep
        As `time.sleep`.
    """

    def __init__(self, lasts: Callable[[], float], *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._lasts, self._sleep, self._asked = lasts, sleep, False

    def take(self, loop: asyncio.AbstractEventLoop) -> None:
        """Rest after what is to be done in this turn, once."""
        if not self._asked:
            self._asked = True
            loop.call_soon(self._rest)

    def _rest(self) -> None:
        self._asked = False
        seconds = min(_SHARE * self._lasts(), _MOST_SECONDS)
        if seconds >= _LEAST_SECONDS:
            self._sleep(seconds)
