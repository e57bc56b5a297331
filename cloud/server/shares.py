"""What part of the machine each of several processes gets: processors, memory, GPUs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edge_sdk.cloud.server.config import ServerConfig

__all__ = ["available_cores", "environment_of", "share_of"]

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores(quota: Path = _QUOTA) -> int:
    """Return the number of cores that this process may keep busy, at least 1.

    Parameters
    ----------
    quota
        What a container may use, as Linux' control groups (version 2) say it: microseconds of so many.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        most, period = quota.read_text(encoding="ascii").split()
        cores = min(cores, int(most) // int(period))  # of "max", there is none
    return max(1, cores)


def share_of(config: ServerConfig, ports: Mapping[str, int]) -> ServerConfig:
    """Return what each worker is started with: its share of the server's processors and memory.

    Parameters
    ----------
    config
        Of the server.
    ports
        The ports of ``grpc`` and, where it is open, ``http``.
    """
    workers, serving = config.workers or 1, config.serving
    threads = max(1, available_cores() // workers)
    # a share has room for one large request at least
    pending = max(serving.max_pending_bytes // workers, min(serving.max_pending_bytes, 2 * config.max_message_bytes))
    usual = {"threads": threads, "instances": 1, **serving.models.get("*", {})}
    return replace(
        config,
        grpc_port=ports["grpc"],
        http_port=ports.get("http"),
        metrics_port=None,
        workers=None,
        max_worker_bytes=None,
        gpus=(),
        serving=replace(serving, max_pending_bytes=pending, models={**serving.models, "*": usual}),
    )


def environment_of(place: int, gpus: tuple[str, ...], base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a worker.

    Parameters
    ----------
    place
        Which of the workers, from 0.
    gpus
        Of `ServerConfig`.
    base
        Our own.
    """
    return {**base, **({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {})}
