"""A fleet whose service runs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from outside.updates import Fleet


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Return a folder in memory, where there is such a file system: an update syncs a hundred times."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2**30  # containers often have 64 MB
    with tempfile.TemporaryDirectory(dir=memory if roomy else None, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def fleet(tmp_path: Path, broker: str) -> Iterator[Fleet]:
    """Return a fleet with an empty repository that is being served."""
    made = Fleet(tmp_path, broker)
    made.serve()
    yield made
    made.stop()
