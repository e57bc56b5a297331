"""How much of one stream is at work or queued."""

from __future__ import annotations

import asyncio

from edge_sdk.protocol.names import MAX_MESSAGE_BYTES

__all__ = ["MAX_STREAM_BYTES", "MAX_STREAM_REQUESTS", "Room"]

MAX_STREAM_REQUESTS = 64
"""Requests of one stream at work or queued at a time; further ones are not read."""
MAX_STREAM_BYTES = 2 * MAX_MESSAGE_BYTES
"""How many bytes they may hold; further ones are not read, either."""


class Room:
    """How much of one stream is at work or queued."""

    def __init__(self) -> None:
        self._requests = self._bytes = 0
        self._left = asyncio.Event()

    async def enter(self, size: int) -> None:
        """Wait until there is room; a request of any size finds it where it is alone."""
        while self._requests and (self._requests >= MAX_STREAM_REQUESTS or self._bytes + size > MAX_STREAM_BYTES):
            self._left.clear()
            await self._left.wait()
        self._requests += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        """Make room again."""
        self._requests -= 1
        self._bytes -= size
        self._left.set()
