"""The devices of a fleet: an authority that signs their certificates, who is enrolled, and who no more.

``devices.json`` says who is enrolled with which key; ``broker/`` holds what a broker needs: the
authority's certificate, the list of revoked ones, and the access-control file, each made anew
when a device comes or goes.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from edge_sdk import canonical
from edge_sdk.cloud.ota.operators import Operators
from edge_sdk.errors import InputError, StorageError
from edge_sdk.files import make_folder, storage_errors, write_durably
from edge_sdk.ota.identity import enrolment
from edge_sdk.ota.topics import Topics, check_id

__all__ = ["SERVICE", "Device", "Devices", "access_rules"]

SERVICE = "repository"
"""The name of the repository service at the broker; no device may have it."""

_AUTHORITY_DAYS = 3650
_REVOKED_DAYS = 3650  # a list that is out of date would lock everybody out


@dataclass(frozen=True, slots=True)
class Device:
    """An enrolled device.

    Attributes
    ----------
    serial
        Of its certificate, hex.
    public_key
        Digest of its public key, ``sha256:<hex>``.
    expires
        Until when its certificate holds, ISO 8601.
    revoked
        Whether it was revoked.
    former
        Serial numbers of revoked certificates that it had before.
    earlier
        Those of certificates of the same key that hold beside this one.
    """

    serial: str
    public_key: str
    expires: str
    revoked: bool = False
    former: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()

    @property
    def serials(self) -> tuple[str, ...]:
        """Serial numbers of all certificates of its key."""
        return (*self.earlier, self.serial)


class Devices:
    """The devices of the fleet that a repository serves.

    Parameters
    ----------
    folder
        The repository's folder.
    fleet
        Fleet id.
    keys
        Folder of the authority's key, ``fleet-authority.pem``; made with the first certificate.
    passphrase
        Encrypts that key.
    """

    def __init__(self, folder: Path, fleet: str, *, keys: Path | None = None, passphrase: str | None = None) -> None:
        self._folder = folder
        self._fleet = check_id("fleet", fleet)
        self._path = folder / "devices.json"
        self._broker = folder / "broker"
        self._key_path = (keys or folder / "keys") / "fleet-authority.pem"
        self._passphrase = passphrase.encode() if passphrase else None
        self._operators = Operators(folder)

    @property
    def authority_path(self) -> Path:
        """Certificate of the authority: what a broker trusts clients by."""
        return self._broker / "fleet-authority.pem"

    @property
    def revoked_path(self) -> Path:
        """List of revoked certificates."""
        return self._broker / "revoked.pem"

    @property
    def access_path(self) -> Path:
        """Access-control file of mosquitto."""
        return self._broker / "access"

    def all(self) -> dict[str, Device]:
        """Return the devices by id; raise `StorageError` if the file is damaged, `InputError` if of another fleet."""
        try:
            document = canonical.loads(self._path.read_bytes(), limit=1 << 30)
            fleet = document["fleet"]
            devices = {
                name: Device(**{**fields, **{old: tuple(fields.get(old, ())) for old in ("former", "earlier")}})
                for name, fields in document["devices"].items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, InputError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(f"{self._path} cannot be read: {error}") from error
        if fleet != self._fleet:  # or its access rules would shut all of them out
            raise InputError(f"the devices of {self._folder} are of the fleet {fleet}, not {self._fleet}")
        return devices

    def enrol(self, request: bytes, root: bytes, *, replaces: bool = False, days: float = 730) -> tuple[str, bytes]:
        """Sign a device's request; return its id and the enrolment that it takes up.

        A device that is enrolled with the same key gets a new certificate; the old one holds on.

        Parameters
        ----------
        request
            PEM, as `edge_sdk.ota.identity.request` makes it.
        root
            Root metadata to pin.
        replaces
            The device of that id is lost or was reset: its certificates are revoked, and another key takes its place.
        days
            How long the certificate holds.

        Raises
        ------
        InputError
            The request is damaged, the id is impossible, or another key is enrolled under it.
        """
        device, public = _read_request(request)
        with self._locked(), self._operators.acting("enrol", "registrar", device=device, replaces=replaces) as done:
            digest = canonical.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
            devices = self.all()
            before = devices.get(device)
            if before is not None and not replaces and (before.revoked or before.public_key != digest):
                what = "was revoked" if before.revoked else "is enrolled with another key"
                raise InputError(f"{device} {what}; if it was replaced or reset, enrol it with --replace")
            certificate = self._issue(device, public, days)
            former = before.former if before is not None else ()
            earlier = before.serials if before is not None else ()
            if replaces:
                former, earlier = (*former, *earlier), ()
            serial, expires = f"{certificate.serial_number:x}", certificate.not_valid_after_utc.isoformat()
            devices[device] = Device(serial, digest, expires, former=former, earlier=earlier)
            self._store(devices)
            done["serial"] = serial
        return device, enrolment(self._fleet, device, certificate.public_bytes(Encoding.PEM), root)

    def revoke(self, device: str) -> None:
        """Shut a device out of the broker; raise `InputError` if it is not enrolled."""
        with self._locked(), self._operators.acting("revoke", "registrar", device=device):
            devices = self.all()
            if device not in devices or devices[device].revoked:
                raise InputError(f"{device} is not enrolled")
            devices[device] = replace(devices[device], revoked=True)
            self._store(devices)

    def issue_service(self, folder: Path, *, days: float = 730) -> None:
        """Write key and certificate of the repository service, ``service-key.pem`` and ``service.pem``."""
        with self._locked(), self._operators.acting("certify service", "registrar"):
            devices = self.all()
            key = ec.generate_private_key(ec.SECP256R1())
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            certificate = self._issue(SERVICE, key.public_key(), days)
            write_durably(make_folder(folder) / "service-key.pem", pem, mode=0o600)
            write_durably(folder / "service.pem", certificate.public_bytes(Encoding.PEM))
            self._store(devices)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with storage_errors(self._folder, "lock"), (self._folder / ".lock").open("ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _store(self, devices: dict[str, Device]) -> None:
        active = sorted(name for name, device in devices.items() if not device.revoked)
        revoked = [serial for device in devices.values() for serial in device.former]
        revoked += [serial for device in devices.values() if device.revoked for serial in device.serials]
        write_durably(make_folder(self._broker) / "access", access_rules(self._fleet, active).encode())
        write_durably(self.revoked_path, self._revocations(revoked))
        # last: what is cut before it was not done, and is done again as a whole
        document = {"format": 1, "fleet": self._fleet, "devices": {name: asdict(d) for name, d in devices.items()}}
        write_durably(self._path, canonical.dumps(document))

    def _revocations(self, serials: Sequence[str]) -> bytes:
        key, authority = self._authority()
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(authority.subject)
            .last_update(now - timedelta(minutes=5))
            .next_update(now + timedelta(days=_REVOKED_DAYS))
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _issue(self, name: str, public: Any, days: float) -> x509.Certificate:
        key, authority = self._authority()
        now = datetime.now(UTC)
        subject = [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, self._fleet),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
        ]
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(authority.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            # for clients only: a device cannot pass for the broker, even where both have one authority
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
            .sign(key, hashes.SHA256())
        )

    def _authority(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        if not self.authority_path.exists():
            self._make_authority()
        with _readable(self._key_path):
            pem = self._key_path.read_bytes()
            encrypted = b"ENCRYPTED" in pem.split(b"\n", 1)[0]
            if encrypted and self._passphrase is None:
                raise InputError(f"the key {self._key_path} is encrypted; give its passphrase")
            key = load_pem_private_key(pem, self._passphrase if encrypted else None)
            authority = x509.load_pem_x509_certificate(self.authority_path.read_bytes())
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InputError(f"{self._key_path} is not the key of a fleet's authority")
        return key, authority

    def _make_authority(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"fleet {self._fleet}")])
        now = datetime.now(UTC)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # certificates and lists
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=_AUTHORITY_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        protection: KeySerializationEncryption = NoEncryption()
        if self._passphrase is not None:
            protection = BestAvailableEncryption(self._passphrase)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
        make_folder(self._key_path.parent)
        write_durably(self._key_path, pem, mode=0o600)  # one without its certificate was cut, and is made anew
        write_durably(make_folder(self._broker) / self.authority_path.name, certificate.public_bytes(Encoding.PEM))


def access_rules(fleet: str, devices: Sequence[str]) -> str:
    """Return mosquitto's access-control file: what each of these devices, and the service, may read and write.

    The user name is the device id; whoever is not listed may do nothing.
    """
    lines = []
    for device in devices:
        topics = Topics(fleet, device)
        lines += [
            f"user {device}",
            *(f"topic write {topic}" for topic in (topics.get, topics.update, topics.status)),
            *(f"topic read {topic}" for topic in (topics.reply, topics.desired)),
            "",
        ]
    every = Topics(fleet, "+")
    lines += [
        f"user {SERVICE}",
        *(f"topic read {topic}" for topic in (every.get, every.update)),
        *(f"topic write {topic}" for topic in (every.reply, every.desired)),
    ]
    return "\n".join(lines) + "\n"


def _read_request(data: bytes) -> tuple[str, Any]:
    try:
        request = x509.load_pem_x509_csr(data)
        valid = request.is_signature_valid
        names = request.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        public = request.public_key()
    except (ValueError, InvalidSignature) as error:
        raise InputError(f"this is no request for a certificate: {error}") from error
    if not valid or len(names) != 1 or not isinstance(public, ec.EllipticCurvePublicKey):
        raise InputError("this is no request of a device: it is not signed by its own key, or names no device")
    device = check_id("device", str(names[0].value))
    if device == SERVICE:
        raise InputError(f"{SERVICE!r} is the name of the service; give the device another id")
    return device, public


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        with storage_errors(path, "read"):
            yield
    except StorageError:
        if path.exists():
            raise
        raise InputError(f"the key {path} is not here; point --keys at the folder that holds it") from None
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the key {path} cannot be read: wrong passphrase or damaged file") from error
