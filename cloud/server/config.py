"""A served model's configuration as Triton's ``ModelConfig`` has it, for those who ask for it."""

from __future__ import annotations

from typing import Any

from edge_sdk.cloud.server.models import ServedModel, TensorMetadata
from edge_sdk.protocol import messages
from edge_sdk.protocol.names import MAX_ITEMS

__all__ = ["model_config"]


def model_config(model: ServedModel) -> Any:
    """Return the model's ``ModelConfigResponse``."""
    response = messages.ModelConfigResponse()
    config, batches = response.config, _takes_batches(model)
    config.name, config.platform = model.name, model.platform
    config.backend = model.platform.partition("_")[0]
    config.max_batch_size = MAX_ITEMS if batches else 0
    for target, tensors in ((config.input, model.inputs), (config.output, model.outputs)):
        for tensor in tensors:
            # as in Triton, the axis of items is not among the dimensions
            target.add(name=tensor.name, data_type=_data_type(tensor), dims=tensor.shape[1 if batches else 0 :])
    config.instance_group.add(name=f"{model.name}_0", count=1, kind=_KIND_CPU)
    for name, value in model.properties.items():
        config.parameters[name].string_value = value
    return response


_KIND_CPU = messages.POOL.FindEnumTypeByName("inference.ModelInstanceGroup.Kind").values_by_name["KIND_CPU"].number


def _data_type(tensor: TensorMetadata) -> str:
    return "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"


def _takes_batches(model: ServedModel) -> bool:
    return all(tensor.shape and tensor.shape[0] in (-1, 1) for tensor in (*model.inputs, *model.outputs))
