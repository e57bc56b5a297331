"""Keys, thresholds and their replacement."""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple

import pytest

from outside.tuf_server import TufClient, TufServer, signer


class Keys(NamedTuple):
    """The keys of one version of a role, how many must sign, and who does; by number."""

    keys: list[int]
    threshold: int
    signed_by: list[int]


def set_keys(server: TufServer, role: str, version: Keys) -> None:
    keys, signed_by = ([signer(f"key {n}") for n in numbers] for numbers in (version.keys, version.signed_by))
    server.set_keys(role, keys, version.threshold, signed_by)


FIVE = [0, 1, 2, 3, 4]

ROOTS = {
    "replaced, signed by both": ([Keys([1], 1, [1]), Keys([2], 1, [2, 1]), Keys([2], 1, [2])], True),
    "signatures of strangers beside": ([Keys([1], 1, [3, 1, 4]), Keys([2], 1, [3, 2, 1, 4])], True),
    "any three of five": ([Keys(FIVE, 3, s) for s in ([0, 2, 4], [0, 4, 1], [0, 1, 3])], True),
    "one of five replaced": ([Keys(FIVE, 3, [0, 2, 4]), Keys([0, 1, 3, 4, 5], 3, [0, 4, 1])], True),
    "all of five replaced": (
        [Keys(FIVE, 3, [0, 2, 4]), Keys([5, 6, 7, 8, 9], 3, [0, 2, 4, 5, 6, 7]), Keys([5, 6, 7, 8, 9], 3, [5, 6, 7])],
        True,
    ),
    "threshold up": ([Keys([1, 2, 3], 1, [1]), Keys([1, 2, 3], 2, [1, 2])], True),
    "threshold down": ([Keys([1, 2, 3], 2, [1, 2]), Keys([1, 2, 3], 1, [1, 2]), Keys([1, 2, 3], 1, [1])], True),
    "not signed by the old key": ([Keys([1], 1, [1]), Keys([2], 1, [2, 3, 4])], False),
    "not signed by the new key": ([Keys([1], 1, [1]), Keys([2], 1, [1, 3, 4])], False),
    "too few of the new five": ([Keys(FIVE, 3, [0, 2, 4]), Keys([0, 1, 3, 4, 5], 3, [0, 2, 4])], False),
    "too few of the old five": ([Keys(FIVE, 3, [0, 2, 4]), Keys([0, 1, 3, 4, 5], 3, [0, 4, 5])], False),
    "higher threshold not reached": ([Keys([1, 2, 3], 1, [1]), Keys([1, 2, 3], 2, [2])], False),
    "lower threshold, old one not reached": ([Keys([1, 2, 3], 2, [1, 2]), Keys([1, 2, 3], 1, [1])], False),
}


@pytest.mark.parametrize("case", ROOTS.values(), ids=ROOTS.keys())
def test_a_root_is_followed_only_as_old_and_new_keys_say(
    server: TufServer, client: TufClient, case: tuple[list[Keys], bool]
) -> None:
    versions, good = case
    server.published["root"].clear()
    for version in versions:
        set_keys(server, "root", version)
        server.publish("root")
    assert client.init() == 0
    assert client.refresh() == (0 if good else 1)
    assert (client.metadata / "root.json").read_bytes() == server.published["root"][-1 if good else -2]


OTHERS = {
    "replaced": (Keys([2], 1, [2]), True),
    "signatures of strangers beside": (Keys([1], 1, [3, 1, 4]), True),
    "not signed by the new key": (Keys([2], 1, [1, 3, 4]), False),
    "one of three is a stranger": (Keys([0, 1, 3, 4, 5], 3, [0, 2, 4]), False),
    "too few": (Keys([0, 1, 3, 4, 5], 3, [0, 4]), False),
    "three of five": (Keys(FIVE, 3, [2, 3, 4]), True),
    "the same key twice": (Keys([0, 1], 2, [0, 0]), False),
}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
@pytest.mark.parametrize("case", OTHERS.values(), ids=OTHERS.keys())
def test_a_role_needs_its_threshold_of_the_keys_its_root_names(
    server: TufServer, client: TufClient, role: str, case: tuple[Keys, bool]
) -> None:
    keys, good = case
    set_keys(server, role, keys)
    server.publish("root")
    server.update("targets")
    assert client.refresh() == (0 if good else 1)
    assert client.trusted().get(role) == (2 if good else None)


def test_one_key_under_several_names_counts_once(server: TufServer, client: TufClient) -> None:
    assert client.refresh() == 0
    key, root = signer("key 1"), server.roles["root"]
    for number in range(5):
        alias = deepcopy(key.public_key)
        alias.keyid = f"{number}" * 64
        root.add_key(alias, "snapshot")
    root.roles["snapshot"].threshold = 2
    server.signers["snapshot"] = [key]
    server.publish("root")
    server.update()
    assert client.refresh() == 1
    assert client.trusted()["snapshot"] == 1


def test_a_key_that_the_role_names_but_the_root_does_not_hold_is_no_key(server: TufServer, client: TufClient) -> None:
    assert client.refresh() == 0
    server.roles["root"].roles["snapshot"].keyids.append(signer("key 1").public_key.keyid)
    server.roles["root"].roles["snapshot"].threshold = 2
    server.signers["snapshot"].append(signer("key 1"))
    server.publish("root")
    server.update()
    assert client.refresh() == 1
    assert client.trusted()["snapshot"] == 1


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa-pss", "rsa-pkcs1"])
def test_each_kind_of_key_signs_each_role(server: TufServer, client: TufClient, kind: str) -> None:
    key = signer("of a kind", kind)
    for role in ("targets", "snapshot", "timestamp"):
        server.set_keys(role, [key], 1, [key])
    server.publish("root")
    server.update("targets")
    assert client.refresh() == 0
    assert client.trusted() == {"root": 2, "snapshot": 2, "targets": 2, "timestamp": 2}
