"""Step 7: what is broken on purpose while the app predicts, and what must come of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_sdk.bundle import Bundle, GoldenSet
from edge_sdk.examples.demo.fleet import Fleet, Update

__all__ = ["Broken", "break_things", "make_bad_version", "tamper"]

Note = Callable[[str], None]

_MOST_SECONDS = 60.0  # that a busy machine takes for what takes a moment


@dataclass(frozen=True)
class Broken:
    """When each fault was there, and how each shipment ended.

    Attributes
    ----------
    windows
        Fault to (start, end) on the monotonic clock.
    server_back
        When the server was up again.
    updates
        Fault to the update it was about.
    events
        (time, text) for the timeline.
    """

    windows: dict[str, tuple[float, float]]
    server_back: float
    updates: dict[str, Update]
    events: list[tuple[float, str]]


def break_things(fleet: Fleet, good: Path, bad: Path, tampered: Path, *, seconds: float, on_progress: Note) -> Broken:
    """Kill and revive the server, then ship a good, a bad and a tampered version.

    Parameters
    ----------
    fleet
        A fleet whose app streams predictions.
    good, bad, tampered
        Bundles: version 2, version 3 with golden outputs that do not hold, and one that is
        changed in the repository after it was signed.
    seconds
        How long the server stays away, and how long it has to be found again.
    on_progress
        Called with what happens next.
    """
    windows: dict[str, tuple[float, float]] = {}
    events: list[tuple[float, str]] = []
    updates: dict[str, Update] = {}

    def note(text: str) -> float:
        now = time.monotonic()
        events.append((now, text))
        return now

    on_progress("kill the server")
    time.sleep(seconds / 2)
    killed = note("server killed")
    fleet.kill_server()
    time.sleep(seconds)
    on_progress("bring the server back")
    fleet.restart_server()
    back, escalated = note("server back"), fleet.app()["escalated"]
    time.sleep(seconds)
    _wait_until(lambda: fleet.app()["escalated"] > escalated)
    windows["server_kill"] = (killed, time.monotonic())

    shipments: tuple[tuple[str, str, Path, Callable[[Path], None] | None], ...] = (
        ("update_while_running", "version 2 shipped", good, None),
        ("bad_version", "bad version 3 shipped", bad, None),
        ("tampered", "tampered version shipped", tampered, tamper),
    )
    for fault, text, bundle, change in shipments:
        on_progress(text)
        start = note(text)
        updates[fault] = fleet.ship(bundle, change)
        note(updates[fault].state.replace("_", " "))
        if updates[fault].state == "active":
            _wait_for_version(fleet, updates[fault].version)
        time.sleep(seconds / 2)  # keep predicting with what it has then
        windows[fault] = (start, time.monotonic())
    return Broken(windows, back, updates, events)


def _wait_for_version(fleet: Fleet, version: str) -> None:
    """Wait until the app, which follows the agent within a moment, answers with a version."""
    _wait_until(lambda: bool(fleet.app()["version"] == version))


def _wait_until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, or for so long that it does not."""
    end = time.monotonic() + _MOST_SECONDS
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)


def make_bad_version(source: Bundle, path: Path, version: str) -> Bundle:
    """Write a version whose answers are one class off from its golden outputs, as a wrong label order would make it."""
    golden = GoldenSet.from_bundle(source)
    wrong = GoldenSet(golden.inputs, golden.processed, (np.roll(golden.outputs[0], 1, axis=1),))
    return source.rewrite(path, members=wrong.to_members(), version=version)


def tamper(file: Path) -> None:
    """Flip one bit in the middle of a file, as a bad disk or an intruder would."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
