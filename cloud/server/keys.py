"""What requests, and the inputs in them, are known by: the SHA-256 of all that an answer hangs on, to the last byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

__all__ = ["KEY_BYTES", "digest_of", "item_keys"]

Array = np.ndarray[Any, Any]

KEY_BYTES = 32
"""Length of a key."""


def digest_of(inputs: Mapping[str, Array], encoding: str) -> bytes:
    """Return the SHA-256 of what is asked: the encoding, and names, datatypes, shapes and bytes of the tensors."""
    state = hashlib.sha256(encoding.encode())
    for name in sorted(inputs):
        x = inputs[name]
        state.update(f"\0{len(name)}:{name}{x.dtype.str}{x.shape}".encode())
        if x.dtype == object:  # texts and files, of any length
            for item in x.ravel():
                state.update(f"{len(item)}:".encode())
                state.update(item)
        else:
            state.update(np.ascontiguousarray(x).data.cast("B") if x.size else b"")
    return state.digest()


def item_keys(inputs: Mapping[str, Array], encoding: str, items: int, *, whole: bool) -> Iterator[bytes]:
    """Yield what each input of a request is known by, whatever it travels with.

    Parameters
    ----------
    inputs, encoding
        What the request holds.
    items
        How many inputs that are.
    whole
        They have no axis of items.
    """
    if encoding == "jpeg":
        inputs = {name: x.reshape(-1) for name, x in inputs.items()}
    # a single picture or clip may come without an axis of items
    if not whole and items == 1 and any(x.shape[:1] != (1,) for x in inputs.values()):
        inputs = {name: x[np.newaxis] for name, x in inputs.items()}
    for place in range(items):
        one = inputs if whole else {name: x[place : place + 1] for name, x in inputs.items()}
        yield digest_of(one, encoding)
