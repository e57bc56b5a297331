"""Unmodified clients of Triton, of each kind it has, against a real server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest

import edge_sdk
from edge_sdk.protocol import messages
from edge_sdk.protocol.names import SERVICE
from outside.bundles import SIDE, TinyBundle
from outside.models import identity_onnx

PATIENT = 20.0


def tensors(triton, x: np.ndarray) -> list:
    tensor = triton.InferInput("image", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    return [tensor]


@pytest.fixture
def batch(tiny_edge_bundle: TinyBundle) -> tuple[np.ndarray, np.ndarray]:
    """Return processed images, and the probabilities that the model has for them."""
    with edge_sdk.load(tiny_edge_bundle.path) as model:
        x = np.concatenate([model.processor(image) for image in tiny_edge_bundle.images[:5]])
        return x, model.infer_tensor(x)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def test_the_asynchronous_grpc_client_is_served(server: str, batch) -> None:
    triton = pytest.importorskip("tritonclient.grpc.aio")
    x, expected = batch

    async def story() -> None:
        async with triton.InferenceServerClient(server) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("tiny", "1.0.0")
            assert (await client.get_model_metadata("tiny")).versions == ["1.0.0"]
            results = await asyncio.gather(*(client.infer("tiny", tensors(triton, x)) for _ in range(20)))
            for result in results:
                assert softmax(result.as_numpy("logits")) == pytest.approx(expected, abs=1e-6)

            async def requests():
                for name in "abc":
                    yield {"model_name": "tiny", "inputs": tensors(triton, x), "request_id": name}

            seen = set()
            async for result, error in client.stream_infer(requests()):
                assert error is None
                seen.add(result.get_response().id)
            assert seen == set("abc")

    asyncio.run(story())


@pytest.mark.parametrize("clients", [1, 4])
def test_a_thousand_requests_at_once_of_few_clients_are_all_answered(server: str, batch, clients: int) -> None:
    triton = pytest.importorskip("tritonclient.grpc.aio")
    x, expected = batch
    apart = [("grpc.use_local_subchannel_pool", 1)]  # else they would share one connection

    async def story() -> None:
        asking = [triton.InferenceServerClient(server, channel_args=apart) for _ in range(clients)]
        for _ in range(2):  # before clients know what the server allows, and after
            results = await asyncio.gather(
                *(asking[n % clients].infer("tiny", tensors(triton, x[:1])) for n in range(1000))
            )
            assert all(softmax(r.as_numpy("logits")) == pytest.approx(expected[:1], abs=1e-6) for r in results[::50])
        for client in asking:
            await client.close()

    asyncio.run(story())


def test_the_configuration_is_what_triton_says_of_such_a_model(server: str) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    with triton.InferenceServerClient(server) as client:
        config = client.get_model_config("tiny").config
        assert (config.name, config.max_batch_size) == ("tiny", 256)
        assert [(t.name, t.data_type, list(t.dims)) for t in config.input] == [("image", 11, [SIDE, SIDE, 3])]
        assert [(t.name, t.data_type, list(t.dims)) for t in config.output] == [("logits", 11, [3])]
        assert config.backend == "onnx"
        assert config.parameters["edge_outputs"].string_value == "logits"
        with pytest.raises(Exception, match="NOT_FOUND"):
            client.get_model_config("other")


def test_classes_are_named_best_first(server: str, tiny_edge_bundle: TinyBundle, batch) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    x, expected = batch
    with triton.InferenceServerClient(server) as client:
        for count in (1, 2, 3, 1000):
            asked = [triton.InferRequestedOutput("logits", class_count=count)]
            best = client.infer("tiny", tensors(triton, x), outputs=asked).as_numpy("logits")
            assert best.shape == (len(x), min(count, 3))
            for item, probabilities in zip(best, expected, strict=True):
                scores, indices, labels = zip(*(entry.decode().split(":") for entry in item), strict=True)
                assert [int(index) for index in indices] == list(np.argsort(-probabilities)[:count])
                assert [tiny_edge_bundle.classes[int(index)] for index in indices] == list(labels)
                assert sorted(map(float, scores), reverse=True) == list(map(float, scores))


def test_half_of_the_bits_are_enough_for_a_tensor(server: str, batch) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x, expected = batch
    tensor = triton.InferInput("image", list(x.shape), "BF16")
    tensor.set_data_from_numpy(x.astype(bfloat16))
    with triton.InferenceServerClient(server) as client:
        result = client.infer("tiny", [tensor])
        assert softmax(result.as_numpy("logits")) == pytest.approx(expected, abs=0.1)


def test_texts_are_answered_as_the_bytes_they_are(service, tmp_path: Path) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    (tmp_path / "texts.onnx").write_bytes(identity_onnx("STRING", ["N", 2]))
    sent = np.array([["", "grün"], ["a\nb", "x" * 300]], object)
    with triton.InferenceServerClient(
        service("serve", tmp_path / "texts.onnx", "--grpc-port", "0").ready["grpc"]
    ) as client:
        tensor = triton.InferInput("x", [2, 2], "BYTES")
        tensor.set_data_from_numpy(sent)
        got = client.infer("texts", [tensor]).as_numpy("y")
        assert [item.decode() for item in got.flat] == list(sent.flat)
        tensor.set_data_from_numpy(np.array([[b"\xff", b""]] * 2, object))
        with pytest.raises(Exception, match=r"INVALID_ARGUMENT.*no UTF-8"):
            client.infer("texts", [tensor])


def test_classes_of_a_model_without_items_are_of_all_it_says(service, tmp_path: Path) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    (tmp_path / "whole.onnx").write_bytes(identity_onnx("FLOAT", [2, 3]))
    with triton.InferenceServerClient(
        service("serve", tmp_path / "whole.onnx", "--grpc-port", "0").ready["grpc"]
    ) as client:
        tensor = triton.InferInput("x", [2, 3], "FP32")
        tensor.set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3))
        best = client.infer("whole", [tensor], outputs=[triton.InferRequestedOutput("y", class_count=2)]).as_numpy("y")
        assert best.tolist() == [b"5.000000:5", b"4.000000:4"]


def test_one_of_several_repositories_is_not_to_be_asked_for(server: str) -> None:
    with grpc.insecure_channel(server) as channel:
        takes, gives = messages.METHODS["RepositoryIndex"]
        ask = channel.unary_unary(f"/{SERVICE}/RepositoryIndex", takes.SerializeToString, gives.FromString)
        with pytest.raises(grpc.RpcError) as caught:
            ask(takes(repository_name="other"), timeout=PATIENT)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
