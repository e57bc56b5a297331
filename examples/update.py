"""A device, a good model and a bad one, in one terminal: the good one is in use at once, the bad one never is.

A broker, the service of a signed repository, and a device with its update agent and an app that predicts all the
while. Version 1 is shipped, and a larger version 2, which the app goes over to between two frames (with a cloud
behind it, `edge_sdk.ota.follow` does that). Version 3 promises answers that are one digit too high, as labels in the
wrong order would: its golden examples do not hold on the device, which says so and keeps version 2.

    pip install 'edge-sdk[demo]'
    python -m edge_sdk.examples.update
"""

from __future__ import annotations

import argparse
import queue
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import edge_sdk
from edge_sdk.bundle import Bundle
from edge_sdk.cloud.ota.repository import Repository
from edge_sdk.datasets import Dataset, load_splits
from edge_sdk.errors import EdgeSdkError, ServiceError
from edge_sdk.examples.demo.faults import make_bad_version
from edge_sdk.examples.demo.processes import Child, command
from edge_sdk.examples.offline import train
from edge_sdk.ota import OtaAgent, active
from edge_sdk.ota.records import Event

__all__ = ["Outcome", "main", "run"]

SECONDS = 60.0
LAST = ("active", "refused", "rolled_back")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the versions.

    Attributes
    ----------
    ends
        Of each version in turn: the last word of the device.
    answers, right
        How many frames each version answered, and how many of them rightly.
    """

    ends: tuple[Event, ...]
    answers: Counter[str]
    right: Counter[str]


class App(threading.Thread):
    """Predicts frame after frame with whatever version is active, until `stop`."""

    def __init__(self, state: Path, data: Dataset) -> None:
        super().__init__(name="app")
        self._state, self._data, self._stop_asked = state, data, threading.Event()
        self.answers: Counter[str] = Counter()
        self.right: Counter[str] = Counter()
        self.error: Exception | None = None

    def run(self) -> None:
        """Predict; whatever goes wrong is kept in `error`."""
        try:
            model, folder, at = None, None, 0
            while not self._stop_asked.wait(0.002):
                if (now := active(self._state)) != folder or model is None:
                    assert now is not None
                    model, folder = edge_sdk.load(now), now
                    version = Bundle.open(now).manifest.version
                self.answers[version] += 1
                self.right[version] += model.predict(self._data.images[at]).index == self._data.labels[at]
                at = (at + 1) % len(self._data)
        except Exception as error:  # noqa: BLE001 (the main thread tells)
            self.error = error

    def stop(self) -> None:
        """Let it end, and wait until it has."""
        self._stop_asked.set()
        self.join()


def make_versions(folder: Path, data: Dataset) -> tuple[Path, ...]:
    """Train two networks, and spoil the second."""
    first, second, third = (folder / f"digits-{number}.0.0.edge" for number in (1, 2, 3))
    train("digits", data, 400, 16, folder)
    larger = Bundle.open(train("larger", data, len(data), 64, folder))
    make_bad_version(larger.rewrite(second, name="digits", version="2.0.0"), third, "3.0.0")
    return first, second, third


def run(folder: Path) -> Outcome:
    """Ship three versions to a device.

    Parameters
    ----------
    folder
        For the repository, the device's state and logs.

    Raises
    ------
    EdgeSdkError
        What goes wrong, in one line.
    """
    data = load_splits("mnist")
    paths = make_versions(folder, data.train)
    repository, state = Repository.init(folder / "repository"), folder / "device"
    (folder / "logs").mkdir()
    ends: list[Event] = []
    with ExitStack() as stack:
        broker = stack.enter_context(Child("broker", command("broker", "--port", "0"), folder / "logs"))
        url = f"mqtt://{broker.facts['mqtt']}"
        service = command("ota", "serve", str(repository.folder), "--fleet", "shop", "--broker", url)
        stack.enter_context(Child("service", service, folder / "logs"))

        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        agent = stack.enter_context(OtaAgent(state, url, "shop", "cam-1", repository.root_path, on_event=events.put))
        updating = threading.Thread(target=agent.run, name="agent")
        updating.start()
        stack.callback(updating.join)
        stack.callback(agent.stop)
        app = App(state, data.test)
        for path in paths:
            repository.add(path)
            repository.assign("cam-1", path.stem)
            ends.append(_told(events, path.stem))
            if len(ends) == 1:  # there was nothing to predict with before
                app.start()
                stack.callback(app.stop)
            time.sleep(1.0)  # frames that the version answers
        app.stop()
        if app.error is not None:
            raise ServiceError(f"the app failed: {app.error}")
    return Outcome(tuple(ends), app.answers, app.right)


def _told(events: queue.SimpleQueue[Event], name: str) -> Event:
    """Print what the device says of a version; return its last word."""
    while True:
        try:
            event = events.get(timeout=SECONDS)
        except queue.Empty:
            raise ServiceError(f"the device said nothing of {name} for {SECONDS:g} s") from None
        reason = f": {event.reason}" if event.reason else ""
        print(f"cam-1  {event.state:<12}{event.name}-{event.version}{reason}")
        if event.state in LAST and f"{event.name}-{event.version}" == name:
            return event


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and run; 2 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder:
            outcome = run(Path(folder))
    except EdgeSdkError as error:
        print(f"update: error: {error}", file=sys.stderr)
        return 2
    for end in outcome.ends:
        print(f"{end.version} answered {outcome.answers[end.version]} frames, {outcome.right[end.version]} rightly")
    return 0


if __name__ == "__main__":
    sys.exit(main())
