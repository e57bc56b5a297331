"""Which devices train: a plan chosen by configuration, then the TensorFlow strategy for it.

Choosing (`choose`) is a pure function of what was asked and what there is; only `build` touches
the machine. Several machines find each other by ``TF_CONFIG``, as everywhere in TensorFlow; one
TPU machine of several does that by itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import tensorflow as tf

from edge_sdk.errors import CompressionError

__all__ = ["Devices", "Plan", "Wanted", "build", "choose", "devices"]

Wanted = Literal["auto", "one", "mirrored", "multiworker", "tpu"]

CONFIG = "TF_CONFIG"


@dataclass(frozen=True, slots=True)
class Devices:
    """What there is.

    Attributes
    ----------
    gpus
        Of this machine.
    tpu
        Address of a TPU; None: no TPU.
    workers
        Machines that ``TF_CONFIG`` names, this one included.
    worker
        Which of them this one is; the first writes what is kept.
    """

    gpus: int = 0
    tpu: str | None = None
    workers: int = 1
    worker: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A decided strategy.

    Attributes
    ----------
    kind
        ``one`` device, ``mirrored`` over local GPUs, ``multiworker`` over machines, or a ``tpu``.
    accelerator
        ``cpu``, ``gpu`` or ``tpu``; decides the default precision.
    replicas
        Copies of the model; 0 where only the TPU itself knows.
    tpu
        Address of the TPU, where there is one.
    chief
        Whether this process writes checkpoints and the model; of several machines one does.
    """

    kind: Literal["one", "mirrored", "multiworker", "tpu"]
    accelerator: Literal["cpu", "gpu", "tpu"]
    replicas: int
    tpu: str | None = None
    chief: bool = True


def devices(tpu: str | None = None, environment: Mapping[str, str] = os.environ) -> Devices:
    """Look at this machine, and at ``TF_CONFIG`` in the environment.

    Parameters
    ----------
    tpu
        Address from the configuration (``local`` on a TPU machine).
    environment
        Where ``TF_CONFIG`` may be.

    Raises
    ------
    CompressionError
        ``TF_CONFIG`` is not what TensorFlow defines.
    """
    workers, worker = _workers(environment.get(CONFIG, ""))
    return Devices(len(tf.config.list_physical_devices("GPU")), tpu, workers, worker)


def _workers(text: str) -> tuple[int, int]:
    """Return the number of machines that train and which this one is: a chief first, then workers."""
    if not text.strip():
        return 1, 0
    try:
        config = json.loads(text)
        cluster = config.get("cluster", {})
        chiefs, workers = len(cluster.get("chief", ())), len(cluster.get("worker", ()))
        if chiefs + workers == 0:
            return 1, 0
        kind, index = config["task"]["type"], int(config["task"]["index"])
        members = {"chief": range(chiefs), "worker": range(chiefs, chiefs + workers)}[kind]
        return chiefs + workers, members[index]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CompressionError(
            f'{CONFIG} is not usable ({type(error).__name__}: {error}): expected {{"cluster": {{"worker": '
            '["host:port", …]}, "task": {"type": "worker", "index": 0}}'
        ) from error


def choose(wanted: Wanted, found: Devices) -> Plan:
    """Decide the strategy.

    ``auto`` takes the TPU if one is configured, all machines if there are several, all GPUs if
    there are several, else one device.

    Raises
    ------
    CompressionError
        If what was asked for is not there.
    """
    if wanted not in get_args(Wanted):
        raise CompressionError(f"unknown strategy {wanted!r}: expected one of {', '.join(get_args(Wanted))}")
    if wanted == "tpu" and found.tpu is None:
        raise CompressionError("strategy tpu needs the address of a TPU ('local' on a TPU machine)")
    if wanted == "mirrored" and found.gpus < 1:
        raise CompressionError("strategy mirrored needs a GPU and none was found; use 'one' or 'auto'")
    if wanted == "multiworker" and found.workers < 2:
        raise CompressionError(f"strategy multiworker needs machines to be named in {CONFIG}, at least two")
    if wanted == "tpu" or (wanted == "auto" and found.tpu is not None):
        return Plan("tpu", "tpu", 0, found.tpu)
    local: Literal["cpu", "gpu"] = "gpu" if found.gpus else "cpu"
    if wanted == "multiworker" or (wanted == "auto" and found.workers > 1):
        return Plan("multiworker", local, found.workers * max(found.gpus, 1), chief=found.worker == 0)
    if wanted == "mirrored" or (wanted == "auto" and found.gpus > 1):
        return Plan("mirrored", "gpu", found.gpus)
    return Plan("one", local, 1)


def build(plan: Plan) -> Any:
    """Return the ``tf.distribute.Strategy`` of a plan; connects to the TPU or the machines that it names.

    To be called before TensorFlow computes anything: it cannot join other machines later.

    Raises
    ------
    CompressionError
        If the TPU or the other machines cannot be used.
    """
    if plan.kind == "mirrored":
        return tf.distribute.MirroredStrategy()
    if plan.kind == "multiworker":
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (RuntimeError, ValueError, tf.errors.OpError) as error:
            raise CompressionError(f"the machines of {CONFIG} cannot train together: {error}") from error
    if plan.kind == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=plan.tpu)
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
        except (ValueError, tf.errors.OpError) as error:
            raise CompressionError(f"the TPU {plan.tpu!r} cannot be used: {error}") from error
        return tf.distribute.TPUStrategy(resolver)
    return tf.distribute.get_strategy()  # the default one: no distribution
