"""Keys in a PKCS#11 token: SoftHSM, which does in software what a hardware token does."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_sdk.cloud.ota.repository import Repository
from edge_sdk.ota.trust import Trust
from outside.updates import Local, make_bundle

LIBRARY = next(
    (p for p in map(Path, ("/usr/lib/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so")) if p.exists()),
    None,
)
MISSING = [tool for tool in ("softhsm2-util", "pkcs11-tool") if shutil.which(tool) is None]

pytestmark = [
    pytest.mark.skipif(LIBRARY is None or bool(MISSING), reason="softhsm2 and opensc are not installed"),
    pytest.mark.skipif(importlib.util.find_spec("pkcs11") is None, reason="python-pkcs11 is not installed"),
]


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the label of a token with the keys 1 to 9, each of P-256."""

    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    patch = pytest.MonkeyPatch()
    patch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
    patch.setenv("PYKCS11LIB", str(LIBRARY))
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", "fleet", "--so-pin", "12345678", "--pin", "4321"],
        check=True, capture_output=True,
    )  # fmt: skip
    tool = [
        "pkcs11-tool",
        "--module",
        LIBRARY,
        "--login",
        "--pin",
        "4321",
        "--keypairgen",
        "--key-type",
        "EC:prime256v1",
    ]
    for number in range(1, 6):
        subprocess.run([*tool, "--id", f"{number:02x}"], check=True, capture_output=True)
    yield "fleet"
    patch.undo()


@pytest.fixture(autouse=True)
def pin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_SDK_OTA_PIN", "4321")


def ota(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command by itself: beside the cryptography of other libraries in one process, SoftHSM has crashed."""
    command = [sys.executable, "-P", "-m", "edge_sdk", "ota", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def done(*arguments: object) -> None:
    result = ota(*arguments)
    assert result.returncode == 0, result.stderr


def refused(*arguments: object) -> str:
    result = ota(*arguments)
    assert result.returncode == 2, result
    [line] = result.stderr.splitlines()
    return line


def name(folder: Path, key: str, number: int, token: str) -> tuple[object, ...]:
    return ("token", folder, key, "--id", number, "--label", token)


def runs(folder: Path, repository: Repository, root: Path) -> str:
    """Return the version that a device with this root pinned is assigned."""
    found = Trust(folder, root).resolve("cam-1", Local(repository.folder))
    return found[0].version


@pytest.fixture
def repository(tmp_path: Path, token: str) -> Repository:
    """Return a repository whose first two root keys, and targets, are in the token."""
    folder = tmp_path / "repository"
    for number, key in enumerate(("root-1", "root-2", "targets"), start=1):
        done(*name(folder, key, number, token))
    done("init", folder, "--bins", 2)
    return Repository.open(folder)


def test_root_and_targets_keys_in_a_token_sign_what_devices_follow(
    repository: Repository, tmp_path: Path, token: str
) -> None:
    keys = repository.folder / "keys"
    assert sorted(path.name for path in keys.glob("*.uri")) == ["root-1.uri", "root-2.uri", "targets.uri"]
    assert not {"root-1.pem", "root-2.pem", "targets.pem"} & {path.name for path in keys.iterdir()}
    first = shutil.copy(repository.root_path, tmp_path / "first.json")
    repository.add(make_bundle(tmp_path, "1.0.0"))
    repository.assign("cam-1", "tiny-1.0.0")
    assert runs(tmp_path / "device", repository, first) == "1.0.0"
    (keys / "root-3.pem").rename(tmp_path / "root-3.pem")  # the two in the token are enough
    done("rotate", repository.folder, "publisher")
    done("rotate", repository.folder, "online")
    done(*name(repository.folder, "root-2", 4, token), "--next")
    done(*name(repository.folder, "targets", 5, token), "--next")
    done("publish", repository.folder)
    assert (keys / "root-2.next.uri").exists()  # nothing but a rotation takes it
    done("rotate", repository.folder, "root-2")
    done("rotate", repository.folder, "targets")
    assert json.loads((keys / "root-2.uri").read_bytes())["uri"] == f"hsm:4?label={token}"
    assert len(list(keys.glob("retired-*.uri"))) == 2
    done("rotate", repository.folder, "root-1")  # from the token into a file
    assert (keys / "root-1.pem").exists()
    repository.add(make_bundle(tmp_path, "1.1.0"))
    repository.assign("cam-1", "tiny-1.1.0")
    assert runs(tmp_path / "device", repository, first) == "1.1.0"
    assert runs(tmp_path / "new", repository, first) == "1.1.0"


def test_a_token_that_is_not_there_or_not_opened_changes_nothing(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    timestamp = repository.folder / "metadata" / "timestamp.json"
    before = timestamp.read_bytes()
    with monkeypatch.context() as patch:
        patch.setenv("EDGE_SDK_OTA_PIN_TARGETS", "0000")
        assert "does not sign" in refused("rotate", repository.folder, "publisher")
        patch.delenv("EDGE_SDK_OTA_PIN_TARGETS")
        patch.delenv("PYKCS11LIB")
        assert "targets.uri names does not sign" in refused("rotate", repository.folder, "publisher")
    assert timestamp.read_bytes() == before, "devices see no change"
    done("rotate", repository.folder, "publisher")
    assert timestamp.read_bytes() != before


def test_a_key_that_the_token_has_not_is_told_in_one_line(tmp_path: Path, token: str) -> None:
    for number, label, key in ((77, token, "root-1"), (1, "another", "root-1"), (1, token, "root-0")):
        line = refused(*name(tmp_path, key, number, label))
        assert key in line or label in line
    assert list((tmp_path / "keys").glob("*")) == []
    done(*name(tmp_path, "root-1", 1, token))
    assert "exists already" in refused(*name(tmp_path, "root-1", 2, token))
