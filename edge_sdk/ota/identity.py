"""Who a device is: its id, a key that never leaves it, a certificate of its fleet, and the root it trusts.

The device makes its key and a request (`request`); the fleet's authority answers with an
enrolment, one file of JSON, which the device holds against its key and keeps (`accept`). All of
it lies in the folder ``identity`` of its state.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from edge_sdk import canonical
from edge_sdk.errors import InputError, StorageError, TrustError, one_line
from edge_sdk.files import make_folder, storage_errors, write_durably
from edge_sdk.ota.clock import TrustedTime
from edge_sdk.ota.topics import check_id
from edge_sdk.ota.trust import MIN_ROOT_THRESHOLD

__all__ = ["Identity", "accept", "enrolment", "identity", "request"]

_MAX_ENROLMENT = 2 << 20
_FORM = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Identity:
    """An enrolled device: ids, and the files that its agent is given.

    Attributes
    ----------
    fleet, device
        Ids.
    root
        The pinned root metadata.
    certificate, key
        PEM files of the client certificate and its private key.
    """

    fleet: str
    device: str
    root: Path
    certificate: Path
    key: Path


def identity(state_dir: str | Path) -> Identity | None:
    """Return who a device is, or None if it is not enrolled; raise `StorageError` if the file is damaged."""
    folder = Path(state_dir) / "identity"
    path = folder / "identity.json"
    try:
        document = canonical.loads(path.read_bytes(), limit=65_536)
        fleet, device = check_id("fleet", document["fleet"]), check_id("device", document["device"])
    except FileNotFoundError:
        return None
    except (OSError, InputError, KeyError, TypeError) as error:
        raise StorageError(f"{path} cannot be read: {error}; enrol the device again") from error
    return Identity(fleet, device, folder / "root.json", folder / "certificate.pem", folder / "key.pem")


def request(state_dir: str | Path, device: str) -> bytes:
    """Return a request for a certificate, PEM, by the device's key, which is made if it is not there.

    Raises
    ------
    InputError
        The id cannot stand in a topic, or the key is damaged.
    StorageError
        The key cannot be stored.
    """
    check_id("device", device)
    folder = make_folder(make_folder(Path(state_dir)) / "identity")
    with storage_errors(folder, "protect"):
        folder.chmod(0o700)
    key = _key(folder / "key.pem", make=True)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, device)])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return made.public_bytes(Encoding.PEM)


def enrolment(fleet: str, device: str, certificate: bytes, root: bytes) -> bytes:
    """Return what a fleet's authority answers: one JSON document with a PEM certificate and root metadata."""
    return canonical.dumps(
        {
            "format": 1,
            "fleet": fleet,
            "device": device,
            "certificate": certificate.decode(),
            "root": root.decode(),
            "time": datetime.now(UTC).strftime(_FORM),
        }
    )


def accept(state_dir: str | Path, data: bytes) -> Identity:
    """Take up an enrolment; another than before replaces it.

    It must have come by a way that is trusted: with it the root is pinned.

    Raises
    ------
    InputError
        It has another form, or the device made no request.
    TrustError
        The certificate is for another key or device, or fewer than two keys sign the root.
    StorageError
        It cannot be stored.
    """
    folder = Path(state_dir) / "identity"
    try:
        document = canonical.loads(data, limit=_MAX_ENROLMENT)
        fleet, device = check_id("fleet", document["fleet"]), check_id("device", document["device"])
        certificate = x509.load_pem_x509_certificate(document["certificate"].encode())
        time = datetime.strptime(document["time"], _FORM).replace(tzinfo=UTC)
        root = document["root"].encode()
        signed = Metadata[Root].from_bytes(root)
        signed.signed.verify_delegate("root", signed.signed_bytes, signed.signatures)
        threshold = signed.signed.roles["root"].threshold
    except (InputError, KeyError, TypeError, ValueError, AttributeError, RepositoryError) as error:
        raise InputError(f"this is no enrolment: {one_line(error, 200)}") from error
    if threshold < MIN_ROOT_THRESHOLD:
        raise TrustError(f"the enrolment's root needs {threshold} signature; {MIN_ROOT_THRESHOLD} keys must sign it")
    if _public(_key(folder / "key.pem")) != _public_of(certificate):
        raise TrustError(f"the certificate is for another key than that of this device, {folder / 'key.pem'}")
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if [name.value for name in names] != [device]:
        raise TrustError(f"the certificate is not for {device}")
    write_durably(folder / "certificate.pem", document["certificate"].encode(), mode=0o600)
    write_durably(folder / "root.json", root)
    TrustedTime(make_folder(Path(state_dir) / "metadata") / "time").rise(time, [])
    write_durably(folder / "identity.json", canonical.dumps({"format": 1, "fleet": fleet, "device": device}))
    found = identity(state_dir)
    assert found is not None
    return found


def _key(path: Path, *, make: bool = False) -> Any:
    try:
        with storage_errors(path, "read"):
            data = path.read_bytes()
    except StorageError:
        if path.exists():
            raise
        if not make:
            raise InputError(f"{path} is not there; make a request first") from None
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_durably(path, pem, mode=0o600)
        return key
    try:
        return load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise InputError(f"the key {path} is damaged; remove it and enrol the device again") from error


def _public(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _public_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
