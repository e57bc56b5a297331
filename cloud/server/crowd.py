"""How many calls the clients of a crowded server may have open: what waits in a socket grows old unseen.

A request says how long its client waits when it leaves that client. What lies in a socket then is not seen to
age, and where much does, all that is read is late. So while requests are refused, all connections together
have about as many calls open as the server works on; further ones wait at their clients, and say how much
time they have left when they come.
"""

from __future__ import annotations

__all__ = ["Crowd"]

_LEAST = 4  # calls of a connection
_GROW = 4  # part of what may be open that is added when nothing was refused for a while


class Crowd:
    """Says how many calls a connection may have open.

    Parameters
    ----------
    most
        Of one connection while nothing is refused, and about as many of all together while something is.

    Attributes
    ----------
    streams
        What a connection may have open now.
    refused
        What `note` was told last.
    """

    def __init__(self, most: int) -> None:
        self._most = self.streams = most
        self.refused, self._calm = 0, True

    def note(self, refused: int, connections: int) -> None:
        """Look at what has been refused.

        Parameters
        ----------
        refused
            How many requests were, so far, for want of room or time.
        connections
            How many there are.
        """
        if refused != self.refused:
            self.refused, self._calm = refused, False
            self.streams = min(self.streams, max(_LEAST, self._most // max(1, connections)))

    def grow(self) -> None:
        """Allow more where nothing was refused since this was called last; to be called from time to time."""
        if self._calm and self.streams < self._most:
            self.streams = min(self._most, self.streams + max(1, self.streams // _GROW))
        self._calm = True
