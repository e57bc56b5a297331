"""Message classes of ``inference.proto``, built in a descriptor pool of their own.

Several libraries register the package ``inference`` in protobuf's default pool, and a second
one with other bytes is refused. A private pool lets ours live beside any of them.

``inference.desc`` is compiled from ``inference.proto``; after a change of the latter run, in
this folder (``make proto``)::

    python -m grpc_tools.protoc -I. --descriptor_set_out=inference.desc inference.proto
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = [
    "METHODS",
    "STREAMS",
    "InferParameter",
    "InferTensorContents",
    "ModelInferRequest",
    "ModelInferResponse",
    "ModelMetadataRequest",
    "ModelMetadataResponse",
    "ModelReadyRequest",
    "ModelReadyResponse",
    "ModelStreamInferResponse",
    "RepositoryIndexRequest",
    "RepositoryIndexResponse",
    "ServerLiveRequest",
    "ServerLiveResponse",
    "ServerMetadataRequest",
    "ServerMetadataResponse",
    "ServerReadyRequest",
    "ServerReadyResponse",
]


def _load_pool() -> Any:
    data = resources.files("edge_sdk.protocol").joinpath("inference.desc").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _load_pool()


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))


InferParameter = _message("InferParameter")
InferTensorContents = _message("InferTensorContents")
ModelInferRequest = _message("ModelInferRequest")
ModelInferResponse = _message("ModelInferResponse")
ModelMetadataRequest = _message("ModelMetadataRequest")
ModelMetadataResponse = _message("ModelMetadataResponse")
ModelReadyRequest = _message("ModelReadyRequest")
ModelReadyResponse = _message("ModelReadyResponse")
ModelStreamInferResponse = _message("ModelStreamInferResponse")
RepositoryIndexRequest = _message("RepositoryIndexRequest")
RepositoryIndexResponse = _message("RepositoryIndexResponse")
ServerLiveRequest = _message("ServerLiveRequest")
ServerLiveResponse = _message("ServerLiveResponse")
ServerMetadataRequest = _message("ServerMetadataRequest")
ServerMetadataResponse = _message("ServerMetadataResponse")
ServerReadyRequest = _message("ServerReadyRequest")
ServerReadyResponse = _message("ServerReadyResponse")


def _methods(*, streaming: bool) -> dict[str, tuple[Any, Any]]:
    return {
        method.name: (
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
        )
        for method in _POOL.FindServiceByName("inference.GRPCInferenceService").methods
        if method.client_streaming is streaming
    }


METHODS: dict[str, tuple[Any, Any]] = _methods(streaming=False)
"""Request and response class of every method of one request and one response, by its name."""

STREAMS: dict[str, tuple[Any, Any]] = _methods(streaming=True)
"""The same of methods with a stream of each."""
