"""Requests cut into what is the same every time and what is not, without being parsed.

The requests of a client differ in their contents, id and parameters. What is left is their head: the same bytes
say the same thing, so it is looked at once.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Parts", "cut"]

# tags of the fields of ModelInferRequest, all of them with a length
_NAME, _VERSION, _ID, _PARAMETER, _INPUT, _OUTPUT, _RAW = (number << 3 | 2 for number in range(1, 8))
_ONE_BYTE = 0x80  # lengths below take one byte
_LENGTH_BYTES = 4


@dataclass(slots=True)
class Parts:
    """A request that was cut.

    Attributes
    ----------
    head
        All that is not in the others, with tag and length of the first raw contents.
    request_id
        Its id; empty where there is none.
    parameters
        The fields of its parameters, as they came; may be empty.
    contents
        Where each raw contents begin, and how many bytes they have; at least one.
    """

    head: bytes
    request_id: str
    parameters: bytes
    contents: list[tuple[int, int]]


def cut(data: bytes) -> Parts | None:
    """Cut a ``ModelInferRequest``, as it is usually written: each field once and in order, with raw contents.

    Returns
    -------
    None for any other, whether it is a message or not. What is cut is a message if its head and its parameters are,
    and says what they say.
    """
    try:
        return _cut(data)
    except (IndexError, UnicodeDecodeError):
        return None


def _cut(data: bytes) -> Parts | None:
    at = 0
    if data[at] == _NAME:
        at = _after(data, at)
    if data[at] == _VERSION:
        at = _after(data, at)
    front, request_id = at, ""
    if data[at] == _ID:
        at = _after(data, at)
        request_id = data[front + 2 : at].decode()
    first = at
    while data[at] == _PARAMETER:
        at = _after(data, at)
    parameters, middle = data[first:at], at
    while data[at] == _INPUT:
        at = _after(data, at)
    while data[at] == _OUTPUT:
        at = _after(data, at)
    contents = _contents(data, at)
    if contents is None:
        return None
    begin = contents[0][0]
    head = data[:begin] if front == middle else data[:front] + data[middle:begin]
    return Parts(head, request_id, parameters, contents)


def _contents(data: bytes, at: int) -> list[tuple[int, int]] | None:
    """Return where raw contents are; None where there is something else, too."""
    contents: list[tuple[int, int]] = []
    while at < len(data):
        if data[at] != _RAW:
            return None
        size, shift = 0, 0
        while True:
            at += 1
            byte = data[at]
            size |= (byte & 0x7F) << shift
            if byte < _ONE_BYTE:
                break
            shift += 7
        if shift >= 7 * _LENGTH_BYTES or (shift and not byte):
            return None  # more than is taken, or not the shortest way to write it
        at += 1
        contents.append((at, size))
        at += size
    return contents if contents and at == len(data) else None


def _after(data: bytes, at: int) -> int:
    """Return where a short field ends."""
    size = data[at + 1]
    if size >= _ONE_BYTE:
        raise IndexError
    return at + 2 + size
