"""A new version answers in a process of its own, whatever that does to it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_sdk.bundle import Bundle
from edge_sdk.errors import HealthError, InstallError, ModelError
from edge_sdk.ota import active
from edge_sdk.ota.health import probe
from edge_sdk.packing import pack
from edge_sdk.processing import Columns, ProcessingSpec
from edge_sdk.runtime.opening import check_runtime
from outside.updates import Fleet, make_bundle, spoil_golden, wait_for

RUNTIME = """
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from edge_sdk.types import TensorSpec

HERE = Path(__file__).parent


class Session:
    inputs = (TensorSpec("x", "float32", (1, 4)),)
    outputs = (TensorSpec("y", "float32", (1, 4)),)

    def __init__(self, model, threads, delegate):
        pass

    def run(self, x):
        fault = HERE / "fault"
        print("a library that talks")
        if fault.exists():
            with (HERE / "runs").open("a") as runs:
                print(os.getpid(), file=runs)
            exec(fault.read_text())
        return [x + 1]

    def close(self):
        pass
"""


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of an installed runtime; Python in its file ``fault`` is executed by every run."""
    folder = tmp_path / "site"
    points = folder / "moody_runtime-1.0.dist-info"
    points.mkdir(parents=True)
    (folder / "moody_runtime.py").write_text(RUNTIME)
    (points / "METADATA").write_text("Metadata-Version: 2.1\nName: moody-runtime\nVersion: 1.0\n")
    (points / "entry_points.txt").write_text("[edge_sdk.runtimes]\nmoody = moody_runtime:Session\n")
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    sys.modules.pop("moody_runtime", None)


@pytest.fixture
def moody(runtime: Path, tmp_path: Path) -> Bundle:
    """Return a bundle for that runtime, unpacked."""
    return Bundle.open(moody_bundle(tmp_path)).unpack(tmp_path / "slot")


def moody_bundle(folder: Path, version: str = "1.0.0") -> Path:
    path = folder / f"moody-{version}.edge"
    pack(
        b"model",
        runtime="moody",
        name="moody",
        version=version,
        task="regression",
        processing=ProcessingSpec((Columns(("a", "b", "c", "d")),)),
        golden_inputs=[np.arange(4, dtype=np.float32)],
        path=path,
    )
    return path


def runs(runtime: Path) -> list[int]:
    return [int(line) for line in (runtime / "runs").read_text().split()]


def test_a_version_is_checked_elsewhere_and_what_its_runtime_prints_is_no_answer(runtime: Path, moody: Bundle) -> None:
    (runtime / "fault").write_text("")
    assert probe(moody)["examples"] == 1
    assert set(runs(runtime)).isdisjoint({os.getpid()})


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGILL", "SIGFPE"])
def test_a_model_that_crashes_is_not_healthy(runtime: Path, moody: Bundle, name: str) -> None:
    (runtime / "fault").write_text(f"os.kill(os.getpid(), signal.{name})")
    with pytest.raises(HealthError, match=rf"moody-1.0.0 is not healthy: .* crashed \(signal \d+, {name}\)") as caught:
        probe(moody)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", r"signal 9, SIGKILL"),
        ("os.abort()", r"signal 6, SIGABRT"),
        ("os._exit(3)", r"exit code 3"),
    ],
)
def test_of_a_process_that_was_ended_nothing_follows_for_the_version(
    runtime: Path, moody: Bundle, fault: str, how: str
) -> None:
    (runtime / "fault").write_text(fault)
    with pytest.raises(InstallError, match=rf"moody-1.0.0 could not be checked: .* ended early \({how}\)"):
        probe(moody)


def test_a_model_that_gives_no_answer_in_time_is_ended(
    runtime: Path, moody: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_sdk.ota.health._SECONDS", 2.0)
    (runtime / "fault").write_text("time.sleep(100)")
    with pytest.raises(HealthError, match="it does not answer within 2 s") as caught:
        probe(moody)
    assert isinstance(caught.value.__cause__, OSError)


def test_where_memory_ends_only_this_assignment_is_given_up(runtime: Path, moody: Bundle) -> None:
    (runtime / "fault").write_text("raise MemoryError('no more')")
    with pytest.raises(HealthError, match="no more") as caught:
        probe(moody)
    assert isinstance(caught.value.__cause__, OSError)


def test_where_no_process_can_be_started_nothing_follows_for_the_version(moody: Bundle) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(InstallError, match="no process can be started"):
            probe(moody)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("without", [("executable", ""), ("frozen", True)])
def test_a_program_without_an_interpreter_checks_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: tuple[str, object]
) -> None:
    path = make_bundle(tmp_path, "1.0.0")
    monkeypatch.setattr(sys, *without, raising=False)
    assert probe(Bundle.open(path).unpack(tmp_path / "a"))["examples"] == 1
    with pytest.raises(HealthError, match="the answer to golden example 0 differs"):
        probe(Bundle.open(spoil_golden(path)).unpack(tmp_path / "b"))


def test_a_check_that_is_ended_is_made_again_and_the_third_time_ends_the_assignment(
    fleet: Fleet, runtime: Path, tmp_path: Path
) -> None:
    bundle = moody_bundle(tmp_path)
    (runtime / "fault").write_text("os.kill(os.getpid(), signal.SIGKILL)")
    fleet.ship(bundle)
    for state in ("idle", "idle", "refused", "refused"):
        assert fleet.check() == state
        assert "ended early (signal 9, SIGKILL)" in fleet.events[-1].reason
        assert any((fleet.folder / "state/cam-1/download").iterdir()) == (state == "idle")
    assert len(runs(runtime)) == 3
    fleet.repository.assign("cam-1", "moody-1.0.0")
    (runtime / "fault").unlink()
    assert fleet.check() == "active"


def test_a_check_that_was_ended_once_does_not_keep_a_version_from_being_installed(
    fleet: Fleet, runtime: Path, tmp_path: Path
) -> None:
    bundle = moody_bundle(tmp_path)
    (runtime / "fault").write_text("os.kill(os.getpid(), signal.SIGKILL)")
    fleet.ship(bundle)
    with fleet.agent() as agent:
        assert agent.check() == "idle"
        assert "ended early" in agent.trouble
        (runtime / "fault").unlink()
        assert agent.check() == "active"
        assert agent.trouble == ""


def test_a_crash_is_refused_at_once_and_for_good(fleet: Fleet, runtime: Path, tmp_path: Path) -> None:
    bundle = moody_bundle(tmp_path)
    (runtime / "fault").write_text("os.kill(os.getpid(), signal.SIGSEGV)")
    fleet.ship(bundle)
    assert fleet.check() == "refused"
    fleet.repository.assign("cam-1", "moody-1.0.0")
    assert fleet.check() == "refused"
    assert len(runs(runtime)) == 1
    assert active(fleet.folder / "state" / "cam-1") is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends when its time is over")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_check_ends_with_the_agent(fleet: Fleet, runtime: Path, tmp_path: Path, number: signal.Signals) -> None:
    bundle = moody_bundle(tmp_path)
    (runtime / "fault").write_text("time.sleep(600)")
    fleet.ship(bundle)
    command = [sys.executable, "-P", "-m", "edge_sdk", "agent", "--state", tmp_path / "device", "--broker"]
    command += [fleet.broker, "--fleet", fleet.name, "--device", "cam-1", "--root", fleet.repository.root_path]
    known = {**os.environ, "PYTHONPATH": str(runtime)}
    with subprocess.Popen([*command, "--once"], stdout=subprocess.DEVNULL, env=known) as agent:
        wait_for(lambda: (runtime / "runs").exists() and len(runs(runtime)) == 1)
        (process,) = runs(runtime)
        assert Path(f"/proc/{process}/oom_score_adj").read_text() == "1000\n"
        agent.send_signal(number)
    wait_for(lambda: is_over(process), timeout=5)


def is_over(process: int) -> bool:
    """Whether a process has ended; nobody may be there to take note of it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_a_check_in_one_thread_is_no_matter_of_another(moody: Bundle) -> None:
    found: list[dict[str, float]] = []
    threads = [threading.Thread(target=lambda: found.append(probe(moody))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [measured["examples"] for measured in found] == [1, 1]


def test_an_agent_that_has_installed_a_version_has_loaded_neither_numpy_nor_a_runtime(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.ship(make_bundle(tmp_path, "1.0.0"))
    program = """
import sys
from edge_sdk.ota import OtaAgent

with OtaAgent(*sys.argv[1:]) as agent:
    assert agent.check() == "active"
loaded = {name.partition(".")[0] for name in sys.modules}
print(*sorted(loaded & {"numpy", "onnxruntime", "ai_edge_litert", "ctypes"}))
"""
    arguments = [tmp_path / "device", fleet.broker, fleet.name, "cam-1", fleet.repository.root_path]
    done = subprocess.run([sys.executable, "-P", "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_whether_a_runtime_is_installed_is_found_without_loading_it(runtime: Path) -> None:
    check_runtime("moody")
    assert "moody_runtime" not in sys.modules
    (runtime / "moody_runtime.py").unlink()
    with pytest.raises(ModelError, match="its package is not installed"):
        check_runtime("moody")
