"""Message classes of ``inference.proto``, built in a descriptor pool of their own.

Several libraries register the package ``inference`` in protobuf's default pool, and a second
one with other bytes is refused. A private pool lets ours live beside any of them.

``inference.desc`` is compiled from ``inference.proto``; after a change of the latter run
``make proto``.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = [
    "METHODS",
    "POOL",
    "STREAMS",
    "InferParameter",
    "InferTensorContents",
    "ModelConfigRequest",
    "ModelConfigResponse",
    "ModelInferRequest",
    "ModelInferResponse",
    "ModelMetadataRequest",
    "ModelMetadataResponse",
    "ModelReadyRequest",
    "ModelReadyResponse",
    "ModelStatisticsRequest",
    "ModelStatisticsResponse",
    "ModelStreamInferResponse",
    "RepositoryIndexRequest",
    "RepositoryIndexResponse",
    "RepositoryModelLoadRequest",
    "RepositoryModelLoadResponse",
    "RepositoryModelUnloadRequest",
    "RepositoryModelUnloadResponse",
    "ServerLiveRequest",
    "ServerLiveResponse",
    "ServerMetadataRequest",
    "ServerMetadataResponse",
    "ServerReadyRequest",
    "ServerReadyResponse",
    "add_file",
    "message",
]

POOL: Any = descriptor_pool.DescriptorPool()
"""Where the descriptors are; for reflection."""


def add_file(name: str) -> None:
    """Put the messages of a compiled file of this package, such as ``"inference.desc"``, into the pool."""
    data = resources.files("edge_sdk.protocol").joinpath(name).read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        POOL.AddSerializedFile(file.SerializeToString())


def message(full_name: str) -> Any:
    """Return the class of a message, such as ``"inference.ModelInferRequest"``."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))


add_file("inference.desc")

InferParameter = message("inference.InferParameter")
InferTensorContents = message("inference.InferTensorContents")
ModelConfigRequest = message("inference.ModelConfigRequest")
ModelConfigResponse = message("inference.ModelConfigResponse")
ModelInferRequest = message("inference.ModelInferRequest")
ModelInferResponse = message("inference.ModelInferResponse")
ModelMetadataRequest = message("inference.ModelMetadataRequest")
ModelMetadataResponse = message("inference.ModelMetadataResponse")
ModelReadyRequest = message("inference.ModelReadyRequest")
ModelReadyResponse = message("inference.ModelReadyResponse")
ModelStatisticsRequest = message("inference.ModelStatisticsRequest")
ModelStatisticsResponse = message("inference.ModelStatisticsResponse")
ModelStreamInferResponse = message("inference.ModelStreamInferResponse")
RepositoryIndexRequest = message("inference.RepositoryIndexRequest")
RepositoryIndexResponse = message("inference.RepositoryIndexResponse")
RepositoryModelLoadRequest = message("inference.RepositoryModelLoadRequest")
RepositoryModelLoadResponse = message("inference.RepositoryModelLoadResponse")
RepositoryModelUnloadRequest = message("inference.RepositoryModelUnloadRequest")
RepositoryModelUnloadResponse = message("inference.RepositoryModelUnloadResponse")
ServerLiveRequest = message("inference.ServerLiveRequest")
ServerLiveResponse = message("inference.ServerLiveResponse")
ServerMetadataRequest = message("inference.ServerMetadataRequest")
ServerMetadataResponse = message("inference.ServerMetadataResponse")
ServerReadyRequest = message("inference.ServerReadyRequest")
ServerReadyResponse = message("inference.ServerReadyResponse")


def _methods(*, streaming: bool) -> dict[str, tuple[Any, Any]]:
    return {
        method.name: (
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
        )
        for method in POOL.FindServiceByName("inference.GRPCInferenceService").methods
        if method.client_streaming is streaming
    }


METHODS: dict[str, tuple[Any, Any]] = _methods(streaming=False)
"""Request and response class of every method of one request and one response, by its name."""

STREAMS: dict[str, tuple[Any, Any]] = _methods(streaming=True)
"""The same of methods with a stream of each."""
