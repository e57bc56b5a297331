"""How good answers were, over gRPC: the service ``edge_sdk.Feedback``, beside the protocol's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from edge_sdk.cloud.server.core import Core
from edge_sdk.cloud.server.exchange import FAILURES, failure_of
from edge_sdk.cloud.server.responder import unreadable
from edge_sdk.errors import InputError
from edge_sdk.protocol.feedback import FEEDBACK, RewardRequest, RewardResponse

__all__ = ["FeedbackFront"]


class FeedbackFront:
    """The service over one `Core`.

    Parameters
    ----------
    core
        The models.
    admit
        Raises where the caller of a gRPC context may not do a kind of thing with a model.
    """

    def __init__(self, core: Core, admit: Callable[[Any, Any, str], object]) -> None:
        self._core, self._admit = core, admit

    def handler(self) -> Any:
        """Return the generic handler to register with a ``grpc.aio`` server."""
        method = grpc.unary_unary_rpc_method_handler(self._reward, response_serializer=RewardResponse.SerializeToString)
        return grpc.method_handlers_generic_handler(FEEDBACK, {"Reward": method})

    async def _reward(self, data: bytes, context: Any) -> Any:
        model = ""
        try:
            try:
                request = RewardRequest.FromString(data)
            except DecodeError:
                raise InputError(unreadable("RewardRequest")) from None
            model = request.model_name
            self._admit(context, "infer", model)  # who may ask may say how good the answer was
            if not request.model_version:
                raise InputError("a reward names the version that gave the answer")
            await self._core.take_reward(model, request.model_version, request.reward, request.decision_id)
        except FAILURES as error:
            failure = failure_of(error, model)
            await context.abort(failure.status, failure.message, trailing_metadata=failure.metadata)
        return RewardResponse()
