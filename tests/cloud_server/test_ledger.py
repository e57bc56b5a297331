"""What is counted of batches whose requests ran together in buffers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from edge_sdk.cloud.server.costs import BatchCosts
from edge_sdk.cloud.server.counts import Histogram
from edge_sdk.cloud.server.ledger import Ledger
from edge_sdk.cloud.server.payloads import Payload
from edge_sdk.cloud.server.runs import Run
from edge_sdk.cloud.server.tickets import Ticket
from edge_sdk.cloud.server.waiting import Job, Results


def batch(gone: Sequence[bool]) -> Results:
    """Return what came of requests of two items, some of whose callers have gone."""
    loop, results = asyncio.new_event_loop(), Results()
    run = Run([], 0.0, 0.0, 1e-3, [(2 * len(gone), 1e-3)], 0.0)
    for has_gone in gone:
        ticket = Ticket(lambda _run, _error: None)
        if has_gone:
            ticket.cancel()
        payload = Payload(2, 8, None, "tensor", lambda _: {}, said=[b"said"])
        results.append((Job(payload, None, time.monotonic() - 0.1, ticket, loop, 0.0, 2), run))
    loop.close()
    return results


def test_of_a_batch_those_are_counted_whose_callers_are_there() -> None:
    corrected = []
    ledger = Ledger(BatchCosts(8))
    ledger.ran(time.monotonic() - 0.05, batch([False, True, False]), lambda *ran: corrected.append(ran))
    ledger.catch_up()
    counts = ledger.counts
    assert (counts.items, counts.success.count, counts.batches) == (4, 2, 1)
    assert sum(counts.waiting.counts) == sum(counts.latency.counts) == 2
    assert 0 < counts.queue.seconds < counts.success.seconds
    assert corrected == [(6, 1e-3)]


def test_of_a_batch_whose_callers_have_all_gone_nothing_is_counted() -> None:
    corrected = []
    ledger = Ledger(BatchCosts(8))
    ledger.ran(time.monotonic(), batch([True, True]), lambda *ran: corrected.append(ran))
    ledger.catch_up()
    assert (ledger.counts.items, ledger.counts.success.count, ledger.counts.batches) == (0, 0, 0)
    assert corrected == []


def test_several_are_counted_as_one_after_the_other() -> None:
    for took in ([0.003, 0.004], [0.0001, 0.003, 0.7], [20.0], [0.002, 0.002]):
        together, single = Histogram(), Histogram()
        together.add_all(took)
        for seconds in took:
            single.add(seconds)
        assert together.counts == single.counts
        assert abs(together.sum - single.sum) < 1e-9
