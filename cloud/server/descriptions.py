"""What the server says of itself and its models, as plain values: REST sends them as JSON, gRPC in messages.

Names and kinds of the values are those of Triton's messages and JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import metadata
from typing import Any

from edge_sdk.cloud.server.core import Core
from edge_sdk.cloud.server.counts import Counts, Tally
from edge_sdk.cloud.server.models import ServedModel, TensorMetadata
from edge_sdk.cloud.server.sums import sum_statistics
from edge_sdk.protocol.names import MAX_ITEMS

__all__ = [
    "EXTENSIONS",
    "all_statistics",
    "model_config",
    "model_metadata",
    "repository_index",
    "server_metadata",
    "statistics",
]

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
    "edge_encodings",
)
"""What this server adds to the protocol, by Triton's names and ours."""


def server_metadata() -> dict[str, Any]:
    """Return name, version and extensions of the server."""
    return {"name": "edge-sdk", "version": metadata.version("edge-sdk"), "extensions": list(EXTENSIONS)}


def model_metadata(core: Core, name: str, version: str) -> dict[str, Any]:
    """Return what ``ModelMetadata`` says; raise `UnknownModelError` where there is no such model."""
    model = core.model(name, version)
    return {
        "name": model.name,
        "versions": [version] if version else list(core.versions(name)),
        "platform": model.platform,
        "inputs": [_tensor(tensor) for tensor in model.inputs],
        "outputs": [_tensor(tensor) for tensor in model.outputs],
        "properties": model.properties,
    }


def model_config(core: Core, name: str, version: str) -> dict[str, Any]:
    """Return what ``ModelConfig`` says; raise `UnknownModelError` where there is no such model."""
    model, settings = core.model(name, version), core.settings(name, version)
    in_batches = model.batching != "whole"
    config = {
        "name": model.name,
        "platform": model.platform,
        "backend": model.platform.partition("_")[0],
        "max_batch_size": MAX_ITEMS if in_batches else 0,
        "input": [_config_tensor(tensor, in_batches=in_batches) for tensor in model.inputs],
        "output": [_config_tensor(tensor, in_batches=in_batches) for tensor in model.outputs],
        "instance_group": [{"name": model.name, "count": settings.instances, "kind": "KIND_CPU"}],
        "parameters": {name: {"string_value": value} for name, value in model.properties.items()},
    }
    if model.batching == "batched" and settings.max_batch != 1:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": 0}
    return config


def repository_index(core: Core, *, ready: bool = False, sees: Callable[[str], bool] = bool) -> list[dict[str, Any]]:
    """Return every version of every model and its state, or those only that are ready and that the caller sees."""
    return [
        {"name": model.name, "version": model.version, "state": model.state, "reason": model.reason}
        for model in core.index()
        if (not ready or model.state == "READY") and sees(model.name)
    ]


def statistics(core: Core, name: str, version: str, sees: Callable[[str], bool] = bool) -> dict[str, Any]:
    """Return what ``ModelStatistics`` says: of all models that the caller sees where the name is empty.

    Raises
    ------
    UnknownModelError
        There is no such model or version.
    """
    counted = core.statistics(name, version)
    return {"model_stats": [_statistics(model, counts) for model, counts in counted if sees(model.name)]}


async def all_statistics(core: Core, name: str, version: str, sees: Callable[[str], bool] = bool) -> dict[str, Any]:
    """Return what `statistics` says of all processes of the server together; errors are the same."""
    ours = statistics(core, name, version, sees)
    if core.ask_others is None:
        return ours
    return sum_statistics([ours, *await core.ask_others("statistics", name=name, version=version)])


def _statistics(model: ServedModel, counts: Counts) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": counts.last_inference,
        "inference_count": counts.items,
        "execution_count": counts.batches,
        "inference_stats": {
            "success": _duration(counts.success),
            "fail": _duration(counts.failure),
            "queue": _duration(counts.queue),
            "compute_input": _duration(counts.prepare),
            "compute_infer": _duration(counts.compute),
            "compute_output": _duration(counts.finish),
            "cache_hit": _duration(_both(counts.hits, counts.table_hits)),
            "cache_miss": _duration(_both(counts.misses, counts.table_misses)),
        },
        "batch_stats": [
            {"batch_size": size, "compute_infer": _duration(tally)} for size, tally in sorted(counts.by_size.items())
        ],
    }


def _both(one: Tally, other: Tally) -> Tally:
    return Tally(one.count + other.count, one.seconds + other.seconds)


def _duration(tally: Tally) -> dict[str, int]:
    return {"count": tally.count, "ns": math.floor(tally.seconds * 1e9)}


def _tensor(tensor: TensorMetadata) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _config_tensor(tensor: TensorMetadata, *, in_batches: bool) -> dict[str, Any]:
    data_type = "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"
    # as in Triton, the axis of items is not among the dimensions
    return {"name": tensor.name, "data_type": data_type, "dims": list(tensor.shape[1 if in_batches else 0 :])}
