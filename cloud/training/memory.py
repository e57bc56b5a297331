"""Memory: where it cannot be enough, that is said before the work; where it was not, on one line."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from edge_sdk.errors import CompressionError, InputError, one_line

__all__ = ["ADDRESSES", "check_addresses", "enough"]

ADDRESSES = 4 << 30
"""Bytes of address space below which TensorFlow may abort the process, which cannot say anything then."""


def check_addresses() -> None:
    """Refuse a process that TensorFlow has too little room in.

    Raises
    ------
    InputError
        The limit of addresses is below `ADDRESSES`.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < ADDRESSES:
        raise InputError(
            f"this process may take {limit / 2**30:.1f} GiB of addresses (ulimit -v); TensorFlow needs "
            f"{ADDRESSES >> 30} GiB, give it so much"
        )


@contextmanager
def enough(advice: str) -> Iterator[None]:
    """Say what can be done where the memory of Python or of TensorFlow is not enough for the work.

    Raises
    ------
    CompressionError
        It was not.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":  # of TensorFlow
            raise CompressionError(f"memory is not enough: {one_line(error, 200)}; {advice}") from error
        raise
