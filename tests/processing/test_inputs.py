"""What apps have becomes what processing takes, and samples are what processing takes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edge_sdk.errors import InputError
from edge_sdk.inputs import as_input
from edge_sdk.processing import DeviceProcessor, ProcessingSpec, samples

IMAGE = ProcessingSpec.image(8, 6, 3)


@pytest.mark.parametrize("spec", [IMAGE, ProcessingSpec.image(8, 6, 1, order="NCHW")], ids=lambda spec: spec.modality)
def test_samples_are_seeded_unlike_each_other_and_processed_as_they_are(spec):
    first, again, other = samples(spec, 3), samples(spec, 3), samples(spec, 3, seed=1)
    assert len(first) == 3
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])
    for one in first:
        assert as_input(spec, one) is one
        assert DeviceProcessor(spec)(one).shape == spec.output_shape


def test_a_picture_is_read_as_a_frame():
    assert IMAGE.modality == "image"
    with pytest.raises(InputError, match="a frame should be a uint8 array"):
        as_input(IMAGE, {"width": 3})


ROW = ProcessingSpec.table(["heat", "mode"], categories={"mode": ["idle", "run"]}, impute=20)


@pytest.mark.parametrize("text", ['{"heat": 3, "mode": "run"}', '{"mode": "run", "heat": 3.0}', "[3, 1]"])
def test_a_row_is_read_from_json_as_it_is_from_python(tmp_path, text):
    (tmp_path / "row.json").write_text(text)
    expected = DeviceProcessor(ROW)(as_input(ROW, json.loads(text)))
    for path in (tmp_path / "row.json", str(tmp_path / "row.json")):
        np.testing.assert_array_equal(DeviceProcessor(ROW)(as_input(ROW, path)), expected)


def test_a_window_is_read_from_npy(tmp_path):
    spec = ProcessingSpec.sensor(["x", "y"], 3)
    window = np.arange(6.0).reshape(3, 2)
    np.save(tmp_path / "window.npy", window)
    np.testing.assert_array_equal(as_input(spec, tmp_path / "window.npy"), window)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("row.json", b"{", "cannot read .*row.json: Expecting property name"),
        ("row.json", b"[" * 100_000, "cannot read .*row.json: "),
        ("row.json", b"\xff", "cannot read .*row.json: "),
        ("row.json", b'"text"', "a table should be an array of numbers"),
        ("row.npy", b"", "cannot read .*row.npy: "),
        ("row.npy", b"\x80\x04N.", "cannot read .*row.npy: "),
        ("row.csv", b"3,run", "a table is read from a .json or .npy file"),
        ("missing.json", None, "cannot read .*missing.json: "),
    ],
)
def test_a_file_that_holds_no_table_is_refused_with_its_name(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        as_input(ROW, tmp_path / name)
