"""How long a message may take to arrive while others need the room that it takes."""

from __future__ import annotations

import pytest

from edge_sdk.cloud.server.http2 import Budget, Connection
from edge_sdk.cloud.server.patience import REQUEST_SECONDS, patience
from outside.frames import begun_infer, frame

MOST = 8192 * 100


@pytest.mark.parametrize(
    ("held", "others", "seconds"),
    [
        (1000, 0, REQUEST_SECONDS),
        (1000, MOST // 2 - 1000, REQUEST_SECONDS),
        (1000, MOST * 3 // 4 - 1000, REQUEST_SECONDS / 2),
        (1000, MOST - 1000, 2.0),
        (1000, 2 * MOST, 2.0),
        (90, 2 * MOST, REQUEST_SECONDS),
    ],
)
def test_a_message_has_the_less_time_the_less_room_is_left(held: int, others: int, seconds: float) -> None:
    budget = Budget(MOST)
    connection = Connection(frozenset(), max_streams=1, max_message_bytes=MOST, budget=budget)
    sent = begun_infer("here") + frame(0, 0, 1, b"\0" + MOST.to_bytes(4, "big") + bytes(held))
    (stream,) = connection.receive(bytearray(sent), len(sent))
    assert (stream.held, budget.each) == (held, 100)
    budget.hold(others)
    assert patience(budget, stream) == pytest.approx(seconds, rel=1e-3)
