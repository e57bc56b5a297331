"""The repository on disk: keys, roles, bundles, assignments."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Targets

from edge_sdk.bundle import Bundle
from edge_sdk.cloud.ota.repository import Lifetimes, Repository
from edge_sdk.errors import BundleError, InputError, StorageError
from outside.updates import make_bundle, spoil_golden


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.init(tmp_path / "repository", bins=4)


def test_the_root_needs_two_of_three_keys_and_is_signed_by_them(repository: Repository) -> None:
    root = Metadata[Root].from_file(str(repository.root_path)).signed
    assert root.roles["root"].threshold == 2
    assert len(root.roles["root"].keyids) == 3
    assert root.consistent_snapshot
    online = set(root.roles["snapshot"].keyids) | set(root.roles["timestamp"].keyids)
    assert not online & (set(root.roles["root"].keyids) | set(root.roles["targets"].keyids))


def test_keys_can_be_read_by_their_owner_only(repository: Repository) -> None:
    keys = repository.folder / "keys"
    assert keys.stat().st_mode & 0o777 == 0o700
    files = {path.name: path.stat().st_mode & 0o777 for path in keys.iterdir()}
    assert set(files.values()) == {0o600}
    assert set(files) == {
        f"{name}.pem" for name in ("root-1", "root-2", "root-3", "targets", "publisher", "assignments", "online")
    }


def test_a_passphrase_encrypts_the_offline_keys_and_add_needs_it(tmp_path: Path) -> None:
    Repository.init(tmp_path / "r", keys=tmp_path / "safe", passphrase="correct horse", bins=2)
    encrypted = {path.stem for path in (tmp_path / "safe").iterdir() if b"ENCRYPTED" in path.read_bytes()}
    assert encrypted == {"root-1", "root-2", "root-3", "targets", "publisher"}
    bundle = make_bundle(tmp_path, "1.0.0")
    with pytest.raises(InputError, match="is encrypted"):
        Repository.open(tmp_path / "r", keys=tmp_path / "safe").add(bundle)
    with pytest.raises(InputError, match="wrong passphrase"):
        Repository.open(tmp_path / "r", keys=tmp_path / "safe", passphrase="battery").add(bundle)
    Repository.open(tmp_path / "r", keys=tmp_path / "safe", passphrase="correct horse").add(bundle)
    Repository.open(tmp_path / "r", keys=tmp_path / "safe").assign("cam-1", "tiny-1.0.0")
    with pytest.raises(InputError, match="is not here"):
        Repository.open(tmp_path / "r").assign("cam-1", "tiny-1.0.0")


@pytest.mark.parametrize("options", [{"threshold": 1}, {"root_keys": 1}, {"bins": 3}, {"bins": 1}, {"threshold": 4}])
def test_a_weak_or_impossible_setup_is_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(InputError):
        Repository.init(tmp_path / "r", **options)
    assert not (tmp_path / "r").exists()


def test_a_repository_is_never_made_over_another(repository: Repository) -> None:
    with pytest.raises(InputError, match="holds a repository already"):
        Repository.init(repository.folder)


def test_a_folder_without_a_repository_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="edge-sdk ota init"):
        Repository.open(tmp_path)


def test_a_target_lists_the_hash_of_each_block(repository: Repository, tmp_path: Path) -> None:
    path = make_bundle(tmp_path, "1.0.0", golden_kib=300)
    target = repository.add(path)
    assert target.block_bytes == 122_880
    assert len(target.blocks) == -(-path.stat().st_size // 122_880) > 2
    assert target.bundle_digest == Bundle.open(path).digest
    assert repository.bundles() == {"tiny-1.0.0": target}
    assert repository.target_file("tiny-1.0.0").read_bytes() == path.read_bytes()


def test_targets_are_spread_over_hashed_bins(repository: Repository, tmp_path: Path) -> None:
    for patch in range(6):
        repository.add(make_bundle(tmp_path, f"1.0.{patch}"))
    top = json.loads((repository.folder / "metadata" / "1.targets.json").read_bytes())["signed"]
    assert top["targets"] == {}
    assert {role["name"]: role["paths"] for role in top["delegations"]["roles"]} == {
        "bundles": ["bundles/*"],
        "assignments": ["assignments/*"],
    }
    assert len(repository.bundles()) == 6


def test_the_same_bytes_may_be_added_again_but_a_version_never_changes(repository: Repository, tmp_path: Path) -> None:
    path = make_bundle(tmp_path, "1.0.0")
    repository.add(path)
    before = repository.timestamp_version
    repository.add(path)
    assert repository.timestamp_version == before
    with pytest.raises(InputError, match="give the bundle a new version"):
        repository.add(spoil_golden(path))


def test_wrong_golden_outputs_are_the_devices_business(repository: Repository, tmp_path: Path) -> None:
    repository.add(spoil_golden(make_bundle(tmp_path, "1.0.0")))


def test_a_damaged_bundle_is_not_signed(repository: Repository, tmp_path: Path) -> None:
    path = make_bundle(tmp_path, "1.0.0")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError):
        repository.add(path)
    with pytest.raises(InputError, match="there is no bundle"):
        repository.add(tmp_path / "missing.edge")
    assert repository.bundles() == {}


def test_counters_grow_with_each_assignment_of_a_device(repository: Repository, tmp_path: Path) -> None:
    repository.add(make_bundle(tmp_path, "1.0.0"))
    counters = [repository.assign(device, "tiny-1.0.0").counter for device in ("a", "a", "b", "a")]
    assert counters == [1, 2, 1, 3]
    assert {device: a.counter for device, a in repository.assignments().items()} == {"a": 3, "b": 1}


def test_only_what_was_added_can_be_assigned(repository: Repository) -> None:
    with pytest.raises(InputError, match="add its bundle first"):
        repository.assign("cam-1", "tiny-1.0.0")
    with pytest.raises(InputError, match="device id"):
        repository.assign("../cam", "tiny-1.0.0")


def test_refresh_signs_online_roles_at_half_of_their_life(tmp_path: Path) -> None:
    repository = Repository.init(tmp_path / "r", bins=2)
    assert not repository.refresh()
    short = Lifetimes(timestamp=timedelta(days=1), online=timedelta(days=90))
    again = Repository.open(repository.folder, lifetimes=short)  # 30 of 90 days are left to the assignments
    assert again.refresh()
    expiry = {row.role: row.expires for row in again.status()}
    assert expiry["assignments"] > datetime.now(UTC) + timedelta(days=89)
    assert expiry["assignments-bin-1"] > datetime.now(UTC) + timedelta(days=89)
    assert not again.refresh()


def test_damaged_metadata_is_named(repository: Repository, tmp_path: Path) -> None:
    (repository.folder / "metadata" / "1.bundles.json").write_bytes(b"{}")
    with pytest.raises(StorageError, match="damaged"):
        repository.add(make_bundle(tmp_path, "1.0.0"))


def test_every_role_on_disk_is_signed_by_the_key_its_parent_names(repository: Repository, tmp_path: Path) -> None:
    repository.add(make_bundle(tmp_path, "1.0.0"))
    repository.assign("cam-1", "tiny-1.0.0")
    metadata = repository.folder / "metadata"
    root = Metadata[Root].from_file(str(repository.root_path)).signed
    for role in ("root", "targets"):
        signed = Metadata.from_file(str(metadata / f"1.{role}.json"))
        root.verify_delegate(role, signed.signed_bytes, signed.signatures)
    top = Metadata[Targets].from_file(str(metadata / "1.targets.json")).signed
    for row in repository.status():
        if row.role in {"root", "targets", "snapshot", "timestamp"}:
            continue
        signed = Metadata[Targets].from_file(str(metadata / f"{row.version}.{row.role}.json"))
        parent = top
        if "-bin-" in row.role:
            parent = Metadata[Targets].from_file(str(metadata / f"1.{row.role.split('-')[0]}.json")).signed
        parent.verify_delegate(row.role, signed.signed_bytes, signed.signatures)
