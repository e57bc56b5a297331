"""Keys replaced by new ones, and offline roles signed anew, so that devices in the field follow.

A new root is signed by enough keys of the one before, and of its own; every root ever made stays
in the folder, for a device walks from the one it was given to the newest. What was cut between
the steps is finished, or taken back, by `heal` before the next change.

Source: The Update Framework specification 1.0.34, section 6.1, "Key management and migration".
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, Targets

from edge_sdk.cloud.ota.keys import KeyFolder
from edge_sdk.cloud.ota.rolefiles import RoleFiles, is_signed_by
from edge_sdk.cloud.ota.roles import DELEGATED, key_of, now, sign
from edge_sdk.errors import InputError

__all__ = ["OFFLINE", "heal", "renew", "rotate", "signer_of"]

log = logging.getLogger("edge_sdk.cloud.ota.rotation")

OFFLINE = ("root", "targets", "bundles")
"""Roles that `renew` signs anew; their bins with them."""

_TOP_LEVEL = {"targets": ("targets",), "online": ("snapshot", "timestamp")}
_DELEGATED = {"publisher": "bundles", "assignments": "assignments"}


def signer_of(keys: KeyFolder, **instead: Signer) -> Callable[[str], Signer]:
    """Return what gives the signer of a role: the stored key, or one of these by the key's name."""

    def signer(role: str) -> Signer:
        name = key_of(role)
        return instead[name] if name in instead else keys.load(name)

    return signer


def rotate(files: RoleFiles, keys: KeyFolder, name: str) -> int:
    """Replace a key by a new one; return the version of the newest root.

    Parameters
    ----------
    name
        ``root-N``, ``targets``, ``publisher``, ``assignments`` or ``online``.

    Raises
    ------
    InputError
        There is no such key, or too few keys are here to sign the change.
    """
    try:
        _rotate(files, keys, name)
    except InputError:
        keys.discard_next(name)
        raise
    keys.promote(name)
    return files.root().signed.version


def _rotate(files: RoleFiles, keys: KeyFolder, name: str) -> None:
    if name in _DELEGATED:
        new = keys.create_next(name)
        role = _DELEGATED[name]
        files.publish(_delegate(files, keys, role, new), signer_of(keys, **{name: new}))
    elif name in _TOP_LEVEL:
        new = keys.create_next(name)
        root = files.root()
        for role in _TOP_LEVEL[name]:
            _replace(root.signed, role, root.signed.roles[role].keyids, new)
        _sign_root(files, keys, root)
        changed = {"targets": files.read("targets", Targets)} if name == "targets" else {}
        files.publish(changed, signer_of(keys, **{name: new}), root=root)
    else:
        _rotate_root(files, keys, name)


def renew(files: RoleFiles, keys: KeyFolder) -> list[str]:
    """Sign anew every role that has lived half its life; return them. Snapshot and timestamp always are.

    Raises
    ------
    InputError
        A key that is needed is not here; nothing was changed.
    """
    root = files.root()
    roles = [name for name in files.names() if _is_half_over(files, name, files.read(name, Targets).signed.expires)]
    renewed = list(roles)
    if _is_half_over(files, "root", root.signed.expires):
        _sign_root(files, keys, root)
        renewed.insert(0, "root")
    signer = signer_of(keys)
    changed = {role: files.read_signed(role, signer(role).public_key) for role in roles}
    files.publish(changed, signer, root=root if "root" in renewed else None)
    return renewed


def heal(files: RoleFiles, keys: KeyFolder) -> None:
    """Finish a replacement of keys that was cut, or take it back; a change of content needs nothing."""
    files.check_root()
    for name in keys.pending():
        if keys.next_keyid(name) in _named(files):
            keys.promote(name)
        else:
            keys.discard_next(name)
    broken = [role for role in ("targets", "snapshot", "timestamp") if not files.is_signed(role)]
    for role in broken:
        if not files.is_signed(role, before=1):
            raise files.foreign(role)
    if broken:
        log.warning("a change of keys was cut; %s are signed anew", ", ".join(broken))
        files.publish({"targets": files.read("targets", Targets)} if "targets" in broken else {}, signer_of(keys))


def _rotate_root(files: RoleFiles, keys: KeyFolder, name: str) -> None:
    root = files.root()
    count = len(root.signed.roles["root"].keyids)
    if not (name.startswith("root-") and name.removeprefix("root-").isdigit() and 1 <= int(name[5:]) <= count):
        known = [f"root-{number + 1}" for number in range(count)]
        raise InputError(f"there is no key {name!r}; there are {', '.join([*known, *_TOP_LEVEL, *_DELEGATED])}")
    old = _keyid_of(root.signed, keys, name)
    new = keys.create_next(name)
    signers = {signer.public_key.keyid: signer for signer in keys.root_signers()}
    _replace(root.signed, "root", [old], new)
    _sign_root(files, keys, root, {**signers, new.public_key.keyid: new})
    files.write(f"{root.signed.version}.root.json", root)


def _keyid_of(root: Root, keys: KeyFolder, name: str) -> str:
    """Return the id of a root key: of its file, or, where that is lost, of the only one that has no file."""
    try:
        keyid = keys.load(name).public_key.keyid
        if keyid in root.roles["root"].keyids:
            return keyid
    except InputError as error:
        log.info("%s", error)
    here = {signer.public_key.keyid for signer in keys.root_signers()}
    lost = [keyid for keyid in root.roles["root"].keyids if keyid not in here]
    if len(lost) != 1:
        raise InputError(
            f"which key {name} was cannot be told: {len(lost)} root keys are not here; give the folders of the others"
        )
    return lost[0]


def _replace(root: Root, role: str, old: list[str], new: Signer) -> None:
    for keyid in list(old):
        root.revoke_key(keyid, role)
    root.add_key(new.public_key, role)


def _delegate(files: RoleFiles, keys: KeyFolder, role: str, new: Signer) -> dict[str, Metadata[Targets]]:
    """Return the roles to be signed anew so that a delegated role and its bins belong to another key."""
    top = files.read_signed("targets", keys.load("targets").public_key)
    delegated = files.read(role, Targets)
    public = new.public_key
    above, below = top.signed.delegations, delegated.signed.delegations
    if above is None or above.roles is None or below is None or below.succinct_roles is None:
        raise InputError(f"the repository does not delegate {role} as this version does")
    bins = {name: files.read(name, Targets) for name in below.succinct_roles.get_roles()}
    files.verify(top.signed, role, delegated)  # or the new key would vouch for what somebody else made of them
    for name, metadata in bins.items():
        files.verify(delegated.signed, name, metadata)
    above.roles[role].keyids = [public.keyid]
    used = {keyid for name in DELEGATED for keyid in above.roles[name].keyids}
    above.keys = {keyid: key for keyid, key in {**above.keys, public.keyid: public}.items() if keyid in used}
    below.keys, below.succinct_roles.keyids = {public.keyid: public}, [public.keyid]
    return {**bins, role: delegated, "targets": top}


def _sign_root(
    files: RoleFiles, keys: KeyFolder, root: Metadata[Root], signers: dict[str, Signer] | None = None
) -> None:
    """Make a changed root the next version, signed as the one before and it itself ask."""
    newest = files.root()
    before = newest.signed.roles["root"]
    after = root.signed.roles["root"]
    here = signers or {signer.public_key.keyid: signer for signer in keys.root_signers()}
    for role in (before, after):
        found = len(set(role.keyids) & here.keys())
        if found < role.threshold:
            raise InputError(
                f"{found} of the {len(role.keyids)} root keys are here and {role.threshold} must sign; "
                "give the folders of the others with --keys"
            )
    if not any(is_signed_by(signer.public_key, newest) for signer in here.values()):
        raise InputError(
            f"none of the root keys here signed root {newest.signed.version}, so that it cannot be told whether "
            "somebody else made it; give the folder of one that did with --keys"
        )
    root.signed.version += 1
    root.signed.expires = files.expiry("root")
    root.signatures.clear()
    for keyid in dict.fromkeys([*before.keyids, *after.keyids]):
        if keyid in here:
            sign(root, here[keyid], append=True)


def _named(files: RoleFiles) -> set[str]:
    delegations = files.read("targets", Targets).signed.delegations
    roles = delegations.roles if delegations is not None and delegations.roles is not None else {}
    return set(files.root().signed.keys) | {keyid for role in roles.values() for keyid in role.keyids}


def _is_half_over(files: RoleFiles, role: str, expires: datetime) -> bool:
    return expires - now() < files.lifetimes.of(role) / 2
