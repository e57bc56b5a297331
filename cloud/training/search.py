"""A search for better options: Optuna proposes, short runs answer with their validation accuracy.

Every trial is written down when it ends, so that a search that was interrupted goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_sdk import files
from edge_sdk.cloud.training import architecture
from edge_sdk.cloud.training.loop import train
from edge_sdk.cloud.training.options import Options
from edge_sdk.cloud.training.running import Progress
from edge_sdk.datasets import Splits
from edge_sdk.errors import CompressionError, MissingExtraError

__all__ = ["search"]

logger = logging.getLogger("edge_sdk.cloud.training")

FILE = "trials.log"
RATES = (1 / 16, 4.0)  # times the rate that was said
DECAYS = (1e-6, 1e-2)
WARMUPS = (0.02, 0.3)
STARTUP = 3  # trials before one may be stopped for being worse than the median


def search(
    splits: Splits,
    options: Options,
    *,
    trials: int,
    folder: Path,
    network: architecture.Architecture = architecture.teacher,
    on_progress: Progress | None = None,
) -> Options:
    """Return options with the learning rate, weight decay and warm-up that did best on validation.

    The first trial is of ``options`` as they are, so that what is found is no worse there.

    Parameters
    ----------
    splits
        Images and labels; test is not looked at.
    options
        All else, also how long each trial trains.
    trials
        In all, those of an earlier search in ``folder`` included.
    folder
        Where trials are written down.
    network
        Builds the network.
    on_progress
        Called with ``("search", trials done, trials in all)``.

    Raises
    ------
    MissingExtraError
        Optuna is not installed.
    CompressionError
        No trial has come to an end.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ModuleNotFoundError as error:
        raise MissingExtraError("optuna", "search") from error
    if trials < 1:
        raise CompressionError(f"trials is {trials}; it must be at least 1")
    told = architecture.name_of(network)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(files.make_folder(folder) / FILE)))
    study = optuna.create_study(
        study_name=f"{splits.digests['train']} {replace(options, strategy='auto', tpu=None)} {told}",
        storage=storage,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
        load_if_exists=True,
    )
    ended = [trial for trial in study.trials if trial.state.is_finished()]
    study.sampler = optuna.samplers.TPESampler(seed=options.seed + len(ended))  # not what was drawn before
    if not ended:
        study.enqueue_trial({"rate": options.rate, "decay": options.decay, "warmup": options.warmup})
    done = len(ended)

    def objective(trial: Any) -> float:
        nonlocal done
        tried = replace(
            options,
            rate=trial.suggest_float("rate", *(options.rate * times for times in RATES), log=True),
            decay=trial.suggest_float("decay", *DECAYS, log=True),
            warmup=trial.suggest_float("warmup", *WARMUPS),
        )

        def watch(step: int, values: Mapping[str, float]) -> None:
            trial.report(values["validation"], step)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            return train(splits, tried, network=network, watchers=[watch]).metrics["validation"]["value"]
        except CompressionError as error:
            logger.info("trial %d: %s", trial.number, error)
            raise optuna.TrialPruned from error
        finally:
            done += 1
            if on_progress is not None:
                on_progress("search", done, trials)

    if trials > done:
        study.optimize(objective, n_trials=trials - done)
    try:
        best = study.best_params
    except ValueError as error:
        raise CompressionError("no trial has come to an end: every one diverged or was stopped") from error
    logger.info("best of %d trials: %s", done, best)
    return replace(options, **best)
