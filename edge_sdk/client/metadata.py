"""What a JPEG file says beside its pixels is taken out before it is sent, without decoding it.

Cameras write the place, the time, the owner and a thumbnail of the picture before it was cropped
into a file. The segments of ITU-T T.81, annex B, are walked; those that decoding needs are kept.
"""

from __future__ import annotations

import struct

from edge_sdk.errors import InputError

__all__ = ["strip_jpeg"]

_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_JFIF, _EXIF, _ADOBE = 0xE0, 0xE1, 0xEE
_DECODING = range(0xC0, 0xE0)  # frames, scans and tables
_RESTARTS = range(0xD0, 0xD8)
_JFIF_HEADER = b"JFIF\x00"
_PLAIN_JFIF = _JFIF_HEADER + bytes([1, 1, 0, 0, 1, 0, 1, 0, 0])  # 1.01, square pixels, no thumbnail
_EXIF_HEADER, _ORIENTATION = b"Exif\x00\x00", 0x0112
_MOST_TAGS = 1000


def strip_jpeg(data: bytes) -> bytes:
    """Return a JPEG file without metadata: the pixels stay as they are, bit for bit.

    Kept are the tables and scans, what the headers of JFIF and Adobe say of colours, and of
    EXIF the orientation alone. What follows the end of the picture is cut off.

    Parameters
    ----------
    data
        A JPEG file.

    Raises
    ------
    InputError
        It is no JPEG file, or ends before the picture does.
    """
    if data[:2] != bytes([0xFF, _START]):
        raise InputError("metadata can be taken out of a JPEG file only")
    kept, at, orientation = [data[:2]], 2, 1
    while True:
        at, marker = _next_marker(data, at)
        if marker == _END:
            kept.append(bytes([0xFF, _END]))
            return b"".join([kept[0], _exif(orientation), *kept[1:]])
        if marker == _START or marker in _RESTARTS or marker == 0x01:
            raise InputError(f"the JPEG file has a marker {marker:#04x} where none can be")
        size = int.from_bytes(data[at + 1 : at + 3], "big")
        end = at + 1 + size
        if size < 2 or end > len(data):
            raise InputError("the JPEG file ends within a segment")
        body = data[at + 3 : end]
        if marker == _EXIF and body.startswith(_EXIF_HEADER):
            orientation = _orientation(body[len(_EXIF_HEADER) :])
        if marker == _SCAN:
            end = _scan_end(data, end)
        if marker in _DECODING:
            kept.append(b"\xff" + data[at:end])
        elif marker == _JFIF and body.startswith(_JFIF_HEADER):  # with it, components are known not to be RGB
            kept.append(_segment(_JFIF, _PLAIN_JFIF))
        elif marker == _ADOBE and body.startswith(b"Adobe"):
            # Adobe's segment has 12 bytes; what stands behind them is anybody's
            kept.append(_segment(_ADOBE, body[:12]))
        at = end


def _next_marker(data: bytes, at: int) -> tuple[int, int]:
    """Return where the code of the next marker stands, and the code; fill bytes may come before it."""
    if data[at : at + 1] != b"\xff":
        raise InputError("the JPEG file is damaged: there is no marker after a segment")
    while data[at : at + 1] == b"\xff":
        at += 1
    if at >= len(data):
        raise InputError("the JPEG file ends before the picture does")
    return at, data[at]


def _scan_end(data: bytes, at: int) -> int:
    """Return where the next marker after entropy-coded data begins."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise InputError("the JPEG file ends before the picture does")
        if data[at + 1] != 0 and data[at + 1] not in _RESTARTS:
            return at
        at += 2


def _orientation(tiff: bytes) -> int:
    """Return the orientation of EXIF (1 to 8); upright where it does not say, or says it wrongly."""
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, first)
        for n in range(min(count, _MOST_TAGS)):
            tag, kind, values, value = struct.unpack_from(f"{order}HHIH", tiff, first + 2 + 12 * n)
            if tag == _ORIENTATION and kind == 3 and values == 1 and 1 <= value <= 8:
                return int(value)
    except (struct.error, KeyError):
        pass
    return 1


def _exif(orientation: int) -> bytes:
    if orientation == 1:
        return b""
    tiff = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, _ORIENTATION, 3, 1, orientation, 0, 0)
    return _segment(_EXIF, _EXIF_HEADER + tiff)


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
