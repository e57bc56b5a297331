"""What every HTTP server of ours does with a request for inference, from its tensors to the body of its answer."""

from __future__ import annotations

from edge_sdk.cloud.server.asked import Request
from edge_sdk.cloud.server.core import Core
from edge_sdk.cloud.server.exchange import (
    answered,
    deadline_of,
    encoding_of,
    key_of,
    priority_of,
    wanted_outputs,
)
from edge_sdk.cloud.server.rest_tensors import RestRequest, write_answer
from edge_sdk.protocol.names import CACHED_PARAMETER, DIGEST_PARAMETER, TIMEOUT_PARAMETER

__all__ = ["answer_rest"]


async def answer_rest(
    core: Core, model: str, version: str, asked: RestRequest, arrived: float
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON where raw contents follow, else None.

    Parameters
    ----------
    core
        The models.
    model, version
        Which one; an empty version is as for `Request`.
    asked
        The request.
    arrived
        `time.monotonic` reading of its arrival.

    Raises
    ------
    UnknownModelError, InputError, ProcessingError, OverloadedError, NotReadyError, TimeoutError, ModelError,
    MemoryError
        As `Core.infer` does, and `InputError` where an output or parameter is wrong.
    """
    wanted = wanted_outputs(asked.outputs, core.model(model, version))
    said = await core.infer(
        Request(
            model=model,
            version=version,
            inputs=asked.inputs,
            encoding=encoding_of(asked.parameters),
            deadline=deadline_of(arrived, None, asked.parameters.get(TIMEOUT_PARAMETER)),
            priority=priority_of(asked.parameters),
            key=key_of(asked.parameters, asked.request_id),
            outputs=tuple(output.name for output in wanted),
        )
    )
    head = {
        "model_name": said.model.name,
        "model_version": said.model.version,
        **({"id": asked.request_id} if asked.request_id else {}),
        "parameters": {DIGEST_PARAMETER: said.model.digest, **({CACHED_PARAMETER: True} if said.cached else {})},
    }
    return write_answer(head, answered(said, wanted), asked.binary)
