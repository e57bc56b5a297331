"""Keys that are kept elsewhere, in a hardware token for instance: a file ``<name>.uri`` stands for each.

Such a file is ``{"uri": …, "public": {"keyid": …, "keytype": …, …}}``, as securesystemslib's signers
take it. The PIN comes from the environment: EDGE_SDK_OTA_PIN, or EDGE_SDK_OTA_PIN_ROOT_1 for the
key ``root-1`` and so on, where tokens have PINs of their own.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import HSMSigner, Key, Signature, Signer

from edge_sdk import canonical
from edge_sdk.errors import InputError, MissingExtraError, one_line
from edge_sdk.files import make_folder, storage_errors, write_durably

__all__ = ["load_uri", "name_token_key", "public_of"]

PIN = "EDGE_SDK_OTA_PIN"
_NAME = re.compile(r"root-[1-9][0-9]?|targets|publisher|assignments|online")


def load_uri(path: Path) -> Signer:
    """Return the signer of the key that a file names; the token is asked when it signs.

    Raises
    ------
    InputError
        The file has another form, or there is no library for such keys.
    """
    try:
        document = _read(path)
        uri = str(document["uri"])
        return _Elsewhere(path, Signer.from_priv_key_uri(uri, public_of(path), lambda secret: _pin(path)))
    except (KeyError, TypeError, ValueError, UnsupportedLibraryError, OSError) as error:
        raise InputError(f"the key that {path} names cannot be used: {one_line(error, 200)}") from error


def public_of(path: Path) -> Key:
    """Return the public key in a file; raise `InputError` if it has another form."""
    try:
        public = dict(_read(path)["public"])
        return Key.from_dict(public.pop("keyid"), public)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the key that {path} names cannot be used: {one_line(error, 200)}") from error


def name_token_key(folder: Path, name: str, *, key: int, label: str | None, replaces: bool = False) -> Path:
    """Write the file that stands for a key in a PKCS#11 token, with its public key; return its path.

    The token's library is named by the environment variable PYKCS11LIB.

    Parameters
    ----------
    folder
        Where the file is put.
    name
        What the key is for: ``root-1``, ``targets`` and so on.
    key
        Number of the key (CKA_ID) in the token; an elliptic-curve key, P-256 or P-384.
    label
        The token's label; None where there is one token.
    replaces
        Whether it is to replace the key of that name at the next rotation.

    Raises
    ------
    InputError
        There is no such key or token, or a key of that name is here.
    MissingExtraError
        The library for tokens is not installed.
    """
    if importlib.util.find_spec("pkcs11") is None:
        raise MissingExtraError("python-pkcs11", "pkcs11")
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no key of a repository: root-1, root-2, …, targets or publisher")
    path = make_folder(folder) / f"{name}{'.next' if replaces else ''}.uri"
    for taken in (path, path.with_suffix(".pem")):
        if taken.exists():
            raise InputError(f"{taken} exists already; keys are never overwritten")
    try:
        uri, public = HSMSigner.import_(key, label, lambda secret: _pin(path))
    except Exception as error:  # the library's errors have no base of their own
        raise InputError(f"key {key} of the token {label or ''!r} cannot be read: {one_line(error, 200)}") from error
    write_durably(path, canonical.dumps({"uri": uri, "public": {"keyid": public.keyid, **public.to_dict()}}))
    return path


class _Elsewhere(Signer):
    """A signer whose failures are told in one line."""

    def __init__(self, path: Path, signer: Signer) -> None:
        self._path = path
        self._signer = signer

    @property
    def public_key(self) -> Key:
        return self._signer.public_key

    @classmethod
    def from_priv_key_uri(cls, *args: Any, **kwargs: Any) -> Signer:
        raise InputError("a key of a token is read from its file, not from a URI alone")

    def sign(self, payload: bytes) -> Signature:
        try:
            return self._signer.sign(payload)
        except Exception as error:  # what tokens and their libraries raise has no base of its own
            raise InputError(
                f"the key that {self._path} names does not sign: {one_line(error, 200)}; is the token there, and its "
                f"PIN in {PIN}?"
            ) from error


def _pin(path: Path) -> str:
    own = path.name.partition(".")[0].upper().replace("-", "_")
    return os.environ.get(f"{PIN}_{own}") or os.environ.get(PIN, "")


def _read(path: Path) -> dict[str, Any]:
    with storage_errors(path, "read"):
        return dict(canonical.loads(path.read_bytes(), limit=65_536))
