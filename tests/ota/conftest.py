"""A fleet whose service runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from outside.updates import Fleet


@pytest.fixture
def fleet(tmp_path: Path, broker: str) -> Iterator[Fleet]:
    """Return a fleet with an empty repository that is being served."""
    made = Fleet(tmp_path, broker)
    made.serve()
    yield made
    made.stop()
