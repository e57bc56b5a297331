"""A batch from its first row to its file."""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from edge_sdk.cloud.batch.answering import Answering
from edge_sdk.cloud.batch.parts import Parts
from edge_sdk.cloud.batch.sources import Row
from edge_sdk.cloud.batch.work import Work, record_of
from edge_sdk.errors import InputError

__all__ = ["Summary", "predict_batch"]

_PART_BYTES = 64 << 20  # of answers in memory
_AHEAD = 4  # rows that wait or run, for each worker

OnProgress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a batch.

    Attributes
    ----------
    output
        The file.
    rows, failed
        Rows in it, and those of them with an error in place of an answer.
    resumed
        Rows that an earlier run had done.
    model_digest
        Of the model that answered.
    """

    output: str
    rows: int
    failed: int
    resumed: int
    model_digest: str

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values."""
        return asdict(self)


def predict_batch(
    model: Path,
    source: Path,
    output: Path,
    *,
    column: str | None = None,
    id_column: str | None = None,
    workers: int = 1,
    threads: int = 1,
    part_rows: int = 1000,
    table: str | None = None,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    on_progress: OnProgress | None = None,
) -> Summary:
    """Let a model answer every input of a source, and write one row for each, in their order.

    A run that was ended at any moment goes on where it was when it is called again with the same arguments, and gives
    the same file. Where the file is there already, nothing is done.

    Parameters
    ----------
    model
        A bundle, a plain ``.onnx`` or ``.tflite`` file, or a SavedModel folder.
    source
        A Parquet file, or a folder of files.
    output
        The Parquet file to write.
    column, id_column
        As for `edge_sdk.cloud.batch.sources.open_source`.
    workers
        How many rows are worked on at a time; each has a copy of the model.
    threads
        Of the runtime, for one inference.
    part_rows
        Rows that become durable together, and a row group of the output; at most so many are lost by a kill.
    table
        Write a table for a server, of requests of this encoding: ``captured``, ``jpeg``, ``resized`` or ``tensor``.
    engine
        ``ray`` lets the workers of a Ray cluster answer, each in a process of its own; the file is the same.
    ray_address
        Of the cluster; None is that of ``RAY_ADDRESS``, or else one is started here for the time.
    on_progress
        Called with the rows done, of how many, and how many of them failed.

    Raises
    ------
    InputError
        The source does not hold what the model takes; the output, or what is done of it, is of another model or
        source; a number is below 1.
    DataError
        The source can be read no further.
    StorageError
        The output cannot be written, or another run is at work on it.
    BundleError, GoldenError, SkewError, ModelError
        The model cannot be loaded, or Ray's workers failed.
    MissingExtraError
        A package is not installed: Ray, or for a table the server's.
    """
    for name, number in (("workers", workers), ("threads", threads), ("part_rows", part_rows)):
        if number < 1:
            raise InputError(f"{name} is {number}; it should be at least 1")
    work = Work(model=model, source=source, column=column, id_column=id_column, threads=threads, table=table)
    with contextlib.ExitStack() as stack:
        first = work.open_model()
        stack.callback(first.close)
        rows = work.open_source(first.wanted)
        columns = [("id", rows.id_type), *first.columns, ("error", pa.string())]
        plan = {
            **first.identity,
            "input_digest": rows.digest,
            "columns": f"{id_column or ''}/{column or ''}",
            "part_rows": str(part_rows),
        }
        parts = stack.enter_context(Parts(output, plan, columns))
        resumed = parts.rows
        if not parts.complete:
            if engine == "ray":
                from edge_sdk.cloud.batch.on_ray import answers_on_ray

                answers = answers_on_ray(work, resumed, rows.count, workers, ray_address)
            else:
                models = [first]
                for _ in range(workers - 1):
                    models.append(first.another())
                    stack.callback(models[-1].close)
                answers = _answers(rows.rows(resumed), models)
            stack.enter_context(contextlib.closing(answers))
            _write(answers, parts, rows.count, part_rows, on_progress or (lambda *_: None))
            parts.finish()
        if parts.rows > parts.failed:
            first.finish(output)
        return Summary(str(output), parts.rows, parts.failed, resumed, first.identity["model_digest"])


def _write(
    answers: Iterator[dict[str, Any]], parts: Parts, total: int, part_rows: int, on_progress: OnProgress
) -> None:
    held: list[dict[str, Any]] = []
    nbytes = failed = 0
    on_progress(parts.rows, total, parts.failed)
    for record in answers:
        held.append(record)
        nbytes += _size(record)
        failed += record["error"] is not None
        if len(held) >= part_rows or nbytes >= _PART_BYTES:  # the same whenever a run began
            parts.add(held)
            held, nbytes, failed = [], 0, 0
        on_progress(parts.rows + len(held), total, parts.failed + failed)
    if held:
        parts.add(held)


def _answers(rows: Iterator[Row], models: Sequence[Answering]) -> Generator[dict[str, Any], None, None]:
    """Yield records in the order of their rows."""
    if len(models) == 1:
        for row in rows:
            yield record_of(models[0], row)
        return
    free: queue.SimpleQueue[Answering] = queue.SimpleQueue()
    for model in models:
        free.put(model)

    def work(row: Row) -> dict[str, Any]:
        model = free.get()
        try:
            return record_of(model, row)
        finally:
            free.put(model)

    pending: deque[Future[dict[str, Any]]] = deque()
    pool = ThreadPoolExecutor(len(models), thread_name_prefix="batch")
    try:
        for row in rows:
            pending.append(pool.submit(work, row))
            if len(pending) >= _AHEAD * len(models):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _size(record: Any) -> int:
    """Return about how many bytes a record holds."""
    if isinstance(record, np.ndarray):
        return record.nbytes
    if isinstance(record, dict):
        return sum(map(_size, record.values()))
    if isinstance(record, list | tuple):
        return 8 * len(record) if not record or isinstance(record[0], float) else sum(map(_size, record))
    return len(record) if isinstance(record, str | bytes) else 8
