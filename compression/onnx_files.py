"""ONNX files: float32 by tf2onnx, and int8 of that, with QuantizeLinear and DequantizeLinear around operations.

Never ONNX Runtime's dynamic quantization (20 times slower on convolutions), never from TFLite.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import onnx
import tensorflow as tf
import tf2onnx

from edge_sdk.errors import CompressionError, one_line

__all__ = ["OPSET", "to_float32_onnx", "to_int8_onnx"]

OPSET = 17


def to_float32_onnx(model: keras.Model, inputs: npt.NDArray[Any]) -> bytes:
    """Convert a float32 model to ONNX with a dynamic batch.

    Parameters
    ----------
    model
        One input, one output.
    inputs
        ``[n, ...]``, of which dtype and shape are the model's.

    Raises
    ------
    CompressionError
        Naming the operation that ONNX has not, and the layer it is in.
    """
    signature = [tf.TensorSpec((None, *inputs.shape[1:]), inputs.dtype, name="processed")]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator, unused-ignore]
    def serve(processed: Any) -> Any:
        return model(processed, training=False)

    try:
        with _quiet():
            proto, _ = tf2onnx.convert.from_function(
                serve, input_signature=signature, opset=OPSET, custom_op_handlers={"Erfc": (_erfc, [])}
            )
        _inline(proto.graph, serve.get_concrete_function())
    except Exception as error:
        raise CompressionError(f"{model.name!r} cannot be converted to ONNX: {error}") from error
    for node in proto.graph.node:
        if not node.domain and not onnx.defs.has(node.op_type):
            raise CompressionError(
                f"{model.name!r} cannot be converted to ONNX: {node.op_type} of {node.name.rpartition('/')[0]!r} "
                "has no form there; replace the layer, or write it as other operations of keras.ops"
            )
    return bytes(proto.SerializeToString())


def _inline(graph: onnx.GraphProto, function: Any) -> None:
    """Put constants that a layer holds beside its weights into the file; tf2onnx makes them inputs."""
    held = {placeholder.name: value for value, placeholder in function.graph.captures if value.dtype != tf.resource}
    for given in [value for value in graph.input if value.name in held]:
        graph.input.remove(given)
        graph.initializer.append(onnx.numpy_helper.from_array(held[given.name].numpy(), given.name))


def _erfc(context: Any, node: Any, name: str, args: Any, **_: Any) -> None:
    """Write the complement of the error function, of which exact GELU is made, as 1 - Erf."""
    del name, args
    shapes, dtypes = node.output_shapes, node.output_dtypes
    context.remove_node(node.name)
    one = context.make_const(tf2onnx.utils.make_name("one"), np.ones((), np.float32))
    erf = context.make_node("Erf", [node.input[0]])
    context.make_node("Sub", [one.output[0], erf.output[0]], outputs=[node.output[0]], shapes=shapes, dtypes=dtypes)


def to_int8_onnx(float32: bytes, representative: npt.NDArray[Any]) -> bytes:
    """Quantize an ONNX file statically: weights int8 per channel, activations int8, input and output float32.

    Parameters
    ----------
    float32
        The file; one input.
    representative
        ``[n, ...]`` real inputs, from the training split.

    Raises
    ------
    CompressionError
        If there are no inputs, or ONNX Runtime cannot quantize the model.
    """
    if not len(representative):
        raise CompressionError("quantization needs representative inputs and got none")
    # heavy, and prints where it is imported first
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.rows = iter({name: representative[at : at + 1]} for at in range(len(representative)))

        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            return next(self.rows, None)

    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder, _quiet():
        plain, ready, done = (Path(folder) / name for name in ("float32.onnx", "ready.onnx", "int8.onnx"))
        plain.write_bytes(float32)
        try:
            # folds BatchNormalization, without which it would be quantized by itself
            quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
            quantize_static(
                str(ready),
                str(done),
                Reader(onnx.load(str(ready)).graph.input[0].name),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # onnx and onnxruntime raise types that share no base
            said = one_line(error, 300)
            raise CompressionError(f"cannot be converted to ONNX int8: {said}") from error
        return done.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep advice for people who quantize by hand out of the root logger."""
    noisy = [logging.getLogger(name) for name in ("", "tf2onnx", "tf2onnx.tfonnx", "onnxruntime.quantization")]
    before = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(noisy, before, strict=True):
            logger.setLevel(level)
