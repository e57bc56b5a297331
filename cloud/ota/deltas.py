"""Deltas made: of two bundle files, whatever is smallest for each part of the new one.

What a delta is made of, and what a device does with it, is in `edge_sdk.ota.delta`.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edge_sdk.bundle import archive
from edge_sdk.errors import BundleError, one_line
from edge_sdk.files import storage_errors
from edge_sdk.ota.delta import ADD8, ADD32, BASE_BYTES, HEADER, MAGIC, MATCH, PIECE_BYTES, WINDOW_LOG
from edge_sdk.ota.records import MAX_DELTAS, Delta, Target, delta_path
from edge_sdk.ota.topics import BLOCK_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["WORTH", "block_hashes", "make_delta", "make_deltas"]

log = logging.getLogger("edge_sdk.cloud.ota.deltas")

WORTH = 0.8
"""A delta is kept if it has at most this share of the bytes of the file that it makes."""

_LEVEL, _SLOW_LEVEL = 9, 19
_ALONE = 1 << 16  # bytes of a member from which on it has pieces of its own
_C = zstd.CompressionParameter


def make_deltas(bases: Mapping[Path, str], target: Target, data: bytes) -> list[tuple[Delta, bytes]]:
    """Return what makes a bundle file of others, for each where it is worth it and not there already.

    Parameters
    ----------
    bases
        Files of the repository, with the digest (hex) that was signed of each; what has another now is left out.
    target, data
        The new bundle file.
    """
    made: list[tuple[Delta, bytes]] = []
    for path, signed in bases.items():
        if signed in (target.sha256, *target.deltas):
            continue
        if len(target.deltas) + len(made) >= MAX_DELTAS:
            log.warning("%s-%s has %d deltas, and devices take no more", target.name, target.version, MAX_DELTAS)
            break
        with storage_errors(path, "read"):
            base = path.read_bytes()
        if hashlib.sha256(base).hexdigest() != signed:
            log.warning("%s is not what was signed; no delta is made from it", path)
            continue
        try:
            found = make_delta(base, data)
        except BundleError as error:  # signed by somebody else
            log.warning("%s is no bundle, and no delta is made from it: %s", path, one_line(error, 200))
            continue
        if found is not None:
            made.append(found)
    return made


def make_delta(base: bytes, new: bytes) -> tuple[Delta, bytes] | None:
    """Return what makes one bundle file of another, or None if it would not be small enough to be worth it.

    Raises
    ------
    BundleError
        One of the two is not a bundle file.
    """
    data = b"".join([MAGIC, *_pieces(base, new)])
    if len(data) > WORTH * len(new):
        return None
    old = hashlib.sha256(base).hexdigest()
    path, digest = delta_path(old, hashlib.sha256(new).hexdigest()), hashlib.sha256(data).hexdigest()
    return Delta(old, path, digest, len(data), BLOCK_BYTES, block_hashes(data)), data


def block_hashes(data: bytes) -> tuple[str, ...]:
    """Return the SHA-256 (hex) of each block of a file."""
    return tuple(hashlib.sha256(data[at : at + BLOCK_BYTES]).hexdigest() for at in range(0, len(data), BLOCK_BYTES))


def _pieces(base: bytes, new: bytes) -> Iterator[bytes]:
    before = {name: (start, end) for name, start, end in _large_members(base)}
    for name, start, end in _parts(new):
        old_start, old_end = before.get(name, (0, len(base)))
        for at in range(start, end, PIECE_BYTES):
            piece = new[at : min(at + PIECE_BYTES, end)]
            same = old_start + at - start if name else min(at, len(base))
            yield _smallest(base, piece, same, old_end if name in before else 0)


def _smallest(base: bytes, piece: bytes, same: int, end: int) -> bytes:
    """Return a piece in the kind that is smallest; ``same`` is where in the base its like should be."""
    first = max(0, min(same + len(piece) // 2 - BASE_BYTES // 2, len(base) - BASE_BYTES))
    around = base[first : first + BASE_BYTES]
    best = (MATCH, first, len(around), _compress(piece, around))
    if same + len(piece) <= end:
        like = base[same : same + len(piece)]
        kinds = (ADD8, ADD32) if len(piece) % 4 == 0 else (ADD8,)
        differences = {kind: _difference(kind, like, piece) for kind in kinds}
        found = {kind: zstd.compress(data, _LEVEL) for kind, data in differences.items()}
        kind = min(found, key=lambda kind: len(found[kind]))
        if len(found[kind]) < len(best[3]):
            # slow, and of use only where much is saved already: int8
            slow = len(found[kind]) * 4 < len(piece)
            frame = zstd.compress(differences[kind], _SLOW_LEVEL) if slow else found[kind]
            best = (kind, same, len(piece), min(frame, found[kind], key=len))
    kind, at, length, frame = best
    return HEADER.pack(kind, at, length, len(piece), len(frame)) + frame


def _compress(piece: bytes, prefix: bytes) -> bytes:
    options: dict[int, int] = {
        _C.compression_level: _LEVEL,
        _C.enable_long_distance_matching: 1,
        _C.window_log: WINDOW_LOG,
    }
    known = zstd.ZstdDict(prefix, is_raw=True).as_prefix if len(prefix) >= 8 else None
    packer = zstd.ZstdCompressor(options=options, zstd_dict=known)
    packer.set_pledged_input_size(len(piece))
    return packer.compress(piece, packer.FLUSH_FRAME)


def _difference(kind: int, old: bytes, new: bytes) -> bytes:
    if kind == ADD8:
        return (np.frombuffer(new, np.uint8) - np.frombuffer(old, np.uint8)).tobytes()
    words = np.frombuffer(new, "<u4") - np.frombuffer(old, "<u4")
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, 4).T).tobytes()


def _large_members(data: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield name, start and end of each member that is large, in their order."""
    end = 0
    for part, name in _named(data):
        start, end = end, end + len(part)
        if name and len(part) >= _ALONE:
            yield name, start, end


def _named(data: bytes) -> Iterator[tuple[bytes | memoryview, str]]:
    members = archive.decode(data)
    parts = archive.pieces(members)
    names = iter(members)  # a header and a member in turn
    for number, part in enumerate(parts):
        yield part, next(names, "") if number % 2 else ""


def _parts(data: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield large members, and what lies between them under no name, from the first byte to the last."""
    at = 0
    for name, start, end in _large_members(data):
        if at < start:
            yield "", at, start
        yield name, start, end
        at = end
    if at < len(data):
        yield "", at, len(data)
