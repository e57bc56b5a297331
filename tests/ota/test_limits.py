"""What a new version may take, and when it may be fetched."""

from __future__ import annotations

from datetime import time
from pathlib import Path
from time import monotonic

import pytest

from edge_sdk.bundle import Bundle
from edge_sdk.errors import HealthError, InputError, TransferError
from edge_sdk.ota import Hours, Limits, Rules
from edge_sdk.ota.channel import Channel
from edge_sdk.ota.health import probe
from edge_sdk.ota.topics import BLOCK_BYTES
from outside.services import edge_sdk
from outside.updates import Fleet, make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a small healthy bundle."""
    folder = tmp_path_factory.mktemp("bundle")
    return Bundle.open(make_bundle(folder, "1.0.0")).unpack(folder / "slot")


def test_a_version_within_its_limits_is_measured(bundle: Bundle) -> None:
    measured = probe(bundle, Limits(latency=10.0, memory=1 << 32))
    assert 0 < measured["latency"] < 10
    assert measured["memory"] >= 0


@pytest.mark.parametrize(
    ("limits", "reason"), [(Limits(latency=1e-9), "an answer takes"), (Limits(memory=1), "MB of memory")]
)
def test_a_version_beyond_its_limits_is_not_healthy(bundle: Bundle, limits: Limits, reason: str) -> None:
    hoard = []
    with pytest.raises(HealthError, match=reason):
        probe(bundle, limits, lambda _: hoard.append(1))
    assert hoard == []


def test_the_apps_own_probe_comes_last_and_may_refuse(fleet: Fleet) -> None:
    def refuse(bundle: Bundle) -> None:
        raise ValueError(f"I do not like {bundle.manifest.version}")

    fleet.ship_version("1.0.0")
    assert fleet.check(probe=refuse) == "refused"
    assert "I do not like 1.0.0" in fleet.events[-1].reason


@pytest.mark.parametrize("values", [{"latency": 0}, {"memory": -1}, {"runs": 0}])
def test_limits_that_nothing_keeps_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(InputError):
        Limits(**values)


@pytest.mark.parametrize(
    ("hours", "inside", "outside"), [("22:00-06:00", "23:30 05:59", "06:00 21:59"), ("01:00-02:00", "01:00", "02:00")]
)
def test_hours_may_go_over_midnight(hours: str, inside: str, outside: str) -> None:
    rules = Rules(hours=Hours.parse(hours))
    for text in inside.split():
        rules.check(time.fromisoformat(text))
    for text in outside.split():
        with pytest.raises(TransferError, match=f"waits for the hours {hours}"):
            rules.check(time.fromisoformat(text))


@pytest.mark.parametrize("text", ["", "22-6", "24:00-06:00", "22:00-06:60", "22:00"])
def test_hours_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="22:00-06:00"):
        Hours.parse(text)


def test_an_update_waits_while_the_link_is_metered_or_held_and_then_goes_on(fleet: Fleet, tmp_path: Path) -> None:
    fleet.ship_version("1.0.0")
    hold = tmp_path / "metered"
    hold.touch()
    assert fleet.check(rules=Rules(metered=lambda: True)) == "idle"
    assert "the link is metered" in fleet.events[-1].reason
    assert fleet.check(rules=Rules(hold=hold)) == "idle"
    assert fleet.states() == [("idle", "1.0.0")] * 2
    hold.unlink()
    assert fleet.check(rules=Rules(hold=hold, metered=lambda: False)) == "active"


def test_a_download_stops_when_the_link_becomes_metered_and_what_came_is_kept(fleet: Fleet, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, "1.0.0", golden_kib=1500)
    fleet.ship(bundle)
    asked: list[bool] = []

    def becomes_metered() -> bool:
        kept = sum(path.stat().st_blocks * 512 for path in (fleet.folder / "state").rglob("*"))
        asked.append(kept > 3 * BLOCK_BYTES)  # sooner or later, as the machine is fast
        return asked[-1]

    assert fleet.check(rules=Rules(500_000, metered=becomes_metered)) == "idle"
    assert asked == [False] * (len(asked) - 1) + [True]
    assert len(asked) > 1
    stopped = fleet.events[-1]
    assert "the link is metered" in stopped.reason
    assert BLOCK_BYTES < stopped.bytes < bundle.stat().st_size
    assert fleet.check(rules=Rules(metered=lambda: False)) == "active"
    assert fleet.events[-1].bytes < bundle.stat().st_size - stopped.bytes / 2


def test_replies_take_no_more_than_the_rate_allows() -> None:
    def send(payload: bytes, correlation: bytes) -> None:
        channel.deliver(correlation, bytes(10_000), {"status": "200", "size": "1"})

    channel = Channel(send, rate=200_000)
    started = monotonic()
    assert len(list(channel.fetch([{"block": n} for n in range(10)]))) == 10
    assert monotonic() - started >= 9 * 10_000 / 200_000


def agent(*arguments: object) -> str:
    done = edge_sdk("agent", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_the_agents_options_may_come_from_a_file(fleet: Fleet, tmp_path: Path) -> None:
    fleet.ship_version("1.0.0")
    config = tmp_path / "agent.toml"
    lines = [
        f'state = "{tmp_path / "state"}"',
        f'broker = "{fleet.broker}"',
        f'fleet = "{fleet.name}"',
        f'root = "{fleet.repository.root_path}"',
        'device = "cam-1"\nhours = "00:00-23:59"\nmax-rate = 1e9',
        "max-latency = 10\nmax-memory = 4_000_000_000\njson = true",
    ]
    config.write_text("\n".join(lines))
    done = edge_sdk("agent", "--config", config, "--once")
    assert done.returncode == 0, done.stderr
    assert '"state": "active"' in done.stdout
    assert "no state is named" in agent("--fleet", "f")
    for line, reason in (("speed = 9", "is not an option"), ('max-rate = "x"', "cannot be 'x'"), ("x", "cannot read")):
        config.write_text(line)
        assert reason in agent("--config", config)
