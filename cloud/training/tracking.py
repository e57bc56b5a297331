"""Who watches a run: TensorBoard by files, MLflow by its server. Each is a context that gives a `Watcher`.

Neither may decide anything: a run with a watcher ends with the weights of one without.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tensorflow as tf

from edge_sdk import files
from edge_sdk.cloud.training.options import Options
from edge_sdk.cloud.training.running import Watcher
from edge_sdk.errors import CompressionError, MissingExtraError, one_line

__all__ = ["mlflow", "tensorboard"]

logger = logging.getLogger("edge_sdk.cloud.training")


@contextmanager
def tensorboard(folder: Path) -> Iterator[Watcher]:
    """Write loss, accuracy, validation accuracy and learning rate as TensorBoard's scalars.

    The event files need TensorBoard to be looked at, not to be written.

    Raises
    ------
    StorageError
        If the folder cannot be made.
    """
    files.make_folder(folder)
    kind = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    )  # by which TensorBoard knows what to draw
    writer: Any = None

    def watch(step: int, values: Mapping[str, float]) -> None:
        nonlocal writer
        if writer is None:  # not before: machines that train together must not compute anything earlier
            writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.write(name, tf.constant(value, tf.float32), metadata=kind)
        writer.flush()

    try:
        yield watch
    finally:
        if writer is not None:
            writer.close()


@contextmanager
def mlflow(uri: str, options: Options, *, experiment: str = "edge-sdk") -> Iterator[Watcher]:
    """Log options and metrics to MLflow as one run, which ends as the block does.

    Parameters
    ----------
    uri
        Of the tracking server, or a database as ``sqlite:///runs.db`` (which needs SQLAlchemy, too).
    options
        Logged as the run's parameters.
    experiment
        Made if it is not there.

    Raises
    ------
    MissingExtraError
        MLflow is not installed.
    CompressionError
        It does not take the run. What it does not take later is told and left out.
    """
    try:
        import mlflow as client
    except ModuleNotFoundError as error:
        raise MissingExtraError("mlflow-skinny", "mlflow") from error

    def watch(step: int, values: Mapping[str, float]) -> None:
        try:
            client.log_metrics(dict(values), step=step)
        except client.exceptions.MlflowException as error:  # hours of training are worth more than a curve
            logger.warning("MLflow at %s misses step %d: %s", uri, step, one_line(error))

    try:
        client.set_tracking_uri(uri)
        client.set_experiment(experiment)
        with client.start_run():
            client.log_params(asdict(options))
            yield watch
    except client.exceptions.MlflowException as error:
        raise CompressionError(f"MLflow at {uri}: {error}") from error
