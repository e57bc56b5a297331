"""The client workflow of TUF through the device's own verification path: what is fetched, taken, and refused.

Source: The Update Framework specification 1.0.34, section 5; the cases are those that the public
conformance suite asks about.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from outside.tuf_server import CLIENT, TOP_LEVEL, TufClient, TufServer, signer, soon

FIRST = dict.fromkeys(sorted(TOP_LEVEL), 1)
ORDER = [("root", 2), ("timestamp", None), ("snapshot", 1), ("targets", 1)]


def test_the_program_itself_refreshes_downloads_and_refuses(server: TufServer, tmp_path: Path) -> None:
    assert os.access(CLIENT, os.X_OK)
    client = TufClient(tmp_path, server)
    run = client.run
    client.run = lambda *arguments: run(*arguments, program=True)
    server.add_file("a/file.txt", b"content")
    server.update("targets")
    assert client.init() == 0
    assert client.refresh() == 0
    assert client.download("a/file.txt") == 0
    assert client.downloaded() == [b"content"]
    assert client.download("nothing") == 1


def test_a_refresh_asks_for_each_role_once_and_in_order(server: TufServer, client: TufClient) -> None:
    assert client.refresh() == 0
    assert server.asked == ORDER
    assert client.trusted() == FIRST


def test_a_download_refreshes_first(server: TufServer, client: TufClient) -> None:
    assert client.download("nothing") == 1
    assert server.asked == ORDER
    assert client.trusted() == FIRST


def test_what_is_trusted_is_kept_byte_for_byte(server: TufServer, client: TufClient) -> None:
    server.update("targets")
    server.publish("root")
    assert client.refresh() == 0
    for role in TOP_LEVEL:
        assert (client.metadata / f"{role}.json").read_bytes() == server.published[role][-1]


@pytest.mark.parametrize("damage", ["field", "signature", "text"])
def test_an_invalid_pinned_root_is_refused_before_anything_is_asked(
    server: TufServer, tmp_path: Path, damage: str
) -> None:
    root = json.loads(server.published["root"][0])
    if damage == "field":
        del root["signed"]["version"]
    root["signatures"][0]["sig"] = "00" * 64
    client = TufClient(tmp_path, server)
    client.init(b"no root" if damage == "text" else json.dumps(root).encode())
    assert client.refresh() == 1
    assert server.asked == []


@pytest.mark.parametrize(
    ("role", "taken"),
    [
        ("root", {"root": 1}),
        ("timestamp", {"root": 1}),
        ("snapshot", {"root": 1, "timestamp": 1}),
        ("targets", {"root": 1, "snapshot": 1, "timestamp": 1}),
    ],
)
def test_what_is_not_signed_is_refused_and_nothing_behind_it_is_asked(
    server: TufServer, client: TufClient, role: str, taken: dict[str, int]
) -> None:
    server.signers[role] = [signer("a stranger")]
    if role != "root":
        server.published.clear()
    server.publish(*(("root",) if role == "root" else ("targets", "snapshot", "timestamp")))
    assert client.refresh() == 1
    assert client.trusted() == taken


def test_a_timestamp_that_changes_without_a_new_version_is_not_taken(server: TufServer, client: TufClient) -> None:
    assert client.refresh() == 0
    server.roles["timestamp"].snapshot_meta.version = 100
    server.publish("timestamp", version=1)
    assert client.refresh() == 0
    assert server.asked[-1] == ("timestamp", None)
    stored = json.loads((client.metadata / "timestamp.json").read_bytes())
    assert stored["signed"]["meta"]["snapshot.json"]["version"] == 1


def test_hashes_of_metadata_are_checked_where_they_are_given(server: TufServer, client: TufClient) -> None:
    server.with_hashes = True
    server.update("targets")
    assert client.refresh() == 0
    server.publish("targets")
    server.roles["snapshot"].meta["targets.json"].hashes["sha256"] = "46" * 32
    server.publish("snapshot", "timestamp")
    assert client.refresh() == 1
    assert (client.trusted()["snapshot"], client.trusted()["targets"]) == (3, 2)


def test_metadata_longer_than_said_is_refused(server: TufServer, client: TufClient) -> None:
    server.with_hashes = True
    server.publish("targets")
    server.roles["snapshot"].meta["targets.json"].length -= 1
    server.publish("snapshot", "timestamp")
    assert client.refresh() == 1
    assert "targets" not in client.trusted()


@pytest.mark.parametrize(("role", "limit"), [("root", 512_000), ("timestamp", 16_384), ("snapshot", 2_000_000)])
def test_metadata_over_the_limit_is_read_no_further(
    server: TufServer, client: TufClient, role: str, limit: int
) -> None:
    server.roles[role].unrecognized_fields["x"] = "x" * limit
    server.publish(*(("root",) if role == "root" else ("targets", "snapshot", "timestamp")))
    assert client.refresh() == 1
    assert client.trusted().get(role) == (1 if role == "root" else None)


def test_targets_that_the_snapshot_does_not_list_yet_are_not_asked_for(server: TufServer, client: TufClient) -> None:
    assert client.refresh() == 0
    server.publish("targets")
    assert client.refresh() == 0
    assert client.trusted() == FIRST
    assert server.asked[-1] == ("timestamp", None)


def test_unknown_fields_are_part_of_what_is_signed(server: TufServer, client: TufClient) -> None:
    root = server.roles["root"]
    root.unrecognized_fields["custom"] = "value"
    next(iter(root.keys.values())).unrecognized_fields["extra"] = {"a": 1, "keyid_hash_algorithms": ["md5"]}
    root.roles["root"].unrecognized_fields["another"] = "value"
    server.publish("root")
    assert client.refresh() == 0
    assert client.trusted()["root"] == 2


def test_without_consistent_snapshots_names_carry_no_version(server: TufServer, tmp_path: Path) -> None:
    server.roles["root"].consistent_snapshot = False
    server.publish("root")
    server.add_file("a/file", b"content")
    server.update("targets")
    client = TufClient(tmp_path, server)
    client.init(server.published["root"][1])
    assert client.download("a/file") == 0
    assert server.asked == [
        ("root", 3),
        *((role, None) for role in ("timestamp", "snapshot", "targets")),
        ("file", "a/file"),
    ]


def test_many_roots_are_walked(server: TufServer, client: TufClient) -> None:
    for _ in range(40):
        server.publish("root")
    assert client.refresh() == 0
    assert client.trusted()["root"] == 41


# expiry


def test_an_expired_root_is_kept_and_nothing_else_is_asked(server: TufServer, client: TufClient) -> None:
    assert client.refresh() == 0
    server.publish("root")
    server.roles["root"].expires = soon(-1)
    server.publish("root")
    server.update("targets")
    assert client.refresh() == 1
    assert client.trusted() == {**FIRST, "root": 3}


def test_an_expired_intermediate_root_is_passed(server: TufServer, client: TufClient) -> None:
    server.roles["root"].expires = soon(-1)
    server.publish("root")
    server.roles["root"].expires = soon()
    server.publish("root")
    assert client.refresh() == 0
    assert client.trusted()["root"] == 3


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_an_expired_role_is_not_taken(server: TufServer, client: TufClient, role: str) -> None:
    assert client.refresh() == 0
    server.roles[role].expires = soon(-5)
    server.update("targets")
    assert client.refresh() == 1
    assert client.trusted()[role] == 1


def test_an_expired_delegated_role_is_not_taken_and_its_file_not_fetched(server: TufServer, client: TufClient) -> None:
    server.delegate("targets", "delegated", paths=["path/*"], days=-1)
    server.add_file("path/file", b"content", "delegated")
    server.update("delegated", "targets")
    assert client.refresh() == 0
    assert client.download("path/file") == 1
    assert client.downloaded() == []
    assert set(client.trusted()) == set(TOP_LEVEL)


# rollback, freeze, mix-and-match, fast-forward


def test_an_older_timestamp_is_refused(server: TufServer, client: TufClient) -> None:
    server.publish("timestamp")
    assert client.refresh() == 0
    server.publish("timestamp", version=1)
    assert client.refresh() == 1
    assert client.trusted()["timestamp"] == 2
    assert server.asked[-1] == ("timestamp", None)


@pytest.mark.parametrize("hashes", [False, True])
def test_a_timestamp_that_names_an_older_snapshot_is_refused(
    server: TufServer, client: TufClient, *, hashes: bool
) -> None:
    server.with_hashes = hashes
    server.update()
    assert client.refresh() == 0
    server.publish("snapshot", version=1)
    server.publish("timestamp")
    assert client.refresh() == 1
    assert (client.trusted()["timestamp"], client.trusted()["snapshot"]) == (2, 2)
    assert server.asked[-1] == ("timestamp", None)


@pytest.mark.parametrize("hashes", [False, True])
def test_a_snapshot_that_names_older_targets_is_refused(server: TufServer, client: TufClient, *, hashes: bool) -> None:
    server.with_hashes = hashes
    server.publish("targets")
    server.update("targets")
    assert client.refresh() == 0
    server.publish("targets", version=1)
    server.publish("snapshot", "timestamp")
    assert client.refresh() == 1
    assert client.trusted()["targets"] == 3


def test_a_snapshot_that_lists_a_role_no_more_is_refused(server: TufServer, client: TufClient) -> None:
    server.delegate("targets", "delegated")
    server.update("delegated", "targets")
    assert client.refresh() == 0
    del server.roles["snapshot"].meta["delegated.json"]
    server.publish("snapshot", "timestamp")
    assert client.refresh() == 1
    assert client.trusted()["snapshot"] == 2


def test_a_snapshot_of_another_version_than_the_timestamp_says_is_refused(server: TufServer, client: TufClient) -> None:
    server.publish("snapshot", "timestamp")
    server.published["snapshot"][1] = server.published["snapshot"][0]
    assert client.refresh() == 1
    assert "snapshot" not in client.trusted()


def test_targets_mixed_from_two_states_are_refused(server: TufServer, client: TufClient) -> None:
    server.with_hashes = True
    server.add_file("one", b"1")
    server.update("targets")
    old = server.published["targets"][-1]
    server.add_file("two", b"2")
    server.update("targets")
    signed = Metadata.from_bytes(old)
    signed.signed.version = 3
    signed.sign(signer("targets"))
    server.published["targets"][2] = signed.to_bytes()  # signed by the right key, but not what the snapshot lists
    assert client.download("one") == 1
    assert "targets" not in client.trusted()


CHAIN = ["targets", "snapshot", "timestamp"]


@pytest.mark.parametrize("role", CHAIN)
def test_a_version_run_far_ahead_is_healed_by_new_keys(server: TufServer, client: TufClient, role: str) -> None:
    server.publish(role, version=99_999)
    server.publish(*CHAIN[CHAIN.index(role) + 1 :])
    assert client.refresh() == 0
    assert client.trusted()[role] == 99_999
    for replaced in ("snapshot", "timestamp"):
        server.rotate(replaced, f"new {replaced}")
    server.publish("root")
    server.published = {"root": server.published["root"]}
    server.publish(*CHAIN)
    assert client.refresh() == 0
    assert client.trusted() == {**FIRST, "root": 2}


def test_a_local_copy_that_is_damaged_is_fetched_again(server: TufServer, client: TufClient) -> None:
    assert client.refresh() == 0
    for role in ("timestamp", "snapshot", "targets"):
        (client.metadata / f"{role}.json").write_bytes(b"\xff torn")
    (client.metadata / ".timestamp.json.cut.unfinished").write_bytes(b"half")  # as a killed write leaves it
    assert client.refresh() == 0
    assert client.trusted() == FIRST
    assert not list(client.metadata.glob(".*"))
