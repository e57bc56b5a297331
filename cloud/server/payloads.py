"""What the tensors of a request hold: checked when they come, made into the model's own tensors when their turn comes.

Checks are cheap and run where requests arrive; decoding and processing cost time and run where the model does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edge_sdk.errors import InputError
from edge_sdk.frames import as_frame, decode_image
from edge_sdk.processing import DeviceProcessor, ProcessingSpec
from edge_sdk.processing.resizing import second_half
from edge_sdk.processing.tables import fold_table
from edge_sdk.protocol import datatype_of
from edge_sdk.protocol.names import ENCODINGS_PROPERTY, MAX_IMAGE_PIXELS, MAX_ITEMS
from edge_sdk.types import TensorSpec

__all__ = ["Batching", "Payload", "Reader", "batching_of"]

Array = np.ndarray[Any, Any]
Batching = Literal["batched", "in turn", "whole"]
"""How a model takes several items: together, one after the other, or not at all (its tensors have no such axis)."""


def batching_of(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Batching:
    """Return how a model with these tensors takes several items."""
    first = [spec.shape[0] if spec.shape else 0 for spec in (*inputs, *outputs)]
    if all(extent == -1 for extent in first):
        return "batched"
    return "in turn" if all(extent == 1 for extent in first) else "whole"


@dataclass(slots=True)
class Payload:
    """The checked tensors of one request.

    Attributes
    ----------
    items
        How many inputs it holds.
    nbytes
        What it keeps in memory.
    kind
        Payloads of one kind may run in one batch.
    encoding
        One of `edge_sdk.protocol.ENCODINGS`.
    raw
        The bytes that hold the tensors, and where each begins and how long it is, in the model's order; None where they
        are not to be had as they are.
    said
        The raw outputs, in the model's order, where it ran in buffers.
    """

    items: int
    nbytes: int
    kind: object
    encoding: str
    _make: Callable[[Callable[[], None]], Mapping[str, Array]]
    raw: tuple[bytes, Sequence[tuple[int, int]]] | None = None
    said: Sequence[bytes] | None = None

    def tensors(self, go_on: Callable[[], None]) -> Mapping[str, Array]:
        """Return the model's tensors by name; ``go_on`` is called before each input and may raise."""
        return self._make(go_on)


class Reader:
    """Reads what requests to one model hold.

    Parameters
    ----------
    model
        Its name, for messages.
    inputs
        Its tensors.
    batching
        How it takes several items.
    processing
        That of its bundle; None where it is a plain file.
    texts
        Whether BYTES are strings to its runtime.
    """

    def __init__(
        self,
        model: str,
        inputs: Sequence[TensorSpec],
        batching: Batching,
        processing: ProcessingSpec | None,
        *,
        texts: bool = False,
    ) -> None:
        self._model, self._batching, self._texts = model, batching, texts
        self._inputs = {spec.name: (spec, np.dtype(spec.dtype)) for spec in inputs}
        self._name = inputs[0].name
        self._spec = processing
        self._processors: dict[str, DeviceProcessor] = {}
        if processing is not None:
            self._processors["captured"] = DeviceProcessor(processing)
            if processing.modality == "image":
                self._processors["jpeg"] = self._processors["captured"]
                self._processors["resized"] = DeviceProcessor(second_half(processing))

    @property
    def processing(self) -> ProcessingSpec | None:
        """That of the model's bundle; None where it is a plain model."""
        return self._spec

    @property
    def encodings(self) -> tuple[str, ...]:
        """The encodings that are offered."""
        return (*self._processors, "tensor")

    def read(self, inputs: Mapping[str, Array], encoding: str) -> Payload:
        """Check the tensors of a request.

        Raises
        ------
        InputError
            They do not fit the model or the encoding.
        """
        if inputs.keys() != self._inputs.keys():
            raise InputError(self._other_inputs(inputs))
        if encoding == "tensor":
            return self._tensors(inputs)
        if self._spec is None:
            raise InputError(f"model {self._model} has no processing, so it takes the encoding tensor only")
        process = self._processors.get(encoding)
        if process is None:
            raise InputError(f"encoding {encoding[:40]!r} is not offered; see {ENCODINGS_PROPERTY} in the metadata")
        x = inputs[self._name]
        frames = _READERS[encoding](process.spec, x)

        def make(go_on: Callable[[], None]) -> Mapping[str, Array]:
            tensors = []
            for frame in frames:  # decoded one by one
                go_on()
                tensors.append(process(_decoded(frame) if encoding == "jpeg" else frame))
            return {self._name: tensors[0] if len(tensors) == 1 else np.concatenate(tensors)}

        nbytes = sum(map(len, frames)) if encoding == "jpeg" else x.nbytes
        return Payload(len(frames), nbytes, None, encoding, make)

    def _other_inputs(self, inputs: Mapping[str, Array]) -> str:
        """Return what is wrong with a request of other inputs than the model's, in Triton's words."""
        missing = [name for name in self._inputs if name not in inputs]
        if len(inputs) == len(self._inputs) or not missing:
            unexpected = next(name for name in inputs if name not in self._inputs)
            names = ", ".join(map(repr, self._inputs))
            return f"unexpected inference input {unexpected[:80]!r} for model {self._model!r}; it takes {names}"
        given = [name[:80] for name in list(inputs)[:8]]
        return (
            f"expected {len(self._inputs)} inputs but got {len(inputs)} inputs for model {self._model!r}. "
            f"Got input(s) {given}, but missing required input(s) {missing}. Please provide all required input(s)."
        )

    def _tensors(self, inputs: Mapping[str, Array]) -> Payload:
        items, nbytes, kind, ordered = 1, 0, [], dict[str, Array]()
        for index, (name, (want, dtype)) in enumerate(self._inputs.items()):
            x = inputs[name]
            if x.dtype != dtype:
                raise InputError(
                    f"inference input {name!r} data-type is {datatype_of(x.dtype)!r}, "
                    f"but model {self._model!r} expects {datatype_of(want.dtype)!r}"
                )
            if x.ndim and self._batching != "whole" and x.shape[0] > MAX_ITEMS:
                raise InputError(f"inference request batch-size must be <= {MAX_ITEMS} for {self._model!r}")
            if x.size == 0:
                raise InputError(f"input {name!r}: shape {_text(x.shape)} is empty")
            shape = (1, *x.shape[1:]) if self._batching == "in turn" and x.ndim else x.shape
            if not _fits(shape, want.shape):
                raise InputError(
                    f"unexpected shape for input {name!r} for model {self._model!r}. "
                    f"Expected {_text(want.shape)}, got {_text(x.shape)}"
                )
            if self._batching != "whole":
                if index and x.shape[0] != items:
                    raise InputError(
                        f"input {name!r} batch size does not match other inputs for {self._model!r}: "
                        f"it has {x.shape[0]} items, but {self._name!r} has {items}"
                    )
                items = x.shape[0]
            tensor = ordered[name] = _as_texts(x, name) if self._texts and dtype.hasobject else x
            nbytes += sum(map(len, tensor.flat)) if dtype.hasobject else x.nbytes
            kind.append(x.shape[1:])
        # processed inputs have the model's own shape, so None is their kind, and that of tensors of that shape
        key = None if all(-1 not in want.shape[1:] for want, _ in self._inputs.values()) else tuple(kind)
        return Payload(items, nbytes, key, "tensor", lambda _: ordered)


def _as_texts(x: Array, name: str) -> Array:
    """Return BYTES as strings, which is what ONNX Runtime has."""
    texts = np.empty(x.size, object)
    try:
        texts[:] = [item.decode() for item in x.flat]
    except UnicodeDecodeError:
        raise InputError(f"input {name!r}: an element is no UTF-8, and the model takes strings") from None
    return texts.reshape(x.shape)


def _text(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape[:8]))}]"


def _fits(shape: tuple[int, ...], want: tuple[int, ...]) -> bool:
    return len(shape) == len(want) and all(w in (-1, s) for s, w in zip(shape, want, strict=True))


def _captured(spec: ProcessingSpec, x: Array) -> Sequence[Array]:
    if spec.modality == "image":
        return _pictures(x)
    rank = len(fold_table(spec).shape) if spec.modality == "table" else 1  # of one clip, row or window
    if x.ndim != rank + 1:
        return (x,)  # the processor looks at it
    if not 0 < len(x) <= MAX_ITEMS:
        raise InputError(f"a captured input of shape {list(x.shape)} is empty or over {MAX_ITEMS} items")
    return list(x)


def _pictures(x: Array) -> Sequence[Array]:
    if x.dtype != np.uint8 or x.ndim not in (3, 4):
        raise InputError(f"a captured input is UINT8 [H,W,C] or [N,H,W,C], not {datatype_of(x.dtype)}{list(x.shape)}")
    frames = x if x.ndim == 4 else x[np.newaxis]
    if not 0 < len(frames) <= MAX_ITEMS or frames.shape[1] * frames.shape[2] > MAX_IMAGE_PIXELS:
        raise InputError(f"a captured input of shape {list(x.shape)} is empty or over the limits")
    return [as_frame(frame) for frame in frames]


def _resized(spec: ProcessingSpec, x: Array) -> Sequence[Array]:
    shape = (spec.target.height, spec.target.width, spec.channels)
    if x.shape[-3:] != shape:
        raise InputError(f"a resized input is UINT8 {list(shape)} or {['N', *shape]}, not {list(x.shape)}")
    return _pictures(x)


def _jpegs(_: ProcessingSpec, x: Array) -> Sequence[Any]:
    if x.dtype != object or not 0 < x.size <= MAX_ITEMS:
        raise InputError(f"a jpeg input is BYTES with 1 to {MAX_ITEMS} elements, not {list(x.shape)}")
    items: list[bytes] = list(x.ravel())
    if not all(item.startswith(b"\xff\xd8\xff") for item in items):
        raise InputError("a jpeg input holds something that is not JPEG")  # nothing else reaches the decoder
    return items


def _decoded(data: Any) -> Array:
    return decode_image(data, "the jpeg input", max_pixels=MAX_IMAGE_PIXELS)


_READERS: dict[str, Callable[[ProcessingSpec, Array], Sequence[Any]]] = {
    "captured": _captured,
    "jpeg": _jpegs,
    "resized": _resized,
}
