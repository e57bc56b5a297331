"""Targets: which role speaks for a path, and what is taken for its file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest
from tuf.api.metadata import Delegations, SuccinctRoles, Targets

from outside.tuf_server import TOP_LEVEL, TufClient, TufServer, signer, soon


class Arrow(NamedTuple):
    """One delegation."""

    parent: str
    name: str
    terminating: bool = False
    paths: list[str] | None = None


GRAPHS = {
    "one": ([Arrow("targets", "A")], "A"),
    "two beside": ([Arrow("targets", "A"), Arrow("targets", "B")], "AB"),
    "two levels": ([Arrow("targets", "A"), Arrow("targets", "B"), Arrow("B", "C")], "ABC"),
    "depth first": ([Arrow("targets", "A"), Arrow("targets", "B"), Arrow("A", "C"), Arrow("A", "D")], "ACDB"),
    "three levels": ([Arrow("targets", "A"), Arrow("targets", "B"), Arrow("A", "C"), Arrow("C", "D")], "ACDB"),
    "terminating": (
        [Arrow("targets", "A"), Arrow("targets", "B"), Arrow("A", "C", terminating=True), Arrow("A", "D")],
        "AC",
    ),
    "terminating, with descendants": (
        [Arrow("targets", "A"), Arrow("targets", "B"), Arrow("A", "C", terminating=True), Arrow("C", "D")],
        "ACD",
    ),
    "path does not match": (
        [Arrow("targets", "A", paths=["*.py"]), Arrow("targets", "B"), Arrow("A", "C")],
        "B",
    ),
    "path does not match below": (
        [Arrow("targets", "A"), Arrow("targets", "B"), Arrow("A", "C", paths=["*.py"]), Arrow("C", "D")],
        "AB",
    ),
    "a ring": (
        [Arrow("targets", "A"), Arrow("targets", "B"), Arrow("B", "C"), Arrow("C", "D"), Arrow("D", "B")],
        "ABCD",
    ),
    "two ways to one": ([Arrow("targets", "A"), Arrow("targets", "B"), Arrow("B", "C"), Arrow("A", "C")], "ACB"),
    "two ways, one matches": (
        [Arrow("targets", "A"), Arrow("targets", "B"), Arrow("B", "C"), Arrow("A", "C", paths=["*.py"])],
        "ABC",
    ),
}


def build(server: TufServer, arrows: list[Arrow]) -> None:
    for arrow in arrows:
        server.delegate(arrow.parent, arrow.name, terminating=arrow.terminating, paths=arrow.paths)
    names = {name for arrow in arrows for name in (arrow.parent, arrow.name)}
    server.update(*sorted(names - {"targets"}), "targets")


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_delegations_are_asked_depth_first_and_in_order(
    server: TufServer, client: TufClient, graph: tuple[list[Arrow], str]
) -> None:
    arrows, visited = graph
    build(server, arrows)
    assert client.download("missing") == 1
    assert server.asked[4:] == [(role, 1) for role in visited]


TREE = [
    Arrow("targets", "A", paths=["*.doc", "*.md"]),
    Arrow("targets", "B", paths=["releases/*/*"]),
    Arrow("B", "C", paths=["releases/x/*"]),
    Arrow("B", "D", paths=["releases/y/*.zip"]),
]


@pytest.mark.parametrize(
    ("path", "owner", "visited"),
    [
        ("file", "targets", ""),
        ("README.md", "A", "A"),
        ("releases/x/x_v1", "C", "BC"),
        ("releases/y/y_v1.zip", "D", "BD"),
        ("releases/z/z_v1.zip", "D", "B"),
    ],
)
def test_a_file_is_taken_only_from_a_role_that_the_whole_chain_gave_its_path(
    server: TufServer, client: TufClient, path: str, owner: str, visited: str
) -> None:
    for arrow in TREE:
        server.delegate(arrow.parent, arrow.name, paths=arrow.paths)
    server.add_file(path, b"content", owner)
    server.update("A", "B", "C", "D", "targets")
    found = path != "releases/z/z_v1.zip"
    assert client.download(path) == (0 if found else 1)
    assert client.downloaded() == ([b"content"] if found else [])
    asked = server.asked[4:-1] if found else server.asked[4:]
    assert asked == [(role, 1) for role in visited]


@pytest.mark.parametrize("role", ["?", "#", "/delegated", "../delegated", "a b", "ä"])
def test_odd_names_of_roles_are_quoted_in_urls_and_file_names(server: TufServer, client: TufClient, role: str) -> None:
    server.delegate("targets", role)
    server.update(role, "targets")
    assert client.download("missing") == 1
    assert (role, 1) in server.asked
    assert set(client.trusted()) == {*TOP_LEVEL, role}
    assert {path.parent for path in client.metadata.rglob("*.json")} == {
        client.metadata,
        client.metadata / "root_history",
    }


def test_hashed_bins_are_found_by_the_hash_of_the_path(server: TufServer, client: TufClient) -> None:
    key = signer("bins")
    bins = SuccinctRoles([key.public_key.keyid], 1, 3, "bin")
    server.roles["targets"].delegations = Delegations({key.public_key.keyid: key.public_key}, succinct_roles=bins)
    for name in bins.get_roles():
        server.roles[name], server.signers[name] = Targets(expires=soon()), [key]
    paths = [f"file-{number}" for number in range(6)]
    for path in paths:
        server.add_file(path, path.encode(), bins.get_role_for_target(path))
    server.update(*bins.get_roles(), "targets")
    assert client.download(paths[0]) == 0
    assert server.asked[4:] == [(bins.get_role_for_target(paths[0]), 1), ("file", paths[0])]
    assert client.download(*paths) == 0
    assert client.downloaded() == [path.encode() for path in paths]


def test_several_names_are_downloaded_after_one_refresh(server: TufServer, client: TufClient) -> None:
    server.add_file("one", b"1")
    server.add_file("folder/two", b"2")
    server.update("targets")
    assert client.download("one", "folder/two") == 0
    assert sorted(client.downloaded()) == [b"1", b"2"]
    assert [role for role, _ in server.asked].count("timestamp") == 1


def test_a_file_that_is_there_is_not_fetched_again_and_a_changed_one_is(server: TufServer, client: TufClient) -> None:
    server.add_file("path/to/file", b"first")
    server.update("targets")
    assert client.download("path/to/file") == 0
    assert client.download("path/to/file") == 0
    assert server.asked.count(("file", "path/to/file")) == 1
    server.add_file("path/to/file", b"second")
    server.update("targets")
    assert client.download("path/to/file") == 0
    assert client.downloaded() == [b"second"]


@pytest.mark.parametrize("bad", [b"other", b"longer than what was signed", b"sho", b""])
def test_other_bytes_than_the_signed_ones_are_refused_and_the_old_file_stays(
    server: TufServer, client: TufClient, bad: bytes
) -> None:
    server.add_file("file", b"first")
    server.update("targets")
    assert client.download("file") == 0
    server.add_file("file", b"third")
    server.update("targets")
    server.files["file"] = bad
    assert client.download("file") == 1
    assert client.downloaded() == [b"first"]


@pytest.mark.parametrize("name", ["with%20quotes", "with spaces", "../../outside", "/absolute", "a?b#c"])
def test_names_of_targets_stay_in_their_folder(server: TufServer, client: TufClient, tmp_path: Path, name: str) -> None:
    server.add_file(name, b"content")
    server.update("targets")
    client.download(name)
    inside = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"content"]
    assert all(path.parent == client.downloads for path in inside)


def test_a_large_file_comes_in_blocks(server: TufServer, client: TufClient) -> None:
    data = os.urandom(400_000)
    server.add_file("large", data)
    server.update("targets")
    assert client.download("large") == 0
    assert client.downloaded() == [data]
    assert server.asked.count(("file", "large")) == 1


def test_all_of_it_works_over_mqtt_and_with_a_tenth_of_the_blocks_lost_and_repeated(
    server: TufServer, client: TufClient, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUF_CLIENT_BROKER", broker)
    monkeypatch.setenv("TUF_CLIENT_FAULTS", "0.1")
    data = os.urandom(900_000)
    server.delegate("targets", "odd/name")
    server.add_file("large", data, "odd/name")
    server.update("odd/name", "targets")
    assert client.refresh() == 0
    assert client.download("large") == 0
    assert client.downloaded() == [data]
    server.files["large"] = data[:-1] + b"x"
    (client.downloads / "large").unlink()
    assert client.download("large") == 1
    assert client.downloaded() == []
