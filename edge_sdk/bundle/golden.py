"""Golden examples: raw inputs, what processing makes of them, and what the model answers.

They are stored as ``.npy`` members (NumPy format 1.0, never pickled), so that a device can prove
that it computes what the packing machine computed.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.bundle.bundle import Bundle
from edge_sdk.errors import BundleFormatError

__all__ = ["MAX_GOLDEN", "GoldenSet"]

MAX_GOLDEN = 64


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Examples and the answers they must give.

    Attributes
    ----------
    inputs
        Frames, uint8 [height, width, channels] each.
    processed
        Processed tensors, [count, …] in the model's input type.
    outputs
        Probabilities, float32 [count, classes].
    """

    inputs: tuple[NDArray[np.uint8], ...]
    processed: NDArray[Any]
    outputs: NDArray[np.float32]

    def to_members(self) -> dict[str, bytes]:
        """Return the bundle members that hold this set."""
        members = {f"golden/input-{n:03d}.npy": _save(frame) for n, frame in enumerate(self.inputs)}
        return members | {"golden/processed.npy": _save(self.processed), "golden/outputs.npy": _save(self.outputs)}

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> GoldenSet:
        """Read the set of a bundle.

        Raises
        ------
        BundleFormatError
            A member is missing, is not an array, or the arrays do not belong together.
        """
        count = bundle.manifest.golden.count
        if not 0 < count <= MAX_GOLDEN:
            raise BundleFormatError(f"the bundle has {count} golden examples; it should have 1 to {MAX_GOLDEN}")
        inputs = tuple(_load(bundle, f"golden/input-{n:03d}.npy") for n in range(count))
        processed, outputs = _load(bundle, "golden/processed.npy"), _load(bundle, "golden/outputs.npy")
        if any(frame.dtype != np.uint8 or frame.size == 0 for frame in inputs):
            raise BundleFormatError("the golden inputs should be uint8 frames")
        for name, array, kinds in (("processed", processed, "fiu"), ("outputs", outputs, "f")):
            if array.dtype.kind not in kinds or array.ndim < 2 or len(array) != count or array.size == 0:
                raise BundleFormatError(
                    f"golden/{name}.npy is {array.dtype}{list(array.shape)}; it should hold {count} rows of numbers"
                )
        return cls(inputs, processed, outputs)


def _save(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def _load(bundle: Bundle, member: str) -> NDArray[Any]:
    """Read an array whose header tells exactly the bytes that are there: nothing is allocated on its word."""
    if member not in bundle.manifest.files:
        raise BundleFormatError(f"member {member} is missing")
    data = bundle.read(member)
    stream = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("its format is not 1.0")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
            raise ValueError("its length is not what its header says")
        array: NDArray[Any] = np.ndarray(shape, dtype, data, stream.tell(), order="F" if by_column else "C")
    except Exception as error:  # the header is a Python literal: parsing hostile ones raises many types
        raise BundleFormatError(f"member {member} is not an array: {error}") from error
    return array
