"""For commands only: progress bars of training, and silence for TensorFlow's native code.

TensorFlow, XLA and the TFLite converter write to file descriptor 2 from C++, past Python's
logging. `quiet` must be entered before TensorFlow is imported to catch all of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["progress", "quiet"]


@contextmanager
def quiet() -> Iterator[Console]:
    """Send file descriptor 2 to nowhere, and give a console on where it led before.

    Exceptions pass through after the descriptor is restored, so that their messages are seen.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as terminal:
            yield Console(file=terminal)
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def progress(console: Console, titles: dict[str, str]) -> Iterator[Callable[[str, int, int], None]]:
    """Show one bar for each stage; yields the ``on_progress`` that moves them.

    Parameters
    ----------
    console
        Where to; nothing is shown where it is no terminal.
    titles
        What to call the stages.
    """
    bars = Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    tasks: dict[str, TaskID] = {}

    def on_progress(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(titles.get(stage, stage), total=total)
        bars.update(tasks[stage], completed=done, total=total)

    with bars:
        yield on_progress
