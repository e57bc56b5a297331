"""What data sets promise: clear refusals, disjoint seeded splits, digests of content."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import stripes, stripes_npz
from PIL import Image

from edge_sdk.datasets import Dataset, Splits, load, load_splits, split
from edge_sdk.errors import DataError

PARTS = ("train", "validation", "calibration", "test")


def parts(splits: Splits) -> list[Dataset]:
    return [getattr(splits, name) for name in PARTS]


def write_image(path: Path, value: int, *, size: tuple[int, int] = (9, 7), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(value)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(path)


def write_folder(folder: Path, counts: dict[str, int], **options: object) -> str:
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            write_image(folder / name / f"{i}.png", 1000 * label + i, **options)  # type: ignore[arg-type]
    return f"folder:{folder}"


def write_cifar(folder: Path, part: str, count: int, *, seed: int) -> None:
    rng, index, blob = np.random.default_rng(seed), [], b""
    for i in range(count):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(stream, "JPEG")
        index.append((i % 10, len(blob), len(stream.getvalue())))
        blob += stream.getvalue()
    np.save(folder / f"{part}.index.npy", np.array(index, dtype=np.uint32))
    (folder / f"{part}.jpegs").write_bytes(blob)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_splits("mnist", seed=3)


# ---- splits


def test_mnist_gives_the_sizes_that_can_certify_one_percent(digits: Splits) -> None:
    assert [len(part) for part in parts(digits)] == [2500, 500, 1000, 1000]
    assert np.asarray(digits.train.images).shape == (2500, 28, 28, 1)
    assert digits.classes == tuple("0123456789")
    assert set(np.bincount(digits.calibration.labels)) == {100}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    copies=st.lists(st.integers(0, 59), min_size=0, max_size=60),
    count=st.integers(60, 200),
)
def test_no_image_is_in_two_splits_however_often_it_is_repeated(seed: int, copies: list[int], count: int) -> None:
    whole = stripes(count, side=4)
    repeated = whole.take([*range(count), *copies])
    dealt = parts(split(repeated, seed=seed))
    assert sum(len(part) for part in dealt) == len(repeated)
    seen: set[bytes] = set()
    for part in dealt:
        content = {image.tobytes() for image in part.images}
        assert not content & seen
        seen |= content
        assert len(part)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(30, 400))
def test_splits_follow_from_the_seed_and_every_class_is_trained(seed: int, count: int) -> None:
    whole = stripes(count, side=4)
    first, again = split(whole, seed=seed), split(whole, seed=seed)
    assert first.digests == again.digests
    assert set(first.train.labels) == {0, 1, 2}


def test_another_seed_deals_otherwise() -> None:
    assert split(stripes(), seed=1).digests != split(stripes(), seed=2).digests


def test_calibration_reaches_three_hundred_where_that_leaves_something_to_train_on() -> None:
    assert len(split(stripes(600, side=4)).calibration) == 300
    assert len(split(stripes(60, side=4)).calibration) < 30


def test_a_digest_changes_with_a_pixel_a_label_a_name_and_the_order() -> None:
    base = stripes(30)
    changed = np.asarray(base.images).copy()
    changed[5, 0, 0, 0] ^= 1
    others = [
        Dataset(changed, base.labels, base.classes),
        Dataset(base.images, np.roll(base.labels, 1), base.classes),
        Dataset(base.images, base.labels, ("a", "b", "c")),
        base.take(np.arange(30)[::-1]),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 5
    assert base.digest == stripes(30).digest


def test_a_limit_keeps_the_share_of_each_class(tmp_path: Path) -> None:
    spec = stripes_npz(tmp_path / "s.npz")
    splits = load_splits(spec, seed=0, limit=120)
    assert sum(len(part) for part in parts(splits)) == 120
    assert set(np.bincount(load(spec, limit=120).labels)) == {40}


# ---- kinds of data


def test_npz_may_be_grey_without_a_channel_axis_and_without_names(tmp_path: Path) -> None:
    images = np.asarray(stripes(60).images)[..., 0]
    np.savez(tmp_path / "d.npz", x=images, y=np.repeat([7, 3], 30))
    dataset = load(f"npz:{tmp_path / 'd.npz'}")
    assert dataset.classes == ("3", "7")
    assert np.asarray(dataset.images).shape == (60, 12, 12, 1)
    assert dataset.labels[0] == 1


def test_a_folder_may_mix_sizes_and_grey_with_colour(tmp_path: Path) -> None:
    spec = write_folder(tmp_path / "d", {"cat": 12, "dog": 12})
    write_image(tmp_path / "d" / "dog" / "wide.png", 5, size=(20, 8), mode="L")
    (tmp_path / "d" / "dog" / ".hidden").write_text("not looked at")
    dataset = load(spec)
    assert not dataset.uniform
    assert dataset.classes == ("cat", "dog")
    assert {image.shape for image in dataset.images} == {(7, 9, 3), (8, 20, 3)}
    assert all(image.dtype == np.uint8 for image in dataset.images)
    assert len(load_splits(spec).test)


def test_cifar_keeps_its_own_test_part_and_leaves_copies_of_it_out_of_train(tmp_path: Path) -> None:
    write_cifar(tmp_path, "train", 200, seed=1)
    write_cifar(tmp_path, "test", 40, seed=1)  # the same first forty images
    splits = load_splits(f"cifar10:{tmp_path}")
    assert len(splits.test) == 40
    assert sum(len(part) for part in parts(splits)) == 200
    assert splits.classes[3] == "cat"


# ---- refusals


@pytest.mark.parametrize("spec", ["", "minst", "npz", "npz:", "mnist:/x", "folder"])
def test_an_unknown_specification_is_told_the_grammar(spec: str) -> None:
    with pytest.raises(DataError, match=r"expected mnist \| cifar10:PATH"):
        load_splits(spec)


@pytest.mark.parametrize("kind", ["folder", "npz", "cifar10"])
def test_a_missing_path_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.*No such file"):
        load_splits(f"{kind}:{tmp_path / 'gone'}")


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    spec = write_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "b" / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.txt") as caught:
        load(spec)
    assert "\n" not in str(caught.value)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    spec = write_folder(tmp_path, {"a": 5, "b": 5})
    path = tmp_path / "a" / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"2\.png"):
        load(spec)


def test_an_image_over_the_pixel_limit_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    spec = write_folder(tmp_path, {"a": 5, "b": 5})
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a" / "huge.png")
    with pytest.raises(DataError, match=r"huge\.png.*limit"):
        load(spec)


def test_an_empty_class_a_single_class_and_no_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class 'b' has no image"):
        load(write_folder(tmp_path / "1", {"a": 5, "b": 0}))
    with pytest.raises(DataError, match="at least 2 are needed"):
        load(write_folder(tmp_path / "2", {"a": 5}))
    (tmp_path / "3").mkdir()
    with pytest.raises(DataError, match="one folder of images per class"):
        load(f"folder:{tmp_path / '3'}")


def test_a_class_of_copies_cannot_be_split() -> None:
    whole = stripes(60)
    with pytest.raises(DataError, match="'down' has 1 distinct inputs"):
        split(whole.take([*np.flatnonzero(whole.labels != 1), 1, 1, 1, 1, 1]))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((9, 4, 4), np.complex64), "y": np.arange(9)}, "x is complex64; expected uint8"),
        ({"x": np.zeros((9, 4), bool), "y": np.arange(9)}, "x is bool; expected uint8"),
        ({"x": np.zeros(9, np.float32), "y": np.arange(9)}, r"x is \[9\]; expected \[n, ...\], one input a row"),
        ({"x": np.zeros((9, 0), np.float32), "y": np.arange(9)}, "one input a row"),
        ({"x": np.zeros((9, 4, 4, 2), np.uint8), "y": np.arange(9)}, r"\[9, 4, 4, 2\]; expected"),
        ({"x": np.zeros((9, 4, 4), np.uint8), "y": np.arange(8)}, "expected 9 integers"),
        ({"x": np.zeros((9, 4, 4), np.uint8), "y": np.zeros(9)}, "y is float64"),
        ({"x": np.zeros((9, 4, 4), np.uint8)}, "expected arrays x and y, found x"),
        ({"x": np.zeros((9, 4, 4), np.uint8), "y": np.arange(9), "classes": np.array(["a"])}, "outside its 1 classes"),
        ({"x": np.zeros((9, 4, 4), np.uint8), "y": np.array([None] * 9)}, "not a usable .npz"),
    ],
)
def test_an_npz_of_the_wrong_content_is_refused_with_what_was_expected(
    arrays: dict[str, np.ndarray], says: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=says):
        load(f"npz:{tmp_path / 'd.npz'}")


@pytest.mark.parametrize(
    ("kind", "kept", "shape"),
    [
        (np.float32, np.float32, (60, 5)),
        (np.float64, np.float64, (60, 16, 2)),
        (np.int16, np.int16, (60, 100)),
        (np.float16, np.float32, (60, 5)),
        (np.int64, np.float64, (60, 5)),
    ],
)
def test_an_npz_may_hold_rows_windows_or_clips_of_sound(kind, kept, shape, tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(0, 99, shape).astype(kind)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(60) % 2, classes=np.array(["calm", "odd"]))
    dataset = load(f"npz:{tmp_path / 'd.npz'}")
    assert dataset.images.dtype == kept
    assert not dataset.pictures
    np.testing.assert_array_equal(dataset.images, x)
    splits = load_splits(f"npz:{tmp_path / 'd.npz'}", seed=1)
    assert sum(len(part) for part in (splits.train, splits.validation, splits.calibration, splits.test)) == 60


def test_a_truncated_npz_is_refused(tmp_path: Path) -> None:
    stripes_npz(tmp_path / "d.npz", 60)
    whole = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "d.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"d\.npz is not a usable"):
        load(f"npz:{tmp_path / 'd.npz'}")


def claiming(shape: str) -> bytes:
    """Return an array of little content whose header claims a shape."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(64)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (claiming("(10000000000000, 6)"), "not a usable .npz file: Unable to allocate"),
        (claiming("(99999999999999999999, 6)"), "not a usable .npz file: "),
        (claiming("(-4, 6)"), "not a usable .npz file: "),
        (claiming("(400, 6)"), "not a usable .npz file: EOF"),
        (b"hello", "not a usable .npz file: x is no array"),
    ],
)
def test_an_array_that_is_not_what_it_claims_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", content)
        archive.writestr("y.npy", claiming("(16,)"))
    with pytest.raises(DataError, match=says):
        load(f"npz:{tmp_path / 'd.npz'}")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (6, 1),  # encrypted
        (8, 99),  # packed in a way that nobody knows
        (60, 0xFF),  # packed wrongly
    ],
)
def test_an_archive_that_cannot_be_unpacked_is_refused(place: int, value: int, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "d.npz", x=np.ones((60, 6), np.float32), y=np.arange(60) % 2)
    whole = bytearray((tmp_path / "d.npz").read_bytes())
    whole[place] = value
    if place < 10:
        whole[whole.find(b"PK\x01\x02") + place + 2] = value  # the directory says the same
    (tmp_path / "d.npz").write_bytes(whole)
    with pytest.raises(DataError, match=r"d\.npz is not a usable \.npz file"):
        load(f"npz:{tmp_path / 'd.npz'}")


def test_a_cifar_index_that_points_outside_the_file_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path, "train", 60, seed=1)
    write_cifar(tmp_path, "test", 20, seed=2)
    (tmp_path / "train.jpegs").write_bytes((tmp_path / "train.jpegs").read_bytes()[:-10])
    with pytest.raises(DataError, match=r"points outside train\.jpegs"):
        load_splits(f"cifar10:{tmp_path}")


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(DataError, match="limit is 0"):
        load_splits("mnist", limit=0)
