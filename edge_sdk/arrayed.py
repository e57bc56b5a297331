"""An ``.npz`` file of inputs and labels, checked: images, rows, windows, clips of sound.

`read_arrays` reads it for `edge_sdk.datasets`, which says what each array is.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_sdk.errors import DataError, one_line
from edge_sdk.frames import MAX_PIXELS

__all__ = ["Arrays", "read_arrays"]

_NAMES = ("x", "y", "classes", "strata", "times", "columns", "sample_rate")

# what numpy and zipfile raise of archives that are damaged, encrypted, or claim what no memory holds
_UNUSABLE = (ValueError, EOFError, MemoryError, OverflowError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class Arrays:
    """What a file holds; see `edge_sdk.datasets.Dataset`."""

    x: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    strata: npt.NDArray[np.str_] | None
    times: npt.NDArray[np.float64] | None
    columns: tuple[str, ...]
    sample_rate: int | None


def read_arrays(path: Path, *, limit: int, labelled: bool = True) -> Arrays:
    """Read arrays ``x`` and ``y``, and what may go with them.

    Parameters
    ----------
    path
        Of the file.
    limit
        Bytes that it may have, unpacked.
    labelled
        Whether ``y`` is looked at; otherwise all inputs are of one class.

    Raises
    ------
    DataError
        It cannot be read, or an array is not what it should be; names file and array.
    """
    content = _content(path, limit)
    if not labelled and "x" in content:
        content = {name: content[name] for name in ("x", "columns", "sample_rate") if name in content}
        content["y"] = np.zeros(len(content["x"]), np.int64)
    if "x" not in content or "y" not in content:
        raise DataError(f"{path}: expected arrays x and y, found {', '.join(sorted(content)) or 'neither'}")
    x, y = content["x"], content["y"]
    if x.dtype == np.uint8:
        x = _checked_pixels(x, path)
    else:
        x = _checked_inputs(x, path)
        if x.dtype == np.float64 and "sample_rate" in content:
            x = x.astype(np.float32)  # as processing takes sound
    if y.dtype.kind not in "iu" or y.shape != (len(x),):
        raise DataError(f"{path}: y is {y.dtype} {list(y.shape)}; expected {len(x)} integers")
    labels, names = _named(y, content.get("classes"), path)
    strata = content.get("strata")
    if strata is not None and (strata.dtype.kind != "U" or strata.shape != (len(x),)):
        raise DataError(f"{path}: strata is {strata.dtype} {list(strata.shape)}; expected {len(x)} names")
    return Arrays(
        x,
        labels,
        names,
        strata,
        _times(content.get("times"), len(x), path),
        _columns(content.get("columns"), x, path),
        _sample_rate(content.get("sample_rate"), x, path),
    )


def _content(path: Path, limit: int) -> dict[str, npt.NDArray[Any]]:
    if path.exists() and not path.is_file():  # a device or a pipe may never end
        raise DataError(f"{path} is not a file")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > limit:
            raise DataError(f"{path}: {size} bytes unpacked are more than {limit >> 30} GiB")
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in _NAMES if name in arrays.files}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except _UNUSABLE as error:
        raise DataError(f"{path} is not a usable .npz file: {one_line(error, 200)}") from error
    if strange := [name for name, array in found.items() if not isinstance(array, np.ndarray)]:
        raise DataError(f"{path} is not a usable .npz file: {strange[0]} is no array")
    return found


def _checked_pixels(x: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """Return images with an axis for their channels."""
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[-1] not in (1, 3) or 0 in x.shape:
        raise DataError(f"{path}: x is {list(x.shape)}; expected [n, H, W] or [n, H, W, 1 or 3]")
    if x.shape[1] * x.shape[2] > MAX_PIXELS:
        raise DataError(f"{path}: images of {x.shape[2]} x {x.shape[1]} are over the limit of {MAX_PIXELS} pixels")
    return x


def _checked_inputs(x: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """Return what are no images as processing takes it: floats and 16-bit sound as they are, the rest as floats."""
    if x.dtype.kind not in "fiu":
        raise DataError(f"{path}: x is {x.dtype}; expected uint8 pixels, or other numbers")
    if x.ndim < 2 or 0 in x.shape:
        raise DataError(f"{path}: x is {list(x.shape)}; expected [n, ...], one input a row")
    if x.dtype in (np.float32, np.float64, np.int16):
        return x
    return x.astype(np.float32 if x.dtype == np.float16 else np.float64)


def _named(
    y: npt.NDArray[Any], classes: npt.NDArray[Any] | None, path: Path
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Labels and class names; without names, each value that occurs is a class."""
    if classes is None:
        values, labels = np.unique(y, return_inverse=True)
        return labels.astype(np.int64), tuple(str(value) for value in values)
    if classes.ndim != 1 or classes.dtype.kind != "U":
        raise DataError(f"{path}: classes is {classes.dtype} {list(classes.shape)}; expected a list of names")
    if int(y.min()) < 0 or int(y.max()) >= len(classes):
        raise DataError(f"{path}: y has labels outside its {len(classes)} classes")
    return y.astype(np.int64), tuple(str(name) for name in classes)


def _times(times: npt.NDArray[Any] | None, count: int, path: Path) -> npt.NDArray[np.float64] | None:
    if times is None:
        return None
    if times.dtype.kind not in "fiu" or times.shape != (count,) or not np.isfinite(times).all():
        raise DataError(f"{path}: times is {times.dtype} {list(times.shape)}; expected {count} numbers of seconds")
    return times.astype(np.float64)


def _columns(columns: npt.NDArray[Any] | None, x: npt.NDArray[Any], path: Path) -> tuple[str, ...]:
    if columns is None:
        return ()
    names = tuple(str(name) for name in columns.ravel())
    wrong = columns.dtype.kind != "U" or columns.shape != x.shape[-1:] or x.dtype.kind != "f" or x.ndim > 3
    if wrong or len(set(names)) < len(names):
        raise DataError(
            f"{path}: columns is {columns.dtype} {list(columns.shape)}; expected different names for the last axis of "
            f"x, which is {x.dtype} {list(x.shape)}"
        )
    return names


def _sample_rate(rate: npt.NDArray[Any] | None, x: npt.NDArray[Any], path: Path) -> int | None:
    if rate is None:
        return None
    if rate.dtype.kind not in "iu" or rate.size != 1 or int(rate.item()) < 1 or x.ndim != 2 or x.dtype == np.uint8:
        raise DataError(f"{path}: sample_rate is {rate}; expected a number of hertz, beside x of clips [n, samples]")
    return int(rate.item())
