"""Loading and unloading models by request: by Triton's clients, where it is allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from outside.bundles import tiny_onnx


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    place(tmp_path / "models", 1.0)
    return tmp_path / "models"


def place(root: Path, bias: float) -> None:
    """Write version 1 of a model whose logits are its bias where its input is zero."""
    version = root / "tiny" / "1"
    version.mkdir(parents=True, exist_ok=True)
    model = tiny_onnx(np.zeros((192, 3), np.float32), np.full(3, bias, np.float32))
    (version / "new").write_bytes(model)
    (version / "new").replace(version / "model.onnx")


@pytest.mark.parametrize("front", ["grpc", "http"])
def test_triton_clients_load_and_unload_where_it_is_allowed(service, repository: Path, front: str) -> None:
    triton = pytest.importorskip(f"tritonclient.{front}")
    process = service("serve", repository, "--grpc-port", "0", "--http-port", "0", "--allow-admin", "--reload", "0")
    tensor = triton.InferInput("image", [1, 8, 8, 3], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 8, 8, 3), np.float32))

    with triton.InferenceServerClient(process.ready[front]) as client:

        def bias() -> float:
            return float(client.infer("tiny", [tensor]).as_numpy("logits")[0, 0])

        assert bias() == 1
        place(repository, 2.0)
        assert bias() == 1
        client.load_model("tiny")
        assert bias() == 2
        client.unload_model("tiny")
        assert not client.is_model_ready("tiny")
        with pytest.raises(triton.InferenceServerException, match="unknown model"):
            bias()
        client.load_model("tiny")
        assert client.is_model_ready("tiny")
        with pytest.raises(triton.InferenceServerException):
            client.load_model("other")
        with pytest.raises(triton.InferenceServerException, match="not supported"):
            client.load_model("tiny", config="{}")
        (repository / "tiny" / "1" / "model.onnx").write_bytes(b"no model")
        with pytest.raises(triton.InferenceServerException, match="failed to load"):
            client.load_model("tiny")
        assert bias() == 2, "the old one keeps serving"
    assert process.stop() == 0
    assert process.errors.count("load model 'tiny': done") == 3
    assert "load model 'other': no such model" in process.errors
    assert "load model 'tiny': failed" in process.errors


@pytest.mark.parametrize("front", ["grpc", "http"])
def test_nobody_loads_or_unloads_where_it_is_not_allowed(service, repository: Path, front: str) -> None:
    triton = pytest.importorskip(f"tritonclient.{front}")
    process = service("serve", repository, "--grpc-port", "0", "--http-port", "0")
    with triton.InferenceServerClient(process.ready[front]) as client:
        for action in (client.load_model, client.unload_model):
            with pytest.raises(triton.InferenceServerException, match="--allow-admin") as caught:
                action("tiny")
            assert caught.value.status() in {"StatusCode.PERMISSION_DENIED", "403"}
        assert client.is_model_ready("tiny")
    assert process.stop() == 0
    assert process.errors.count("refused") == 2
