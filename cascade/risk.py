"""Risks that can be certified, and the fixed sequence of tests that certifies them.

A loss is what is lost where an answer is kept on the edge; where it is escalated, nothing is. For a
threshold, "the mean loss is above the target" is tested on calibration data: exactly where losses are
0 or 1, by betting or by Hoeffding and Bentkus where they lie between. The thresholds are fixed
beforehand, and ordered from the most to the least cautious. Each in turn is tested at level
1 − confidence; the last one before the first that cannot be rejected is the answer. The order being
fixed, no correction for testing several is needed.

Where there are strata, every one of them must pass at a threshold. No correction is needed for that,
either: the threshold taken is bad for some stratum only if that stratum's own test was wrong.

References
----------
Angelopoulos, Bates, Candès, Jordan, Lei, "Learn then Test: Calibrating Predictive Algorithms to
Achieve Risk Control", Annals of Applied Statistics, 2025. Berger, "Multiparameter Hypothesis Testing
and Acceptance Sampling", Technometrics 1982 (the intersection of rejections).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade import binomial
from edge_sdk.cascade.bounds import hoeffding_bentkus, log_wealth_steps, p_value_of_wealth
from edge_sdk.errors import CannotCertifyError, InputError

__all__ = [
    "BettingTest",
    "BinaryTest",
    "Bound",
    "RiskTest",
    "certify_loss",
    "check_share",
    "fixed_sequence",
    "samples_needed",
    "split_by_stratum",
]

Bound = Literal["auto", "betting", "hoeffding_bentkus"]
Floats = NDArray[np.float64]

_MOST_SAMPLES = 10_000_000  # beyond, "collect more data" is no advice


def samples_needed(max_accuracy_loss: float, confidence: float) -> int:
    """Return how many calibration samples a certificate takes if none of them is harmed."""
    return math.ceil(math.log1p(-confidence) / math.log1p(-max_accuracy_loss))


class RiskTest(Protocol):
    """The test of one loss on one set of samples, at any threshold."""

    n: int
    least: int
    """Samples that would do if none of them lost anything."""

    def p_value(self, threshold: float) -> float:
        """Return the p-value of "the mean loss is above the target" if this threshold is used."""

    def needed(self, threshold: float) -> int | None:
        """Return how many samples would do if losses went on as seen, or None if none would."""

    def seen(self, threshold: float) -> str:
        """Say what was lost at a threshold, as ``harms 5 of 1000``."""


class BinaryTest:
    """The exact binomial test of a loss that is 0 or 1.

    Parameters
    ----------
    values
        The signal, float64 [n].
    lost
        Which samples lose if they are kept, bool [n].
    target, level
        Largest mean loss allowed, and largest p-value that counts.
    verb
        What the loss does to a sample, for messages.
    """

    def __init__(self, values: Floats, lost: NDArray[np.bool_], target: float, level: float, verb: str) -> None:
        self.n = len(values)
        self.least = samples_needed(target, 1.0 - level)
        self._of_lost = np.sort(values[lost])
        self._target, self._level, self._verb = target, level, verb

    def losses(self, threshold: float) -> int:
        """Return how many samples lose at a threshold."""
        return len(self._of_lost) - int(np.searchsorted(self._of_lost, threshold, side="left"))

    def p_value(self, threshold: float) -> float:
        """See `RiskTest`."""
        return binomial.cdf(self.losses(threshold), self.n, self._target)

    def needed(self, threshold: float) -> int | None:
        """See `RiskTest`."""
        rate = self.losses(threshold) / self.n
        if rate >= self._target:
            return None
        return _fewest(lambda n: binomial.cdf(math.ceil(rate * n - 1e-9), n, self._target), self.least, self._level)

    def seen(self, threshold: float) -> str:
        """See `RiskTest`."""
        return f"{self._verb} {self.losses(threshold)} of {self.n}"


class BettingTest:
    """The test by betting of a loss anywhere in [0, 1], or of a net loss in [−1, 1].

    Parameters
    ----------
    values
        The signal, float64 [n].
    losses
        What each sample loses if it is kept, float64 [n].
    target, level
        Largest mean loss allowed, and largest p-value that counts.
    verb
        What the loss does to samples, for messages.
    net
        Whether a loss may be negative; an escalated sample loses 0 all the same.
    """

    def __init__(
        self, values: Floats, losses: Floats, target: float, level: float, verb: str, *, net: bool = False
    ) -> None:
        low, width = (-1.0, 2.0) if net else (0.0, 1.0)
        order = np.argsort(-values, kind="stable")
        self.n = len(values)
        self._values = -values[order]  # ascending, for searchsorted
        self._level, self._verb = level, verb
        goal = (target - low) / width
        kept = log_wealth_steps((losses[order] - low) / width, goal)
        self._kept = np.concatenate([np.zeros((1, kept.shape[1])), np.cumsum(kept, axis=0)])
        self._lost = np.concatenate([[0.0], np.cumsum(losses[order])])
        self._escalated = log_wealth_steps(np.array([-low / width]), goal)[0]
        least = _fewest(lambda n: p_value_of_wealth(n * self._escalated), 1, level)
        self.least = _MOST_SAMPLES if least is None else least

    def _wealth(self, threshold: float) -> Floats:
        kept = self._count(threshold)
        return np.asarray(self._kept[kept] + (self.n - kept) * self._escalated)

    def _count(self, threshold: float) -> int:
        return int(np.searchsorted(self._values, -threshold, side="right"))

    def p_value(self, threshold: float) -> float:
        """See `RiskTest`."""
        return p_value_of_wealth(self._wealth(threshold))

    def needed(self, threshold: float) -> int | None:
        """See `RiskTest`."""
        each = self._wealth(threshold) / self.n
        return None if each.max() <= 0.0 else _fewest(lambda n: p_value_of_wealth(n * each), 1, self._level)

    def seen(self, threshold: float) -> str:
        """See `RiskTest`."""
        return f"{self._verb} {self._lost[self._count(threshold)]:.4g} of {self.n}"


class _HoeffdingBentkusTest:
    """The test by the bounds of Hoeffding and Bentkus of a loss anywhere in [0, 1]."""

    def __init__(self, values: Floats, losses: Floats, target: float, level: float) -> None:
        order = np.argsort(-values, kind="stable")
        self.n = len(values)
        self._values = -values[order]
        self._lost = np.concatenate([[0.0], np.cumsum(losses[order])])
        self._target, self._level = target, level
        self.least = _fewest(lambda n: hoeffding_bentkus(0.0, n, target), 1, level) or _MOST_SAMPLES

    def _mean(self, threshold: float) -> float:
        return float(self._lost[np.searchsorted(self._values, -threshold, side="right")]) / self.n

    def p_value(self, threshold: float) -> float:
        return hoeffding_bentkus(self._mean(threshold), self.n, self._target)

    def needed(self, threshold: float) -> int | None:
        mean = self._mean(threshold)
        if mean >= self._target:
            return None
        return _fewest(lambda n: hoeffding_bentkus(mean, n, self._target), self.least, self._level)

    def seen(self, threshold: float) -> str:
        return f"loses {self._mean(threshold) * self.n:.4g} of {self.n}"


def _fewest(p_value: Callable[[int], float], least: int, level: float) -> int | None:
    """Return about the fewest samples whose p-value counts (within 5 %), or None beyond ten million."""
    size = least
    while p_value(size) > level:
        size += max(1, size // 20)
        if size > _MOST_SAMPLES:
            return None
    return size


def certify_loss(
    signal: NDArray[Any],
    loss: NDArray[Any],
    *,
    alpha: float,
    confidence: float = 0.95,
    grid: Sequence[float],
    strata: NDArray[Any] | None = None,
    bound: Bound = "auto",
) -> float:
    """Return the least cautious threshold whose mean loss is certified, for any loss in [0, 1].

    With probability at least ``confidence`` over the calibration data, the mean over all inputs of
    the loss where ``signal >= threshold``, and of 0 elsewhere, is at most ``alpha``.

    Parameters
    ----------
    signal
        Float [n]; higher is surer.
    loss
        What is lost if the answer is kept on the edge: float or bool [n], in [0, 1].
    alpha
        Largest mean loss allowed, in (0, 1).
    confidence
        In (0, 1).
    grid
        Thresholds to test, in order, from the most cautious; laid out without these samples.
    strata
        Of each sample the name of its stratum, [n]; the promise is then made for each.
    bound
        For losses that are not just 0 or 1: ``betting`` (also by ``auto``) or ``hoeffding_bentkus``.
        Losses of 0 and 1 are tested exactly unless a bound is named.

    Raises
    ------
    InputError
        An argument is out of range, or the arrays do not belong together.
    CannotCertifyError
        Not even the most cautious threshold passes; the message says how many samples would do.
    """
    check_share("alpha", alpha)
    check_share("confidence", confidence)
    level = 1.0 - confidence
    return fixed_sequence(loss_tests(signal, loss, alpha, level, strata=strata, bound=bound), grid, alpha, level)


def loss_tests(
    signal: NDArray[Any],
    loss: NDArray[Any],
    target: float,
    level: float,
    *,
    strata: NDArray[Any] | None = None,
    bound: Bound = "auto",
) -> dict[str, RiskTest]:
    """Return the test of each stratum for `fixed_sequence`; parameters and errors are those of `certify_loss`."""
    values, losses = np.asarray(signal, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if values.ndim != 1 or values.shape != losses.shape or len(values) == 0:
        raise InputError("signal and loss should have the same length, at least 1")
    for name, bad in (("signal", np.isnan(values)), ("loss", ~((losses >= 0.0) & (losses <= 1.0)))):
        if bad.any():
            row = int(np.argmax(bad))
            wanted = "a number" if name == "signal" else "between 0 and 1"
            raise InputError(f"{name}: row {row} is {(values if name == 'signal' else losses)[row]}, not {wanted}")
    if bound not in ("auto", "betting", "hoeffding_bentkus"):
        raise InputError(f"bound is {bound!r}; it should be 'auto', 'betting' or 'hoeffding_bentkus'")

    def test(of: NDArray[np.bool_]) -> RiskTest:
        if bound == "hoeffding_bentkus":
            return _HoeffdingBentkusTest(values[of], losses[of], target, level)
        if bound == "auto" and bool(np.isin(losses, (0.0, 1.0)).all()):
            return BinaryTest(values[of], losses[of] > 0, target, level, "loses")
        return BettingTest(values[of], losses[of], target, level, "loses")

    return {name: test(mask) for name, mask in split_by_stratum(strata, len(values)).items()}


def split_by_stratum(strata: NDArray[Any] | None, n: int) -> dict[str, NDArray[np.bool_]]:
    """Return the mask of each stratum by its name; all samples under an empty name without strata.

    Raises
    ------
    InputError
        There is not one name for each of the ``n`` samples.
    """
    if strata is None:
        return {"": np.ones(n, dtype=bool)}
    names = np.asarray(strata)
    if names.shape != (n,):
        raise InputError(f"strata should be {n} names, not an array of shape {list(names.shape)}")
    names = names.astype(str)
    return {str(name): names == name for name in np.unique(names)}


def fixed_sequence(tests: Mapping[str, RiskTest], grid: Sequence[float], target: float, level: float) -> float:
    """Return the last threshold of ``grid`` before the first that not every test rejects.

    Parameters
    ----------
    tests
        By stratum; an empty name where there is but one.
    grid, target, level
        Thresholds in order, largest mean loss allowed, largest p-value that counts.

    Raises
    ------
    InputError
        There is no threshold to test.
    CannotCertifyError
        The first threshold fails.
    """
    if not len(grid):
        raise InputError("the grid is empty: there is no threshold to test")
    passed: float | None = None
    for threshold in grid:
        if any(test.p_value(threshold) > level for test in tests.values()):
            break
        passed = float(threshold)
    if passed is None:
        raise _refusal(tests, grid[0], target, level)
    return passed


def _refusal(tests: Mapping[str, RiskTest], threshold: float, target: float, level: float) -> CannotCertifyError:
    """Say what stands in the way: too few samples, or too much loss at the most cautious threshold."""
    failing = {name: test for name, test in tests.items() if test.p_value(threshold) > level}
    few = {name: test for name, test in failing.items() if test.n < test.least}
    name, test = next(iter((few or failing).items()))
    where = f"stratum {name}: " if name else ""
    more = f"; {len(failing) - 1} more of {len(tests)} strata fail, too" if len(failing) > 1 else ""
    promise = f"a loss of {target:g} at confidence {1 - level:g}"
    if few:
        least = f"at least {test.least}" if test.least < _MOST_SAMPLES else f"more than {_MOST_SAMPLES:,}"
        return CannotCertifyError(
            f"{where}{test.n} calibration samples cannot certify {promise}: "
            f"{least} are needed, and more if any of them is harmed{more}",
            needed=test.least if test.least < _MOST_SAMPLES else None,
        )
    needed = test.needed(threshold)
    hint = f"about {needed} samples would do" if needed else "more samples will not help: allow more loss"
    return CannotCertifyError(
        f"{where}even the most cautious threshold ({threshold:.4f}) {test.seen(threshold)} calibration samples, "
        f"too many for {promise}; {hint}{more}",
        needed=needed,
    )


def check_share(name: str, value: float) -> None:
    """Raise `InputError` unless a value is between 0 and 1, and neither."""
    if not 0.0 < value < 1.0:
        raise InputError(f"{name} is {value}; it should be between 0 and 1")
