"""For commands only: progress bars of training, and silence for TensorFlow's native code.

TensorFlow, XLA and the TFLite converter write to file descriptor 2 from C++, past Python's
logging. `quiet` must be entered before TensorFlow is imported to catch all of it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["progress", "quiet", "remarks"]


@contextmanager
def quiet(log: Path | None = None) -> Iterator[Console]:
    """Send file descriptor 2 to a file, by default to nowhere, and give a console on where it led before.

    Exceptions pass through after the descriptor is restored, so that their messages are seen.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with (log or Path(os.devnull)).open("ab") as file:
            os.dup2(file.fileno(), 2)
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as terminal:
            yield Console(file=terminal)
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def remarks(console: Console) -> Iterator[None]:
    """Let edge-sdk's own warnings be seen while all else is `quiet`."""
    logger, handler = logging.getLogger("edge_sdk"), logging.StreamHandler(console.file)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def progress(console: Console, titles: Mapping[str, str] | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """Show one bar for each stage; yields the ``on_progress`` that moves them.

    A stage ``whole: part`` shares the bar of ``whole`` with its other parts, and shows which is under way.

    Parameters
    ----------
    console
        Where to; nothing is shown where it is no terminal.
    titles
        What to call the stages, where not by their names.
    """
    bars = Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
        TextColumn("{task.fields[part]}", style="dim"),
        console=console,
        disable=not console.is_terminal,
    )
    tasks: dict[str, TaskID] = {}

    def on_progress(stage: str, done: int, total: int) -> None:
        whole, _, part = stage.partition(": ")
        if whole not in tasks:
            tasks[whole] = bars.add_task((titles or {}).get(whole, whole), total=total, part=part)
        bars.update(tasks[whole], completed=done, total=total, part="" if done == total else part)

    with bars:
        yield on_progress
