"""Starts a server: in this process, or in several that this one keeps."""

from __future__ import annotations

from edge_sdk.cloud.server.config import OnReady, ServerConfig
from edge_sdk.cloud.server.polling import read_where_events_come_from

__all__ = ["run"]


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
        A model, certificate or token file is missing or unusable.
    """
    read_where_events_come_from()
    if config.workers is None:
        from edge_sdk.cloud.server.service import run_alone

        run_alone(config, on_ready)
    else:
        from edge_sdk.cloud.server.supervisor import run_workers

        run_workers(config, on_ready)
