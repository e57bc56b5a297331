"""Archives that someone made to hurt, and archives that time has hurt."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_sdk.bundle import Bundle
from edge_sdk.bundle.archive import MAX_MEMBERS, decode, encode
from edge_sdk.errors import BundleError, BundleFormatError

MEMBERS = {"manifest.json": b"{}", "model.onnx": b"weights", "readme": b"text"}


def entry(name: bytes, data: bytes, **fields: int) -> tuple[bytes, bytes]:
    """Return the local header with data, and the directory entry without its offset, of one member."""
    f = {"flags": 0x800, "method": 0, "crc": zlib.crc32(data), "packed": len(data), "size": len(data)} | fields
    date = (1 << 5) | 1
    common = (f["flags"], f["method"], 0, date, f["crc"], f["packed"], f["size"], len(name))
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", f.get("needs", 20), *common, 0) + name + data
    mode = f.get("mode", 0o100644) << 16
    made_by = (3 << 8) | 20
    central = struct.pack("<4s6H3I5H1I", b"PK\x01\x02", made_by, 20, *common, 0, 0, 0, 0, mode)
    return local, central


def archive_of(*entries: tuple[bytes, bytes, bytes]) -> bytes:
    """Return a zip of (local, central, name) parts with offsets and end record filled in."""
    body, directory = b"", b""
    for local, central, name in entries:
        directory += central + struct.pack("<I", len(body)) + name
        body += local
    count = len(entries)
    return body + directory + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), 0)


def member(name: bytes, data: bytes, **fields: int) -> tuple[bytes, bytes, bytes]:
    local, central = entry(name, data, **fields)
    return local, central, name


GOOD = [member(name.encode(), data) for name, data in MEMBERS.items()]


def test_the_hand_made_archive_is_the_one_we_write():
    assert archive_of(*GOOD) == encode(MEMBERS)


def refused(archive: bytes, why: str) -> None:
    with pytest.raises(BundleFormatError, match=why):
        decode(archive)
    with pytest.raises(BundleError):
        Bundle.from_bytes(archive)


def test_a_name_that_is_there_twice_is_refused():
    refused(archive_of(*GOOD, member(b"readme", b"other")), "readme is there twice")


@pytest.mark.parametrize(
    "name",
    ["../up", "/etc/passwd", "a/b", "golden/../x", "golden/", "..", ".hidden", "a\\b", "C:x", "", "a\0b", "n" * 200],
)
def test_a_name_that_leads_elsewhere_is_refused(name):
    refused(archive_of(*GOOD, member(name.encode(), b"x")), "is not a member name")
    with pytest.raises(BundleFormatError, match="is not a member name"):
        encode({**MEMBERS, name: b"x"})


def test_a_name_that_is_not_ascii_is_refused():
    refused(archive_of(*GOOD, member("é".encode(), b"x")), "not ASCII")


def test_local_and_central_headers_that_differ_are_refused():
    local, central, name = member(b"readme", b"text")
    other, _, _ = member(b"readmf", b"text")
    refused(archive_of(*GOOD[:2], (other, central, name)), "local header of readme differs")
    longer, _, _ = member(b"readme", b"text", size=5)
    refused(archive_of(*GOOD[:2], (longer, central, name)), "local header of readme differs")
    refused(archive_of(*GOOD[:2], (b"PK\x03\x05" + local[4:], central, name)), "local header of readme differs")


def test_compressed_members_are_refused():
    packed = zlib.compress(b"text" * 100, wbits=-15)
    fields = {"method": 8, "crc": zlib.crc32(b"text" * 100), "size": 400}
    refused(archive_of(*GOOD[:2], member(b"readme", packed, **fields)), "a form that bundles do not use")


@pytest.mark.parametrize(
    "fields",
    [{"flags": 0x801}, {"flags": 0x808}, {"mode": 0o120777}, {"mode": 0o040755}, {"mode": 0o104755}, {"needs": 45}],
    ids=["encrypted", "data descriptor", "symbolic link", "folder", "setuid", "zip64 version"],
)
def test_encryption_links_folders_and_special_modes_are_refused(fields):
    refused(archive_of(*GOOD[:2], member(b"readme", b"text", **fields)), "readme")


def test_zip64_sizes_are_refused():
    refused(archive_of(*GOOD[:2], member(b"readme", b"text", packed=0xFFFFFFFF, size=0xFFFFFFFF)), "readme")
    end = bytearray(encode(MEMBERS))
    end[-6:-2] = b"\xff\xff\xff\xff"
    refused(bytes(end), "length is not what its directory says")


def test_bytes_after_before_and_between_members_are_refused():
    good = encode(MEMBERS)
    refused(good + b"\0", "truncated or has bytes appended")
    refused(good + good, "length is not what its directory says")
    refused(b"\0" + good, "does not begin like one")
    refused(good[:-2] + b"\x05\x00" + b"hello", "truncated or has bytes appended")  # an archive comment
    local, central, name = GOOD[1]
    refused(archive_of(GOOD[0], (local + b"gap", central, name), GOOD[2]), "a form that bundles do not use")


def test_overlapping_members_are_refused():
    first, second = GOOD[0], GOOD[1]
    body = first[0] + second[0]
    directory = b"".join(part[1] + struct.pack("<I", 0) + part[2] for part in (first, second))
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2, 2, len(directory), len(body), 0)
    refused(body + directory + end, "a form that bundles do not use")


def test_members_in_another_order_are_refused():
    refused(archive_of(GOOD[1], GOOD[0], GOOD[2]), "not in the order")


def test_a_wrong_checksum_is_refused():
    refused(archive_of(*GOOD[:2], member(b"readme", b"text", crc=1)), "readme is damaged")


def test_too_many_members_are_refused_when_read_and_when_written():
    many = {f"m{n:03d}": b"" for n in range(MAX_MEMBERS)}
    refused(archive_of(*(member(name.encode(), b"") for name in ["manifest.json", *many])), "over the limit of 256")
    with pytest.raises(BundleFormatError, match="over the limit of 256"):
        encode({"manifest.json": b"{}", **many})


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x03\x04", b"#!/bin/sh\n" * 10, bytes(100), encode({"a": b""})[:-1]])
def test_what_is_no_archive_is_refused(data):
    with pytest.raises(BundleFormatError):
        Bundle.from_bytes(data)


def test_an_archive_without_a_manifest_is_refused():
    with pytest.raises(BundleFormatError, match=r"manifest\.json is missing"):
        Bundle.from_bytes(encode({"readme": b""}))
    with pytest.raises(BundleFormatError):
        Bundle.from_bytes(encode({}))


# ---- chance


fuzz = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(data=st.data())
def test_one_changed_byte_anywhere_is_refused(archive, data):
    at = data.draw(st.integers(0, len(archive) - 1))
    mutated = bytearray(archive)
    mutated[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BundleError):
        Bundle.from_bytes(bytes(mutated))


@fuzz
@given(data=st.data())
def test_every_truncation_is_refused(archive, data):
    with pytest.raises(BundleError):
        Bundle.from_bytes(archive[: data.draw(st.integers(0, len(archive) - 1))])


@fuzz
@given(data=st.data())
def test_a_spliced_archive_is_refused_or_is_unchanged(archive, data):
    cuts = st.integers(0, len(archive))
    a, b, c, d = (data.draw(cuts) for _ in range(4))
    spliced = archive[:a] + data.draw(st.binary(max_size=64)) + archive[b:c] + archive[d:]
    if spliced != archive:
        with pytest.raises(BundleError):
            Bundle.from_bytes(spliced)


@fuzz
@given(
    names=st.lists(
        st.sampled_from(["manifest.json", "model.onnx", "a", "golden/x.npy", "é", "d/"]), max_size=4, unique=True
    ),
    content=st.binary(max_size=40),
    method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    year=st.sampled_from([1980, 2020]),
)
def test_archives_of_the_standard_library_are_refused_unless_they_are_ours_to_the_bit(names, content, method, year):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as standard:
        for name in names:
            standard.writestr(zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0)), content, method)
    made = stream.getvalue()
    try:
        members = {name: bytes(data) for name, data in decode(made).items()}
    except BundleFormatError:
        return
    assert encode(members) == made


@fuzz
@given(text=st.binary(max_size=200))
def test_a_manifest_of_random_bytes_is_refused(text):
    with pytest.raises(BundleError):
        Bundle.from_bytes(encode({"manifest.json": text}))
