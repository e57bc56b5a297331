"""Deltas: a bundle file made anew from the one that runs, and from what changed.

A delta is a list of pieces. Each says which part of the base it needs and how many bytes it makes,
and holds one Zstandard frame. What a device does with one is bounded whatever it holds: a piece
makes at most `PIECE_BYTES`, reads at most `BASE_BYTES` and has a window of as many as both; there are
hardly more pieces than large ones take; no more bytes are made than were signed; and each block is
held against its signed hash before it is kept.

Two versions of a network whose weights were all trained on have no bytes in a row in common, but
small differences. So a piece may hold the differences between weights rather than new bytes.

The form, version 1: the 8 bytes ``EDGEDLT1``, then pieces. A piece is a header, little-endian, of
the kind (uint8), where the part of the base begins (uint64), its length, that of the result and
that of the frame (uint32 each); and the frame.

====  =========  ====================================================================================
kind  name       the result
====  =========  ====================================================================================
1     `MATCH`    the frame's content, decompressed with the part of the base as its prefix
2     `ADD8`     the sum of content and base, byte by byte
3     `ADD32`    the sum of content and base in words of 32 bits; the content holds all lowest bytes
                 first, then all second ones, and so on
====  =========  ====================================================================================
"""

from __future__ import annotations

import hashlib
import mmap
import struct
import sys
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from edge_sdk.bundle import archive
from edge_sdk.errors import BundleFormatError, InstallError, TrustError, one_line
from edge_sdk.files import storage_errors

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["ADD8", "ADD32", "BASE_BYTES", "HEADER", "MAGIC", "MATCH", "PIECE_BYTES", "WINDOW_LOG", "Base", "unpatch"]

MAGIC = b"EDGEDLT1"
HEADER = struct.Struct("<BQIII")
MATCH, ADD8, ADD32 = 1, 2, 3
PIECE_BYTES = 4 << 20
BASE_BYTES = 12 << 20
_MORE_PIECES = 1024  # each member has two at most, beside those of which large ones have many
WINDOW_LOG = 24  # 16 MiB: reaches from the end of a piece to the beginning of its base


class Base:
    """The bundle file that an unpacked bundle came from, without a copy of it: its files are mapped.

    Parameters
    ----------
    folder
        The unpacked bundle.
    sha256
        Digest (hex) of the file.

    Raises
    ------
    InstallError
        The folder's files do not make that file: all are read.
    StorageError
        The folder cannot be read.
    """

    def __init__(self, folder: Path, sha256: str) -> None:
        self._closing = ExitStack()
        try:
            with storage_errors(folder, "read"):
                members = {
                    path.relative_to(folder).as_posix(): self._map(path)
                    for path in sorted(folder.rglob("*"))
                    if path.is_file()
                }
                self._parts = archive.pieces(members)
            digest = hashlib.sha256()
            for part in self._parts:
                digest.update(part)
        except BundleFormatError as error:
            self.close()
            raise InstallError(f"{folder} is not an unpacked bundle: {error}") from error
        except BaseException:
            self.close()
            raise
        self._ends = list(accumulate(map(len, self._parts)))
        if digest.hexdigest() != sha256:
            self.close()
            raise InstallError(f"{folder} does not hold the bundle that a delta was made from")

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, start: int, length: int) -> bytes:
        """Return bytes of the file; fewer at its end."""
        found, left = [], length
        for index in range(bisect_right(self._ends, start), len(self._parts)):
            begin = start - (self._ends[index] - len(self._parts[index]))
            part = self._parts[index][begin : begin + left]
            found.append(part)
            start, left = start + len(part), left - len(part)
            if not left:
                break
        return b"".join(found)

    def close(self) -> None:
        """Unmap the files."""
        self._parts = []
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _map(self, path: Path) -> memoryview:
        with path.open("rb") as stream:
            if path.stat().st_size == 0:
                return memoryview(b"")
            mapped = self._closing.enter_context(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        return self._closing.enter_context(memoryview(mapped))


def unpatch(delta: BinaryIO, base: Base, size: int) -> Iterator[bytes]:
    """Yield the bytes that a delta makes of a base, piece by piece.

    Parameters
    ----------
    delta
        The delta, at its beginning.
    base
        What it is applied to.
    size
        Bytes that it has to make.

    Raises
    ------
    TrustError
        It is no delta, needs what the base has not, or makes more or fewer bytes.
    """
    if delta.read(len(MAGIC)) != MAGIC:
        raise TrustError("this is no delta of a form that is known here")
    left, pieces = size, size // PIECE_BYTES + _MORE_PIECES
    while head := delta.read(HEADER.size):
        if len(head) < HEADER.size:
            raise TrustError("the delta ends within a piece")
        pieces -= 1
        if pieces < 0:
            raise TrustError("the delta has more pieces than it may")
        kind, start, length, made, packed = HEADER.unpack(head)
        if not (0 < made <= min(PIECE_BYTES, left) and length <= BASE_BYTES and packed <= 2 * PIECE_BYTES):
            raise TrustError(f"a piece of the delta makes {made} bytes of {length}: more than it may")
        if start + length > len(base):
            raise TrustError("the delta needs what its base has not")
        frame = delta.read(packed)
        if len(frame) < packed:
            raise TrustError("the delta ends within a piece")
        yield _make(kind, base.read(start, length), frame, made)
        left -= made
    if left:
        raise TrustError(f"the delta makes {size - left} bytes, not {size}")


def _make(kind: int, base: bytes, frame: bytes, size: int) -> bytes:
    if kind == MATCH:
        return _decompress(frame, size, base)
    if kind not in (ADD8, ADD32) or len(base) != size or (kind == ADD32 and size % 4):
        raise TrustError("a piece of the delta is of no known kind")
    content = np.frombuffer(_decompress(frame, size), np.uint8)
    if kind == ADD8:
        return (content + np.frombuffer(base, np.uint8)).tobytes()
    words = np.ascontiguousarray(content.reshape(4, -1).T).view("<u4")[:, 0]
    return bytes((words + np.frombuffer(base, "<u4")).tobytes())


def _decompress(frame: bytes, size: int, prefix: bytes = b"") -> bytes:
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
    try:
        # the library refuses prefixes of fewer than 8 bytes
        known = zstd.ZstdDict(prefix, is_raw=True).as_prefix if len(prefix) >= 8 else None
        unpacker = zstd.ZstdDecompressor(zstd_dict=known, options=options)
        data = unpacker.decompress(frame, size)
        more = b"" if unpacker.eof else unpacker.decompress(b"", 1)
    except (zstd.ZstdError, EOFError, ValueError) as error:
        raise TrustError(f"a piece of the delta cannot be decompressed: {one_line(error, 200)}") from error
    if len(data) != size or more or not unpacker.eof or unpacker.unused_data:
        raise TrustError(f"a piece of the delta does not make the {size} bytes that it says")
    return data
