from __future__ import annotations

from collections.abc import Callable

import pytest

from edge_sdk import canonical
from edge_sdk.bundle import Artifact, Bundle, Golden, Manifest, write_bundle
from edge_sdk.types import TensorSpec

MODEL = b"not a model, but bytes: a bundle does not look inside" * 4


def small_manifest() -> Manifest:
    return Manifest(
        name="digits",
        version="1.2.3",
        task="classification",
        labels=("zero", "one"),
        processing={"steps": [{"op": "color", "mode": "grey"}, {"op": "resize", "height": 8, "width": 8}]},
        artifacts=(
            Artifact(
                file="model.tflite",
                runtime="litert",
                precision="int8",
                sha256=canonical.sha256(MODEL),
                size=len(MODEL),
                inputs=(TensorSpec("x", "int8", (1, 8, 8, 1), 0.5, -128),),
                outputs=(TensorSpec("y", "int8", (1, 2), 1 / 256, -128),),
            ),
        ),
        outputs="probabilities",
        golden=Golden(2, 1.0, 0.02),
        files={},
        lineage={"teacher": "sha256:00", "épreuve": "ünïcode"},
        metrics={"accuracy": 0.75},
    )


MEMBERS = {
    "model.tflite": MODEL,
    "golden/input-000.npy": b"\x93NUMPY first",
    "golden/input-001.npy": b"",
    "MODEL_CARD.md": "# digits – a card\n".encode(),
}


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    """A small bundle in a file."""
    return write_bundle(tmp_path / "digits-1.2.3.edge", small_manifest(), MEMBERS)


@pytest.fixture
def archive(bundle) -> bytes:
    """The bytes of that file."""
    return bundle.path.read_bytes()


@pytest.fixture
def with_manifest(archive) -> Callable[..., bytes]:
    """Return a function that makes a well-formed archive whose manifest was edited as JSON."""
    from edge_sdk.bundle.archive import decode, encode

    def edited(change: Callable[[dict], object]) -> bytes:
        members = {name: bytes(data) for name, data in decode(archive).items()}
        document = canonical.loads(members["manifest.json"])
        change(document)
        members["manifest.json"] = canonical.dumps(document)
        return encode(members)

    return edited
