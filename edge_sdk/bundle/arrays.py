"""Arrays in a bundle: ``.npy`` members of NumPy format 1.0, never pickled."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.bundle.bundle import Bundle
from edge_sdk.errors import BundleFormatError

__all__ = ["read_array", "save_array"]


def save_array(array: NDArray[Any]) -> bytes:
    """Return the bytes of a member that holds an array."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def read_array(bundle: Bundle, member: str) -> NDArray[Any]:
    """Return the array that a member holds, read-only.

    Its header must tell exactly the bytes that are there: nothing is allocated on its word.

    Raises
    ------
    BundleFormatError
        There is no such member, or it is not an array.
    """
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
