"""The commands by themselves, on files and a real broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from outside.services import Service, edge_sdk
from outside.updates import make_bundle, wait_for


def test_the_documented_commands_ship_a_version(tmp_path: Path, broker: str, service: Callable[..., Service]) -> None:
    repository, bundle = tmp_path / "repo", make_bundle(tmp_path, "1.0.0")
    assert edge_sdk("ota", "init", repository, "--bins", "2").returncode == 0
    assert json.loads(edge_sdk("ota", "add", repository, bundle, "--json").stdout)["target"] == "tiny-1.0.0"
    assigned = edge_sdk("ota", "assign", repository, "--device", "cam-1", "--target", "tiny-1.0.0")
    assert assigned.stdout == "assigned tiny-1.0.0 to cam-1 (counter 1)\n"
    fleet = ("--broker", broker, "--fleet", tmp_path.name)
    service("ota", "serve", repository, *fleet)
    device = ("agent", "--state", tmp_path / "state", *fleet, "--device", "cam-1", "--root", repository / "root.json")
    done = edge_sdk(*device, "--once", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    ready, *events = done.stdout.splitlines()
    assert ready.startswith("ready agent=cam-1 ")
    assert [json.loads(event)["state"] for event in events] == [
        "downloading",
        "verifying",
        "installing",
        "testing",
        "active",
    ]
    wait_for(lambda: "active 1.0.0" in edge_sdk("ota", "status", repository).stdout)
    status = json.loads(edge_sdk("ota", "status", repository, "--json").stdout)
    assert status["reports"]["cam-1"]["state"] == "active"
    agent = service(*device)
    assert agent.ready["active"] == "tiny-1.0.0"
    again = edge_sdk(*device)
    assert again.returncode == 2
    assert "another agent works in" in again.stderr
    assert agent.stop() == 143


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, broker: str) -> None:
    repository, damaged = tmp_path / "repo", tmp_path / "damaged.json"
    edge_sdk("ota", "init", repository, "--bins", "2")
    damaged.write_text("{}")
    root = repository / "root.json"
    agent = ("agent", "--fleet", "f", "--device", "d", "--once")
    for arguments in [
        ("ota", "init", repository),
        ("ota", "add", repository, tmp_path / "none.edge"),
        ("ota", "add", tmp_path / "elsewhere", tmp_path / "none.edge"),
        ("ota", "assign", repository, "--device", "d", "--target", "none-1.0.0"),
        ("ota", "serve", repository, "--broker", "mqtt://127.0.0.1:1", "--fleet", "f"),
        (*agent, "--state", tmp_path / "s", "--broker", "mqtt://127.0.0.1:1", "--root", root),
        (*agent, "--state", tmp_path / "s", "--broker", broker, "--root", damaged),
        (*agent, "--state", tmp_path / "s", "--broker", broker, "--root", tmp_path / "none.json"),
        (*agent, "--state", damaged / "s", "--broker", broker, "--root", root),
    ]:
        done = edge_sdk(*arguments)
        assert done.returncode == 2, arguments
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stdout == ""
