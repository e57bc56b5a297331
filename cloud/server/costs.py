"""What a batch costs: learned at warm-up, corrected by every batch that runs.

A batch pays where an item costs less in it than alone. That differs: of a perceptron on a processor,
eight items cost little more than one; of a convolutional network they cost more than eight.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["FEW", "BatchCosts"]

_GAIN = 0.95  # of the cost an item, at most, for a batch to be taken over a smaller one
_FULL = 1.1  # times the least cost of an item that is found: what was measured may err
_UNSEEN = 0.9  # exponent by which sizes that were never run are thought to grow: below 1, so that they are tried
_LEARN, _LEARN_ALL = 0.1, 0.05  # how much one batch corrects its own size, and every size
_OUTLIER = 2.0  # a batch that took longer than this many times what was thought counts as this many
_SAME = 1.1  # a batch that differs by less from what was thought teaches nothing
_WELL = 0.99  # of the cost at which a size is just taken
_WORST = 3.0  # times what its items took in the largest that was run, that one may take which never was
_START = 1e-3  # seconds an item, where nothing was measured
_AGAIN, _TRIES = 512, 4  # batches after which the next size is thought to pay once more, and runs that say whether
_BRIEF = 30e-6  # seconds of a batch that costs less than to wait for others
FEW = 8  # short runs of which the shortest counts: the others were interrupted


class BatchCosts:
    """Seconds that a batch takes, by its size. Many threads may ask while one learns.

    Parameters
    ----------
    max_batch
        The largest size that may be run; 1 where the model takes no batches.
    """

    def __init__(self, max_batch: int) -> None:
        self.max_batch, self._gain = max_batch, _GAIN
        self._known: dict[int, float] = {}  # replaced, never changed
        self._seconds: dict[int, float] = {}  # answers given since something was learned
        self._best: dict[int, int] = {}
        self._full = 0
        self._corrected, self._tried, self._tries, self._least = 0, 0, 0, 0.0
        self._few: dict[int, tuple[int, float]] = {}  # of each size: runs since it was corrected, and the shortest

    def learn(self, run: Callable[[int], float], *, budget: float = 0.5, repeats: int = 5, rounds: int = 12) -> None:
        """Measure sizes 1, 2, 4, … until the budget is used up, and all that were once more in rounds.

        Parameters
        ----------
        run
            Runs a batch of a size and returns the seconds that it took.
        budget
            Seconds, for all sizes. The first size is always measured.
        repeats
            Runs of a size, of which the shortest counts: what else the machine does makes runs longer, never shorter,
            and a size that seems dear is not taken. One more goes before, unmeasured.
        rounds
            Further runs of each: what else the machine does may last as long as the runs of a size.
        """
        size = 1
        while size <= self.max_batch and (size == 1 or budget > 0):
            first = run(size)
            measured = [run(size) for _ in range(repeats if budget - first > 0 else 1)]
            self._set(size, min(measured))
            budget -= first + sum(measured)
            if budget < self._known[size] * 2 * (repeats + 1):
                break
            size *= 2
        for _ in range(rounds):
            for size, known in self.table().items():
                if budget < known:
                    return
                seconds = run(size)
                budget -= seconds
                self._set(size, min(seconds, self._known[size]))

    def correct(self, size: int, seconds: float) -> None:
        """Take into account how long a batch took."""
        if size not in self._known and (not self._known or size > max(self._known)):
            self._set(size, seconds)
            return
        if size == self._tried:
            self._take_try(size, seconds)
            return
        self._corrected += 1
        if self._corrected % _AGAIN == 0:
            self._try_larger()
        ratio = min(max(seconds / max(self.seconds(size), 1e-9), 1 / _OUTLIER), _OUTLIER)
        if 1 / _SAME < ratio < _SAME:
            return
        near = self._neighbours(size)
        self._replace(
            {
                known: before * ratio ** (_LEARN if known in near else _LEARN_ALL)
                for known, before in self._known.items()
            }
        )

    def correct_short(self, size: int, seconds: float, runs: int = 1) -> None:
        """Take into account how long a short batch took, that ran on the event loop; of several runs, the shortest.

        One interruption takes longer than it does, so of a few of a size only the shortest says something.
        """
        before, least = self._few.get(size, (0, seconds))
        least = min(least, seconds)
        if before + runs < FEW:
            self._few[size] = before + runs, least
            return
        self._few.pop(size, None)
        self.correct(size, least)

    def seconds(self, size: int) -> float:
        """Return what a batch of a size is thought to take."""
        given = self._seconds.get(size)
        if given is None:
            given = self._seconds[size] = self._estimate(size)
        return given

    def at_most(self, size: int) -> float:
        """Return the seconds that a batch of a size may take at worst.

        What is thought of sizes that were run is good enough. Of a larger one nothing is known: its items may take
        several times as long as they did in the largest that was run.
        """
        largest = max(self._known, default=size)
        return self.seconds(size) if size <= largest else _WORST * self._known[largest] * size / largest

    def is_brief(self, size: int) -> bool:
        """Tell whether a batch of a size costs less than to wait for others."""
        return self.seconds(size) < _BRIEF

    def best(self, waiting: int) -> int:
        """Return how many of the items that wait should run together."""
        given = self._best.get(waiting)
        if given is None:
            given = self._best[waiting] = self._choose(waiting)
        return given

    @property
    def is_together(self) -> bool:
        """Items may run together, where that pays."""
        return self._gain > 0 and self.max_batch > 1

    @property
    def full(self) -> int:
        """The largest size in which an item costs about as little as it may."""
        if not self._full:
            each = {size: seconds / size for size, seconds in self._known.items()}
            most = _FULL * min(each.values(), default=0.0)
            self._full = max((size for size in each if each[size] <= most), default=self.max_batch)
        return self._full

    def drain(self, items: int) -> float:
        """Return the seconds that so many items take, one batch after the other."""
        if items <= 0:
            return 0.0
        size = self.best(items)
        whole, rest = divmod(items, size)
        return whole * self.seconds(size) + (self.seconds(rest) if rest else 0.0)

    def least_share(self) -> float:
        """Return what an item costs in the best batch, as a share of what it costs alone; 0 where none was measured."""
        if len(self._known) < min(2, self.max_batch):
            return 0.0
        return min((seconds / size for size, seconds in self._known.items()), default=0.0) / self.seconds(1)

    def take_each_alone(self) -> None:
        """Run no items together from now on."""
        self._gain = 0.0
        self._replace(self._known)

    def table(self) -> dict[int, float]:
        """Return what is known: seconds by size."""
        return dict(sorted(self._known.items()))

    def _try_larger(self) -> None:
        """Think well of the next size: what made it dear may be over, and as long as it is not run nothing says so."""
        best = self.best(self.max_batch)
        if self.is_together and 2 * best in self._known:
            self._tried, self._tries = 2 * best, 0
            self._set(2 * best, min(self._known[2 * best], 2 * self.seconds(best) * self._gain * _WELL))

    def _take_try(self, size: int, seconds: float) -> None:
        self._least = min(seconds, self._least) if self._tries else seconds
        self._tries += 1
        if self._tries == _TRIES:
            self._tried = 0
            self._set(size, self._least)

    def _set(self, size: int, seconds: float) -> None:
        self._replace({**self._known, size: seconds})

    def _replace(self, known: dict[int, float]) -> None:
        self._known, self._seconds, self._best, self._full = known, dict(known), {}, 0

    def _estimate(self, size: int) -> float:
        if not self._known:
            return _START * size
        low, high = self._neighbours(size)
        if low == high:
            exponent = _UNSEEN if size > low else 1.0
            return self._known[low] * float((size / low) ** exponent)
        share = (size - low) / (high - low)
        return self._known[low] * (1 - share) + self._known[high] * share

    def _choose(self, waiting: int) -> int:
        if self._gain == 0.0:
            return 1
        # sizes that were never run are tried one step at a time
        most = min(waiting, self.max_batch, 2 * max(self._known, default=1))
        if most <= 1:
            return 1
        best, each = 1, self.seconds(1)
        size = 2
        while size <= most:
            if self.seconds(size) / size < each * self._gain:
                best, each = size, self.seconds(size) / size
            size *= 2
        # no rest is left behind that would cost more alone
        return most if best < most < 2 * best and self.seconds(most) / most <= each else best

    def _neighbours(self, size: int) -> tuple[int, int]:
        """Return the known sizes around a size; both the same where it is known or beyond all."""
        sizes = self._known
        if size in sizes:
            return size, size
        low = max((known for known in sizes if known <= size), default=None)
        high = min((known for known in sizes if known >= size), default=None)
        if low is None or high is None:
            edge = low if low is not None else high
            assert edge is not None  # something is known
            return edge, edge
        return low, high
