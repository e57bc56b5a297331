"""An app's model follows the agent."""

from __future__ import annotations

from pathlib import Path

import edge_sdk
from edge_sdk.ota import active, follow
from outside.updates import Fleet, wait_for


class App:
    """Holds a model and swaps it; fails on the first try."""

    def __init__(self, path: Path) -> None:
        self.model = edge_sdk.load(path)
        self.tries = 0

    @property
    def bundle_digest(self) -> str:
        return self.model.bundle_digest

    def swap(self, path: Path) -> None:
        self.tries += 1
        if self.tries == 1:
            raise RuntimeError("busy")
        self.model.close()
        self.model = edge_sdk.load(path)


def test_a_follower_swaps_the_model_when_the_active_version_changes(fleet: Fleet) -> None:
    fleet.ship_version("1.0.0")
    fleet.check()
    state = fleet.folder / "state" / "cam-1"
    app, swapped = App(active(state)), []
    with follow(state, app, interval=0.02, on_swap=swapped.append):
        fleet.ship_version("2.0.0")
        fleet.check()
        wait_for(lambda: bool(swapped))
    assert app.tries == 2
    assert app.model.version == "2.0.0"
    app.model.close()


def test_a_version_that_came_between_loading_and_following_is_taken_up(fleet: Fleet) -> None:
    fleet.ship_version("1.0.0")
    fleet.check()
    state = fleet.folder / "state" / "cam-1"
    app = App(active(state))
    fleet.ship_version("2.0.0")
    fleet.check()
    with follow(state, app, interval=0.02):
        wait_for(lambda: app.model.version == "2.0.0")
    app.model.close()
