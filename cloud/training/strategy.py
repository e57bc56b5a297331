"""Which devices train: a plan chosen by configuration, then the TensorFlow strategy for it.

Choosing (`choose`) is a pure function of what was asked and what there is; only `build` touches
the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import tensorflow as tf

from edge_sdk.errors import CompressionError

__all__ = ["Devices", "Plan", "Wanted", "build", "choose", "devices"]

Wanted = Literal["auto", "one", "mirrored", "tpu"]


@dataclass(frozen=True, slots=True)
class Devices:
    """What the machine has: numbers of GPUs, and the address of a TPU (None: no TPU)."""

    gpus: int = 0
    tpu: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A decided strategy.

    Attributes
    ----------
    kind
        ``one`` device, ``mirrored`` over local GPUs, or a ``tpu``.
    accelerator
        ``cpu``, ``gpu`` or ``tpu``; decides the default precision.
    replicas
        Copies of the model; 0 where only the TPU itself knows.
    tpu
        Address of the TPU, where there is one.
    """

    kind: Literal["one", "mirrored", "tpu"]
    accelerator: Literal["cpu", "gpu", "tpu"]
    replicas: int
    tpu: str | None = None


def devices(tpu: str | None = None) -> Devices:
    """Look at this machine; ``tpu`` is the address from the configuration (``local`` on a TPU VM)."""
    return Devices(gpus=len(tf.config.list_physical_devices("GPU")), tpu=tpu)


def choose(wanted: Wanted, found: Devices) -> Plan:
    """Decide the strategy.

    ``auto`` takes the TPU if one is configured, all GPUs if there are several, else one device.

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
    if wanted == "tpu" or (wanted == "auto" and found.tpu is not None):
        return Plan("tpu", "tpu", 0, found.tpu)
    if wanted == "mirrored" or (wanted == "auto" and found.gpus > 1):
        return Plan("mirrored", "gpu", found.gpus)
    return Plan("one", "gpu" if found.gpus else "cpu", 1)


def build(plan: Plan) -> Any:
    """Return the ``tf.distribute.Strategy`` of a plan; connects to the TPU where it names one.

    Raises
    ------
    CompressionError
        If the TPU does not answer.
    """
    if plan.kind == "mirrored":
        return tf.distribute.MirroredStrategy()
    if plan.kind == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=plan.tpu)
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
        except (ValueError, tf.errors.OpError) as error:
            raise CompressionError(f"the TPU {plan.tpu!r} cannot be used: {error}") from error
        return tf.distribute.TPUStrategy(resolver)
    return tf.distribute.get_strategy()  # the default one: no distribution
