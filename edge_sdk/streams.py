"""Streams: the frames of a source, answered one after the other.

A source that does not wait (``live = True``) is read on a thread of its own, and while an answer is
made only its newest frames are kept. Answers are iterated over, or handed to a callback.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from types import TracebackType
from typing import Generic, Self, TypeVar

from edge_sdk.errors import InputError
from edge_sdk.frames import Frame

__all__ = ["Running", "Stream"]

_log = logging.getLogger("edge_sdk.streams")

Answer = TypeVar("Answer")


class Stream(Generic[Answer]):
    """Answers to the frames of a source, in their order. Iterate over it, or `start` it.

    Parameters
    ----------
    answer
        Called with each frame, on the thread that iterates.
    source
        Any iterable of frames. It is read on a thread of its own if it is live.
    live
        Whether not to wait for answers; by default what the source says of itself.
    depth
        How many frames of a live source may wait, at least 1. Where one more comes, the oldest goes.
    around
        Makes the context in which frames are taken and answered.

    Attributes
    ----------
    dropped
        Frames that went for a newer one before they were answered.

    Raises
    ------
    InputError
        ``depth`` is not a whole number, or below 1.
    """

    def __init__(
        self,
        answer: Callable[[Frame], Answer],
        source: Iterable[Frame],
        *,
        live: bool | None = None,
        depth: int = 1,
        around: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        if not isinstance(depth, int) or depth < 1:
            raise InputError(f"depth is {depth!r}; it should be a whole number, at least 1")
        self._answer, self._around = answer, around
        self._source = source
        self._live = bool(getattr(source, "live", False)) if live is None else live
        self._depth = depth
        self.dropped = 0

    def __iter__(self) -> Iterator[Answer]:
        """Answer frame by frame; leaving the loop ends the stream."""
        with closing(self._frames()) as frames:
            for frame in frames:
                yield self._answer(frame)

    def start(
        self, on_answer: Callable[[Answer], object], *, on_error: Callable[[Exception], object] | None = None
    ) -> Running:
        """Answer on a thread of its own, and hand every answer to a callback.

        Parameters
        ----------
        on_answer
            Called with each answer on that thread: the next frame waits for it.
        on_error
            Called with what an answer or ``on_answer`` raised, after which the stream goes on, and
            with what the source raised, which ends it. By default errors are logged.

        Returns
        -------
        Running
            To stop it, or to wait for its end.
        """
        return Running(self._frames(), self._answer, on_answer, on_error)

    def _frames(self) -> Generator[Frame]:
        with self._around():
            yield from self._taken()

    def _taken(self) -> Generator[Frame]:
        if not self._live:
            yield from self._source
            return
        waiting = _Newest(self._depth)
        reader = threading.Thread(target=waiting.fill, args=(self._source,), name="edge-sdk-source", daemon=True)
        reader.start()
        try:
            while True:
                there, frame = waiting.take()
                self.dropped = waiting.dropped
                if not there:
                    return
                yield frame
        finally:
            waiting.stop()


class Running:
    """A stream that is being answered in the background; leaving its ``with`` block stops it."""

    def __init__(
        self,
        frames: Generator[Frame],
        answer: Callable[[Frame], Answer],
        on_answer: Callable[[Answer], object],
        on_error: Callable[[Exception], object] | None,
    ) -> None:
        self._stopping = threading.Event()
        self._on_error = on_error
        self._thread = threading.Thread(
            target=self._run, args=(frames, answer, on_answer), name="edge-sdk-stream", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether frames are still being answered."""
        return self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the source to end, so many seconds at most; return whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def stop(self, timeout: float | None = None) -> bool:
        """End after the frame under way, and wait for that; return whether it has ended in time.

        A source that blocks for its next frame ends when that comes. From a callback, it does not wait.
        """
        self._stopping.set()
        return threading.current_thread() is self._thread or self.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(
        self, frames: Generator[Frame], answer: Callable[[Frame], Answer], on_answer: Callable[[Answer], object]
    ) -> None:
        try:
            with closing(frames):
                while not self._stopping.is_set():
                    try:
                        frame = next(frames)
                    except StopIteration:
                        return
                    self._hand_over(frame, answer, on_answer)
        except Exception as error:  # noqa: BLE001 - of the source, which is anybody's
            self._report(error)

    def _hand_over(
        self, frame: Frame, answer: Callable[[Frame], Answer], on_answer: Callable[[Answer], object]
    ) -> None:
        if self._stopping.is_set():
            return
        try:
            on_answer(answer(frame))
        except Exception as error:  # noqa: BLE001 - one bad frame does not end a stream
            self._report(error)

    def _report(self, error: Exception) -> None:
        if self._on_error is None:
            _log.error("a frame was not answered", exc_info=error)
            return
        try:
            self._on_error(error)
        except Exception:  # noqa: BLE001 - the last place it can be said
            _log.exception("the callback for errors failed")


class _Newest:
    """A place for the newest frames, between the thread that reads a source and the one that answers."""

    def __init__(self, depth: int) -> None:
        self._changed = threading.Condition()
        self._frames: deque[Frame] = deque(maxlen=depth)
        self._ended = self._stopped = False
        self._error: Exception | None = None
        self.dropped = 0

    def fill(self, source: Iterable[Frame]) -> None:
        """Read a source to its end, or until `stop`; what it raises is raised where frames are taken."""
        try:
            for frame in source:
                with self._changed:
                    if self._stopped:
                        return
                    self.dropped += len(self._frames) == self._frames.maxlen
                    self._frames.append(frame)
                    self._changed.notify()
        except Exception as error:  # noqa: BLE001 - raised again where frames are taken
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def take(self) -> tuple[bool, Frame]:
        """Wait for a frame; (False, None) says that the source has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._ended)
            if self._frames:
                return True, self._frames.popleft()
            if self._error is not None:
                raise self._error
            return False, None

    def stop(self) -> None:
        """Let the reader end at its next frame."""
        with self._changed:
            self._stopped = True
