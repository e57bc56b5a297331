"""A repository that tests bend, and the conformance client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from outside.tuf_server import TufClient, TufServer, serve


@pytest.fixture
def server() -> Iterator[TufServer]:
    """Return a repository over HTTP."""
    yield from serve()


@pytest.fixture
def client(tmp_path: Path, server: TufServer) -> TufClient:
    """Return a client that trusts the repository's first root."""
    made = TufClient(tmp_path, server)
    assert made.init() == 0
    return made
