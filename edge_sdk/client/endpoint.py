"""One server: the connection to it, its circuit breaker, and what it says of its model."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import grpc

from edge_sdk.client.breaker import Breaker
from edge_sdk.client.cloud import Cloud
from edge_sdk.client.connection import Connection
from edge_sdk.client.credentials import Credentials
from edge_sdk.client.diagnosis import failure_of, limit_in
from edge_sdk.client.failures import Complaints, Failed
from edge_sdk.client.learning import learn
from edge_sdk.client.payload import MARGIN_BYTES, MOST_BYTES, Contract

__all__ = ["Endpoint", "remaining"]

_PROBE_SECONDS = 0.5
_VERSION_SECONDS = 60.0  # after which it is asked again whether another version stands for the model by now
_MOST_VERSIONS = 16
_LOST_SECONDS = 0.2  # after a connection was lost: one that is cut again and again is not made anew for every call
_TRIES = 3  # to begin a call, where connections are replaced meanwhile


class Endpoint:
    """A server that may be there or not; thread-safe. It is asked about its model as soon as this is made.

    An endpoint whose `contract` is None is asked about it again before it gets a request. That is the
    probe of a breaker that is half open, too: where calls fail or are not answered, the contract is forgotten.

    Parameters
    ----------
    target
        ``host:port``.
    cloud
        How it is asked.
    credentials
        Of all endpoints.
    complaints
        Where is said what does not work.

    Attributes
    ----------
    contract
        What the server says of its model; None where it has to be asked.
    known
        What it said last, though it may be gone.
    is_answering
        Whether the last call was answered.
    """

    def __init__(self, target: str, cloud: Cloud, credentials: Credentials, complaints: Complaints) -> None:
        self.target = target
        self.contract: Contract | None = None
        self._versions: dict[str, tuple[Contract, float]] = {}  # by digest, and until when it is believed
        self.known: Contract | None = None
        self.is_answering = False
        self._cloud, self._credentials, self._complaints = cloud, credentials, complaints
        self._breaker = Breaker()
        self._most_bytes = MOST_BYTES
        self._lock, self._learning_lock = threading.Lock(), threading.Lock()
        self._closed = False
        self._streams = False
        self._version = credentials.version
        self._connection = self._connect()
        self._spare: Connection | None = None
        self._old: list[Connection] = []
        self._probe_at = self._lost_until = 0.0
        self._lost: Future[Contract | Failed] = Future()
        self._learning = self._learn()

    def start(self, method: str, request: Any, deadline: float | None, *, apart: bool = False) -> Any:
        """Begin a call and return it.

        Parameters
        ----------
        method
            Of the protocol.
        request
            Its message.
        deadline
            `time.perf_counter` reading at which the answer must be there; None waits.
        apart
            Whether it goes over a second connection.

        Raises
        ------
        Failed
            No time is left, or this is closed.
        """
        left = remaining(deadline)
        if left == 0.0:
            raise Failed("deadline", "no time was left to ask the cloud")
        self._credentials.refresh()
        if self._version != self._credentials.version:
            self._reconnect()
        for _ in range(_TRIES):
            call = self._way(apart).start(method, request, left, self._credentials.metadata)
            if call is not None:
                return call
        raise Failed("offline", "the connection has been closed")

    def result(self, call: Any, sent_at: float | None = None) -> Any:
        """Return the response of a call that has ended, and learn from how it did.

        Parameters
        ----------
        call
            What `start` returned.
        sent_at
            `time.monotonic` reading at which it was; None of questions about the model, whose answers are no
            promise that requests are answered.

        Raises
        ------
        Failed
            The call failed.
        """
        try:
            response = call.result(timeout=0)
        except (grpc.FutureTimeoutError, grpc.FutureCancelledError, grpc.RpcError) as error:
            code = error.code() if isinstance(error, grpc.RpcError) else grpc.StatusCode.CANCELLED
            # a cancellation that comes as an error is the server's, which ends or cannot keep up, or our own end's
            ours = not isinstance(error, grpc.RpcError) or (code is grpc.StatusCode.CANCELLED and self._closed)
            if code is grpc.StatusCode.DEADLINE_EXCEEDED or ours:
                if sent_at is not None:
                    self.missed(sent_at)
                raise Failed("deadline", f"{self.target} did not answer in time") from error
            raise self._refused(error, code, probe=sent_at is None) from error
        self._connection.heard_at = time.monotonic()
        if sent_at is None:
            self._breaker.probed()
        else:
            self._breaker.answered()
            self.is_answering = True
        return response

    def missed(self, begun_at: float) -> None:
        """Note that a call that began at a `time.monotonic` reading was not answered in time."""
        self.is_answering = False
        connection = self._connection
        opened = self._breaker.missed(begun_at)
        if opened:
            self.contract = None
            self._complaints.say(f"breaker {self.target}", f"{self.target} left calls unanswered and is left alone")
        if connection.is_silent or (opened and connection.has_fallen_silent):
            self._give_up(connection)

    def stream(self, *, on: bool) -> None:
        """Send requests on one call from now on, or each as a call of its own."""
        with self._lock:
            self._streams = on
            connection = self._connection
        connection.stream(on=on)

    def forget(self) -> None:
        """Ask the server again what it serves before the next request."""
        self._most_bytes = MOST_BYTES
        self.contract = None

    def learning(self) -> Future[Contract | Failed] | None:
        """Return what is being learnt of the server's model, begun where it was not; None while the breaker is open."""
        with self._learning_lock:
            if time.monotonic() < self._lost_until and self._learning.done():
                return self._lost
            if not self._breaker.allows():
                return None
            if self._learning.done():
                self._learning = self._learn()
            return self._learning

    def probe(self) -> None:
        """See in the background whether the server is there again, now and then."""
        now = time.monotonic()
        if now >= self._probe_at:
            self._probe_at = now + _PROBE_SECONDS
            self.learning()

    def version(self, digest: str) -> Contract | None:
        """Return what was learnt of late of a version beside the one that stands for the model, by its digest."""
        contract, until = self._versions.get(digest, (None, 0.0))
        return contract if time.monotonic() < until else None

    def describe_version(self, name: str, version: str, deadline: float | None) -> Contract:
        """Return what the server says of a version of its model; raise `Failed` where it does not, or not in time."""

        def succeed(contract: Contract) -> Contract:
            if len(self._versions) >= _MOST_VERSIONS:
                self._versions = {}
            self._versions[contract.digest or ""] = contract, time.monotonic() + _VERSION_SECONDS
            return contract

        try:
            learnt = learn(self, name, succeed, self._complaints, version).result(timeout=remaining(deadline))
        except TimeoutError as error:
            raise Failed("deadline", f"{self.target} did not say in time what it serves") from error
        if isinstance(learnt, Failed):
            raise Failed(learnt.outcome.reason, learnt.outcome.detail)
        return learnt

    def describe(self, deadline: float | None) -> Contract:
        """Return what the server says of its model.

        Learning it goes on when this call's time is up, so that a later call finds it known even
        where all the round trips never fit into one deadline.

        Raises
        ------
        Failed
            It does not say it, or not in time.
        """
        if self.contract is not None:
            return self.contract
        learning = self.learning()
        if learning is None:
            raise Failed("breaker", f"{self.target} left calls unanswered and is left alone for a moment")
        begun_at = time.monotonic()
        try:
            learnt = learning.result(timeout=remaining(deadline))
        except TimeoutError as error:
            self.missed(begun_at)
            raise Failed("deadline", f"{self.target} did not say in time what it serves") from error
        if isinstance(learnt, Failed):
            raise Failed(learnt.outcome.reason, learnt.outcome.detail)
        return learnt

    def close(self) -> None:
        """Close the connections; calls under way end as ``deadline``."""
        with self._lock:
            self._closed = True
            ways = [self._connection, *([] if self._spare is None else [self._spare]), *self._old]
        for way in ways:
            way.close()

    def _learn(self) -> Future[Contract | Failed]:
        def succeed(contract: Contract) -> Contract:
            if self._most_bytes < contract.most_bytes:
                contract = replace(contract, most_bytes=self._most_bytes)
            self.contract = self.known = contract
            return contract

        return learn(self, self._cloud.model_name, succeed, self._complaints)

    def _way(self, apart: bool) -> Connection:
        if not apart:
            return self._connection
        with self._lock:
            if self._spare is None and not self._closed:
                self._spare = self._connect()
            return self._spare or self._connection

    def _connect(self) -> Connection:
        return Connection(self.target, self._credentials.channel(), self._cloud.server_name)

    def _give_up(self, connection: Connection) -> None:
        """Leave a connection that may be dead at the other end, which TCP would find out much later.

        What the server serves is asked at once on the new one: nobody waits for what was asked on the old one, or
        for the breaker.
        """
        if not self._reconnect(connection):
            return
        self.contract = None
        with self._learning_lock:
            self._learning = self._learn()

    def _reconnect(self, given_up: Connection | None = None) -> bool:
        """Go on over a new connection, unless that was done; calls under way end on the old one."""
        with self._lock:
            if self._closed or given_up not in (None, self._connection):
                return False
            if given_up is None and self._version == self._credentials.version:
                return False
            old = [self._connection, *([] if self._spare is None else [self._spare])]
            self._version = self._credentials.version
            self._connection, self._spare = self._connect(), None
            self._connection.stream(on=self._streams)
            self._old = [way for way in self._old if not way.is_over] + old
        for way in old:
            way.retire()
        return True

    def _take_less(self, most: int) -> None:
        """Note how large an input may be in a message here: what is made for this server is smaller from now on."""
        self._most_bytes = min(self._most_bytes, most)
        contract = self.contract
        if contract is not None and contract.most_bytes > self._most_bytes:
            self.contract = self.known = replace(contract, most_bytes=self._most_bytes)

    def _refused(self, error: Any, code: Any, *, probe: bool) -> Failed:
        self.is_answering = False
        if probe:
            self._breaker.probed()
        else:
            self._breaker.answered()
        kind, failed = failure_of(error, self.target, self._cloud)
        limit = limit_in(str(failed))
        if limit is not None:
            self._take_less(max(0, limit - min(MARGIN_BYTES, limit // 8)))
        now = time.monotonic()
        if failed.outcome.reason != "offline" or kind == "unready":
            self._connection.heard_at = now
        else:
            lost: Future[Contract | Failed] = Future()
            lost.set_result(failed)
            self._lost, self._lost_until = lost, now + _LOST_SECONDS
        if kind != "overload":  # an overloaded server is not asked more
            self.contract = None  # another model may be served now: ask again what it is
        if kind in ("tls", "token"):
            self._credentials.refresh(doubted=True)
        self._complaints.say(f"{kind} {self.target}", str(failed))
        return failed


def remaining(deadline: float | None) -> float | None:
    """Return the seconds that are left, at least 0; None is for ever."""
    return None if deadline is None else max(0.0, deadline - time.perf_counter())
