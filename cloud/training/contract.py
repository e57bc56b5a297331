"""What the data of a model must be like: measured once, kept with the model, checked before every training.

`Contract.of` turns a `profiling.Profile` into bounds with room around it,
and `Contract.check` says which bounds other data break. A contract is a JSON file that is meant to
be read and edited; it goes into the lineage of what is trained under it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from edge_sdk import canonical, files
from edge_sdk.cloud.training.profiling import Profile, profile
from edge_sdk.datasets import Splits
from edge_sdk.errors import DataError, EdgeSdkError

__all__ = ["Contract", "enforce"]

FORMAT = 1
MARGIN = 0.5  # room around a class's share, of the share
DRIFT = 0.25  # room around the mean, of the deviation
SLACK = 0.005  # room above measured shares of faults
OF_ROWS = frozenset({"columns", "lacking", "ranges", "words"})  # fields that contracts of images do without


@dataclass(frozen=True, slots=True)
class Contract:
    """Bounds that data must keep to.

    Attributes
    ----------
    classes, dtype, shape
        Exactly these; None in ``shape`` is any side.
    images
        At least so many inputs in all.
    least, greatest
        No value below or above.
    means
        Of each channel, or column of numbers, the least and the greatest mean of the training split.
    shares
        Of each class the least and the greatest share of the training split.
    missing, blank, duplicates, near
        Greatest shares; see `Profile`.
    conflicts, leaks
        Greatest numbers; see `Profile`.
    columns
        Of rows: exactly these names, in this order.
    lacking
        Of each column the greatest share of missing values.
    ranges
        Of each column of numbers: no value below or above, in place of ``least`` and ``greatest``.
    words
        Of each column of texts: no others.
    """

    classes: tuple[str, ...]
    dtype: str
    shape: tuple[int | None, ...]
    images: int
    least: float
    greatest: float
    means: tuple[tuple[float, float], ...]
    shares: tuple[tuple[float, float], ...]
    missing: float = 0.0
    blank: float = 0.0
    duplicates: float = 0.0
    near: float = 0.0
    conflicts: int = 0
    leaks: int = 0
    columns: tuple[str, ...] = ()
    lacking: tuple[float, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Profile) -> Contract:
        """Return bounds with room around what was found.

        Half of every class's share, and of the range of each column of rows; a quarter of each
        channel's deviation around its mean; half of a percent of faults more than there are. Integers
        may take the whole range of their type; floats what was found, and a tenth of it to either side.
        Half as many inputs do.
        """
        limits = np.iinfo(found.dtype) if np.dtype(found.dtype).kind in "iu" else None
        room = 0.1 * (found.greatest - found.least)
        return cls(
            classes=found.classes,
            dtype=found.dtype,
            shape=found.shape,
            images=found.images // 2,
            least=float(limits.min) if limits else _rounded(found.least - room),
            greatest=float(limits.max) if limits else _rounded(found.greatest + room),
            means=tuple(
                (_rounded(mean - DRIFT * deviation), _rounded(mean + DRIFT * deviation))
                for mean, deviation in zip(found.means, found.deviations, strict=True)
            ),
            shares=tuple(
                (_rounded(share * (1 - MARGIN)), _rounded(min(share * (1 + MARGIN), 1.0))) for share in found.shares
            ),
            missing=_rounded(found.missing * (1 + MARGIN)),
            blank=_rounded(found.blank + SLACK),
            duplicates=_rounded(found.duplicates + SLACK),
            near=_rounded(found.near + SLACK),
            conflicts=found.conflicts,
            leaks=found.leaks,
            columns=found.columns,
            lacking=tuple(_rounded(min(share * (1 + MARGIN) + SLACK, 1.0)) for share in found.lacking),
            ranges=tuple(
                (_rounded(low - MARGIN * (high - low)), _rounded(high + MARGIN * (high - low)))
                for low, high in found.ranges
            ),
            words=dict(found.words),
        )

    def check(self, found: Profile) -> list[str]:
        """Say which bounds are broken: one sentence each, none if all hold."""
        if found.classes != self.classes:
            return [f"the classes are {_few(found.classes)}, not {_few(self.classes)}"]
        if (self.columns and found.columns != self.columns) or found.words.keys() != self.words.keys():
            return [self._columns_differ(found)]
        broken = self._check_form(found)
        broken += [
            f"{share:.2%} of the training inputs are of class {name!r}, not {low:.2%} to {high:.2%}"
            for name, share, (low, high) in zip(self.classes, found.shares, self.shares, strict=True)
            if not low <= share <= high
        ]
        shares = (
            ("missing", "of all values are missing (NaN or infinite)"),
            ("blank", "of the inputs are blank, all values the same"),
            ("duplicates", "of the training inputs repeat another one"),
            ("near", "of the inputs for validation, calibration and test are nearly the same as one for training"),
        )
        for name, what in shares:
            if getattr(found, name) > getattr(self, name):
                broken.append(f"{getattr(found, name):.2%} {what}, more than {getattr(self, name):.2%}")
        numbers = (("conflicts", "occur under two labels"), ("leaks", "of other splits occur in training"))
        for name, what in numbers:
            if getattr(found, name) > getattr(self, name):
                broken.append(f"{getattr(found, name)} inputs {what}, more than {getattr(self, name)}")
        return broken

    def _check_form(self, found: Profile) -> list[str]:
        broken = []
        if found.dtype != self.dtype:
            broken.append(f"the inputs are {found.dtype}, not {self.dtype}")
        fits = len(found.shape) == len(self.shape) and all(
            side is None or side == other for side, other in zip(self.shape, found.shape, strict=True)
        )
        if not fits:
            broken.append(f"the inputs have the shape {_shape(found.shape)}, not {_shape(self.shape)}")
        if found.images < self.images:
            broken.append(f"{found.images} inputs are fewer than {self.images}")
        if self.columns:
            broken += self._check_columns(found)
        elif not (self.least <= found.least and found.greatest <= self.greatest):
            broken.append(
                f"values are from {found.least:g} to {found.greatest:g}, "
                f"not within {self.least:g} and {self.greatest:g}"
            )
        if fits:
            broken += [
                f"the mean of {name} is {mean:.4g}, not from {low:g} to {high:g}"
                for name, mean, (low, high) in zip(self._channels, found.means, self.means, strict=True)
                if not low <= mean <= high
            ]
        return broken

    @property
    def _channels(self) -> list[str]:
        """What means are of."""
        if not self.columns:
            return [f"channel {number}" for number in range(len(self.means))]
        return [f"column {name!r}" for name in self.columns if name not in self.words]

    def _columns_differ(self, found: Profile) -> str:
        if lost := [name for name in self.columns if name not in found.columns]:
            return f"there is no column {lost[0]!r}"
        if new := [name for name in found.columns if name not in self.columns]:
            return f"column {new[0]!r} is new"
        if changed := sorted(found.words.keys() ^ self.words.keys()):
            return f"column {changed[0]!r} holds {'texts' if changed[0] in found.words else 'numbers'}"
        return f"the columns are in another order: {_few(found.columns)}"

    def _check_columns(self, found: Profile) -> list[str]:
        broken = [
            f"{lacks:.2%} of column {name!r} are missing, more than {most:.2%}"
            for name, lacks, most in zip(self.columns, found.lacking, self.lacking, strict=True)
            if lacks > most
        ]
        broken += [
            f"values of {name} are from {least:g} to {greatest:g}, not within {low:g} and {high:g}"
            for name, (least, greatest), (low, high) in zip(self._channels, found.ranges, self.ranges, strict=True)
            if least < low or greatest > high
        ]
        for name, words in self.words.items():
            if new := [word for word in found.words[name] if word not in words]:
                broken.append(f"column {name!r} has texts that are not known: {_few(new)}")
        return broken

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of the bounds."""
        return canonical.digest_of(asdict(self))

    def to_json(self) -> dict[str, Any]:
        """Return the contract as JSON-compatible values."""
        return {"format": FORMAT, **asdict(self)}

    def write(self, path: str | Path) -> None:
        """Write the contract as a JSON file, to be read and edited.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        rows = [
            f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in self.to_json().items()
        ]
        files.write_durably(Path(path), ("{\n" + ",\n".join(rows) + "\n}\n").encode())

    @classmethod
    def read(cls, path: str | Path) -> Contract:
        """Read a contract.

        Raises
        ------
        DataError
            The file is not there or is no contract; says what is wrong in it.
        """
        try:
            found = canonical.loads(Path(path).read_bytes())
            return cls._parsed(found)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        except (EdgeSdkError, AttributeError, TypeError, ValueError) as error:
            raise DataError(f"{path} is not a data contract: {error}") from error

    @classmethod
    def _parsed(cls, found: Any) -> Contract:
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"expected an object of format {FORMAT}")
        names = {each.name for each in fields(cls)}
        if unknown := sorted(found.keys() - names - {"format"}):
            raise ValueError(f"unknown field {unknown[0]!r}")
        if missing := sorted(names - OF_ROWS - found.keys()):
            raise ValueError(f"field {missing[0]!r} is not there")
        count, columns = len(found["classes"]), tuple(_text(name, "columns") for name in found.get("columns", ()))
        words = {_text(name, "words"): values for name, values in found.get("words", {}).items()}
        return cls(
            classes=tuple(_text(name, "classes") for name in found["classes"]),
            dtype=str(np.dtype(_text(found["dtype"], "dtype"))),
            shape=tuple(None if side is None else _number(side, "shape", int) for side in found["shape"]),
            means=_pairs(found["means"], "means", len(columns) - len(words) if columns else len(found["means"])),
            columns=columns,
            lacking=tuple(_number(share, "lacking", float) for share in _counted(found, "lacking", len(columns))),
            ranges=_pairs(found.get("ranges", []), "ranges", len(columns) - len(words)),
            words={name: tuple(_text(word, "words") for word in values) for name, values in words.items()},
            shares=_pairs(found["shares"], "shares", count),
            **{name: _number(found[name], name, int) for name in ("images", "conflicts", "leaks")},
            **{
                name: _number(found[name], name, float)
                for name in ("least", "greatest", "missing", "blank", "duplicates", "near")
            },
        )


def enforce(contract: Contract, splits: Splits) -> Profile:
    """Measure data and refuse those that break their contract.

    Raises
    ------
    DataError
        Names every broken bound.
    """
    found = profile(splits)
    if broken := contract.check(found):
        raise DataError(f"{splits.spec} breaks its contract: {'; '.join(broken)}")
    return found


# ---- small parts


def _rounded(value: float) -> float:
    return round(value, 6)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ("…" if len(names) > 5 else "")


def _shape(shape: Sequence[int | None]) -> str:
    return " x ".join("any" if side is None else str(side) for side in shape)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} holds {value!r}, which is no name")
    return value


def _number(value: Any, name: str, kind: type[int | float]) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, kind)):
        raise TypeError(f"{name} is {value!r}, which is no number")
    return kind(value)


def _counted(found: Mapping[str, Any], name: str, count: int) -> list[Any]:
    values = found.get(name, [])
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"{name} should be {count} numbers")
    return values


def _pairs(values: Any, name: str, count: int) -> tuple[tuple[float, float], ...]:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"{name} should be {count} pairs of numbers")
    pairs = []
    for pair in values:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"{name} holds {pair!r}, which is no pair of numbers")
        pairs.append((_number(pair[0], name, float), _number(pair[1], name, float)))
    return tuple(pairs)
