"""The command table, as a person at a terminal meets it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib

import pytest

from edge_sdk.errors import MissingExtraError
from edge_sdk.main import COMMANDS
from outside.services import edge_sdk
from outside.sources import ROOT

NAMES = [command.name for command in COMMANDS]


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_help_says_what_a_command_does_and_shows_an_example(command):
    done = edge_sdk(command.name, "--help")
    assert done.returncode == 0, done.stderr
    assert "example" in done.stdout
    assert f"edge-sdk {command.name}" in done.stdout.partition("example")[2]


def test_every_command_is_a_module_with_configure_and_run():
    for command in COMMANDS:
        module = importlib.import_module(command.module)
        assert callable(module.configure), command
        assert callable(module.run), command


def test_every_extra_that_a_command_asks_for_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {command.extra for command in COMMANDS} - {None} <= set(extras)


def test_the_overview_lists_every_command():
    done = edge_sdk()
    assert done.returncode == 0
    for command in COMMANDS:
        assert f"\n  {command.name} " in done.stdout


def test_an_unknown_command_is_refused_with_the_names_of_those_there_are():
    done = edge_sdk("fly")
    assert done.returncode == 2
    assert "unknown command 'fly'" in done.stderr
    assert "predict" in done.stderr


BLOCKER = """\
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from edge_sdk.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("blocked", "arguments", "extra"),
    [
        ("grpc", ["serve", "none.edge"], "cloud"),
        ("tensorflow keras", ["train", "--data", "mnist", "--out", "teacher"], "compress"),
        ("tuf", ["ota", "init", "repository"], "cloud"),
        (
            "paho",
            ["agent", "--state", "s", "--broker", "mqtt://127.0.0.1:1", "--fleet", "f", "--device", "d"],
            "device",
        ),
        ("matplotlib rich mlxtend", ["demo"], "demo"),
    ],
)
def test_a_command_whose_extra_is_missing_says_what_to_install(tmp_path, blocked, arguments, extra):
    program = BLOCKER.replace("BLOCKED", repr(set(blocked.split())))
    command = [sys.executable, "-P", "-c", program, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, check=False, cwd=tmp_path, env=os.environ
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("edge-sdk: error: ")
    assert f"pip install 'edge-sdk[{extra}]'" in line
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_as_it_is_installed():
    assert str(MissingExtraError("grpc", "hybrid")) == "grpcio is not installed: pip install 'edge-sdk[hybrid]'"
    assert MissingExtraError("paho.mqtt.client", "ota").package == "paho-mqtt"
    assert MissingExtraError("tuf", "ota").package == "tuf"
