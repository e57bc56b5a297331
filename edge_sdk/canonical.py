"""Canonical JSON and digests: the same value is always the same bytes.

Keys are sorted, there is no white space, text is UTF-8, numbers are Python's shortest form, and
NaN and infinities are refused. Digests are written ``sha256:<hex>``.
"""

from __future__ import annotations

import importlib
import json
import math
from functools import cache
from typing import Any

from edge_sdk.errors import InputError

__all__ = ["digest_of", "dumps", "loads", "sha256"]

_LEAN_BYTES = 1 << 20
MAX_JSON_BYTES = 8 << 20
MAX_DEPTH = 100  # of our own, far below Python's: what is read once can be written, and read again on any stack


def dumps(value: Any) -> bytes:
    """Return a JSON value as canonical UTF-8 bytes.

    Raises
    ------
    InputError
        The value holds something JSON has no form for, or a NaN or infinity.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"not a JSON value: {error}") from error


def loads(data: bytes, *, limit: int = MAX_JSON_BYTES) -> Any:
    """Parse JSON from untrusted bytes.

    Raises
    ------
    InputError
        Over ``limit`` bytes, not UTF-8, not JSON, nested over `MAX_DEPTH` deep, with a repeated
        key, with NaN or a number that no float holds, or with half a surrogate pair.
    """
    if len(data) > limit:
        raise InputError(f"JSON of {len(data)} bytes is over the limit of {limit}")
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
        if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
            raise InputError(f"not JSON: nested over {MAX_DEPTH} deep")
        if "\\u" in text:  # an escape may be half a surrogate pair, which has no UTF-8 form
            dumps(value)
        return value
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # also an integer of thousands of digits
        raise InputError(f"not JSON: {error}") from error


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        parents = (x for x in level if isinstance(x, dict | list))
        level = [child for x in parents for child in (x.values() if isinstance(x, dict) else x)]
    return any(isinstance(x, dict | list) for x in level)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise InputError("not JSON: a key is repeated")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InputError(f"not JSON: {text[:40]} is out of range")
    return value


def _refuse_constant(name: str) -> None:
    raise InputError(f"not JSON: {name} is not a number")


def sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes as ``sha256:<hex>``."""
    hexdigest: str = _sha256(len(data) <= _LEAN_BYTES)(data).hexdigest()
    return "sha256:" + hexdigest


@cache
def _sha256(lean: bool) -> Any:
    """Return a constructor: Python's own for few bytes, as `random` has it, for `hashlib` brings 4 MB of OpenSSL."""
    for module in ("_sha2", "_sha256") if lean else ():  # of Python 3.12, and before
        try:
            return importlib.import_module(module).sha256
        except ImportError:
            continue
    return importlib.import_module("hashlib").sha256


def digest_of(value: Any) -> str:
    """Return the digest of a JSON value's canonical form."""
    return sha256(dumps(value))
