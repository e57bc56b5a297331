"""SavedModel folders through TensorFlow, which is imported when the first of them is loaded.

Each is a session of its own, as in TensorFlow Serving: with threads of its own, run from several threads at once, and
the same for what TensorFlow 1 and 2, Keras and JAX export. What runs is its signature ``serving_default``.

A SavedModel is a program: its graph may read and write files. Load none that you would not run.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edge_sdk import canonical
from edge_sdk.errors import MissingExtraError, ModelError
from edge_sdk.types import TensorSpec

__all__ = ["SIGNATURE", "SUFFIX", "SavedModel", "digest_of", "is_saved_model", "name_of"]

Array = np.ndarray[Any, Any]

SIGNATURE = "serving_default"
SUFFIX = ".savedmodel"
"""What a repository calls such a folder, as Triton does: ``model.savedmodel``."""
_GRAPH = "saved_model.pb"
_FOLDERS = ("variables", "assets")  # what else may be in it, such as a table of answers, is not the model
_TAG = "serve"
_KINDS = "biufO"  # of NumPy, that the protocol has
_GREETING = re.compile(rb"WARNING: All log messages before absl|[IWE]0000 ")


def is_saved_model(path: Path) -> bool:
    """Tell whether a folder holds a SavedModel."""
    return (path / _GRAPH).is_file()


def name_of(path: Path) -> str:
    """Return what the model of a folder is called: the folder, without the suffix."""
    return path.resolve().name.removesuffix(SUFFIX)


def digest_of(path: Path) -> str:
    """Return the digest of a folder: of the names and the content of the files that make the model."""
    found = {}
    parts = [path / _GRAPH, *(file for part in _FOLDERS for file in sorted((path / part).rglob("*")))]
    for file in (file for file in parts if file.is_file()):
        with file.open("rb") as stream:
            found[file.relative_to(path).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return canonical.digest_of(found)


class SavedModel:
    """The signature ``serving_default`` of a SavedModel; may be run from several threads at once.

    Parameters
    ----------
    path
        The folder.
    threads
        For one operation; operations run on the thread that asks, one after the other.

    Attributes
    ----------
    inputs, outputs
        Tensors of the signature, in the order of their names. Texts are ``object`` (of bytes); bfloat16 is taken and
        given as float32.

    Raises
    ------
    MissingExtraError
        TensorFlow is not installed.
    ModelError
        TensorFlow cannot load it, or it has no such signature, or one of tensors that cannot be served.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        tf = _tensorflow()
        # no threads between operations: they would wake for each, and instances run beside each other anyway
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=threads, inter_op_parallelism_threads=-1, use_per_session_threads=True
        )
        config.gpu_options.allow_growth = True  # or the first model would take the memory of all
        graph = tf.Graph()
        try:
            with graph.as_default():
                self._session: Any = tf.compat.v1.Session(graph=graph, config=config)
                signatures = tf.compat.v1.saved_model.load(self._session, [_TAG], str(path)).signature_def
        except Exception as error:  # of many kinds: TensorFlow's, OSError, RuntimeError for a tag, protobuf's
            raise ModelError(f"TensorFlow cannot load {path}: {_line(error)}") from error
        if SIGNATURE not in signatures:
            there = ", ".join(name for name in sorted(signatures) if not name.startswith("__")) or "none"
            raise ModelError(f"{path} has no signature {SIGNATURE!r}, but {there}; export it with one")
        signature = signatures[SIGNATURE]
        self.inputs = _specs(path, tf, signature.inputs)
        self.outputs = _specs(path, tf, signature.outputs)
        for what, specs in (("input", self.inputs), ("output", self.outputs)):
            if not specs:
                raise ModelError(f"{path}: its signature {SIGNATURE} has no {what}")
        self._call: Any = self._session.make_callable(
            [signature.outputs[spec.name].name for spec in self.outputs],
            feed_list=[signature.inputs[spec.name].name for spec in self.inputs],
        )

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Run the model on its inputs by name and return its outputs; raise `ModelError` where TensorFlow fails."""
        try:
            outputs = self._call(*(feeds[spec.name] for spec in self.inputs))
        except Exception as error:  # as above
            raise ModelError(f"TensorFlow failed: {_line(error)}") from error
        return [_plain(y) for y in outputs]

    def close(self) -> None:
        """Release the model; TensorFlow does so when what runs is through."""
        self._call = self._session = None


def _specs(path: Path, tf: Any, tensors: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    """Return the tensors of a signature; raise `ModelError` where one of them cannot be served."""
    specs = []
    for name in sorted(tensors):
        info = tensors[name]
        if info.WhichOneof("encoding") != "name":
            raise ModelError(f"{path}: tensor {name} is sparse or composite; only dense ones can be served")
        if info.tensor_shape.unknown_rank:
            raise ModelError(f"{path}: tensor {name} has no rank; export the model with shapes, -1 where one is open")
        dtype = tf.dtypes.as_dtype(info.dtype)
        kind = np.dtype("float32") if dtype == tf.bfloat16 else np.dtype(dtype.as_numpy_dtype)
        if kind.kind not in _KINDS or (kind.kind == "O" and dtype != tf.string):
            raise ModelError(f"{path}: tensor {name} holds {dtype.name}, which the protocol does not have")
        shape = tuple(int(extent.size) for extent in info.tensor_shape.dim)
        specs.append(TensorSpec(name=name, dtype=kind.name, shape=shape))
    return tuple(specs)


def _plain(y: Any) -> Array:
    if isinstance(y, bytes):  # a text without axes
        return np.array(y, object)
    array = np.asarray(y)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _line(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", None) or error).split())[:300] or type(error).__name__


def _tensorflow() -> Any:
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors are raised; and a missing GPU is none
    try:
        with _without_greeting():
            tf = importlib.import_module("tensorflow")
    except ModuleNotFoundError as error:
        raise MissingExtraError("tensorflow", "tensorflow") from error
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it would warn that sessions are of TensorFlow 1
    return tf


@contextmanager
def _without_greeting() -> Iterator[None]:
    """Keep from standard error what TensorFlow's native code says when it starts, for which it has no switch."""
    if "tensorflow" in sys.modules:
        yield
        return
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught:  # what others wrote meanwhile
                if not _GREETING.match(line):
                    os.write(2, line)
