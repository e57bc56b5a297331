"""An edge bundle with a certified policy, the cloud bundle it was certified with, and a server of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import edge_sdk
from edge_sdk.bundle import Bundle
from edge_sdk.cascade.policy import Certificate, Policy
from outside.bundles import TinyBundle, build_tiny_bundle
from outside.services import Service


def with_policy(
    source: Path,
    path: Path,
    *,
    cloud_digest: str | None,
    threshold: float = 0.9,
    disagreements: int | None = None,
    risk: str = "harm",
) -> Path:
    """Write a copy of a bundle that carries a policy, certified for a cloud model or not at all."""
    bundle, certificate = Bundle.open(source), None
    if cloud_digest is not None:
        validity = {"edge_model": bundle.manifest.model_digest, "cloud_model": cloud_digest, "encoding": "captured"}
        certificate = Certificate(0.01, 0.95, 1000, 1, 0.01, 0.5, validity, risk=risk, disagreements=disagreements)
    bundle.rewrite(path, cascade=Policy(threshold=threshold, certificate=certificate).to_json())
    return path


@dataclass(frozen=True)
class Pair:
    """Paths of both bundles, frames the edge keeps and frames it wants to escalate."""

    edge: Path
    cloud: Path
    cloud_digest: str
    easy: list[np.ndarray]
    hard: list[np.ndarray]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    cloud: TinyBundle = build_tiny_bundle(folder, name="teacher", seed=3)
    student: TinyBundle = build_tiny_bundle(folder, name="student")
    digest = Bundle.open(cloud.path).manifest.model_digest
    edge = with_policy(student.path, folder / "certified.edge", cloud_digest=digest)
    with edge_sdk.load(edge) as model:
        wants = [model.decide(model.infer(image)).escalate for image in student.images]
    images = list(student.images)
    return Pair(
        edge,
        cloud.path,
        digest,
        [x for x, escalate in zip(images, wants, strict=True) if not escalate],
        [x for x, escalate in zip(images, wants, strict=True) if escalate],
    )


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
