"""How a server has gRPC's library read, and who may say otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os
from edge_sdk.cloud.server.polling import read_where_events_come_from
read_where_events_come_from()
import grpc
grpc.insecure_channel("127.0.0.1:1").close()
print(os.environ["GRPC_EXPERIMENTS"])
"""


@pytest.mark.parametrize(("said", "holds"), [(None, "-event_engine_listener"), ("event_engine_listener",) * 2])
def test_the_library_knows_how_it_is_to_read_and_who_says_otherwise_is_heeded(said: str | None, holds: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    if said is not None:
        environment["GRPC_EXPERIMENTS"] = said
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (f"{holds}\n", "")
