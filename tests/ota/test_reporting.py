"""A device that was away for long: the service drops what is too much, so the device sends no more than it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_sdk import canonical
from edge_sdk.cloud.ota.gateway import REPORT_BURST, REPORT_RATE, Gateway
from edge_sdk.cloud.ota.throttle import Throttle
from edge_sdk.errors import InputError
from edge_sdk.ota import Pace
from edge_sdk.ota.link import Broker
from edge_sdk.ota.outbox import Outbox
from outside.updates import Fleet, wait_for


@pytest.fixture
def fleet(tmp_path: Path, broker: str) -> Fleet:
    """Return a fleet that is not being served."""
    return Fleet(tmp_path, broker)


def fill(fleet: Fleet, count: int) -> list[str]:
    """Let a device that is not connected make reports; return their ids."""
    state = fleet.folder / "state" / "cam-1"
    state.mkdir(parents=True)
    outbox, ids = Outbox(state / "outbox.db"), [f"{number:05}" for number in range(count)]
    for identity in ids:
        outbox.put(identity, canonical.dumps({"id": identity, "state": "idle"}))
    outbox.close()
    return ids


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("count", "pace", "taken"),
    [
        (500, Pace(200, 50), Throttle(220, 100)),
        pytest.param(3000, Pace(), Throttle(REPORT_RATE, REPORT_BURST), marks=pytest.mark.slow),
    ],
    ids=["faster", "as in the field"],
)
def test_an_outbox_of_weeks_arrives_whole(fleet: Fleet, count: int, pace: Pace, taken: Throttle) -> None:
    ids = fill(fleet, count)
    with Gateway(fleet.repository, Broker.parse(fleet.broker), fleet.name, reports=taken):
        with fleet.agent(pace=pace) as agent:
            agent.start()
            assert agent.flush(600)
        wait_for(lambda: len(fleet.reports()) == count)
    assert [report["id"] for report in fleet.reports()] == ids


def test_agents_that_are_started_again_and_again_lose_no_report(fleet: Fleet) -> None:
    ids, starts = fill(fleet, 60), 0
    with Gateway(fleet.repository, Broker.parse(fleet.broker), fleet.name, reports=Throttle(1e-9, 60)):
        sent = False
        while not sent:
            with fleet.agent(pace=Pace(1e-9, 10)) as agent:
                agent.start()
                sent = agent.flush(0.1)
            starts += 1
        wait_for(lambda: len(fleet.reports()) == len(ids))
    assert starts >= 6
    assert [report["id"] for report in fleet.reports()] == ids


def test_what_the_service_takes_is_more_than_devices_send() -> None:
    assert 2 * Pace().rate <= REPORT_RATE
    assert 20 * Pace().burst <= REPORT_BURST


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (float("nan"), 1), (1, 0)])
def test_a_pace_at_which_nothing_leaves_is_refused(rate: float, burst: int) -> None:
    with pytest.raises(InputError, match="say numbers above 0"):
        Pace(rate, burst)
