"""Rows answered by the workers of a Ray cluster, through Ray Data; they come back in their order.

A worker opens model and source by their paths, so each machine has to see the same files there. Needs the extra `ray`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pickle
from collections.abc import Generator
from dataclasses import replace
from typing import Any

from edge_sdk.cloud.batch.work import Work, record_of
from edge_sdk.errors import EdgeSdkError, MissingExtraError, ModelError

__all__ = ["answers_on_ray"]

_MOST_ROWS = 64  # that a worker takes at a time


def answers_on_ray(
    work: Work, start: int, count: int, workers: int, address: str | None
) -> Generator[dict[str, Any], None, None]:
    """Yield the records of the rows from a place on, in their order.

    Parameters
    ----------
    work
        Model and source.
    start, count
        The first row, and how many there are altogether.
    workers
        Copies of the model, each in a process of its own.
    address
        Of a cluster; None is that of ``RAY_ADDRESS``, or else one is started here for the time.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    EdgeSdkError
        As `predict_batch` says, or a worker has ended.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of what it will do later
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    here = replace(work, model=work.model.resolve(), source=work.source.resolve())
    each = max(1, min(_MOST_ROWS, (count - start) // (4 * workers)))
    ranges = [{"start": at, "end": min(at + each, count)} for at in range(start, count, each)]
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            _connect(ray, address, workers * work.threads)
            stack.callback(ray.shutdown)
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        answered = ray.data.from_items(ranges, override_num_blocks=max(1, len(ranges))).map(
            _Worker,
            fn_constructor_args=(here,),
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=work.threads,
        )
        try:
            for row in answered.iter_rows():
                said = pickle.loads(row["records"])  # noqa: S301 - what our own worker wrote
                if isinstance(said, EdgeSdkError):
                    raise said
                yield from said
        except ray.exceptions.RayError as error:
            raise ModelError(f"Ray's workers failed: {_last_line(error)}") from error


def _connect(ray: Any, address: str | None, cores: int) -> None:
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    there = address or os.environ.get("RAY_ADDRESS")
    if not there:  # one core more, for Ray's own tasks: else nothing would begin
        options |= {"address": "local", "num_cpus": cores + 1, "include_dashboard": False}
    else:
        options |= {"address": there}
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises any, a bare one too
        raise ModelError(f"there is no Ray cluster at {there or 'this machine'}: {_last_line(error)}") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)


class _Worker:
    """A copy of the model; made once in each of Ray's processes."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._failed: EdgeSdkError | None = None
        try:
            self._model = work.open_model()
            self._source = work.open_source(self._model.wanted)
        except EdgeSdkError as error:  # is told with the first rows: Ray would make another worker, and another
            self._failed = error

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Answer the rows of a range."""
        said: list[dict[str, Any]] | EdgeSdkError
        try:
            if self._failed is not None:
                raise self._failed
            rows = itertools.islice(self._source.rows(row["start"]), row["end"] - row["start"])
            said = [record_of(self._model, one) for one in rows]
        except EdgeSdkError as error:
            said = error
        return {"records": pickle.dumps(said)}


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip()[:300] if lines else type(error).__name__
