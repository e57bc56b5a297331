"""What an app may hand over as a picture, and what it may not."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_sdk.errors import InputError
from edge_sdk.frames import MAX_PIXELS, as_frame, decode_image

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return the start of a PNG that claims a size and holds no pixels."""
    body = b"IHDR" + struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    begin = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return begin + struct.pack(">I", 1 << 20) + b"IDAT"


def test_an_array_is_taken_as_it_is_and_not_copied():
    assert as_frame(PIXELS) is PIXELS
    assert as_frame(PIXELS[..., 0]).shape == (20, 30)
    assert as_frame(PIXELS[::2, ::2]).base is PIXELS


def test_path_text_bytes_and_pillow_image_give_the_same_pixels(tmp_path):
    data = encoded(PIXELS)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for frame in (path, str(path), data, bytearray(data), memoryview(data), Image.open(path), Image.fromarray(PIXELS)):
        np.testing.assert_array_equal(as_frame(frame), PIXELS)


def test_grey_stays_grey_and_everything_else_becomes_rgb():
    grey = PIXELS[..., 0]
    np.testing.assert_array_equal(as_frame(encoded(grey)), grey)
    alpha = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 7, np.uint8)])
    np.testing.assert_array_equal(as_frame(encoded(alpha)), PIXELS)
    palette = Image.fromarray(PIXELS).quantize(8)
    assert as_frame(palette).shape == (20, 30, 3)
    assert as_frame(Image.fromarray(PIXELS).convert("CMYK")).shape == (20, 30, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_the_kinds_of_files_that_are_promised_are_read(kind):
    smooth = np.full((16, 16, 3), 90, np.uint8)
    got = as_frame(encoded(smooth, kind))
    assert np.abs(got.astype(int) - 90).max() <= 3


def test_a_large_picture_that_is_upright_is_not_copied_to_turn_it():
    program = (
        "import io, resource, PIL.Image\n"
        "from edge_sdk.frames import as_frame\n"
        "file = io.BytesIO()\n"
        "PIL.Image.new('RGB', (8000, 6000)).save(file, 'PNG')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "as_frame(file.getvalue())\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 2 * 8000 * 6000 * 4  # a copy of the pixels would be one more


def test_a_turned_photograph_is_set_upright_however_it_comes(tmp_path):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    Image.fromarray(PIXELS).save(path, exif=exif)
    upright = np.rot90(PIXELS, -1)
    for frame in (path, path.read_bytes(), Image.open(path)):
        np.testing.assert_array_equal(as_frame(frame), upright)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (PIXELS.astype(np.float32), "uint8, not float32"),
        (PIXELS.astype(np.int16), "uint8, not int16"),
        (PIXELS[None], "not \\[1, 20, 30, 3\\]"),
        (PIXELS[0, 0], "not \\[3\\]"),
        (np.zeros((4, 4, 2), np.uint8), "not \\[4, 4, 2\\]"),
        (np.zeros((0, 4, 3), np.uint8), "is empty"),
        (np.zeros((4, 0), np.uint8), "is empty"),
        (None, "not NoneType"),
        ([[1, 2], [3, 4]], "not list"),
        (7, "not int"),
        (b"", "not a picture"),
        (b"hello, this is text", "not a picture of a kind that is known"),
        (b"%PDF-1.7 " * 20, "not a picture of a kind that is known"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(frame, why):
    with pytest.raises(InputError, match=why):
        as_frame(frame)


def test_a_broadcast_array_over_the_pixel_limit_is_refused():
    with pytest.raises(InputError, match="over the limit"):
        as_frame(np.broadcast_to(np.uint8(1), (MAX_PIXELS // 8 + 1, 8)))


@pytest.mark.parametrize("size", [(8001, 8000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(size):
    with pytest.raises(InputError, match=r"over the limit|decompression bomb"):
        decode_image(png_header(*size), "bomb")


def test_a_pillow_image_of_too_many_pixels_is_refused_before_it_is_decoded():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        lazy = Image.open(io.BytesIO(png_header(9000, 9000)))
    with pytest.raises(InputError, match="9000 x 9000 pixels are over the limit"):
        as_frame(lazy)


def test_a_truncated_jpeg_is_refused_however_it_comes(tmp_path):
    data = encoded(PIXELS, "JPEG")
    cut = data[:-100]
    (tmp_path / "cut.jpg").write_bytes(cut)
    with pytest.raises(InputError, match="can be decoded"):
        as_frame(cut)
    with pytest.raises(InputError, match=r"cut\.jpg: not a picture that can be decoded"):
        as_frame(tmp_path / "cut.jpg")
    with Image.open(tmp_path / "cut.jpg") as lazy, pytest.raises(InputError, match="can be decoded"):
        as_frame(lazy)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_pixels_of_more_than_eight_bits_are_refused_and_not_clipped_to_white(dtype):
    deep = Image.fromarray((np.arange(64).reshape(8, 8) * 1000).astype(dtype))
    with pytest.raises(InputError, match="more than 8 bits"):
        as_frame(deep)
    stream = io.BytesIO()
    deep.save(stream, "TIFF")
    with pytest.raises(InputError, match="more than 8 bits"):
        as_frame(stream.getvalue())


def test_a_path_that_cannot_be_read_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path / "none.png", "No such file"),
        (tmp_path, "not a file"),
        (tmp_path / "pipe", "not a file"),
        (tmp_path / ("n" * 300), "too long"),
    ):
        with pytest.raises(InputError, match=why):
            as_frame(path)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]))
def test_a_damaged_picture_is_decoded_or_refused_and_nothing_else(data, kind):
    whole = bytearray(encoded(PIXELS, kind))
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pillow's remarks on damaged metadata
        try:
            frame = decode_image(bytes(whole[: data.draw(st.integers(1, len(whole)))]), "damaged", max_pixels=10_000)
        except InputError:
            return
    assert frame.dtype == np.uint8


def test_decoding_in_many_threads_leaves_the_filters_of_warnings_as_they_were():
    before = list(warnings.filters)
    data = encoded(PIXELS)
    threads = [threading.Thread(target=lambda: [as_frame(data) for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
