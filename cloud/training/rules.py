"""What must hold before a run begins on the devices it is planned for.

A TPU compiles one program of fixed shapes and waits for its host; what would make it compile
again, pad or wait for Python is found here, in a second, instead of in the middle of the bill.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from edge_sdk.cloud.training.strategy import Plan
from edge_sdk.errors import CompressionError

__all__ = ["CORE_GOOD", "CORE_LEAST", "check_batch", "check_source"]

CORE_LEAST = 8  # rows of a TPU's vector registers: batches are padded to multiples of it
CORE_GOOD = 128  # side of a TPU's matrix unit

PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})


def check_batch(plan: Plan, batch: int, replicas: int, *, parts: int = 1) -> str | None:
    """Refuse a batch that its devices cannot share, and advise on one that wastes a TPU.

    Parameters
    ----------
    plan
        The decided strategy.
    batch
        Images in one step, over all devices.
    replicas
        Copies of the model.
    parts
        Into which each copy divides its share; see `Options.parts`.

    Returns
    -------
    str or None
        Advice.

    Raises
    ------
    CompressionError
        The batch does not divide, or a TPU core would not get a multiple of 8.
    """
    shares = replicas * parts
    if batch % shares:
        raise CompressionError(
            f"a batch of {batch} cannot be shared by {replicas} devices in {parts} parts each; "
            f"take a multiple of {shares}"
        )
    core = batch // shares
    if plan.accelerator != "tpu":
        return None
    if core % CORE_LEAST:
        raise CompressionError(
            f"a batch of {batch} gives each of {replicas} TPU cores {core} images at a time; "
            f"take a multiple of {CORE_LEAST * shares}, best of {CORE_GOOD * shares}"
        )
    if core % CORE_GOOD:
        return f"each TPU core gets {core} images at a time; multiples of {CORE_GOOD} fill its matrix unit"
    return None


def check_source(plan: Plan, source: Any) -> None:
    """Refuse data of changing shapes or made by Python functions, where a TPU has to wait for them.

    Parameters
    ----------
    plan
        The decided strategy.
    source
        A ``tf.data.Dataset``.

    Raises
    ------
    CompressionError
        Naming the component or the operation.
    """
    if plan.accelerator != "tpu":
        return
    for i, spec in enumerate(tf.nest.flatten(source.element_spec)):
        if not spec.shape.is_fully_defined():
            raise CompressionError(
                f"component {i} of the data has the shape {spec.shape}: a TPU needs fixed ones; "
                "batch with drop_remainder=True and set the other sides"
            )
    graph = tf.compat.v1.GraphDef.FromString(
        tf.raw_ops.DatasetToGraphV2(input_dataset=tf.data.experimental.to_variant(source), external_state_policy=1)
        .numpy()
    )  # fmt: skip
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    python = sorted({node.op for node in nodes if node.op in PYTHON_OPS})
    if python:
        raise CompressionError(
            f"the data are made by Python ({', '.join(python)}): a TPU would wait for it; "
            "use TensorFlow's operations instead of tf.py_function, numpy_function and from_generator"
        )
