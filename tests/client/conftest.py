"""An edge bundle with a certified policy, the cloud bundle it was certified with, and a server of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_sdk.bundle import Bundle
from edge_sdk.cascade.policy import Policy
from outside.bundles import tiny_onnx, train_tiny
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


@pytest.fixture
def worse(pair, tmp_path: Path) -> Path:
    """Return a bundle that is as sure as the certified one, and names the wrong class; certified as if it did not."""
    from edge_sdk.packing import pack
    from edge_sdk.processing import ProcessingSpec

    spec = ProcessingSpec.image(8, 8, 3)
    weights, bias = train_tiny(spec, 0)
    bundle = Bundle.open(pair.edge)
    pack(
        tiny_onnx(np.ascontiguousarray(weights[:, [1, 2, 0]]), bias[[1, 2, 0]]),
        runtime="onnx",
        name="worse",
        version="1.0.0",
        labels=bundle.manifest.labels,
        processing=spec,
        output="logits",
        path=tmp_path / "plain.edge",
    )
    made = Bundle.open(tmp_path / "plain.edge")
    policy = Policy.from_json(bundle.manifest.cascade)
    validity = {**policy.certificate.validity, "edge_model": made.manifest.model_digest}
    certificate = replace(policy.certificate, validity=validity, disagreements=5)
    made.rewrite(tmp_path / "worse.edge", cascade=replace(policy, certificate=certificate).to_json())
    return tmp_path / "worse.edge"
