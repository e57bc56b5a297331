"""The time a device goes by: forged clocks, clocks at 1970, and what is kept of signed time."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.errors import TrustError
from edge_sdk.ota.clock import TrustedTime
from edge_sdk.ota.trust import SIGNED_AT, TIME_FORM, Trust
from outside.tuf_server import TufServer, http_source, serve, soon

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


class Clock:
    """A clock that tests set, and time that passes only as they say."""

    def __init__(self, at: datetime) -> None:
        self.at = at
        self.passed = 0.0

    def time(self, path: Path) -> TrustedTime:
        """Return a device's time by this clock, as after a start."""
        return TrustedTime(path, clock=lambda: self.at, elapsed=lambda: self.passed)


@pytest.fixture(name="server")
def served():
    """Return a repository of one root key whose timestamp says when it was signed."""
    yield from serve()


def sign_time(server: TufServer, at: datetime, *, expires: datetime | None = None) -> None:
    """Publish a timestamp signed at that time, which expires a day later."""
    timestamp = server.roles["timestamp"]
    timestamp.expires = expires or at + DAY
    timestamp.unrecognized_fields[SIGNED_AT] = at.strftime(TIME_FORM)
    server.update()


def refresh(server: TufServer, folder: Path, clock: Clock) -> Trust:
    """Look at a repository as a device that was just started."""
    trust = Trust(folder, server.published["root"][0], min_threshold=1, time=clock.time(folder / "time"))
    trust.refresh(http_source(server))
    return trust


def test_the_time_never_falls_behind_what_was_seen_not_even_after_a_restart(tmp_path: Path) -> None:
    clock = Clock(EPOCH)
    time = clock.time(tmp_path / "time")
    assert time.now() == EPOCH
    seen = soon(0)
    time.rise(seen, ["key"])
    assert time.now() == seen
    clock.passed += 60
    assert time.now() == seen + timedelta(minutes=1)
    assert clock.time(tmp_path / "time").now() == seen
    clock.at = seen + 5 * DAY
    assert clock.time(tmp_path / "time").now() == seen + 5 * DAY


def test_an_earlier_time_takes_nothing_back_and_small_steps_spare_the_disk(tmp_path: Path) -> None:
    clock, path, seen = Clock(EPOCH), tmp_path / "time", soon(0)
    time = clock.time(path)
    time.rise(seen, ["key"])
    before = path.read_bytes()
    time.rise(seen - DAY, ["key"])
    time.rise(seen + timedelta(minutes=10), ["key"])
    assert path.read_bytes() == before
    assert time.now() == seen + timedelta(minutes=10)
    time.rise(seen + timedelta(hours=2), ["key"])
    assert clock.time(path).now() == seen + timedelta(hours=2)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"floor":1,"keys":[]}', b'{"floor":"2026-01-01T00:00:00Z"}'])
def test_a_damaged_file_of_the_time_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "time").write_bytes(content)
    clock = Clock(soon(0))
    time = clock.time(tmp_path / "time")
    assert time.now() == clock.at
    time.rise(clock.at, ["key"])
    assert clock.time(tmp_path / "time").now() == clock.at


def test_a_clock_far_ahead_refuses_updates_while_it_is_wrong_and_no_longer(server: TufServer, tmp_path: Path) -> None:
    clock, today = Clock(soon(0)), soon(0)
    sign_time(server, today)
    refresh(server, tmp_path, clock)
    for ahead in (365 * 14 * DAY, 2 * DAY, timedelta(hours=23, minutes=59)):
        clock.at = today + ahead
        if ahead > DAY:
            with pytest.raises(TrustError, match=f"expired at {clock.at:%Y-%m-%d}"):
                refresh(server, tmp_path, clock)
        else:
            refresh(server, tmp_path, clock)
    clock.at = today
    assert refresh(server, tmp_path, clock).time.now() == today


def test_a_device_whose_clock_stands_at_1970_notices_a_frozen_repository(server: TufServer, tmp_path: Path) -> None:
    clock, today = Clock(EPOCH), soon(0)
    sign_time(server, today)
    trust = refresh(server, tmp_path, clock)
    assert trust.time.now() == today
    clock.passed += 2 * 86_400
    with pytest.raises(TrustError, match="expired"):
        trust.refresh(http_source(server))
    sign_time(server, today + 2 * DAY)
    trust.refresh(http_source(server))
    assert refresh(server, tmp_path, clock).time.now() == today + 2 * DAY


def test_what_expired_before_the_timestamp_was_signed_is_refused_at_the_first_contact(
    server: TufServer, tmp_path: Path
) -> None:
    server.roles["targets"].expires = soon(-3)
    server.publish("targets")
    sign_time(server, soon(0))
    with pytest.raises(TrustError, match=r"targets\.json is expired"):
        refresh(server, tmp_path, Clock(EPOCH))


def test_a_time_beyond_its_own_expiry_is_not_believed(server: TufServer, tmp_path: Path) -> None:
    sign_time(server, soon(4000), expires=soon(1))
    clock = Clock(soon(0))
    with pytest.raises(TrustError, match="expired"):
        refresh(server, tmp_path, clock)
    sign_time(server, soon(0), expires=soon(2))
    assert refresh(server, tmp_path, clock).time.now() <= soon(1)


def test_a_future_signed_by_a_stolen_key_ends_when_the_root_replaces_the_key(server: TufServer, tmp_path: Path) -> None:
    clock = Clock(soon(0))
    sign_time(server, soon(0))
    refresh(server, tmp_path, clock)
    for role in ("root", "targets", "snapshot"):
        server.roles[role].expires = soon(9000)
    server.publish("root", "targets")
    sign_time(server, soon(5000), expires=soon(6000))
    assert refresh(server, tmp_path, clock).time.now() >= soon(4999)
    server.rotate("timestamp", "new timestamp")
    server.publish("root")
    sign_time(server, soon(0))
    assert refresh(server, tmp_path, clock).time.now() < soon(1)


def test_the_end_of_time_signed_by_a_stolen_key_is_survived(server: TufServer, tmp_path: Path) -> None:
    clock, end = Clock(soon(0)), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    sign_time(server, end, expires=end)
    for _ in range(2):
        with pytest.raises(TrustError, match="expired"):
            refresh(server, tmp_path, clock)
        clock.passed += 100
        with pytest.raises(TrustError, match="expired"):
            refresh(server, tmp_path, clock)
    server.rotate("timestamp", "new timestamp")
    server.publish("root")
    sign_time(server, soon(0))
    assert refresh(server, tmp_path, clock).time.now() < soon(1)


def test_without_a_signed_time_the_clock_is_believed_where_nothing_has_expired(
    server: TufServer, tmp_path: Path
) -> None:
    clock = Clock(soon(3))
    refresh(server, tmp_path, clock)
    clock.at = EPOCH
    assert soon(2.9) < clock.time(tmp_path / "time").now() <= soon(3)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(-(10**9), 10**9)),
        st.tuples(st.just("pass"), st.integers(0, 10**6)),
        st.tuples(st.just("rise"), st.integers(0, 10**8)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_the_time_is_between_what_was_signed_and_what_the_clock_or_the_floor_says(
    steps: list[tuple[str, int]],
) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with tempfile.TemporaryDirectory() as folder:
        path, clock, risen = Path(folder) / "time", Clock(start), None
        time = clock.time(path)
        for what, seconds in steps:
            if what == "set":
                clock.at = start + timedelta(seconds=seconds)
            elif what == "pass":
                clock.passed += seconds
                risen = risen and risen + timedelta(seconds=seconds)
            elif what == "rise":
                to = start + timedelta(seconds=seconds)
                time.rise(to, ["key"])
                risen = max(risen or to, to)
            else:
                time = clock.time(path)
                risen = risen and (time.now() if time.now() > clock.at else risen)
            most = clock.at if risen is None else max(clock.at, risen)
            assert clock.at <= time.now() <= most
            if what == "rise":
                assert time.now() >= to
                assert clock.time(path).now() > to - timedelta(hours=1, seconds=1)
