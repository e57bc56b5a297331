"""Teachers of any origin, that only have to answer: Keras, ONNX, TFLite and SavedModels alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edge_sdk.cloud.saved_model import SavedModel
from edge_sdk.cloud.training.evaluate import logits_of
from edge_sdk.compression import archives
from edge_sdk.compression.export import session_logits
from edge_sdk.compression.ingest import ingest
from edge_sdk.errors import CompressionError
from edge_sdk.runtime import open_session

__all__ = ["Teacher", "open_teacher"]

_AT_ONCE = 256


class Teacher:
    """What answers inputs ``[n, ...]`` by logits, float32 ``[n, classes]``.

    Parameters
    ----------
    source
        A Keras model in memory, or the path of what `open_teacher` takes.
    kind
        ``keras``, ``legacy``, ``saved_model``, ``onnx`` or ``litert``.
    answer
        From inputs to logits.
    model
        Of Keras, where it is one.
    """

    def __init__(
        self,
        source: str,
        kind: str,
        answer: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]],
        model: keras.Model | None = None,
    ) -> None:
        self.source, self.kind, self.model = source, kind, model
        self._answer = answer

    def __call__(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Answer.

        Raises
        ------
        CompressionError
            The answers are no finite logits ``[n, classes]``.
        ModelError
            The inputs do not fit the model.
        """
        logits = self._answer(inputs)
        if logits.ndim != 2 or len(logits) != len(inputs):
            raise CompressionError(f"the teacher {self.source} answers {list(logits.shape)}; it should be [n, classes]")
        if not np.isfinite(logits).all():
            raise CompressionError(f"the teacher {self.source} answers NaN or infinity; check what it takes")
        return logits


def open_teacher(source: keras.Model | str | Path, inputs: npt.NDArray[Any] | None = None) -> Teacher:
    """Open a model that is only to answer.

    Parameters
    ----------
    source
        A Keras 3 model in memory, or the path of a ``.keras``, ``.h5``, ``.onnx`` or ``.tflite`` file or a
        SavedModel folder, whose graph may do what programs may: open none that you would not run.
    inputs
        ``[n, ...]`` real inputs, on which a model of Keras is verified; others need none.

    Raises
    ------
    InputError
        There is no such model.
    CompressionError
        It holds code, or a Keras model cannot be rebuilt; see `ingest`.
    ModelError
        Its runtime cannot load it.
    """
    if isinstance(source, keras.Model):
        return Teacher(repr(source.name), "keras", lambda x: logits_of(source, x), source)
    archive = archives.inspect(Path(source))
    if archive.kind in ("onnx", "litert"):
        session = open_session(archive.path, archive.kind)
        return Teacher(str(source), archive.kind, lambda x: session_logits(session, x))
    if archive.kind == "saved_model":
        saved = SavedModel(archive.path)
        if len(saved.inputs) != 1:
            raise CompressionError(f"{source} has {len(saved.inputs)} inputs; a teacher should have one")
        return Teacher(str(source), archive.kind, lambda x: _of_saved(saved, x))
    if inputs is None:
        raise CompressionError(f"{source} is a model of Keras; give real inputs to verify it on")
    model = ingest(archive.path, inputs).model
    return Teacher(str(source), archive.kind, lambda x: logits_of(model, x), model)


def _of_saved(saved: SavedModel, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    takes = saved.inputs[0]
    size = takes.shape[0] if takes.shape and takes.shape[0] > 0 else _AT_ONCE
    rows = [
        saved.run({takes.name: inputs[at : at + size].astype(takes.dtype, copy=False)})[0]
        for at in range(0, len(inputs), size)
    ]
    return np.concatenate(rows).astype(np.float32, copy=False)
