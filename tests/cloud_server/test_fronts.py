"""Which of the two fronts serves: the chosen one, the fast one where none was chosen, or the one that is there."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

import grpc
import pytest

from edge_sdk.cloud.server import ServerConfig
from edge_sdk.errors import InputError
from outside.bundles import TinyBundle
from outside.services import Service

PATIENT = 30.0
LIVE = "/inference.GRPCInferenceService/ServerLive"
PORTS = ("--grpc-port", "0", "--metrics-port", "0")
WITHOUT = (
    "import sys; sys.modules['edge_sdk.cloud.server.http2'] = None\n"  # as where it was not compiled
    "from edge_sdk.main import main; sys.exit(main(sys.argv[1:]))"
)


def front_of(process: Service) -> str:
    """Return which front answers: of gRPC's own library, connections are not counted."""
    with grpc.insecure_channel(process.ready["grpc"]) as channel:
        assert channel.unary_unary(LIVE)(b"", timeout=PATIENT) == b"\x08\x01"
        with urllib.request.urlopen(f"http://{process.ready['metrics']}/metrics", timeout=PATIENT) as response:
            return "fast" if 'edge_connections{front="grpc"} 1\n' in response.read().decode() else "grpc"


def worker_environment(process: Service) -> list[bytes]:
    pid = process.process.pid
    (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")


@pytest.mark.parametrize("processes", [(), ("--workers", "1")], ids=["alone", "workers"])
@pytest.mark.parametrize(("chosen", "serves"), [(None, "fast"), ("auto", "fast"), ("fast", "fast"), ("grpc", "grpc")])
def test_the_fast_front_serves_unless_the_other_one_was_chosen(
    service, tiny_edge_bundle: TinyBundle, chosen: str | None, serves: str, processes: tuple[str, ...]
) -> None:
    options = () if chosen is None else ("--front", chosen)
    process = service("serve", tiny_edge_bundle.path, *PORTS, *options, *processes)
    assert front_of(process) == serves
    assert process.stop() == 0
    assert process.errors == ""


@pytest.mark.parametrize("processes", [(), ("--workers", "1")], ids=["alone", "workers"])
def test_grpcs_own_library_serves_where_the_fast_front_was_not_compiled_and_one_line_says_so(
    service, tiny_edge_bundle: TinyBundle, processes: tuple[str, ...]
) -> None:
    program = [sys.executable, "-P", "-c", WITHOUT]
    process = service("serve", tiny_edge_bundle.path, *PORTS, *processes, program=program)
    assert front_of(process) == "grpc"
    assert process.stop() == 0
    assert process.errors.count("\n") == 1
    assert "gRPC's own library serves" in process.errors
    quiet = service("serve", tiny_edge_bundle.path, *PORTS, *processes, "--front", "grpc", program=program)
    assert quiet.stop() == 0
    assert quiet.errors == ""


def test_the_fast_front_is_refused_in_one_line_where_it_was_not_compiled(tiny_edge_bundle: TinyBundle) -> None:
    command = [sys.executable, "-P", "-c", WITHOUT]
    with pytest.raises(AssertionError, match="use --front grpc") as caught:
        Service("serve", tiny_edge_bundle.path, *PORTS, "--front", "fast", program=command)
    assert "ended with code 2" in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="the environment of others is read from /proc")
@pytest.mark.parametrize(("front", "told"), [("auto", False), ("grpc", True)])
def test_how_grpcs_library_reads_is_chosen_only_where_it_serves(
    service, tiny_edge_bundle: TinyBundle, monkeypatch: pytest.MonkeyPatch, front: str, told: bool
) -> None:
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    process = service("serve", tiny_edge_bundle.path, *PORTS, "--front", front, "--workers", "1")
    assert (b"GRPC_EXPERIMENTS=-event_engine_listener" in worker_environment(process)) is told


def test_a_front_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="front is 'slow'; it should be auto, fast or grpc"):
        ServerConfig(paths=[], front="slow")
