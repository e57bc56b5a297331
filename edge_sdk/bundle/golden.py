"""Golden examples: raw inputs, what processing makes of them, and what the model answers.

They are stored as ``.npy`` members, so that a device can prove that it computes what the packing
machine computed. Of a large tensor some elements are enough: see `thinned`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.bundle.arrays import read_array, save_array
from edge_sdk.bundle.bundle import Bundle
from edge_sdk.errors import BundleFormatError

__all__ = ["MAX_GOLDEN", "GoldenSet", "thinned"]

MAX_GOLDEN = 64
_RAW = tuple(map(np.dtype, (np.uint8, np.int16, np.float32, np.float64)))
_MAX_VALUES = 16384  # of one tensor; a detector's output has 700,000


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Examples and the answers they must give.

    Attributes
    ----------
    inputs
        Raw inputs: frames, uint8 [height, width, channels], or float or int16 arrays.
    processed
        Processed tensors in the model's input type: [count, …]; `thinned` for tasks other than classification.
    outputs
        What the model answers. Classification: probabilities, float32 [count, classes]. Other tasks: of
        each output of the model, dequantized and `thinned`, float32 [count, values].
    """

    inputs: tuple[NDArray[Any], ...]
    processed: NDArray[Any]
    outputs: tuple[NDArray[np.float32], ...]

    def to_members(self) -> dict[str, bytes]:
        """Return the bundle members that hold this set."""
        members = {f"golden/input-{n:03d}.npy": save_array(one) for n, one in enumerate(self.inputs)}
        members |= {_output(n): save_array(values) for n, values in enumerate(self.outputs)}
        return members | {"golden/processed.npy": save_array(self.processed)}

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
        inputs = tuple(read_array(bundle, f"golden/input-{n:03d}.npy") for n in range(count))
        if any(one.dtype not in _RAW or one.size == 0 for one in inputs):
            raise BundleFormatError(
                f"the golden inputs should be {', '.join(map(str, _RAW))} arrays that are not empty"
            )
        names = ["golden/processed.npy"]
        names += [_output(n) for n in range(bundle.manifest.golden_outputs)]
        arrays: list[NDArray[Any]] = []
        for name in names:
            array = read_array(bundle, name)
            kinds = "f" if arrays else "fiu"
            if array.dtype.kind not in kinds or array.ndim < 2 or len(array) != count or array.size == 0:
                raise BundleFormatError(
                    f"{name} is {array.dtype}{list(array.shape)}; it should hold {count} rows of numbers"
                )
            arrays.append(array)
        return cls(inputs, arrays[0], tuple(arrays[1:]))


def thinned(values: NDArray[Any]) -> NDArray[Any]:
    """Return at most 16,384 elements of a tensor as one row, evenly spread over all of its axes.

    Every ``step``-th element is taken; a step that has no divisor in common with the size leaves no
    row and no column out.
    """
    flat = values.reshape(-1)
    step = max(1, -(-flat.size // _MAX_VALUES))
    while math.gcd(step, flat.size) > 1:
        step += 1
    return flat[::step]


def _output(n: int) -> str:
    return "golden/outputs.npy" if n == 0 else f"golden/outputs-{n:03d}.npy"
