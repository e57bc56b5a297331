"""Writing a bundle and reading it again, as a file and as a folder."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk import canonical
from edge_sdk.bundle import Bundle, Manifest, write_bundle
from edge_sdk.bundle.archive import decode, encode
from edge_sdk.errors import BundleError, BundleFormatError, BundleIntegrityError, InputError, StorageError
from outside.disk import limited_file_size


def test_the_same_content_is_always_the_same_bytes(tmp_path, bundle):
    members = {name: bundle.read(name) for name in bundle.manifest.files}
    backwards = dict(reversed(members.items()))
    again = write_bundle(tmp_path / "again.edge", bundle.manifest, backwards)
    assert again.path.read_bytes() == bundle.path.read_bytes()
    assert again.digest == bundle.digest


def test_a_bundle_says_after_reading_what_was_written(bundle):
    opened = Bundle.open(bundle.path)
    assert opened.manifest == bundle.manifest
    assert Manifest.from_bytes(opened.manifest.to_bytes()) == bundle.manifest
    assert opened.manifest.lineage["épreuve"] == "ünïcode"
    assert opened.read("golden/input-001.npy") == b""
    assert opened.members[0] == "manifest.json"
    assert set(opened.members[1:]) == set(bundle.manifest.files)


def test_a_file_and_the_folder_it_was_unpacked_to_are_the_same_bundle(tmp_path, bundle):
    folder = bundle.unpack(tmp_path / "slots" / "deep" / "digits")
    assert folder.digest == bundle.digest
    assert folder.manifest == bundle.manifest
    assert {name: folder.read(name) for name in folder.members} == {name: bundle.read(name) for name in bundle.members}
    assert folder.file("model.tflite").read_bytes() == bundle.read("model.tflite")
    assert bundle.file("model.tflite") is None
    packed = write_bundle(tmp_path / "b.edge", folder.manifest, {n: folder.read(n) for n in folder.manifest.files})
    assert packed.path.read_bytes() == bundle.path.read_bytes()


def test_rewriting_changes_the_named_field_and_not_the_model_digest(tmp_path, bundle):
    cascade = {"format": 1, "threshold": 0.5}
    copy = bundle.rewrite(tmp_path / "copy.edge", cascade=cascade)
    assert copy.manifest.cascade == cascade
    assert copy.manifest.model_digest == bundle.manifest.model_digest
    assert copy.digest != bundle.digest
    assert copy.read("model.tflite") == bundle.read("model.tflite")


def test_the_standard_library_reads_our_archives(bundle):
    with zipfile.ZipFile(bundle.path) as standard:
        assert standard.testzip() is None
        assert standard.namelist() == list(bundle.members)
        assert {name: standard.read(name) for name in standard.namelist()} == {
            name: bundle.read(name) for name in bundle.members
        }
        assert json.loads(standard.read("manifest.json"))["name"] == "digits"


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"(golden/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True), st.binary(max_size=99)
    )
)
def test_any_members_survive_the_archive_and_are_read_alike_by_zipfile(members):
    archive = encode({"manifest.json": b"{}", **members})
    assert {name: bytes(data) for name, data in decode(archive).items()} == {"manifest.json": b"{}", **members}
    with zipfile.ZipFile(io.BytesIO(archive)) as standard:
        assert {name: standard.read(name) for name in standard.namelist()} == {"manifest.json": b"{}", **members}


def test_an_unknown_member_is_refused_with_those_that_are_there(bundle):
    with pytest.raises(InputError, match=r"no member 'x'.*model\.tflite"):
        bundle.read("x")


def test_an_unfinished_folder_without_its_manifest_is_refused(tmp_path, bundle):
    bundle.unpack(tmp_path / "slot")
    (tmp_path / "slot" / "manifest.json").unlink()
    with pytest.raises(BundleFormatError, match=r"slot: manifest\.json is missing"):
        Bundle.open(tmp_path / "slot")


@pytest.mark.parametrize("member", ["model.tflite", "golden/input-000.npy", "MODEL_CARD.md"])
def test_a_folder_with_a_missing_an_added_or_a_changed_file_is_refused(tmp_path, bundle, member):
    folder = tmp_path / "slot"
    bundle.unpack(folder)
    original = (folder / member).read_bytes()
    (folder / member).write_bytes(original[:-1] + b"?")
    with pytest.raises(BundleIntegrityError, match=f"member {member} is damaged"):
        Bundle.open(folder)
    (folder / member).unlink()
    with pytest.raises(BundleIntegrityError, match=f"member {member} is missing"):
        Bundle.open(folder)
    (folder / member).write_bytes(original)
    (folder / "more").write_bytes(b"")
    with pytest.raises(BundleIntegrityError, match="member more is not in the manifest"):
        Bundle.open(folder)


def test_a_folder_with_a_link_is_refused(tmp_path, bundle):
    folder = tmp_path / "slot"
    bundle.unpack(folder)
    (folder / "model.tflite").rename(tmp_path / "elsewhere")
    (folder / "model.tflite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleFormatError, match="is a link"):
        Bundle.open(folder)


def test_what_is_not_a_file_or_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no bundle at"):
        Bundle.open(tmp_path / "none.edge")
    with pytest.raises(StorageError, match="cannot read"):
        Bundle.open(tmp_path / ("n" * 300))
    os.mkfifo(tmp_path / "pipe.edge")
    with pytest.raises(BundleFormatError, match="neither a file nor a folder"):
        Bundle.open(tmp_path / "pipe.edge")


def test_unpacking_twice_into_one_folder_is_refused_and_leaves_it_alone(tmp_path, bundle):
    bundle.unpack(tmp_path / "slot")
    with pytest.raises(StorageError, match="cannot create the folder"):
        bundle.unpack(tmp_path / "slot")
    assert Bundle.open(tmp_path / "slot").digest == bundle.digest


def test_a_bundle_whose_manifest_does_not_describe_its_members_is_never_written(tmp_path, bundle):
    members = {name: bundle.read(name) for name in bundle.manifest.files}
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "other.edge", bundle.manifest, members | {"model.tflite": b"another model"})
    with pytest.raises(BundleError, match=r"manifest\.name"):
        write_bundle(tmp_path / "other.edge", replace(bundle.manifest, name="../up"), members)
    assert list(tmp_path.glob("*other*")) == []


def test_a_write_that_fails_midway_leaves_the_old_file_and_nothing_else(tmp_path, bundle):
    members = {name: bundle.read(name) for name in bundle.manifest.files}
    before = bundle.path.read_bytes()
    with limited_file_size(500), pytest.raises(StorageError, match="cannot write"):
        write_bundle(bundle.path, replace(bundle.manifest, version="2.0.0"), members)
    assert bundle.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [bundle.path.name]


def test_unpacking_that_fails_midway_leaves_no_folder(tmp_path, bundle):
    with limited_file_size(100), pytest.raises(StorageError, match="cannot write"):
        bundle.unpack(tmp_path / "slot")
    assert not (tmp_path / "slot").exists()


def test_a_full_disk_leaves_nothing_half_written(full_disk, bundle):
    members = {name: bundle.read(name) for name in bundle.manifest.files} | {"large": bytes(100_000)}
    with pytest.raises(StorageError, match="No space left on device"):
        write_bundle(full_disk / "large.edge", bundle.manifest, members)
    assert list(full_disk.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(read_only_folder, unmakeable_path, bundle):
    members = {name: bundle.read(name) for name in bundle.manifest.files}
    for path in (read_only_folder / "x.edge", unmakeable_path / "x.edge"):
        with pytest.raises(StorageError, match=str(path)):
            write_bundle(path, bundle.manifest, members)
        with pytest.raises(StorageError, match=str(path)):
            bundle.unpack(path)
    assert list(read_only_folder.iterdir()) == []


def test_the_digest_is_that_of_the_manifest(bundle):
    assert bundle.digest == canonical.sha256(bundle.read("manifest.json"))
