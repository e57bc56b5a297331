"""Starts a server: in this process, or in several that this one keeps."""

from __future__ import annotations

import importlib
import logging
from dataclasses import replace

from edge_sdk.cloud.server.config import OnReady, ServerConfig
from edge_sdk.cloud.server.polling import read_where_events_come_from
from edge_sdk.errors import InputError

__all__ = ["run"]

_log = logging.getLogger("edge_sdk.cloud.server")


def run(config: ServerConfig, on_ready: OnReady) -> None:
    """Serve until SIGTERM or SIGINT; call from the main thread.

    Parameters
    ----------
    config
        How to serve.
    on_ready
        Called once, when requests are taken.

    Raises
    ------
    PortInUseError
        A port is taken.
    ServiceError
        The address cannot be listened on, or workers end as soon as they are started.
    InputError, StorageError, BundleError, ModelError
        A model, certificate or token file is missing or unusable, or the fast front is, which was asked for.
    """
    config = _with_front(config)
    if config.front == "grpc":
        read_where_events_come_from()
    if config.workers is None:
        from edge_sdk.cloud.server.service import run_alone

        run_alone(config, on_ready)
    else:
        from edge_sdk.cloud.server.supervisor import run_workers

        run_workers(config, on_ready)


def _with_front(config: ServerConfig) -> ServerConfig:
    """Return how to serve, with the front that is there where none was chosen."""
    if config.front == "grpc":
        return config
    try:
        importlib.import_module("edge_sdk.cloud.server.http2")  # compiled, and not always there
    except ImportError as error:
        if config.front == "fast":
            raise InputError(
                f"--front fast is compiled, and this installation is not ({error}): use --front grpc"
            ) from error
        _log.warning("the fast front is compiled, and this installation is not (%s): gRPC's own library serves", error)
        return replace(config, front="grpc")
    return replace(config, front="fast")
