"""As what pictures are sent: names that certificates hold, and what the cloud then sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.encodings import JPEG_QUALITY, Reduction, SentAs
from edge_sdk.errors import InputError
from edge_sdk.frames import decode_image
from edge_sdk.processing import Color, Crop, DeviceProcessor, Layout, Normalize, ProcessingSpec, Resize
from outside.bundles import tiny_images

PICTURE = tiny_images(1, 0, side=40)[0][0]


SHARES = st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True).map(sorted)


@given(st.none() | st.integers(1, 100), st.none() | st.integers(1, 99_999), SHARES, SHARES)
def test_a_name_is_read_as_it_was_written(quality, side, rows, columns):
    sent = SentAs(quality, Reduction(side, (rows[0], columns[0], rows[1], columns[1])))
    assert SentAs.parse(str(sent)) == sent
    assert SentAs.parse(str(SentAs(quality))) == SentAs(quality)


def test_several_names_are_read_though_regions_have_commas_too():
    names = ("captured", "jpeg:60+region:0.0,0.0,0.5,1.0", "resized+side:5")
    assert tuple(map(str, SentAs.parse_all(",".join(names)))) == names
    assert SentAs.parse_all(names) == SentAs.parse_all(", ".join(names))


def test_a_resized_picture_has_the_size_of_the_clouds_model():
    spec = ProcessingSpec((Color("rgb"), Crop(), Resize(8, 6), Normalize((0.0,) * 3, (255.0,) * 3), Layout("NCHW")))
    seen, size = SentAs.parse("resized").send(PICTURE, spec)
    assert (seen.shape, seen.dtype, size) == ((8, 6, 3), np.uint8, 8 * 6 * 3)
    whole = np.moveaxis(DeviceProcessor(spec)(PICTURE)[0], 0, -1) * 255
    assert np.abs(seen - whole).max() <= 0.501, "half a level is rounded"
    with pytest.raises(InputError, match="the cloud's own processing"):
        SentAs.parse("resized").send(PICTURE)


def test_what_is_taken_off_is_named_and_not_seen():
    sent = SentAs.parse("captured+side:5+region:0.5,0,1,1")
    assert str(sent) == "captured+side:5+region:0.5,0.0,1.0,1.0"
    seen, size = sent.send(PICTURE)
    assert seen.shape == (2, 5, 3)
    assert size == seen.nbytes


@pytest.mark.parametrize(
    "name",
    [
        "captured+",
        "captured+side",
        "captured+side:0",
        "captured+side:9999999",
        "captured+region:0,0,1",
        "captured+region:0,0,nan,1",
        "captured+region:0.5,0,0.5,1",
        "captured+region:0,0,1,1e9",
        "captured+blur:3",
    ],
)
def test_what_cannot_be_taken_off_is_refused(name):
    with pytest.raises(InputError, match=r"should be"):
        SentAs.parse(name)


@pytest.mark.parametrize(
    "name", ["", "png", "jpeg:", "jpeg:0", "jpeg:101", "jpeg:9.5", "jpeg:²", "captured:1", "jpeg:" + "9" * 5000]
)
def test_any_other_name_is_refused(name):
    with pytest.raises(InputError, match="it should be"):
        SentAs.parse(name)


def test_captured_is_every_pixel():
    seen, size = SentAs().send(PICTURE)
    assert seen is PICTURE
    assert size == PICTURE.nbytes


@pytest.mark.parametrize("shape", [(40, 40), (40, 40, 1), (40, 40, 3), (40, 40, 4)])
def test_jpeg_loses_the_more_the_lower_its_quality_is(shape):
    pytest.importorskip("PIL")
    picture = np.resize(PICTURE, shape) if len(shape) == 2 or shape[2] != 4 else np.dstack([PICTURE, PICTURE[..., :1]])
    wanted = picture if picture.ndim == 2 else picture[..., :3].squeeze()
    errors, sizes = [], []
    for quality in (100, JPEG_QUALITY, 50, 10):
        seen, size = SentAs(quality).send(picture)
        assert seen.dtype == np.uint8
        assert seen.shape == wanted.shape
        errors.append(np.abs(seen.astype(int) - wanted).mean())
        sizes.append(size)
    assert errors == sorted(errors)
    assert errors[0] < errors[-1]
    assert sizes == sorted(sizes, reverse=True)


def test_the_cloud_sees_what_was_sent():
    pytest.importorskip("PIL")
    from edge_sdk.encodings import encode_jpeg

    np.testing.assert_array_equal(SentAs(60).send(PICTURE)[0], decode_image(encode_jpeg(PICTURE, 60), "x"))
