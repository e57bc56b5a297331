"""Signing keys as files: Ed25519, PKCS#8 PEM, readable by their owner only, encrypted where asked."""

from __future__ import annotations

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
from securesystemslib.signer import CryptoSigner

from edge_sdk.errors import InputError, StorageError
from edge_sdk.files import make_folder, storage_errors, write_durably

__all__ = ["KeyFolder"]

_ONLINE = ("online", "assignments")


class KeyFolder:
    """A folder of key files, ``<name>.pem``.

    The keys ``online`` (snapshot, timestamp) and ``assignments`` serve unattended and are never
    encrypted; all others are, where a passphrase is given, and belong on a medium that is
    offline between uses.

    Parameters
    ----------
    folder
        Where the files are.
    passphrase
        Encrypts and decrypts the offline keys; None leaves them in the clear.
    """

    def __init__(self, folder: Path, passphrase: str | None = None) -> None:
        self.folder = folder
        self._passphrase = passphrase.encode() if passphrase else None

    def create(self, name: str) -> CryptoSigner:
        """Make a key, store it durably with mode 0600, and return its signer."""
        path = make_folder(self.folder) / f"{name}.pem"
        with storage_errors(self.folder, "protect"):
            self.folder.chmod(0o700)
        if path.exists():
            raise StorageError(f"{path} exists already; keys are never overwritten")
        private = Ed25519PrivateKey.generate()
        protection: KeySerializationEncryption = NoEncryption()
        if self._passphrase is not None and name not in _ONLINE:
            protection = BestAvailableEncryption(self._passphrase)
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
        write_durably(path, pem, mode=0o600)
        return CryptoSigner(private)

    def load(self, name: str) -> CryptoSigner:
        """Return the signer of a stored key.

        Raises
        ------
        InputError
            The key is not here, is damaged, or needs another passphrase.
        """
        path = self.folder / f"{name}.pem"
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
