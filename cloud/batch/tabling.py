"""What fills the table of a server: inputs as requests hold them, and what the server would answer to each.

Unlike `answering`, which says what a model's task says, this keeps the model's own output tensors, and the key that a
request is known by; so it runs what the server runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from edge_sdk.cloud.batch.answering import as_tensor, struct_of
from edge_sdk.cloud.batch.cells import Wanted
from edge_sdk.cloud.server.keys import KEY_BYTES, item_keys
from edge_sdk.cloud.server.models import load_model
from edge_sdk.cloud.server.table_files import open_table
from edge_sdk.cloud.server.tables import Answers
from edge_sdk.encodings import encode_jpeg, resize_frame
from edge_sdk.errors import InputError, ModelError
from edge_sdk.frames import as_frame
from edge_sdk.inputs import as_input
from edge_sdk.processing import Columns, ProcessingSpec

__all__ = ["Tabling"]


class Tabling:
    """A model as a server has it, for requests of one encoding: an `edge_sdk.cloud.batch.answering.Answering`.

    Parameters
    ----------
    path
        A bundle, plain model file or SavedModel folder, of one input.
    encoding
        What requests will hold: one of those that the model offers.
    threads
        Of the runtime, for one inference.

    Raises
    ------
    InputError
        There is no such model, it does not offer the encoding, or it can have no table.
    BundleError, GoldenError, SkewError, ModelError
        It cannot be loaded, or does not compute here what it should.
    """

    def __init__(self, path: Path, encoding: str, *, threads: int = 1) -> None:
        self._source = (path, encoding, threads)
        model = self._model = load_model(path, threads=threads)
        if len(model.inputs) != 1:
            raise ModelError(f"{path} has {len(model.inputs)} inputs; a batch needs a model with one")
        if encoding not in model.reader.encodings:
            offered = ", ".join(model.reader.encodings)
            raise InputError(f"model {model.name} does not offer the encoding {encoding!r}; it offers {offered}")
        self._encoding, self._spec, self._whole = encoding, model.engine.inputs[0], model.batching == "whole"
        self._answers = Answers(model.name, model.digest, model.engine.inputs, model.engine.outputs, self._whole)
        self._answers.check()
        self._processing = model.reader.processing
        self.wanted = _wanted(self._processing)
        self.columns: tuple[tuple[str, Any], ...] = (
            ("key", pa.binary(KEY_BYTES)),
            ("outputs", struct_of(model.engine.outputs)),
        )
        self.identity = {
            "name": model.name,
            "version": model.version,
            "task": "table",
            "model_digest": model.digest,
            "encoding": encoding,
        }

    def answer(self, value: Any) -> dict[str, Any]:
        """Return key and outputs for a row; raise as `Answering.answer` does."""
        model = self._model
        inputs = {self._spec.name: self._input(value)}
        payload = model.reader.read(inputs, self._encoding)
        outputs = model.engine.run(payload.tensors(lambda: None))
        (key,) = item_keys(inputs, self._encoding, payload.items, whole=self._whole)
        specs = model.engine.outputs
        return {"key": key, "outputs": {spec.name: y.ravel() for spec, y in zip(specs, outputs, strict=True)}}

    def another(self) -> Tabling:
        """Return one for another thread."""
        path, encoding, threads = self._source
        return Tabling(path, encoding, threads=threads)

    def finish(self, output: Path) -> None:
        """Make what a server maps, so that none has to at its first start."""
        open_table(output, self._answers)

    def close(self) -> None:
        """Release the model."""
        self._model.engine.close()

    def _input(self, value: Any) -> Any:
        """Return what a request would hold."""
        if self._processing is None:
            return as_tensor(value, self._spec)
        if self._encoding == "jpeg":
            data = value.read_bytes() if isinstance(value, Path) else value
            if not isinstance(data, bytes):
                data = encode_jpeg(as_frame(data))
            return np.array([data], object)
        x = as_input(self._processing, value)
        if self._encoding == "captured":
            return x
        if self._encoding == "resized":
            return resize_frame(x, self._processing)
        (tensor,) = self._model.reader.read({self._spec.name: x}, "captured").tensors(lambda: None).values()
        return tensor


def _wanted(processing: ProcessingSpec | None) -> Wanted:
    if processing is None:
        return Wanted("tensor")
    columns = processing.find(Columns)
    return Wanted(processing.modality, () if columns is None else columns.names)
