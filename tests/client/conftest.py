"""An edge bundle with a certified policy, the cloud bundle it was certified with, and a server of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from outside.pairs import Pair, build_pair, with_policy
from outside.services import Service


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return build_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def guarded(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of the same edge model whose certificate says how often the two disagreed: hardly."""
    path = tmp_path_factory.mktemp("guarded") / "guarded.edge"
    return with_policy(pair.edge, path, cloud_digest=pair.cloud_digest, disagreements=5)


@pytest.fixture(scope="session")
def net(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of the same edge model whose certificate is of net loss."""
    path = tmp_path_factory.mktemp("net") / "net.edge"
    return with_policy(pair.edge, path, cloud_digest=pair.cloud_digest, risk="net")


@pytest.fixture(scope="session")
def cloud(pair: Pair) -> Iterator[str]:
    """Return HOST:PORT of a server of the cloud bundle, which stays up."""
    with Service("serve", pair.cloud, "--grpc-port", "0") as process:
        yield process.ready["grpc"]
