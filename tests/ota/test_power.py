"""Real processes, ended by SIGKILL: what was there is still there, and nothing is done twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge_sdk.bundle import Bundle
from edge_sdk.cloud.ota.gateway import Origin, Reply
from edge_sdk.errors import StorageError
from edge_sdk.ota import active
from edge_sdk.ota.channel import Channel
from edge_sdk.ota.outbox import Outbox
from edge_sdk.ota.records import Target
from edge_sdk.ota.transfer import Download
from outside.disk import mounted
from outside.services import Service
from outside.updates import Fleet, make_bundle, wait_for

WRITER = """
import sys
import time
from pathlib import Path
from edge_sdk.ota import active
from edge_sdk.ota.outbox import Outbox

outbox = Outbox(Path(sys.argv[1]))
for number in range(10**6):
    report = f"{sys.argv[2]}-{number}"
    outbox.put(report, report.encode())
    print(report, flush=True)
"""


class StallingOrigin(Origin):
    """Answers only the first blocks of bundles, until it is let go."""

    def __init__(self, folder: Path, blocks: int) -> None:
        super().__init__(folder)
        self.blocks = blocks
        self.asked: list[int] = []

    def answer(self, device: str, request: bytes) -> Reply:
        document = json.loads(request)
        if str(document.get("target")).startswith("bundles/"):
            self.asked.append(document["block"])
            if document["block"] >= self.blocks:
                return Reply(503)
        return super().answer(device, request)


def test_a_killed_download_fetches_only_what_is_missing(fleet: Fleet) -> None:
    fleet.ship(make_bundle(fleet.folder, "1.0.0", golden_kib=1500))
    target = fleet.repository.bundles()["tiny-1.0.0"]
    assert len(target.blocks) > 10
    origin = StallingOrigin(fleet.repository.folder, 6)
    fleet.gateway._origin = origin
    state = fleet.folder / "state" / "cam-1"
    arguments = ("agent", "--state", state, "--broker", fleet.broker, "--fleet", fleet.name, "--device", "cam-1")
    with Service(*arguments, "--root", fleet.repository.root_path) as agent:
        download = Download(state / "download", target)
        wait_for(lambda: len(download.missing()) == len(target.blocks) - 6)
        agent.kill()
    origin.blocks, origin.asked = 10**6, []
    assert fleet.check() == "active"
    assert sorted(set(origin.asked)) == list(range(6, len(target.blocks)))


def test_a_torn_block_is_fetched_again(fleet: Fleet, tmp_path: Path) -> None:
    fleet.ship(make_bundle(fleet.folder, "1.0.0", golden_kib=500))
    target: Target = fleet.repository.bundles()["tiny-1.0.0"]
    download = Download(tmp_path / "download", target)
    data = bytearray(fleet.repository.target_file("tiny-1.0.0").read_bytes())
    data[target.block_bytes * 2 + 7] ^= 1
    (tmp_path / "download" / f"{target.sha256}.part").write_bytes(data)
    assert download.missing() == [2]


def test_a_disk_that_fills_up_during_a_download_is_not_taken_for_tampering(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.ship(make_bundle(fleet.folder, "1.0.0", golden_kib=500))
    target = fleet.repository.bundles()["tiny-1.0.0"]
    origin = Origin(fleet.repository.folder)

    def send(payload: bytes, correlation: bytes) -> None:
        reply = origin.answer("cam-1", payload)
        channel.deliver(correlation, reply.data, {"status": str(reply.status), "size": str(reply.size)})

    channel = Channel(send)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 30))  # before it filled up
    with mounted(tmp_path / "disk", f"size={target.size - 8192}") as done:  # room for a part of the last block
        if not done:
            pytest.skip("a small file system needs the right to mount (root)")
        with pytest.raises(StorageError, match="No space left"):
            Download(tmp_path / "disk", target).fetch(channel)


def test_an_outbox_with_damaged_pages_is_set_aside_and_begun_anew(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    for number in range(200):
        outbox.put(str(number), bytes(1000))
    with (tmp_path / "outbox.db").open("r+b") as file:  # the first page, with the schema, stays whole
        file.seek(4096)
        file.write(bytes(100_000))
    outbox.close()
    outbox = Outbox(tmp_path / "outbox.db")
    assert outbox.put("1", b"again")
    assert [report.payload for report in outbox.pending()] == [b"again"]
    outbox.close()
    assert (tmp_path / "outbox.db.damaged").stat().st_size > 100_000


def test_no_report_put_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    path, put = tmp_path / "outbox.db", []
    for life in range(5):
        arguments = [sys.executable, "-P", "-c", WRITER, str(path), str(life)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as writer:
            put += [writer.stdout.readline().strip() for _ in range(20 + life)]
            writer.kill()
            put += writer.stdout.read().split()
        outbox = Outbox(path)
        stored = [report.payload.decode() for report in outbox.pending(limit=10**6)]
        outbox.close()
        assert [report for report in stored if report in set(put)] == put
        assert len(stored) - len(put) <= life + 1  # stored, and killed before it could say so


def test_reports_of_a_killed_agent_arrive_after_its_restart(fleet: Fleet) -> None:
    fleet.ship_version("1.0.0")
    fleet.check()
    wait_for(lambda: len(fleet.reports()) == 5)
    outbox = Outbox(fleet.folder / "state" / "cam-1" / "outbox.db")  # as a crash before sending leaves it
    assert outbox.put("left", b'{"id":"left-behind","state":"active"}')
    assert not outbox.put("left", b"again")
    outbox.close()
    fleet.check()
    wait_for(lambda: any(report["id"] == "left-behind" for report in fleet.reports()))


def test_a_success_that_was_not_reported_before_the_cut_is_reported_after_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.ship_version("1.0.0")
    put = Outbox.put

    def cut(self: Outbox, key: str, payload: bytes) -> bool:
        if json.loads(payload)["state"] == "active":
            raise KeyboardInterrupt
        return put(self, key, payload)

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "put", cut)
        with pytest.raises(KeyboardInterrupt), fleet.agent() as agent:
            agent.check()
    assert ("active", "1.0.0") not in fleet.states()
    assert fleet.check() == "active"
    assert fleet.states().count(("active", "1.0.0")) == 1
    wait_for(lambda: sum(report["state"] == "active" for report in fleet.reports()) == 1)


def test_an_agent_killed_at_any_moment_leaves_the_old_version_or_the_new_one(fleet: Fleet) -> None:
    random = np.random.default_rng(7)
    state = fleet.folder / "state" / "cam-1"
    arguments = ("agent", "--state", state, "--broker", fleet.broker, "--fleet", fleet.name, "--device", "cam-1")
    allowed = {None}
    for patch in range(4):
        version = f"1.0.{patch}"
        fleet.ship(make_bundle(fleet.folder, version, golden_kib=400))
        with Service(*arguments, "--root", fleet.repository.root_path) as agent:
            time.sleep(random.uniform(0.0, 0.25))
            agent.kill()
        folder = active(state)
        running = None if folder is None else Bundle.open(folder).manifest.version
        assert running in {*allowed, version}
        allowed = {running}
    assert fleet.check() == "active"
    assert Bundle.open(active(state)).manifest.version == "1.0.3"
    wait_for(lambda: any((r["state"], r["version"]) == ("active", "1.0.3") for r in fleet.reports()))
