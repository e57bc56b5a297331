"""One batch's model and source, to be opened wherever rows are answered, and the record that a row becomes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_sdk.cloud.batch.answering import Answering, open_answering
from edge_sdk.cloud.batch.cells import Wanted
from edge_sdk.cloud.batch.sources import Row, Source, open_source
from edge_sdk.errors import InputError, MissingExtraError, ModelError, ProcessingError

__all__ = ["Work", "record_of"]

_LONGEST_ERROR = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be answered by what; attributes as the parameters of `edge_sdk.cloud.batch.run.predict_batch`."""

    model: Path
    source: Path
    column: str | None
    id_column: str | None
    threads: int
    table: str | None

    def open_model(self) -> Answering:
        """Load the model; errors as of `predict_batch`."""
        if self.table is None:
            return open_answering(self.model, threads=self.threads)
        try:
            from edge_sdk.cloud.batch.tabling import Tabling  # the server, which a batch does without
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "grpcio", "cloud") from error
        return Tabling(self.model, self.table, threads=self.threads)

    def open_source(self, wanted: Wanted) -> Source:
        """Open the source of what a model wants; errors as of `predict_batch`."""
        return open_source(self.source, wanted, column=self.column, id_column=self.id_column)


def record_of(model: Answering, row: Row) -> dict[str, Any]:
    """Return the answer to a row, or why there is none: a bad row does not end the run."""
    error = row.error
    if error is None:
        try:
            return {"id": row.id, **model.answer(row.value), "error": None}
        except (InputError, ProcessingError, ModelError) as problem:
            error = str(problem)
        except MemoryError:
            error = "it needs more memory than there is"
    return {"id": row.id, "error": " ".join(error.split())[:_LONGEST_ERROR]}
