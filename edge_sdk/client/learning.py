"""Asking a server what it serves, without waiting for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from edge_sdk.client.failures import Complaints, Failed
from edge_sdk.client.payload import Contract
from edge_sdk.errors import InputError
from edge_sdk.protocol import messages

if TYPE_CHECKING:
    from edge_sdk.client.endpoint import Endpoint

__all__ = ["learn"]

_SECONDS = 2.0


def learn(
    endpoint: Endpoint,
    model_name: str | None,
    succeed: Callable[[Contract], Contract],
    complaints: Complaints,
    version: str = "",
) -> Future[Contract | Failed]:
    """Ask a server about its model, and for the model's name first where none was given.

    Parameters
    ----------
    endpoint
        The server.
    model_name
        Of the model; None is the only one there is.
    succeed
        Told what was learnt, before the future is; returns what is known then.
    complaints
        Where is said that a server makes no sense.
    version
        Of the model; empty is the one that stands for it.
    """
    learnt: Future[Contract | Failed] = Future()

    def guarded(step: Callable[[Any], None]) -> Callable[[Any], None]:
        def run(call: Any) -> None:
            try:
                step(call)
            except Failed as failed:
                learnt.set_result(failed)
            except Exception as error:  # noqa: BLE001 - callers wait for a result, whatever the server says
                complaints.say(f"metadata {endpoint.target}", f"{endpoint.target} cannot be used: {error}")
                learnt.set_result(Failed("rejected", str(error)))

        return run

    def ask(method: str, request: Any, then: Callable[[Any], None]) -> None:
        call = endpoint.start(method, request, time.perf_counter() + _SECONDS)
        call.add_done_callback(guarded(then))

    def ask_for_metadata(name: str) -> None:
        ask("ModelMetadata", messages.ModelMetadataRequest(name=name, version=version), read_metadata)

    def read_index(call: Any) -> None:
        names = sorted({model.name for model in endpoint.result(call).models})
        if len(names) != 1:
            raise InputError(f"{endpoint.target} serves {', '.join(names) or 'nothing'}: say which with model_name")
        ask_for_metadata(names[0])

    def read_metadata(call: Any) -> None:
        learnt.set_result(succeed(Contract.read(endpoint.result(call))))

    def begin(_: Any) -> None:
        if model_name is not None:
            ask_for_metadata(model_name)
        else:
            ask("RepositoryIndex", messages.RepositoryIndexRequest(ready=True), read_index)

    guarded(begin)(None)
    return learnt
