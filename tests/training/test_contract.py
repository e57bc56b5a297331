"""A data contract holds for the data it was written from, and names what other data break."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from learning import stripes, stripes_splits

from edge_sdk.cloud.training.contract import Contract, enforce
from edge_sdk.cloud.training.profiling import profile
from edge_sdk.datasets import Dataset, Splits, split
from edge_sdk.errors import DataError


def contract() -> Contract:
    return Contract.of(profile(stripes_splits()))


def changed(part: str, images: np.ndarray, labels: np.ndarray | None = None) -> Splits:
    """Return the stripes with other images in one split."""
    splits = stripes_splits()
    old = getattr(splits, part)
    return replace(splits, **{part: Dataset(images, old.labels if labels is None else labels, old.classes)})


def train_images() -> np.ndarray:
    return np.array(stripes_splits().train.images)


def test_data_keep_the_contract_written_from_them_and_from_another_draw_of_them() -> None:
    assert contract().check(profile(stripes_splits())) == []
    other = split(stripes(500, seed=9), spec="other stripes")
    assert contract().check(profile(other)) == []


def test_a_profile_says_what_is_there() -> None:
    found = profile(stripes_splits())
    assert (found.dtype, found.shape, found.images) == ("uint8", (12, 12, 1), 500)
    assert sum(found.shares) == pytest.approx(1.0)
    flat = np.asarray(stripes_splits().train.images, np.float64)
    assert found.means == pytest.approx((flat.mean(),))
    assert found.deviations == pytest.approx((flat.std(),))
    assert (found.missing, found.blank, found.duplicates, found.conflicts, found.leaks) == (0.0, 0.0, 0.0, 0, 0)


def test_other_classes_are_named() -> None:
    splits = stripes_splits()
    parts = {
        name: replace(getattr(splits, name), classes=("a", "b", "c"))
        for name in ("train", "validation", "calibration", "test")
    }
    assert contract().check(profile(replace(splits, **parts))) == ["the classes are a, b, c, not across, down, plain"]


def test_a_darker_camera_breaks_the_mean() -> None:
    (sentence,) = contract().check(profile(changed("train", train_images() // 2)))
    assert sentence.startswith("the mean of channel 0 is")


def test_a_lens_cap_breaks_the_share_of_blank_images() -> None:
    images = train_images()
    images[: len(images) // 10] = 118
    broken = contract().check(profile(changed("train", images)))
    assert any("are blank" in sentence for sentence in broken)
    assert any("repeat another one" in sentence for sentence in broken)


def test_labels_that_drift_are_named_by_class() -> None:
    labels = np.where(np.arange(len(stripes_splits().train)) % 5 < 4, 2, stripes_splits().train.labels)
    broken = contract().check(profile(changed("train", train_images(), labels)))
    assert any("of class 'plain'" in sentence for sentence in broken)


def test_a_test_image_in_training_is_a_leak_and_with_another_label_a_conflict() -> None:
    images, labels = train_images(), stripes_splits().train.labels.copy()
    images[0] = stripes_splits().test.images[0]
    labels[0] = (stripes_splits().test.labels[0] + 1) % 3
    found = profile(changed("train", images, labels))
    assert (found.leaks, found.conflicts) == (1, 1)
    broken = contract().check(found)
    assert "1 inputs occur under two labels, more than 0" in broken
    assert "1 inputs of other splits occur in training, more than 0" in broken


def test_a_copy_that_is_brighter_and_noisier_is_found_to_be_near() -> None:
    splits = stripes_splits()
    rng = np.random.default_rng(0)
    large = np.repeat(np.repeat(rng.integers(40, 200, (len(splits.train), 8, 8, 1)), 4, 1), 4, 2).astype(np.uint8)
    noise = rng.integers(0, 4, (len(splits.test), 32, 32, 1))
    parts = {"train": Dataset(large, splits.train.labels, splits.classes)}
    for name in ("validation", "calibration"):
        old = getattr(splits, name)
        other = np.repeat(np.repeat(rng.integers(40, 200, (len(old), 8, 8, 1)), 4, 1), 4, 2).astype(np.uint8)
        parts[name] = Dataset(other, old.labels, splits.classes)
    copies = (large[: len(splits.test)] + 20 + noise).astype(np.uint8)
    found = profile(replace(splits, **parts, test=Dataset(copies, splits.test.labels, splits.classes)))
    rest = len(splits.test) + len(splits.validation) + len(splits.calibration)
    assert found.leaks == 0
    assert found.near == pytest.approx(len(splits.test) / rest)


def test_missing_values_of_a_sensor_are_counted_and_bounded() -> None:
    rng = np.random.default_rng(0)
    windows = rng.normal(size=(200, 20, 3)).astype(np.float32)
    labels = (np.arange(200) % 2).astype(np.int64)
    clean = split(Dataset(windows, labels, ("still", "moving")))
    bounds = Contract.of(profile(clean))
    assert bounds.check(profile(clean)) == []
    holes = windows.copy()
    holes[::10, 0, 0] = np.nan
    found = profile(split(Dataset(holes, labels, ("still", "moving"))))
    assert found.missing == pytest.approx(20 / holes.size)
    assert any("are missing" in sentence for sentence in bounds.check(found))
    wild = windows.copy()
    wild[0, 0, 0] = 1e6
    assert any(
        "values of column 'x0' are from" in s
        for s in bounds.check(profile(split(Dataset(wild, labels, ("still", "moving")))))
    )


def test_a_shape_may_vary_where_the_contract_says_so() -> None:
    bounds = contract()
    taller = split(stripes(500, side=16), spec="taller")
    assert any("have the shape 16 x 16 x 1, not 12 x 12 x 1" in sentence for sentence in bounds.check(profile(taller)))
    free = replace(bounds, shape=(None, None, 1), near=1.0)
    assert free.check(profile(taller)) == []


def test_a_contract_survives_its_file(tmp_path: Path) -> None:
    contract().write(tmp_path / "c.json")
    assert Contract.read(tmp_path / "c.json") == contract()
    assert Contract.read(tmp_path / "c.json").digest == contract().digest


def test_data_that_break_it_are_refused_with_every_reason() -> None:
    with pytest.raises(DataError, match=r"stripes breaks its contract: the mean .*; 500 inputs|500 inputs.*; the mean"):
        enforce(replace(contract(), images=1000), changed("train", train_images() // 2))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "expected an object of format 1"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"least": "low"}, "least is 'low', which is no number"),
        ({"shares": [[0.1, 0.2]]}, "shares should be 3 pairs"),
        ({"means": [3]}, "means holds 3, which is no pair"),
        ({"classes": [1, 2, 3]}, "classes holds 1, which is no name"),
        ({"dtype": "nonsense"}, "nonsense"),
    ],
)
def test_a_file_that_is_no_contract_is_refused(change: dict[str, object], says: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({**contract().to_json(), **change}))
    with pytest.raises(DataError, match=says):
        Contract.read(tmp_path / "c.json")


def test_a_contract_that_is_not_there_or_lacks_a_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        Contract.read(tmp_path / "none.json")
    values = contract().to_json()
    del values["near"]
    (tmp_path / "c.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="field 'near' is not there"):
        Contract.read(tmp_path / "c.json")
