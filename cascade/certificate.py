"""The certificate: a deferral threshold with a finite-sample guarantee, from three sets of scores and labels.

Validation data fixes the temperature and the thresholds to test (`tune`); calibration data, which
nothing else has seen, tests them (`certify`). How is in `edge_sdk.cascade.risk`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade.calibration import check_labels, fit_temperature
from edge_sdk.cascade.deferral import Head, learn_head
from edge_sdk.cascade.policy import LEARNED, RISKS, SIGNAL_NAMES, Certificate, Policy, Rung, Stratum
from edge_sdk.cascade.risk import BettingTest, BinaryTest, RiskTest, check_share, fixed_sequence, split_by_stratum
from edge_sdk.cascade.signals import check_scores
from edge_sdk.errors import CertificateError, InputError

__all__ = ["Tuning", "certify", "check_one_model", "tune"]

GRID_SIZE = 200


@dataclass(frozen=True, slots=True)
class Tuning:
    """What is learned on validation data, before calibration data is looked at.

    Attributes
    ----------
    temperature
        Fitted to the edge's scores.
    grid
        Thresholds to test, from the most cautious (highest) down.
    signal
        Name of the signal that the thresholds are of.
    head
        The deferral head where the signal is ``learned``.
    """

    temperature: float
    grid: tuple[float, ...]
    signal: str = "max_probability"
    head: Head | None = None

    def rule(self, threshold: float, certificate: Certificate | None = None) -> Policy:
        """Return the policy of a threshold."""
        return Policy(threshold, self.temperature, self.signal, certificate, self.head)


def tune(
    edge_scores: NDArray[Any],
    labels: NDArray[Any] | None,
    *,
    signal: str = "max_probability",
    cloud_scores: NDArray[Any] | None = None,
    grid_size: int = GRID_SIZE,
) -> Tuning:
    """Fit the temperature and lay out the thresholds to test, on validation data.

    Parameters
    ----------
    edge_scores
        Probabilities of the edge model, float [n, classes].
    labels
        True classes, int [n]; None where there are none: the temperature is then 1.
    signal
        Name of the signal: one of `edge_sdk.cascade.signals.SIGNALS`, or ``learned``: a deferral
        head is then fitted, and ``max_probability`` is used unless the head is better on held-out
        folds. See `edge_sdk.cascade.deferral`.
    cloud_scores
        Probabilities of the cloud model on the same inputs, float [n, classes]; for ``learned``.
    grid_size
        How many thresholds: quantiles of the signal, so that each keeps a like share more.

    Raises
    ------
    InputError
        Scores or labels are not what they should be, or there is no such signal.
    """
    scores = check_scores(edge_scores, "edge_scores")
    if signal not in SIGNAL_NAMES:
        raise InputError(f"there is no signal {signal!r}; there are {', '.join(SIGNAL_NAMES)}")
    temperature = 1.0 if labels is None else fit_temperature(scores, labels)
    head = None
    if signal == LEARNED:
        if cloud_scores is None or labels is None:
            raise InputError("the signal 'learned' is fitted to labels and to cloud_scores; give both")
        head = learn_head(scores, cloud_scores, labels)
        signal = "max_probability" if head is None else LEARNED
    values = Policy(0.0, temperature, signal, head=head).signal_values(scores)
    quantiles = np.quantile(values, np.linspace(1.0, 0.0, grid_size), method="higher")
    # the last threshold keeps everything: where the edge alone is good enough, that may be certified
    lowest = 0.0 if head is None else -1.0
    grid = dict.fromkeys([*np.maximum(_between(quantiles), lowest).tolist(), lowest])
    return Tuning(temperature, tuple(grid), signal, head)


def _between(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each value a threshold that it reaches, 2^-34 to 2^-31 below it: an odd multiple of 2^-33.

    Many inputs of a quantized model have the very same scores. A threshold at their value would keep
    them or not by the last place; one between values gives them the same fate under any arithmetic.
    """
    return np.asarray((np.ceil(values * 2.0**32 - 0.75) - 0.5) / 2.0**32)


def certify(
    edge_scores: NDArray[Any],
    cloud_scores: NDArray[Any] | Mapping[str, NDArray[Any]],
    labels: NDArray[Any] | None,
    *,
    max_accuracy_loss: float,
    confidence: float = 0.95,
    tuning: Tuning,
    risk: str = "harm",
    strata: NDArray[Any] | None = None,
    validity: Mapping[str, str] | None = None,
    edge_models: Sequence[str] | None = None,
    cloud_models: Sequence[str] | None = None,
    mean_bytes: Mapping[str, float] | None = None,
) -> Policy:
    """Return the least cautious policy whose loss is certified, from calibration data.

    The calibration data must be exchangeable with what comes later and must not have been used for
    training, compression or `tune`.

    Where inputs are sent in one of several encodings, the cloud is one of as many models, and which of
    them answers is decided later, by budget, network and the input itself. An input then loses what the
    encoding in which it would lose most has it lose: what is certified of that holds of each encoding, and
    of any choice between them that may depend on the input. It is one test of one loss at one level, and no
    error probability is to be divided by the number of encodings; more of them cost samples only as far as
    the cloud is right in some and wrong in others. (The supremum over what an adversary may choose is a loss
    like any other: Angelopoulos, Bates, Fisch, Lei, Schuster, "Conformal Risk Control", ICLR 2024.)

    Parameters
    ----------
    edge_scores
        Probabilities of the deployed edge model, float [n, classes].
    cloud_scores
        Those of the deployed cloud model on the same inputs; or by the name of each encoding, the best first.
    labels
        True classes, int [n]; None where there are none, which only ``agreement`` can do without.
    max_accuracy_loss
        Largest risk allowed, in (0, 1).
    confidence
        Probability, over calibration data, with which the promise holds; in (0, 1).
    tuning
        Temperature, signal and thresholds from `tune`.
    risk
        ``harm``: the share of inputs kept on the edge, wrong there, and right in the cloud.
        ``net``: that, less the share kept on the edge, right there, and wrong in the cloud; the
        accuracy of the cloud alone less that of the pair. ``agreement``: the share kept on the
        edge where the cloud answers otherwise; says nothing of what is right.
    strata
        Of each sample the name of its stratum, [n]. The promise then holds in each of them, and
        the certificate says for each what was seen and how many samples it needs.
    validity
        Digests and names that the certificate holds for.
    edge_models, cloud_models
        Where scores come from a log: digest of the model that made each row, [n]. All must be the
        same one, and the one that ``validity`` names, where it names any.
    mean_bytes
        By the name of each encoding what one sample takes, for the certificate's `Rung` records.

    Raises
    ------
    InputError
        An argument is out of range, or the arrays do not belong together.
    CertificateError
        Rows were made by different models, or by another than ``validity`` names.
    CannotCertifyError
        Not even the most cautious threshold passes; the message says how many samples would do.
    """
    check_share("max_accuracy_loss", max_accuracy_loss)
    check_share("confidence", confidence)
    if not tuning.grid:
        raise InputError("tuning.grid is empty; `tune` lays out thresholds to test")
    edge = check_scores(edge_scores, "edge_scores")
    clouds = _check_clouds(cloud_scores, edge)
    for side, models in (("edge_model", edge_models), ("cloud_model", cloud_models)):
        if models is not None:
            check_one_model(models, len(edge), side, (validity or {}).get(side))
    outcomes = {name: _outcomes(edge, cloud, labels, risk) for name, cloud in clouds.items()}
    harmed = np.any([harm for harm, _ in outcomes.values()], axis=0)
    gained = np.all([gain for _, gain in outcomes.values()], axis=0)
    differs = np.any([edge.argmax(axis=1) != cloud.argmax(axis=1) for cloud in clouds.values()], axis=0)
    values = tuning.rule(0.0).signal_values(edge)
    level = 1.0 - confidence

    def test(of: NDArray[np.bool_]) -> RiskTest:
        if risk == "net":
            net = harmed[of].astype(np.float64) - gained[of]
            return BettingTest(values[of], net, max_accuracy_loss, level, "loses a net", net=True)
        verb = "harms" if risk == "harm" else "differs from the cloud on"
        return BinaryTest(values[of], harmed[of], max_accuracy_loss, level, verb)

    masks = split_by_stratum(strata, len(edge))
    tests = {name: test(mask) for name, mask in masks.items()}
    passed = fixed_sequence(tests, tuning.grid, max_accuracy_loss, level)
    kept = values >= passed
    of_strata = tuple(
        Stratum(
            name=name,
            n=tests[name].n,
            harms=int((kept & harmed & mask).sum()),
            p_value=tests[name].p_value(passed),
            local_share=float(kept[mask].mean()),
            needed=min(tests[name].needed(passed) or tests[name].n, tests[name].n),  # n did
        )
        for name, mask in masks.items()
        if strata is not None
    )
    return tuning.rule(
        passed,
        Certificate(
            max_accuracy_loss=max_accuracy_loss,
            confidence=confidence,
            n=len(edge),
            harms=int((kept & harmed).sum()),
            p_value=max(test.p_value(passed) for test in tests.values()),
            local_share=float(kept.mean()),
            validity=dict(validity or {}),
            risk=risk,
            gains=int((kept & gained).sum()),
            strata=of_strata,
            disagreements=int((kept & differs).sum()),
            rungs=tuple(
                Rung(
                    name,
                    int((kept & outcomes[name][0]).sum()),
                    None if labels is None else float((cloud.argmax(axis=1) == np.asarray(labels)).mean()),
                    (mean_bytes or {}).get(name),
                )
                for name, cloud in clouds.items()
                if isinstance(cloud_scores, Mapping)
            ),
        ),
    )


def _check_clouds(
    cloud_scores: NDArray[Any] | Mapping[str, NDArray[Any]], edge: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return the cloud's scores in each encoding, by name; under an empty one where there is but one."""
    given = cloud_scores if isinstance(cloud_scores, Mapping) else {"": cloud_scores}
    if not given:
        raise InputError("cloud_scores is empty; it should hold scores in at least one encoding")
    clouds = {}
    for name, scores in given.items():
        of = f"cloud_scores[{name!r}]" if name else "cloud_scores"
        clouds[name] = check_scores(scores, of)
        if edge.shape != clouds[name].shape:
            raise InputError(f"edge_scores {list(edge.shape)} and {of} {list(clouds[name].shape)} differ in shape")
    return clouds


def check_one_model(models: Sequence[str], n: int, side: str, wanted: str | None = None) -> None:
    """Refuse scores that were not all made by one model.

    Parameters
    ----------
    models
        Digest of the model that made each row.
    n
        How many rows there are.
    side
        For messages: ``edge_model`` or ``cloud_model``.
    wanted
        The digest that they should have; None takes that of the first row.

    Raises
    ------
    InputError
        There is not one digest for each row.
    CertificateError
        A row was made by another model; the message names the first such row.
    """
    if len(models) != n:
        raise InputError(f"there should be one {side} for each of the {n} rows of scores, not {len(models)}")
    first = models[0] if wanted is None else wanted
    for row, digest in enumerate(models):
        if digest != first:
            why = f"the certificate is to be for {first}" if wanted is not None else f"row 0 is of {first}"
            raise CertificateError(f"{side}: row {row} is of {digest or 'a model that is not named'}, but {why}")


def _outcomes(
    edge: NDArray[np.float64], cloud: NDArray[np.float64], labels: NDArray[Any] | None, risk: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which samples are harmed if they are kept, and which gain; the latter for ``net`` alone."""
    if risk not in RISKS:
        raise InputError(f"there is no risk {risk!r}; there are {', '.join(RISKS)}")
    says, cloud_says = edge.argmax(axis=1), cloud.argmax(axis=1)
    none = np.zeros(len(edge), dtype=bool)
    if risk == "agreement":
        return says != cloud_says, none
    if labels is None:
        raise InputError(f"{risk} cannot be certified without labels; agreement can (risk='agreement')")
    truth = check_labels(labels, *edge.shape)
    edge_right, cloud_right = says == truth, cloud_says == truth
    return ~edge_right & cloud_right, edge_right & ~cloud_right if risk == "net" else none
