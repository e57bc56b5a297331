"""Metadata of JPEG files is taken out before they are sent; the picture is not touched."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_sdk.client.metadata import strip_jpeg
from edge_sdk.errors import EdgeSdkError, InputError
from edge_sdk.frames import as_frame
from outside.pictures import SECRET, picture


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}], ids=str)
def test_a_stripped_file_shows_the_same_picture_and_tells_nothing_else(
    orientation: int, options: dict[str, object]
) -> None:
    data = picture(orientation, **options)

    stripped = strip_jpeg(data)

    assert data.count(SECRET) == 5
    assert SECRET not in stripped
    assert np.array_equal(as_frame(stripped), as_frame(data))
    assert strip_jpeg(stripped) == stripped


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colour_models_keep_their_colours(mode: str) -> None:
    data = picture(mode=mode)

    assert np.array_equal(as_frame(strip_jpeg(data)), as_frame(data))


def test_only_the_orientation_of_exif_is_kept() -> None:
    exif = Image.open(io.BytesIO(strip_jpeg(picture(6)))).getexif()

    assert dict(exif) == {0x0112: 6}


def test_a_file_cut_short_anywhere_is_refused() -> None:
    whole = picture()[: -len(SECRET)]

    for size in range(len(whole)):
        with pytest.raises(InputError):
            strip_jpeg(whole[:size])


def test_what_is_no_jpeg_file_is_refused() -> None:
    with pytest.raises(InputError, match="JPEG file only"):
        strip_jpeg(b"\x89PNG\r\n\x1a\n")


@given(st.data())
def test_damaged_files_are_stripped_or_refused_but_nothing_else(data: st.DataObject) -> None:
    damaged = bytearray(picture())
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=8)):
        damaged[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(EdgeSdkError):
        assert strip_jpeg(bytes(damaged)).startswith(b"\xff\xd8")


def test_a_thumbnail_in_the_header_is_taken_out_and_components_named_like_colours_stay_what_they_are() -> None:
    data = picture()
    thumbnail = bytes([1, 1, 0, 0, 1, 0, 1, 4, 4]) + b"thumbnail" * 6
    jfif = b"\xff\xe0" + (len(thumbnail) + 7).to_bytes(2, "big") + b"JFIF\0" + thumbnail
    named = data[:2] + jfif + data[2:].replace(b"\xff\xe0", b"\xff\xef", 1)
    frame, scan = named.index(b"\xff\xc0"), named.rindex(b"\xff\xda")
    named = bytearray(named)
    for n, name in enumerate(b"RGB"):
        named[frame + 10 + 3 * n] = named[scan + 5 + 2 * n] = name

    stripped = strip_jpeg(bytes(named))

    assert b"thumbnail" not in stripped
    assert np.array_equal(as_frame(stripped), as_frame(bytes(named)))
