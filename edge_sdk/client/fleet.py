"""The endpoints of one cloud, and which of them is asked."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager

from edge_sdk.client.cloud import Cloud
from edge_sdk.client.credentials import Credentials
from edge_sdk.client.endpoint import Endpoint, remaining
from edge_sdk.client.failures import Complaints, Failed
from edge_sdk.client.hedging import Alarm, Hedger
from edge_sdk.client.payload import Contract

__all__ = ["Fleet"]


class Fleet:
    """Chooses endpoints; thread-safe.

    An endpoint whose model is not known, because it is down, silent or just started, gets no request while
    another one's is: it is probed in the background.

    Parameters
    ----------
    cloud
        Where it is, and how it is asked.

    Raises
    ------
    InputError
        A file of a certificate, a key or a token cannot be used.

    Attributes
    ----------
    current
        The endpoint that was chosen last.
    hedger, alarm
        When requests are sent a second time, or None; and what calls then.
    """

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.complaints = Complaints()
        self._credentials = Credentials(cloud, lambda text: self.complaints.say("credentials", text))
        self.hedger = None if cloud.hedging is None else Hedger(cloud.hedging)
        self.alarm = Alarm()
        self._turns = itertools.count()
        self._lock, self._streams = threading.Lock(), 0
        self._endpoints = [Endpoint(target, cloud, self._credentials, self.complaints) for target in cloud.targets]
        self.current = self._endpoints[0]

    @property
    def described(self) -> bool:
        """True where the model of an endpoint is known, so that `choose` does not wait."""
        return any(endpoint.contract is not None for endpoint in self._endpoints)

    def choose(self, deadline: float | None) -> tuple[Endpoint, Contract]:
        """Return the endpoint whose turn it is, and what it says of its model.

        Raises
        ------
        Failed
            There is none, or none that says in time what it serves.
        """
        found = self._first_known(self._in_turn())
        if found is None:
            found = self._wait(deadline)
        self.current = found[0]
        return found

    def elsewhere(self, without: Collection[Endpoint]) -> tuple[Endpoint, Contract] | None:
        """Return the next endpoint whose model is known; None where there is no other."""
        return self._first_known([endpoint for endpoint in self._in_turn() if endpoint not in without])

    def forget(self, contract: Contract | None = None) -> None:
        """Ask all of them, or those that said this of their model, again before their next requests."""
        for endpoint in self._endpoints:
            if contract is None or endpoint.contract is contract:
                endpoint.forget()

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Send requests on one call for each server while this is open anywhere."""
        self._stream(1)
        try:
            yield
        finally:
            self._stream(-1)

    def _stream(self, more: int) -> None:
        with self._lock:
            before, self._streams = self._streams, self._streams + more
            if bool(before) != bool(self._streams):
                for endpoint in self._endpoints:
                    endpoint.stream(on=bool(self._streams))

    def close(self) -> None:
        """Close all connections."""
        for endpoint in self._endpoints:
            endpoint.close()
        self.alarm.close()

    def _in_turn(self) -> list[Endpoint]:
        if self.cloud.balance == "failover" or len(self._endpoints) == 1:
            return self._endpoints
        first = next(self._turns) % len(self._endpoints)
        return self._endpoints[first:] + self._endpoints[:first]

    def _first_known(self, endpoints: list[Endpoint]) -> tuple[Endpoint, Contract] | None:
        for endpoint in endpoints:
            contract = endpoint.contract
            if contract is not None:
                return endpoint, contract
            if len(self._endpoints) > 1:
                endpoint.probe()
        return None

    def _wait(self, deadline: float | None) -> tuple[Endpoint, Contract]:
        """Return the first endpoint that says what it serves."""
        begun_at = time.monotonic()
        pending: dict[Future[Contract | Failed], Endpoint] = {}
        failed = Failed("breaker", f"{', '.join(self.cloud.targets)}: calls were not answered; left alone for a moment")
        for endpoint in self._endpoints:
            learning = endpoint.learning()
            if learning is not None:
                pending[learning] = endpoint
        while pending:
            done, _ = wait(pending, remaining(deadline), FIRST_COMPLETED)
            if not done:
                for endpoint in pending.values():
                    endpoint.missed(begun_at)
                late = ", ".join(endpoint.target for endpoint in pending.values())
                raise Failed("deadline", f"{late} did not say in time what it serves")
            for learning in [one for one in pending if one in done]:  # in their order
                endpoint, learnt = pending.pop(learning), learning.result()
                if isinstance(learnt, Contract):
                    return endpoint, learnt
                if failed.outcome.reason == "breaker":
                    failed = Failed(learnt.outcome.reason, learnt.outcome.detail)
        raise failed
