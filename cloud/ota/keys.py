"""Signing keys as files: Ed25519, PKCS#8 PEM, readable by their owner only, encrypted where asked.

A key that is kept elsewhere, in a hardware token for instance, is a file ``<name>.uri`` instead
(`edge_sdk.cloud.ota.tokens`); one that is to replace another is ``<name>.next.uri``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner, Signer

from edge_sdk.cloud.ota.tokens import load_uri, public_of
from edge_sdk.errors import InputError, StorageError
from edge_sdk.files import fsync_dir, make_folder, storage_errors, write_durably

__all__ = ["KeyFolder", "Keys"]

Keys = str | Path | Sequence[str | Path] | None
"""A folder of keys, or several, or the one within the repository."""

_ONLINE = ("online", "assignments")
_UNFINISHED = ".unfinished"


class KeyFolder:
    """Folders of key files, ``<name>.pem``.

    The keys ``online`` (snapshot, timestamp) and ``assignments`` serve unattended and are never
    encrypted; all others are, where a passphrase is given, and belong on a medium that is
    offline between uses.

    A key that replaces another is ``<name>.next.pem`` until the repository names it; what it
    replaced is kept as ``retired-<key id>.pem``.

    Parameters
    ----------
    folder
        Where the files are, and where new ones are made.
    passphrase
        Encrypts and decrypts the offline keys; None leaves them in the clear.
    also
        More folders to look for keys in, such as other media with one root key each.
    """

    def __init__(self, folder: Path, passphrase: str | None = None, *, also: Sequence[Path] = ()) -> None:
        self.folder = folder
        self._folders = (folder, *also)
        self._passphrase = passphrase.encode() if passphrase else None

    @classmethod
    def of(cls, repository: Path, keys: Keys, passphrase: str | None) -> KeyFolder:
        """Return the folders that a caller named, or the one within the repository."""
        if keys is None:
            return cls(repository / "keys", passphrase)
        first, *also = [Path(keys)] if isinstance(keys, str | Path) else [Path(path) for path in keys]
        return cls(first, passphrase, also=also)

    def begin(self, repository: Path) -> None:
        """Prepare to make the keys of a new repository; those of its making that was cut are removed.

        Raises
        ------
        StorageError
            There are keys already: they are never overwritten.
        """
        make_folder(self.folder)
        with storage_errors(self.folder, "protect"):
            self.folder.chmod(0o700)
            there, mark = sorted(self.folder.glob("*.pem")), self.folder / _UNFINISHED
            whose = str(repository.absolute()).encode()
            if there and not (mark.exists() and mark.read_bytes() == whose):
                raise StorageError(f"{there[0]} exists already; keys are never overwritten")
            write_durably(mark, whose)
            for path in there:
                path.unlink()

    def finish(self) -> None:
        """Say that the repository that the keys were made for is there."""
        with storage_errors(self.folder):
            (self.folder / _UNFINISHED).unlink(missing_ok=True)
        fsync_dir(self.folder)

    def create(self, name: str) -> Signer:
        """Make a key, store it durably with mode 0600, and return its signer; a ``<name>.uri`` is taken as it is."""
        if self._find(f"{name}.uri") is not None:
            return self.load(name)
        return self._create(name, self.folder / f"{name}.pem")

    def create_next(self, name: str) -> Signer:
        """Make the key that will replace one of that name; a ``<name>.next.uri`` is taken as it is."""
        if (elsewhere := self._find(f"{name}.next.uri")) is not None:
            return load_uri(elsewhere)
        return self._create(name, make_folder(self.folder) / f"{name}.next.pem")

    def pending(self) -> list[str]:
        """Return the names of the keys that are about to be replaced."""
        found = {path.name for folder in self._folders for path in folder.glob("*.next.uri")}
        found |= {path.name for path in self.folder.glob("*.next.pem")}
        return sorted({name.partition(".")[0] for name in found})

    def next_keyid(self, name: str) -> str:
        """Return the id of the key that is to replace one of that name."""
        if (elsewhere := self._find(f"{name}.next.uri")) is not None:
            return public_of(elsewhere).keyid
        return self._load(self.folder / f"{name}.next.pem").public_key.keyid

    def promote(self, name: str) -> None:
        """Put a new key in the place of the old one, which is kept as retired."""
        new = self._find(f"{name}.next.uri") or self.folder / f"{name}.next.pem"
        path, old = new.with_name(f"{name}{new.suffix}"), self._find(f"{name}.pem")
        elsewhere = self._find(f"{name}.uri")
        with storage_errors(path):
            if old is not None:
                try:
                    keyid = self._load(old).public_key.keyid[:16]
                except InputError:  # of another passphrase: what it is called does not matter
                    keyid = f"of-{name}"
                old.rename(old.with_name(f"retired-{keyid}.pem"))
            if elsewhere is not None:
                elsewhere.rename(elsewhere.with_name(f"retired-{public_of(elsewhere).keyid[:16]}.uri"))
            new.replace(path)
        for folder in {changed.parent for changed in (old, elsewhere, path) if changed is not None}:
            fsync_dir(folder)

    def discard_next(self, name: str) -> None:
        """Remove a new key that nothing names; one in a token stays, to be taken at the next rotation."""
        with storage_errors(self.folder):
            (self.folder / f"{name}.next.pem").unlink(missing_ok=True)

    def load(self, name: str) -> Signer:
        """Return the signer of a stored key.

        Raises
        ------
        InputError
            The key is not here, is damaged, or needs another passphrase.
        """
        elsewhere = self._find(f"{name}.uri")
        if elsewhere is not None:
            return load_uri(elsewhere)
        return self._load(self._find(f"{name}.pem") or self.folder / f"{name}.pem")

    def root_signers(self) -> Iterator[Signer]:
        """Yield the signers of the root keys that are here."""
        names = {path.name.rpartition(".")[0] for folder in self._folders for path in folder.glob("root-*.*")}
        for name in sorted(name for name in names if name.removeprefix("root-").isdigit()):
            yield self.load(name)

    def _find(self, name: str) -> Path | None:
        return next((path for folder in self._folders if (path := folder / name).exists()), None)

    def _create(self, name: str, path: Path) -> Signer:
        if path.exists():
            raise StorageError(f"{path} exists already; keys are never overwritten")
        private = Ed25519PrivateKey.generate()
        protection: KeySerializationEncryption = NoEncryption()
        if self._passphrase is not None and name not in _ONLINE:
            protection = BestAvailableEncryption(self._passphrase)
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
        write_durably(path, pem, mode=0o600)
        return CryptoSigner(private)

    def _load(self, path: Path) -> Signer:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise InputError(f"the key {path} is not here; point --keys at the folder that holds it") from None
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        encrypted = b"ENCRYPTED" in data.split(b"\n", 1)[0]
        if encrypted and self._passphrase is None:
            raise InputError(f"the key {path} is encrypted; give its passphrase")
        try:
            private = load_pem_private_key(data, self._passphrase if encrypted else None)
        except (ValueError, TypeError) as error:
            raise InputError(f"the key {path} cannot be read: wrong passphrase or damaged file") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise InputError(f"the key {path} is not an Ed25519 key")
        return CryptoSigner(private)
