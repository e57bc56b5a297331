"""Control: what may be asked of the cloud now, by budget, by pace and by the time that is left.

State machines with an explicit clock: each is a frozen record, each step returns the next one. They
only ever *withhold* an escalation that the rule wants, which costs the answer its certificate, or
*add* one where there is budget to spare, which a certificate of harm or of agreement allows. No
step lowers the threshold that was certified.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real

from edge_sdk.cascade.ladder import Offer, best_offer
from edge_sdk.cascade.network import LEAST, NOTHING, SURE, Network
from edge_sdk.errors import InputError
from edge_sdk.types import Reason

__all__ = ["Bucket", "Budget", "Control", "Network", "Threshold"]

PROBE_SECONDS = 1.0  # after so long without a call, what is known of the network is put to the test
_GAIN = 0.1  # weight of the newest answer in what is known of signals
_WORTH_GAIN = 0.05  # and of what a byte is worth
_FRUGAL = 0.15  # what bytes cost beside their usual worth where half of the bucket is used
_STEP = 0.02  # of a threshold, as a share of how far signals lie above the certified one


@dataclass(frozen=True, slots=True)
class Budget:
    """What escalations, audits among them, may cost. None is no limit.

    Each limit is a token bucket that holds ``burst`` of its amount and is refilled so slowly that no
    stretch of one period, wherever it begins, sees more than the amount.

    Attributes
    ----------
    calls
        Requests to the cloud in one period, at least 1.
    bytes
        Bytes sent in one period.
    money
        Cost of one period, in the unit of the prices.
    period
        Seconds.
    price_per_call, price_per_byte
        Of which a request costs the sum.
    floor
        Least seconds between two requests.
    burst
        Share of an amount that may be spent at once, in (0, 1); one call always may. A request
        larger than that is never sent.
    spare
        Up to this share of the answers that the rule would keep is escalated as well, the least sure
        first, while the buckets are more than half full; in [0, 1]. Not under a certificate of net
        loss, which more escalations may break.

    Raises
    ------
    InputError
        A field is out of its range.
    """

    calls: int | None = None
    bytes: float | None = None
    money: float | None = None
    period: float = 3600.0
    price_per_call: float = 0.0
    price_per_byte: float = 0.0
    floor: float = 0.0
    burst: float = 0.25
    spare: float = 0.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, bool) or not (isinstance(value, Real) or (value is None and each.default is None)):
                raise InputError(f"the budget's {each.name} is {value!r}; it should be a number")
        for name, fine, range_ in (
            ("calls", self.calls is None or 1 <= self.calls < math.inf, "1 or more, or None"),
            ("bytes", self.bytes is None or 0 < self.bytes < math.inf, "more than 0, or None"),
            ("money", self.money is None or 0 < self.money < math.inf, "more than 0, or None"),
            ("period", 0 < self.period < math.inf, "seconds, more than 0"),
            ("price_per_call", 0 <= self.price_per_call < math.inf, "0 or more"),
            ("price_per_byte", 0 <= self.price_per_byte < math.inf, "0 or more"),
            ("floor", 0 <= self.floor < math.inf, "seconds, 0 or more"),
            ("burst", 0 < self.burst < 1, "between 0 and 1"),
            ("spare", 0 <= self.spare <= 1, "from 0 to 1"),
        ):
            if not fine:
                raise InputError(f"the budget's {name} is {getattr(self, name)}; it should be {range_}")
        if self.money is not None and not self.price_per_call and not self.price_per_byte:
            raise InputError("a budget of money needs price_per_call or price_per_byte")

    def costs(self, size: int) -> tuple[float, float, float]:
        """Return what a request of ``size`` bytes takes from the buckets of calls, bytes and money."""
        return 1.0, float(size), self.price_per_call + self.price_per_byte * size


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket.

    Attributes
    ----------
    capacity, rate
        What it holds, and what it gains a second.
    level, at
        What was in it at which time, in seconds.
    """

    capacity: float
    rate: float
    level: float
    at: float

    @classmethod
    def of(cls, amount: float, period: float, burst: float, now: float, *, unit: float = 0.0) -> Bucket:
        """Return a full bucket from which less than ``amount + unit`` can be taken in any period.

        ``unit`` is the least that is ever taken: whole calls below 11 are at most 10.
        """
        capacity = max(unit, burst * amount)
        return cls(capacity, (amount + unit - capacity) / period, capacity, now)

    def after(self, now: float) -> Bucket:
        """Return the bucket at a later time; a clock that goes back adds nothing."""
        gained = self.rate * max(0.0, now - self.at)
        return replace(self, level=min(self.capacity, self.level + gained), at=max(self.at, now))

    def take(self, amount: float) -> Bucket | None:
        """Return the bucket without ``amount``, or None where it does not hold so much."""
        return replace(self, level=self.level - amount) if amount <= self.level else None


@dataclass(frozen=True, slots=True)
class Control:
    """Whether a request may go out now.

    Attributes
    ----------
    budget
        What it may cost.
    buckets
        Of calls, bytes and money; None where there is no limit.
    network
        What is known of it.
    asked_at
        When a request last went out, in seconds.
    tried_at
        When one last did whose answer somebody waits for.
    doubted
        Whether that one was expected too late, and went out to put what is known to the test.
    heard_of
        When the latest request went out that was answered, in seconds.
    worth
        Of a byte, on average: how much likelier the best encoding made a right answer, divided by its size.
    """

    budget: Budget
    buckets: tuple[Bucket | None, Bucket | None, Bucket | None]
    network: Network = NOTHING
    asked_at: float = -math.inf
    tried_at: float = -math.inf
    doubted: bool = False
    heard_of: float = -math.inf
    worth: float = 0.0

    @classmethod
    def of(cls, budget: Budget, now: float) -> Control:
        """Return the control of a budget of which nothing is spent."""

        def bucket(amount: float | None, unit: float = 0.0) -> Bucket | None:
            return None if amount is None else Bucket.of(amount, budget.period, budget.burst, now, unit=unit)

        return cls(budget, (bucket(budget.calls, 1.0), bucket(budget.bytes), bucket(budget.money)))

    def choose(
        self, now: float, offers: Sequence[Offer], remaining: float | None = None, *, confidence: float = 0.0
    ) -> tuple[Control, int | Reason]:
        """Choose the encoding in which to ask.

        While the budget lasts, what bytes cost rises with what of it is used, so that those who gain most
        by asking still can when others have asked before them (Neely, "Stochastic Network Optimization",
        2010: the length of a queue as a price).

        Parameters
        ----------
        now
            Seconds, of a clock that does not go back.
        offers
            At least one.
        remaining
            Seconds within which the answer must be there, the making of the message included; None waits.
        confidence
            Probability that the answer is right without asking; 0 spares no bytes.

        Returns
        -------
        What comes after, and which offer it is; or why there is none: ``deadline`` or ``budget``.
        """
        levels = [None if bucket is None else bucket.after(now).level for bucket in self.buckets]
        payable = [n for n, offer in enumerate(offers) if self._can_pay(offer.size, levels)]
        if not payable:
            return self, "budget"
        affordable = [offers[n] for n in payable]
        in_time = [self.network.in_time(offer.size, remaining, offer.seconds) for offer in affordable]
        least = min(range(len(affordable)), key=lambda n: affordable[n].size)
        if remaining is not None and now - self.tried_at < self._pause(max(in_time)):
            return self, "deadline"
        begins = self.network.calls == 0 and remaining is not None  # small, as TCP does
        if begins or self.network.misses > 1 or max(in_time) < LEAST:
            # unknown, closed, or too long by all that is known: try it at the least expense
            return self, payable[least]
        sure = min(SURE, max(in_time))
        gain = max((offer.accuracy - confidence) / offer.size for offer in affordable)
        after = replace(self, worth=self.worth + (_WORTH_GAIN if self.worth else 1.0) * (gain - self.worth))
        price = after.price(now) if confidence > 0.0 else 0.0
        chosen = best_offer(affordable, in_time, confidence=confidence, price=price, sure=sure)
        return after, "budget" if chosen is None else payable[chosen]

    def price(self, now: float) -> float:
        """Return what a byte costs now, in probability of a right answer: nothing while every bucket is full."""
        left = max(self.level(now), 1e-6)
        return _FRUGAL * max(self.worth, 0.0) * (1.0 - left) / left

    def _can_pay(self, size: float, levels: Sequence[float | None]) -> bool:
        costs = self.budget.costs(math.ceil(size))
        return all(level is None or cost <= level for level, cost in zip(levels, costs, strict=True))

    def _pause(self, in_time: float) -> float:
        """Return the least seconds between two requests: some where the last ones were not answered in time."""
        return max(PROBE_SECONDS if in_time < LEAST else 0.0, self.network.pause)

    def ask(
        self, now: float, size: int, remaining: float | None = None, *, awaited: bool = True
    ) -> tuple[Control, Reason | None]:
        """Ask to send a request, and pay for it if it may be sent.

        Parameters
        ----------
        now
            Seconds, of a clock that does not go back.
        size
            Bytes to send.
        remaining
            Seconds within which the answer must be there; None waits.
        awaited
            False where nobody waits for the answer: such a request is no trial of the network, and takes
            nobody else's turn to try it.

        Returns
        -------
        What comes after, and why the request may not be sent: ``deadline``, ``budget``, or None
        where it may.
        """
        in_time = self.network.in_time(size, remaining)
        if remaining is not None and now - self.tried_at < self._pause(in_time):
            return self, "deadline"
        if now - self.asked_at < self.budget.floor:
            return self, "budget"
        paid: list[Bucket | None] = []
        for bucket, cost in zip(self.buckets, self.budget.costs(size), strict=True):
            left = None if bucket is None else bucket.after(now).take(cost)
            if bucket is not None and left is None:
                return self, "budget"
            paid.append(left)
        calls, sent, money = paid
        asked_at = max(now, self.asked_at)
        tried = (asked_at, in_time < LEAST) if awaited else (self.tried_at, self.doubted)
        # as `replace` would, in a third of its time: this runs for every request
        return Control(
            self.budget, (calls, sent, money), self.network, asked_at, *tried, self.heard_of, self.worth
        ), None

    def learn(self, size: int, seconds: float, now: float = -math.inf) -> Control:
        """Return the control after a request of ``size`` bytes was answered within ``seconds``, which is ``now``.

        Where no answer was expected in time, and it came in half of the time expected, what was known of the
        network is forgotten.
        """
        forgets = self.doubted and seconds < 0.5 * self.network.expect(size)
        known = NOTHING if forgets else self.network
        heard_of = max(self.heard_of, now - seconds)
        return replace(self, network=known.learn(size, seconds), doubted=False, heard_of=heard_of)

    def miss(self, size: int, seconds: float, now: float = -math.inf) -> Control:
        """Return the control after a request was not answered, though ``seconds`` were waited for it, until ``now``.

        Where one that went out later was answered, it was late, and the way is open: nothing waits for that.
        """
        late = self.heard_of > now - seconds
        network = self.network.late(size, seconds) if late else self.network.miss(size, seconds)
        return replace(self, network=network, doubted=False)

    def level(self, now: float) -> float:
        """Return how full the emptiest bucket is, in [0, 1]; 1 without limits."""
        levels = [bucket.after(now).level / bucket.capacity for bucket in self.buckets if bucket is not None]
        return min(levels, default=1.0)

    def spare(self, now: float) -> float:
        """Return the share of kept answers to escalate as well: none below half a bucket, all of it at a full one."""
        return self.budget.spare * max(0.0, 2.0 * self.level(now) - 1.0)


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold that rises above the certified one to use what budget there is, and never falls below it.

    It follows the quantile of the signals that the rule would keep: after each of them it moves a
    little, up by the share wanted and down by the rest, so that it comes to rest where that share
    lies below it.

    Attributes
    ----------
    certified
        The least it can be.
    value
        What it is now.
    spread
        How far signals lie above the certified threshold, on average.
    """

    certified: float
    value: float
    spread: float = 0.0

    @classmethod
    def of(cls, certified: float) -> Threshold:
        """Return the threshold as certified."""
        return cls(certified, certified)

    def after(self, signal: float, share: float) -> Threshold:
        """Return the threshold after one more signal, of which the rule would keep those above the certified one.

        Parameters
        ----------
        signal
            Of one answer.
        share
            Of kept answers that should lie below the threshold, in [0, 1].
        """
        above = signal - self.certified
        if not 0.0 <= above < math.inf:
            return self
        spread = self.spread + _GAIN * (above - self.spread)
        move = share if signal >= self.value else share - 1.0
        value = min(self.value + _STEP * spread * move, max(self.value, signal))
        return replace(self, value=max(self.certified, value), spread=spread)
