"""The access-control file of the documentation, on a real mosquitto."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_sdk.errors import BrokerError
from edge_sdk.ota.link import Broker, Link, Message
from edge_sdk.ota.topics import Topics
from outside.network import free_port
from outside.updates import Fleet, make_bundle, wait_for

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/opt/homebrew/sbin")
DOCUMENT = Path(__file__).parents[2] / "docs" / "brokers.md"

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Return a fleet behind a broker that enforces the documented rules."""
    port = free_port()
    made = Fleet(tmp_path, f"mqtt://repository@127.0.0.1:{port}")
    [rules] = re.findall(r"```text\n(pattern .*?)```", DOCUMENT.read_text(), re.DOTALL)
    (tmp_path / "rules").write_text(rules.replace("/shop/", f"/{made.name}/"))
    config = f"listener {port} 127.0.0.1\nallow_anonymous true\nacl_file {tmp_path / 'rules'}\nuser root\n"
    (tmp_path / "mosquitto.conf").write_text(config)
    with subprocess.Popen([MOSQUITTO, "-c", str(tmp_path / "mosquitto.conf")], stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: _connects(made.broker))
        made.serve()
        yield made
        made.stop()
        process.terminate()


def _connects(url: str) -> bool:
    link = Link(Broker.parse(url), "probe")
    try:
        link.connect(1.0)
    except BrokerError:
        return False
    link.close()
    return True


def test_a_device_is_served_and_another_sees_and_says_nothing_in_its_name(fleet: Fleet) -> None:
    fleet.ship(make_bundle(fleet.folder, "1.0.0"))
    heard: list[Message] = []
    address, victim = fleet.broker.split("@")[1], Topics(fleet.name, "cam-1")
    rogue = Link(
        Broker.parse(f"mqtt://cam-2@{address}"),
        "rogue",
        subscriptions=[("#", 1), (victim.reply, 1), (victim.desired, 1), (victim.status, 1)],
        on_message=heard.append,
    )
    rogue.connect()
    rogue.publish(victim.update, b'{"id":"forged","state":"active"}')
    rogue.publish(victim.desired, b"{}", retain=True)
    assert fleet.check(broker=f"mqtt://cam-1@{address}") == "active"
    wait_for(lambda: any(report["state"] == "active" for report in fleet.reports()))
    rogue.publish(Topics(fleet.name, "cam-2").update, b'{"id":"own","state":"idle"}')
    wait_for(lambda: any(report["id"] == "own" for report in fleet.reports()))
    rogue.close()
    assert [report for report in fleet.reports() if report["id"] == "forged"] == []
    assert heard == []
