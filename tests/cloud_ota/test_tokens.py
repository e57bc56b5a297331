"""Keys in a PKCS#11 token: SoftHSM, which does in software what a hardware token does."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_sdk.cloud.ota.repository import Repository
from edge_sdk.errors import InputError
from edge_sdk.main import main
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


def name(folder: Path, key: str, number: int, token: str, *more: str) -> int:
    return main(["ota", "token", str(folder), key, "--id", str(number), "--label", token, *more])


def runs(folder: Path, repository: Repository, root: Path) -> str:
    """Return the version that a device with this root pinned is assigned."""
    found = Trust(folder, root).resolve("cam-1", Local(repository.folder))
    return found[0].version


@pytest.fixture
def repository(tmp_path: Path, token: str) -> Repository:
    """Return a repository whose first two root keys, and targets, are in the token."""
    folder = tmp_path / "repository"
    for number, key in enumerate(("root-1", "root-2", "targets"), start=1):
        assert name(folder, key, number, token) == 0
    assert main(["ota", "init", str(folder), "--bins", "2"]) == 0
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
    repository.rotate("publisher")
    repository.rotate("online")
    assert name(repository.folder, "root-2", 4, token, "--next") == 0
    assert name(repository.folder, "targets", 5, token, "--next") == 0
    repository.publish()
    assert (keys / "root-2.next.uri").exists()  # nothing but a rotation takes it
    repository.rotate("root-2")
    repository.rotate("targets")
    assert json.loads((keys / "root-2.uri").read_bytes())["uri"] == f"hsm:4?label={token}"
    assert len(list(keys.glob("retired-*.uri"))) == 2
    repository.rotate("root-1")  # from the token into a file
    assert (keys / "root-1.pem").exists()
    repository.add(make_bundle(tmp_path, "1.1.0"))
    repository.assign("cam-1", "tiny-1.1.0")
    assert runs(tmp_path / "device", repository, first) == "1.1.0"
    assert runs(tmp_path / "new", repository, first) == "1.1.0"


def test_a_token_that_is_not_there_or_not_opened_changes_nothing(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((repository.folder / "metadata").iterdir())
    with monkeypatch.context() as patch:
        patch.setenv("EDGE_SDK_OTA_PIN_TARGETS", "0000")
        with pytest.raises(InputError, match="does not sign"):
            repository.rotate("publisher")
        patch.delenv("PYKCS11LIB")
        assert main(["ota", "rotate", str(repository.folder), "publisher"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "targets.uri names does not sign" in line
    repository.rotate("publisher")
    assert len(list((repository.folder / "metadata").iterdir())) > len(before)


def test_a_key_that_the_token_has_not_is_told_in_one_line(
    tmp_path: Path, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, label, key in ((77, token, "root-1"), (1, "another", "root-1"), (1, token, "root-0")):
        assert name(tmp_path, key, number, label) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert list((tmp_path / "keys").glob("*")) == []
    assert name(tmp_path, "root-1", 1, token) == 0
    assert name(tmp_path, "root-1", 2, token) == 2
