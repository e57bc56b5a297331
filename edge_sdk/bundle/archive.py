"""The archive: a deterministic zip of stored members, written and read strictly.

A bundle is exactly the bytes that `encode` would write for its members: local entries back to
back from the first byte, the central directory after them, the end record last, fixed dates, no
comments, no extra fields, no compression. `decode` rebuilds each header and compares, so links,
encryption, zip64, overlaps, gaps, differing local and central headers and trailing bytes need no
rules of their own. Layout: PKWARE APPNOTE 6.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping

from edge_sdk.bundle.manifest import MEMBER
from edge_sdk.errors import BundleFormatError

__all__ = ["MANIFEST", "MAX_BUNDLE_BYTES", "MAX_MEMBERS", "decode", "encode", "pieces"]

MANIFEST = "manifest.json"
MAX_BUNDLE_BYTES = 1 << 30
MAX_MEMBERS = 256

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_MADE_BY = (3 << 8) | 20  # Unix, zip 2.0: external attributes hold a file mode
_NEEDS = 20
_UTF8 = 0x800
_DOS_DATE = (1 << 5) | 1  # 1980-01-01, the earliest date there is
_MODE = (0o100644 << 16) & 0xFFFFFFFF


def _local(name: bytes, crc: int, size: int) -> bytes:
    head = _LOCAL.pack(b"PK\x03\x04", _NEEDS, _UTF8, 0, 0, _DOS_DATE, crc, size, size, len(name), 0)
    return head + name


def _central(name: bytes, crc: int, size: int, offset: int) -> bytes:
    fields = (_MADE_BY, _NEEDS, _UTF8, 0, 0, _DOS_DATE, crc, size, size, len(name), 0, 0, 0, 0, _MODE, offset)
    return _CENTRAL.pack(b"PK\x01\x02", *fields) + name


def _end(count: int, size: int, offset: int) -> bytes:
    return _END.pack(b"PK\x05\x06", 0, 0, count, count, size, offset, 0)


def encode(members: Mapping[str, bytes | memoryview]) -> bytes:
    """Return the archive of ``members``; the manifest first, the others by name.

    Raises
    ------
    BundleFormatError
        A member has a name or a size that a reader would refuse.
    """
    return b"".join(pieces(members))


def pieces(members: Mapping[str, bytes | memoryview]) -> list[bytes | memoryview]:
    """Return the archive of ``members`` in parts: a header and a member in turn, then the directory; raise as `encode`.

    Members are not copied, so that those of files that are mapped take up no memory.
    """
    names = _ordered(members)
    if len(names) > MAX_MEMBERS:
        raise BundleFormatError(f"{len(names)} members are over the limit of {MAX_MEMBERS}")
    if sum(map(len, members.values())) > MAX_BUNDLE_BYTES:
        raise BundleFormatError(f"the members are over the limit of {MAX_BUNDLE_BYTES} bytes")
    entries: list[bytes | memoryview] = []
    directory, offset = [], 0
    for text in names:
        _check_name(text)
        name, data = text.encode("ascii"), members[text]
        crc = zlib.crc32(data)
        local = _local(name, crc, len(data))
        entries += [local, data]
        directory.append(_central(name, crc, len(data), offset))
        offset += len(local) + len(data)
    central = b"".join(directory)
    parts = [*entries, central, _end(len(names), len(central), offset)]
    if (size := sum(map(len, parts))) > MAX_BUNDLE_BYTES:
        raise BundleFormatError(f"a bundle of {size} bytes is over the limit of {MAX_BUNDLE_BYTES}")
    return parts


def decode(archive: bytes) -> dict[str, memoryview]:
    """Return the members of an untrusted archive, as views of its bytes.

    Raises
    ------
    BundleFormatError
        The bytes are not an archive as `encode` writes them; the message says where.
    """
    view = memoryview(archive)
    if len(view) > MAX_BUNDLE_BYTES:
        raise BundleFormatError(f"{len(view)} bytes are over the limit of {MAX_BUNDLE_BYTES}")
    if len(view) < _END.size or bytes(view[:4]) != b"PK\x03\x04":
        raise BundleFormatError("this is not a .edge bundle (it does not begin like one)")
    end = bytes(view[-_END.size :])
    signature, _, _, _, count, size, start, _ = _END.unpack(end)
    if signature != b"PK\x05\x06" or end != _end(count, size, start):
        raise BundleFormatError("the end of the archive is missing: the file is truncated or has bytes appended")
    if count > MAX_MEMBERS:
        raise BundleFormatError(f"{count} members are over the limit of {MAX_MEMBERS}")
    if start + size + _END.size != len(view):
        raise BundleFormatError("the archive's length is not what its directory says: the file is truncated or spliced")
    return _members(view, count, start, start + size)


def _members(view: memoryview, count: int, directory: int, directory_end: int) -> dict[str, memoryview]:
    members: dict[str, memoryview] = {}
    at, position = directory, 0
    for number in range(count):
        head_end = at + _CENTRAL.size
        if head_end > directory_end:
            raise BundleFormatError(f"the directory ends within entry {number}")
        fields = _CENTRAL.unpack(view[at:head_end])
        crc, length, name_length = fields[7], fields[8], fields[10]
        raw = bytes(view[head_end : head_end + name_length])
        name = _name(raw, number)
        if name in members:
            raise BundleFormatError(f"member {name} is there twice")
        if bytes(view[at : head_end + name_length]) != _central(raw, crc, length, position):
            raise BundleFormatError(f"the directory entry of {name} has a form that bundles do not use")
        local = _local(raw, crc, length)
        data_at = position + len(local)
        if data_at + length > directory or bytes(view[position:data_at]) != local:
            raise BundleFormatError(f"the local header of {name} differs from the directory")
        members[name] = view[data_at : data_at + length]
        if zlib.crc32(members[name]) != crc:
            raise BundleFormatError(f"member {name} is damaged: its checksum differs")
        at, position = head_end + name_length, data_at + length
    if at != directory_end or position != directory:
        raise BundleFormatError("the archive holds bytes that belong to no member")
    if list(members) != _ordered(members):
        raise BundleFormatError("the members are not in the order that bundles use")
    return members


def _ordered(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (name != MANIFEST, name))


def _name(raw: bytes, number: int) -> str:
    try:
        name = raw.decode("ascii")
    except UnicodeDecodeError:
        raise BundleFormatError(f"the name of member {number} is not ASCII") from None
    _check_name(name)
    return name


def _check_name(name: str) -> None:
    if not MEMBER.fullmatch(name):
        raise BundleFormatError(f"{name[:80]!r} is not a member name")
