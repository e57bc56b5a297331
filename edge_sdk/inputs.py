"""Inputs: whatever an app has of what a model looks at, as the array that its processing takes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError
from edge_sdk.frames import as_frame
from edge_sdk.processing import Modality, ProcessingSpec

if TYPE_CHECKING:
    from edge_sdk.processing import Categories

__all__ = ["Input", "as_input"]

Input = Any
"""For images, what `edge_sdk.frames.as_frame` takes; for audio, samples, or a .wav file, its path or bytes; for
tables, an array or list of numbers, [columns] or [length, columns], a mapping of column names to values, or the path
of a .json or .npy file that holds one of these."""


def as_input(spec: ProcessingSpec, value: Input) -> NDArray[Any]:
    """Return an input as the array that `DeviceProcessor` takes under a specification.

    Arrays that it takes are returned as they are, not copied.

    Raises
    ------
    InputError
        The value is not an input of this kind.
    MissingExtraError
        It must be decoded, and what decodes it is not installed.
    """
    return _READERS[spec.modality](spec, value)


def _as_clip(spec: ProcessingSpec, value: Input) -> NDArray[Any]:
    from edge_sdk.processing.audio_shapes import spectral_of
    from edge_sdk.sounds import read_wav

    if isinstance(value, bytes | bytearray | memoryview):
        return read_wav(bytes(value), rate=spectral_of(spec).sample_rate)
    if isinstance(value, str | os.PathLike):
        return read_wav(Path(value), rate=spectral_of(spec).sample_rate)
    if not isinstance(value, np.ndarray):
        raise InputError(f"audio should be an array of samples, or a .wav file, not {type(value).__name__}")
    if value.dtype.kind == "f" and value.dtype != np.float32:
        with np.errstate(over="ignore"):  # refused by the processing
            return value.astype(np.float32)
    return value


def _as_table(spec: ProcessingSpec, value: Input) -> NDArray[Any]:
    if isinstance(value, os.PathLike) or (isinstance(value, str) and value.endswith((".json", ".npy"))):
        value = _read_table(Path(value))
    if isinstance(value, Mapping):
        return _from_names(spec, value)
    if isinstance(value, list | tuple):
        try:
            value = np.array(value, np.float64)
        except (ValueError, TypeError):
            value = None
    elif not isinstance(value, np.ndarray):
        kind = type(value).__name__
        raise InputError(
            f"a table should be an array of numbers, a list of them, or a mapping of column names, not {kind}"
        )
    if value is None:
        raise InputError("a table should be an array of numbers, or a list of them with rows of one length")
    if value.dtype.kind not in "fiub":
        raise InputError(f"table: need numbers, not {value.dtype}")
    array: NDArray[Any] = value if value.dtype.kind == "f" else value.astype(np.float64)
    return array


def _read_table(path: Path) -> Input:
    """Return what a .json or .npy file holds."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, EOFError, RecursionError, MemoryError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    raise InputError(f"{path}: a table is read from a .json or .npy file")


def _from_names(spec: ProcessingSpec, given: Mapping[Any, Any]) -> NDArray[np.float64]:
    from edge_sdk.processing import Categories, Columns
    from edge_sdk.processing.tables import fold_table

    shape, columns = fold_table(spec).shape, spec.find(Columns)
    assert columns is not None  # fold_table
    foreign = sorted(str(name) for name in given if name not in columns.names)
    if foreign:
        raise InputError(f"table: there is no column {foreign[0]!r}")
    words = {step.column: _codes(step) for step in spec.steps if isinstance(step, Categories)}
    table = np.empty(shape)
    for index, name in enumerate(columns.names):
        if name not in given:
            raise InputError(f"table: column {name!r} is not given")
        value, codes = given[name], words.get(name)
        if len(shape) == 1:
            table[index] = _number(name, value, codes)
            continue
        if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str):
            raise InputError(f"table: column {name!r} needs a list of values, not {type(value).__name__}")
        if len(value) != shape[0]:
            raise InputError(f"table: column {name!r} needs {shape[0]} values, not {len(value)}")
        table[:, index] = [_number(name, item, codes) for item in value]
    return table


def _codes(step: Categories) -> dict[str, float] | None:
    """Return what stands for each word, or None where numbers are looked up."""
    codes = {value: code for value, code in zip(step.values, step.codes, strict=True) if isinstance(value, str)}
    return codes or None


def _number(name: str, value: object, codes: Mapping[str, float] | None) -> float:
    if value is None:
        return np.nan
    if codes is not None:
        if isinstance(value, str):
            return codes.get(value, np.nan)
        raise InputError(f"table: column {name!r} needs a text, not {_shown(value)}")
    if not isinstance(value, int | float | np.number | np.bool_):
        raise InputError(f"table: column {name!r} needs a number, not {_shown(value)}")
    try:
        return float(value)
    except (TypeError, OverflowError):
        raise InputError(f"table: column {name!r} needs a number that a float holds") from None


def _shown(value: object) -> str:
    return repr(value)[:60] if isinstance(value, str | int | float) else type(value).__name__


_READERS: dict[Modality, Callable[[ProcessingSpec, Input], NDArray[Any]]] = {
    "image": lambda _, value: as_frame(value),
    "audio": _as_clip,
    "table": _as_table,
}
