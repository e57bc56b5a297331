"""The fleet of the demo: broker, repository service, fallback server, update agent and app, each a real process."""

from __future__ import annotations

import json
import secrets
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge_sdk.cloud.ota.repository import Repository
from edge_sdk.errors import BrokerError, ServiceError
from edge_sdk.examples.demo.processes import Child, command
from edge_sdk.ota.link import Broker

__all__ = ["DEVICE", "Fleet", "Update", "check_broker"]

DEVICE = "device-1"
UPDATE_SECONDS = 60.0
CONNECT_SECONDS = 5.0
APP_SECONDS = 60.0
_ONLY_GRPC = ("--http-port", "off", "--metrics-port", "off")
_FINAL = ("active", "refused", "rolled_back")


@dataclass(frozen=True, slots=True)
class Update:
    """How an assignment ended on the device.

    Attributes
    ----------
    version
        What was assigned.
    state
        ``active``, ``refused`` or ``rolled_back``.
    seconds
        From the assignment to the device's report.
    bytes
        Metadata and blocks that the device received.
    reason
        Why it was not taken, in one line.
    """

    version: str
    state: str
    seconds: float
    bytes: int
    reason: str


def check_broker(url: str) -> None:
    """Raise `BrokerError` if nothing listens at an MQTT URL: better before training than after."""
    broker = Broker.parse(url)
    try:
        socket.create_connection((broker.host, broker.port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise BrokerError(f"no MQTT broker answers at {broker}: {error.strerror or error}") from error


@dataclass
class Fleet:
    """Starts every process in turn, and ends them all when the ``with`` block does.

    Parameters
    ----------
    folder
        Logs, the repository and the device's state go here.
    cloud_bundle
        What the fallback server serves.
    broker
        URL of an MQTT 5 broker to use; None starts the embedded one.
    """

    folder: Path
    cloud_bundle: Path
    broker: str | None = None
    name: str = field(default_factory=lambda: f"demo-{secrets.token_hex(4)}")  # others may be on the same broker
    events: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._logs = self.folder / "logs"
            self.repository = Repository.init(self.folder / "repository")
            if self.broker is None:
                embedded = stack.enter_context(self._child("broker", "broker", "--port", "0"))
                self.broker = f"mqtt://{embedded.facts['mqtt']}"
            service = ("ota", "serve", str(self.folder / "repository"), "--fleet", self.name)
            stack.enter_context(self._child("repository", *service))
            self.cloud = self._serve(port=0)
            stack.callback(self._stop_server)
            self._agent = stack.enter_context(
                self._child(
                    *("agent", "agent", "--json", "--state", str(self.state)),
                    *("--fleet", self.name, "--device", DEVICE, "--root", str(self.repository.root_path)),
                )
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def state(self) -> Path:
        """The device's state folder."""
        return self.folder / "device"

    def start_app(self, images: Path, deadline: float) -> Child:
        """Start the app on the device; it ends with the fleet."""
        argv = [sys.executable, "-m", "edge_sdk.examples.demo.device", "--state", str(self.state)]
        argv += ["--cloud", self.cloud, "--images", str(images), "--deadline", str(deadline)]
        self._app = self._stack.enter_context(Child("app", argv, self._logs))
        return self._app

    def app(self) -> dict[str, Any]:
        """Ask the app, which streams, for the ``version`` that answers and how often it has ``escalated``."""
        return self._app.ask({"do": "tell"}, timeout=APP_SECONDS)

    def kill_server(self) -> None:
        """End the fallback server as a power cut would."""
        self._server.kill()

    def restart_server(self) -> None:
        """Start the fallback server again, at the same address."""
        self._serve(port=int(self.cloud.rpartition(":")[2]))

    def ship(self, bundle: Path, tamper: Callable[[Path], None] | None = None) -> Update:
        """Publish a bundle, assign it to the device, and wait for the device's report of how it ended.

        Parameters
        ----------
        bundle
            The ``.edge`` file.
        tamper
            Called with the file in the repository after it was signed and before it is assigned.

        Raises
        ------
        ServiceError
            The device did not report in time.
        """
        target = self.repository.add(bundle)
        name = f"{target.name}-{target.version}"
        if tamper is not None:
            tamper(self.repository.target_file(name))
        start = time.monotonic()
        counter = self.repository.assign(DEVICE, name).counter
        event = self._wait_for_end(counter)
        return Update(
            target.version, event["state"], time.monotonic() - start, int(event["bytes"]), str(event["reason"])
        )

    def _wait_for_end(self, counter: int) -> dict[str, Any]:
        deadline = time.monotonic() + UPDATE_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            for line in self._agent.lines(left):
                event = json.loads(line)
                self.events.append(event)
                if event["counter"] == counter and event["state"] in _FINAL:
                    return dict(event)
        raise ServiceError(f"the device did not finish the update within {UPDATE_SECONDS:g} s; see {self._logs}")

    def _stop_server(self) -> None:
        self._server.stop()  # the one that runs now: it may have been restarted

    def _serve(self, port: int) -> str:
        self._server = self._child("server", "serve", str(self.cloud_bundle), "--grpc-port", str(port), *_ONLY_GRPC)
        return self._server.facts["grpc"]

    def _child(self, name: str, *arguments: str) -> Child:
        # the URL may hold a password, which the list of processes should not show
        environment = {} if self.broker is None else {"EDGE_SDK_BROKER": self.broker}
        return Child(name, command(*arguments), self._logs, environment)
