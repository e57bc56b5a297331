"""Whether a run of an ONNX model takes as long as the shapes of its inputs say, whatever is in them.

Only such a model may run on the event loop, where a run that takes longer than it did at warm-up would keep everybody
waiting. Known are operators whose work and output depend on shapes alone, and those for which that holds where one of
their inputs (a size, a number of repeats) is a constant of the graph. Any other makes the model unbounded: loops and
branches, what selects by value (NonZero, NonMaxSuppression, Unique), what is unknown.

The graph is read from the protocol buffer itself: the server has no package ``onnx``. Numbers of fields are those of
``onnx.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_sdk.errors import InputError

__all__ = ["is_bounded"]

_OPERATORS = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift BitwiseAnd
    BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Concat Constant Conv ConvInteger ConvTranspose Cos Cosh
    CumSum DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Flatten Floor
    GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
    GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LSTM
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool
    Mean MeanVarianceNormalization Min Mish Mod Mul Neg Not Or PRelu Pow QLinearConv QLinearMatMul QuantizeLinear RNN
    RMSNormalization Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare Relu Reshape Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size
    Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Transpose
    Trilu Unsqueeze Where Xor
"""
_OPERATORS_ML = """
    ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LinearClassifier LinearRegressor Normalizer SVMClassifier
    SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor
"""
_PLAIN = {domain: frozenset(_OPERATORS.split()) for domain in ("", "ai.onnx")} | {
    "ai.onnx.ml": frozenset(_OPERATORS_ML.split())
}
_SIZED = {  # which input says how large the output is; those that are not there are constants, too
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Resize": (2, 3),
    "Tile": (1,),
    "TopK": (1,),
    "Upsample": (1,),
}


def is_bounded(model: bytes) -> bool:
    """Tell whether a model is surely one whose runs take as long as shapes say.

    Parameters
    ----------
    model
        An ONNX file; what is none is not bounded.
    """
    try:
        parts = list(_fields(memoryview(model)))
        graphs = [value for field, value in parts if field == 7]
        functions = any(field == 25 for field, _ in parts)
        return len(graphs) == 1 and not functions and _is_bounded(graphs[0])
    except InputError:
        return False


def _is_bounded(graph: memoryview) -> bool:
    nodes: list[tuple[str, str, list[str], list[str]]] = []
    constants = {""}  # an input that is left out has an empty name
    for field, value in _fields(graph):
        if field == 1:
            nodes.append(_node(value))
        elif field == 5:
            constants |= {_text(inner) for place, inner in _fields(value) if place == 8}
    constants |= {name for operator, _, _, outputs in nodes if operator == "Constant" for name in outputs}
    for operator, domain, inputs, _ in nodes:
        if operator in _PLAIN.get(domain, ()):
            continue
        if domain not in ("", "ai.onnx") or operator not in _SIZED:
            return False
        if not all(inputs[place] in constants for place in _SIZED[operator] if place < len(inputs)):
            return False
    return True


def _node(data: memoryview) -> tuple[str, str, list[str], list[str]]:
    """Return operator, domain, inputs and outputs."""
    texts: dict[int, list[str]] = {1: [], 2: [], 4: [], 7: []}
    for field, value in _fields(data):
        if field in texts:
            texts[field].append(_text(value))
    return (texts[4] or [""])[-1], (texts[7] or [""])[-1], texts[1], texts[2]


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of each field of a message that has a length; raise `InputError` where it is none."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        kind, length = tag & 7, {1: 8, 5: 4}.get(tag & 7, 0)
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
        elif not length:
            raise InputError(f"there is no kind {kind} of field")
        if at + length > end:
            raise InputError("a field reaches beyond its message")
        if kind == 2:
            yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            break
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise InputError("a number does not end")


def _text(data: memoryview) -> str:
    return bytes(data).decode("utf-8", "replace")
