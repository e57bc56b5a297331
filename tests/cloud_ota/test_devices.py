"""Devices that are enrolled, replaced and revoked, and a real mosquitto that goes by it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from edge_sdk.cloud.ota.devices import Devices
from edge_sdk.cloud.ota.repository import Repository
from edge_sdk.errors import BrokerError, InputError, StorageError, TrustError
from edge_sdk.ota.clock import TrustedTime
from edge_sdk.ota.identity import accept, identity, request
from edge_sdk.ota.link import Broker, Link, Message
from edge_sdk.ota.topics import Topics
from outside.certificates import Certificates
from outside.network import free_port
from outside.services import edge_sdk
from outside.updates import Fleet, make_bundle, wait_for

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/opt/homebrew/sbin")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Return an empty repository."""
    return Repository.init(tmp_path / "repository", bins=2)


@pytest.fixture
def devices(repository: Repository) -> Devices:
    """Return the devices of the fleet ``shop``: none."""
    return Devices(repository.folder, "shop")


def enrol(devices: Devices, repository: Repository, state: Path, device: str = "cam-1", **options: bool) -> None:
    """Take a device through its request and the answer."""
    _, answer = devices.enrol(request(state, device), repository.root_path.read_bytes(), **options)
    accept(state, answer)


def test_an_enrolled_device_has_an_id_a_key_of_its_own_a_certificate_and_a_root(
    devices: Devices, repository: Repository, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    assert identity(state) is None
    enrol(devices, repository, state)
    found = identity(state)
    assert (found.fleet, found.device) == ("shop", "cam-1")
    assert found.root.read_bytes() == repository.root_path.read_bytes()
    assert found.key.stat().st_mode & 0o777 == 0o600
    assert found.key.parent.stat().st_mode & 0o777 == 0o700
    certificate = x509.load_pem_x509_certificate(found.certificate.read_bytes())
    authority = x509.load_pem_x509_certificate(devices.authority_path.read_bytes())
    certificate.verify_directly_issued_by(authority)
    assert f"{certificate.serial_number:x}" == devices.all()["cam-1"].serial
    assert TrustedTime(state / "metadata" / "time", clock=lambda: datetime(1970, 1, 1, tzinfo=UTC)).now().year > 2024


def test_the_same_key_is_enrolled_again_and_another_one_only_as_a_replacement(
    devices: Devices, repository: Repository, tmp_path: Path
) -> None:
    enrol(devices, repository, tmp_path / "one")
    first = devices.all()["cam-1"]
    enrol(devices, repository, tmp_path / "one")
    assert devices.all()["cam-1"].serial != first.serial
    assert devices.all()["cam-1"].former == ()
    with pytest.raises(InputError, match="is enrolled with another key"):
        enrol(devices, repository, tmp_path / "two")
    lost = devices.all()["cam-1"].serials
    assert lost == (first.serial, devices.all()["cam-1"].serial)
    enrol(devices, repository, tmp_path / "two", replaces=True)
    assert devices.all()["cam-1"].former == lost
    revoked = x509.load_pem_x509_crl(devices.revoked_path.read_bytes())
    assert [f"{entry.serial_number:x}" for entry in revoked] == list(lost)


def test_a_revoked_device_is_on_the_list_and_in_no_rule_until_it_is_replaced(
    devices: Devices, repository: Repository, tmp_path: Path
) -> None:
    enrol(devices, repository, tmp_path / "one")
    enrol(devices, repository, tmp_path / "two", "cam-2")
    devices.revoke("cam-1")
    rules = devices.access_path.read_text()
    assert "user cam-2" in rules
    assert "cam-1" not in rules
    with pytest.raises(InputError, match="is not enrolled"):
        devices.revoke("cam-1")
    with pytest.raises(InputError, match="was revoked"):
        enrol(devices, repository, tmp_path / "one")
    enrol(devices, repository, tmp_path / "one", replaces=True)
    assert "user cam-1" in devices.access_path.read_text()


def test_an_enrolment_of_another_key_device_or_form_is_refused_and_the_old_one_stays(
    devices: Devices, repository: Repository, tmp_path: Path
) -> None:
    state, other = tmp_path / "state", tmp_path / "other"
    enrol(devices, repository, state)
    _, answer = devices.enrol(request(other, "cam-2"), repository.root_path.read_bytes())
    with pytest.raises(TrustError, match="for another key"):
        accept(state, answer)
    document = json.loads(answer)
    with pytest.raises(TrustError, match="is not for cam-3"):
        accept(other, json.dumps({**document, "device": "cam-3"}).encode())
    for damage in ({"root": "{}"}, {"certificate": "x"}, {"time": 1}, {"fleet": "a/b"}):
        with pytest.raises(InputError):
            accept(other, json.dumps({**document, **damage}).encode())
    with pytest.raises(InputError, match="make a request first"):
        accept(tmp_path / "third", answer)
    assert identity(state).device == "cam-1"
    assert identity(other) is None
    (state / "identity" / "identity.json").write_bytes(b"{")
    with pytest.raises(StorageError, match="enrol the device again"):
        identity(state)


@pytest.mark.parametrize("name", ["repository", "a/b", "+", "#", "..", "a b"])
def test_names_that_would_give_more_than_a_devices_rights_are_refused(
    devices: Devices, repository: Repository, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InputError):
        enrol(devices, repository, tmp_path / "state", name)
    assert devices.all() == {}


@pytest.mark.parametrize(
    "data", [b"", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_what_is_no_request_is_one_line(devices: Devices, data: bytes) -> None:
    with pytest.raises(InputError, match="no request") as caught:
        devices.enrol(data, b"")
    assert "\n" not in str(caught.value)


def test_the_commands_enrol_by_files_and_in_place_and_the_agent_needs_no_more_options(
    repository: Repository, tmp_path: Path, broker: str
) -> None:
    folder, state, answer = repository.folder, tmp_path / "state", tmp_path / "answer"
    asked = edge_sdk("enrol", "--state", state, "--device", "cam-1")
    (tmp_path / "request").write_text(asked.stdout)
    options = ("--fleet", tmp_path.name, "--request", tmp_path / "request", "--out", answer)
    done = edge_sdk("ota", "enrol", folder, *options)
    assert (done.returncode, done.stdout) == (0, f"cam-1 is enrolled: {answer}\n"), done.stderr
    assert (
        edge_sdk("enrol", "--state", state, "--accept", answer).stdout
        == f"this is cam-1 of the fleet {tmp_path.name}\n"
    )
    place = ("--fleet", tmp_path.name, "--device", "cam-2", "--state", tmp_path / "second")
    assert edge_sdk("ota", "enrol", folder, *place).returncode == 0
    assert edge_sdk("ota", "revoke", folder, "--fleet", tmp_path.name, "--device", "cam-2").returncode == 0
    agent = edge_sdk("agent", "--state", state, "--broker", "mqtt://127.0.0.1:1", "--once")
    assert "no MQTT broker" in agent.stderr
    bare = edge_sdk("agent", "--state", tmp_path / "none", "--broker", broker, "--once")
    assert (bare.returncode, bare.stderr.count("\n")) == (2, 1)
    assert "enrol the device" in bare.stderr


# a broker that goes by it


@pytest.fixture
def fleet(tmp_path: Path, certificates: Certificates) -> Iterator[Fleet]:
    """Return a fleet behind a mosquitto that takes only certificates of the fleet's authority."""
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    port, service = free_port(), tmp_path / "service"
    tls = {"ca": certificates.cert, "certificate": service / "service.pem", "key": service / "service-key.pem"}
    made = Fleet(tmp_path, f"mqtts://127.0.0.1:{port}", **tls)
    known = Devices(made.repository.folder, made.name)
    known.issue_service(service)
    for device in ("cam-1", "cam-2"):
        enrol(known, made.repository, tmp_path / "state" / device, device)
    (tmp_path / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nuser root\nallow_anonymous false\n"
        f"cafile {known.authority_path}\ncertfile {certificates.cert}\nkeyfile {certificates.key}\n"
        f"require_certificate true\nuse_identity_as_username true\n"
        f"crlfile {known.revoked_path}\nacl_file {known.access_path}\n"
    )
    made.known = known
    made.mosquitto = subprocess.Popen([MOSQUITTO, "-c", tmp_path / "mosquitto.conf"], stderr=subprocess.DEVNULL)
    wait_for(lambda: connects(Broker.parse(made.broker, **tls)))
    made.serve()
    yield made
    made.stop()
    made.mosquitto.terminate()
    made.mosquitto.wait(10)


def as_device(fleet: Fleet, device: str) -> Broker:
    found = identity(fleet.folder / "state" / device)
    return Broker.parse(fleet.broker, ca=fleet._tls["ca"], certificate=found.certificate, key=found.key)


def connects(broker: Broker) -> bool:
    link = Link(broker, "probe")
    try:
        link.connect()
    except BrokerError:
        return False
    link.close()
    return True


@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")  # paho leaves one open at a failed handshake
def test_enrolled_devices_are_served_and_can_neither_read_nor_write_anothers_topics(
    fleet: Fleet, certificates: Certificates
) -> None:
    fleet.ship(make_bundle(fleet.folder, "1.0.0"))
    victim, heard = Topics(fleet.name, "cam-1"), []

    def hear(message: Message) -> None:
        heard.append(message.topic)

    every = [victim.get, victim.reply, victim.desired, victim.update, victim.status]
    rogue = Link(
        as_device(fleet, "cam-2"), "rogue", subscriptions=[("#", 1), *((topic, 1) for topic in every)], on_message=hear
    )
    rogue.connect()
    for topic in every:
        rogue.publish(topic, b'{"id":"forged","state":"active"}', retain=True)
    assert fleet.check(broker=as_device(fleet, "cam-1")) == "active"
    rogue.publish(Topics(fleet.name, "cam-2").update, b'{"id":"own","state":"idle"}')
    wait_for(lambda: any(report["id"] == "own" for report in fleet.reports()))
    rogue.close()
    assert [report for report in fleet.reports() if report["id"] == "forged"] == []
    assert heard == []
    assert not connects(Broker.parse(fleet.broker, ca=certificates.cert))
    stranger = Broker.parse(fleet.broker, ca=certificates.cert, certificate=certificates.cert, key=certificates.key)
    assert not connects(stranger)


@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")
def test_a_revoked_device_is_shut_out_and_its_replacement_is_served(fleet: Fleet, tmp_path: Path) -> None:
    fleet.ship(make_bundle(fleet.folder, "1.0.0"))
    assert connects(as_device(fleet, "cam-1"))
    fleet.known.revoke("cam-1")
    fleet.mosquitto.send_signal(signal.SIGHUP)  # takes the rules and the list of the revoked anew
    wait_for(lambda: not connects(as_device(fleet, "cam-1")))
    assert connects(as_device(fleet, "cam-2"))
    shutil.rmtree(tmp_path / "state" / "cam-1")
    enrol(fleet.known, fleet.repository, tmp_path / "state" / "cam-1", replaces=True)
    fleet.mosquitto.send_signal(signal.SIGHUP)
    wait_for(lambda: connects(as_device(fleet, "cam-1")))
    assert fleet.check(broker=as_device(fleet, "cam-1")) == "active"


def test_all_certificates_of_a_device_are_revoked_not_its_last_one_alone(
    devices: Devices, repository: Repository, tmp_path: Path
) -> None:
    for device in ("cam-1", "cam-2"):
        serials = []
        for _ in range(3):
            enrol(devices, repository, tmp_path / device, device)
            serials.append(int(devices.all()[device].serial, 16))
        if device == "cam-1":
            devices.revoke(device)
        else:
            enrol(devices, repository, tmp_path / "another", device, replaces=True)
        revoked = {entry.serial_number for entry in x509.load_pem_x509_crl(devices.revoked_path.read_bytes())}
        assert set(serials) <= revoked
    assert int(devices.all()["cam-2"].serial, 16) not in revoked


def test_a_mistaken_fleet_changes_nothing_for_the_devices_that_are_enrolled(
    devices: Devices, repository: Repository, tmp_path: Path
) -> None:
    enrol(devices, repository, tmp_path / "one")
    before = devices.access_path.read_bytes()
    other = Devices(repository.folder, "shpo")
    for action in (
        lambda: enrol(other, repository, tmp_path / "two", "cam-2"),
        lambda: other.revoke("cam-1"),
        lambda: other.issue_service(tmp_path / "service"),
    ):
        with pytest.raises(InputError, match="are of the fleet shop, not shpo"):
            action()
    assert devices.access_path.read_bytes() == before
