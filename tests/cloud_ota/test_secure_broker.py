"""A broker with TLS and passwords, on a real mosquitto."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_sdk.errors import BrokerError
from edge_sdk.ota.link import Broker, Link
from outside.certificates import Certificates
from outside.network import free_port
from outside.services import edge_sdk
from outside.updates import Fleet, make_bundle, wait_for

TOOLS = "/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/sbin:/opt/homebrew/bin"
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path=TOOLS)
PASSWD = shutil.which("mosquitto_passwd") or shutil.which("mosquitto_passwd", path=TOOLS)
SECRET = "s3cret-of-this-test"

pytestmark = pytest.mark.skipif(MOSQUITTO is None or PASSWD is None, reason="mosquitto is not installed")


@pytest.fixture
def address(tmp_path: Path, certificates: Certificates) -> Iterator[str]:
    """Return HOST:PORT of a broker that takes nobody without TLS and a password."""
    port = free_port()
    subprocess.run([PASSWD, "-b", "-c", tmp_path / "passwords", "cam-1", SECRET], check=True, capture_output=True)
    (tmp_path / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {tmp_path / 'passwords'}\nuser root\n"
        f"certfile {certificates.cert}\nkeyfile {certificates.key}\n"
    )
    with subprocess.Popen([MOSQUITTO, "-c", tmp_path / "mosquitto.conf"], stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: connects(f"mqtts://cam-1:{SECRET}@127.0.0.1:{port}", certificates.cert))
        yield f"127.0.0.1:{port}"
        process.terminate()


def connects(url: str, ca: Path | None) -> bool:
    """Tell whether a broker accepts us."""
    link = Link(Broker.parse(url, ca=ca), "probe")
    try:
        link.connect()
    except BrokerError:
        return False
    link.close()
    return True


@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")  # paho leaves one open at a failed handshake
def test_nobody_comes_in_without_the_authority_the_password_and_tls(address: str, certificates: Certificates) -> None:
    assert connects(f"mqtts://cam-1:{SECRET}@{address}", certificates.cert)
    assert not connects(f"mqtts://cam-1:{SECRET}@{address}", None)
    assert not connects(f"mqtts://cam-1:wrong@{address}", certificates.cert)
    assert not connects(f"mqtts://{address}", certificates.cert)
    assert not connects(f"mqtt://cam-1:{SECRET}@{address}", None)


def test_an_update_arrives_over_tls_and_the_password_is_never_told(
    tmp_path: Path, address: str, certificates: Certificates
) -> None:
    url = f"mqtts://cam-1:{SECRET}@{address}"
    fleet = Fleet(tmp_path, url, ca=certificates.cert)
    fleet.serve()
    try:
        fleet.ship(make_bundle(fleet.folder, "1.0.0"))
        done = edge_sdk(
            *("agent", "--json", "--once", "--state", tmp_path / "device"),
            *("--fleet", fleet.name, "--device", "cam-1"),
            *("--root", fleet.repository.root_path, "--ca", certificates.cert),
            env={**os.environ, "EDGE_SDK_LOG": "DEBUG", "EDGE_SDK_BROKER": url},
        )
        wait_for(lambda: any(report["state"] == "active" for report in fleet.reports()))
    finally:
        fleet.stop()
    assert done.returncode == 0, done.stderr
    assert '"state": "active"' in done.stdout
    assert SECRET not in done.stdout + done.stderr


def test_without_a_broker_the_commands_say_how_to_name_one(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "EDGE_SDK_BROKER"}
    edge_sdk("ota", "init", tmp_path / "repo")
    for arguments in (
        ("ota", "serve", tmp_path / "repo", "--fleet", "shop"),
        ("agent", "--state", tmp_path, "--fleet", "shop", "--device", "cam-1", "--root", tmp_path / "repo/root.json"),
    ):
        done = edge_sdk(*arguments, env=environment)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "EDGE_SDK_BROKER" in done.stderr
