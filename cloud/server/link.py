"""Questions and answers between a supervisor and a worker: lines of JSON over a pair of sockets, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Self

from edge_sdk import errors

__all__ = ["Link"]

_log = logging.getLogger("edge_sdk.cloud.server")
_MOST_BYTES = 64 * 2**20  # of a line
Answer = Callable[[str, dict[str, Any]], Awaitable[Any]]


class Link:
    """One end; make it with `open`.

    Attributes
    ----------
    ended
        Is done when the other end is gone.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
        self._reader, self._writer, self._answer = reader, writer, answer
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self.ended = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, end: socket.socket, answer: Answer) -> Self:
        """Return a link over one of a pair of sockets.

        Parameters
        ----------
        end
            The socket.
        answer
            Answers what the other end asks: a word, and what belongs to it. Its result, and the first line of its
            `EdgeSdkError`, go back.
        """
        reader, writer = await asyncio.open_unix_connection(sock=end, limit=_MOST_BYTES)
        return cls(reader, writer, answer)

    async def ask(self, what: str, **about: Any) -> Any:
        """Ask the other end, and return its answer.

        Raises
        ------
        ConnectionError
            The other end is gone.
        EdgeSdkError
            As the other end raised it.
        """
        if self.ended.done():
            raise ConnectionError("the other end is gone")
        number, future = next(self._numbers), asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            self._write({"ask": number, "what": what, "about": about})
            said = await future
        finally:
            del self._asked[number]
        if "error" in said:
            kind, line = said["error"]
            raise getattr(errors, kind, errors.ServiceError)(line)
        return said["value"]

    def close(self) -> None:
        """End the link."""
        self._writer.close()

    def _write(self, message: dict[str, Any]) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def _read(self) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while line := await self._reader.readline():
                message = json.loads(line)
                if "what" in message:
                    task = asyncio.create_task(self._say(message))
                    self._answering.add(task)  # the loop holds tasks only weakly
                    task.add_done_callback(self._answering.discard)
                elif (future := self._asked.get(message["answer"])) is not None and not future.done():
                    future.set_result(message)
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ConnectionError("the other end is gone"))

    async def _say(self, message: dict[str, Any]) -> None:
        said: dict[str, Any] = {"answer": message["ask"]}
        try:
            said["value"] = await self._answer(message["what"], message["about"])
        except errors.EdgeSdkError as error:
            plain = not isinstance(error, errors.OverloadedError | errors.MissingExtraError | errors.KernelError)
            said["error"] = [type(error).__name__ if plain else "ServiceError", errors.one_line(error)]
        except ConnectionError:  # who asks, or who would answer for us, is gone
            said["error"] = ["ServiceError", f"{message['what']} ended with a process"]
        except Exception:  # noqa: BLE001 - a fault, which the log tells
            _log.exception("cannot answer %s", message["what"])
            said["error"] = ["ServiceError", f"{message['what']} failed: the log says why"]
        with contextlib.suppress(OSError):
            self._write(said)
