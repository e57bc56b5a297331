"""What tests of the server share: one that runs, with each of the two that speak gRPC."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from outside.bundles import TinyBundle
from outside.services import Service


@pytest.fixture(scope="session", params=["grpc", "fast"])
def grpc_front(request: pytest.FixtureRequest) -> str:
    """Return who speaks gRPC."""
    return str(request.param)


@pytest.fixture(scope="session")
def server(grpc_front: str, tiny_edge_bundle: TinyBundle) -> Iterator[str]:
    """Return HOST:PORT of a real fallback server that serves the tiny bundle."""
    with Service("serve", tiny_edge_bundle.path, "--front", grpc_front, "--grpc-port", "0") as process:
        yield process.ready["grpc"]
