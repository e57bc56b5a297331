"""A trained teacher, in memory and as a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from edge_sdk import canonical, files
from edge_sdk.cloud.training import evaluate
from edge_sdk.errors import CompressionError, EdgeSdkError
from edge_sdk.processing import ProcessingSpec
from edge_sdk.processing.keras import ProcessingLayer

__all__ = ["MODEL_FILE", "RECORD_FILE", "Trained", "load_trained"]

MODEL_FILE = "model.keras"
RECORD_FILE = "training.json"
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Trained:
    """A teacher and how it came about.

    Attributes
    ----------
    model
        Frames (``[n, H, W, C]``, uint8 or already resized float32) → float32 logits.
    processing
        The specification that the model's first layer carries out.
    classes
        Names of the classes, in the order of the logits.
    policy
        Keras dtype policy it was trained with.
    history
        Mean ``loss`` and ``accuracy`` of each epoch, on augmented training batches.
    metrics
        ``validation`` and ``test`` accuracy with intervals; see `evaluate.accuracy`.
    lineage
        Data specification, digest of each split, seed, epochs, versions.
    """

    model: keras.Model
    processing: ProcessingSpec
    classes: tuple[str, ...]
    policy: str
    history: dict[str, list[float]]
    metrics: dict[str, dict[str, float]]
    lineage: dict[str, Any] = field(default_factory=dict)

    @property
    def body(self) -> keras.Model:
        """The network without its processing layer: processed tensor → logits."""
        return self.model.get_layer("body")

    @property
    def digest(self) -> str:
        """Digest of the weights."""
        return evaluate.model_digest(self.model)

    def save(self, folder: str | Path) -> Path:
        """Write ``model.keras`` and ``training.json``; where only the first is new, `load_trained` refuses the folder.

        Raises
        ------
        StorageError
            If the folder cannot be written.
        """
        target = files.make_folder(Path(folder))
        record = {
            "format": FORMAT,
            "classes": list(self.classes),
            "digest": self.digest,
            "history": self.history,
            "lineage": self.lineage,
            "metrics": self.metrics,
            "policy": self.policy,
            "processing": self.processing.to_json(),
        }
        partial = target / f".partial-{MODEL_FILE}"
        with files.storage_errors(target):
            try:
                self.model.save(partial)
                files.fsync_file(partial)
                partial.replace(target / MODEL_FILE)
            finally:
                partial.unlink(missing_ok=True)
        files.write_durably(target / RECORD_FILE, canonical.dumps(record))
        return target


def load_trained(folder: str | Path) -> Trained:
    """Read what `Trained.save` wrote.

    Raises
    ------
    CompressionError
        If the folder does not hold a model of ``edge-sdk train``, or it is damaged.
    """
    source = Path(folder)
    try:
        record = canonical.loads((source / RECORD_FILE).read_bytes())
        if record["format"] != FORMAT:
            raise CompressionError(f"{source / RECORD_FILE}: format {record['format']}, this version reads {FORMAT}")
        model = keras.saving.load_model(
            source / MODEL_FILE, custom_objects={"ProcessingLayer": ProcessingLayer}, compile=False
        )
        trained = Trained(
            model,
            ProcessingSpec.from_json(record["processing"]),
            tuple(record["classes"]),
            record["policy"],
            record["history"],
            record["metrics"],
            record["lineage"],
        )
    except OSError as error:
        raise CompressionError(f"{source} is not a folder of 'edge-sdk train': {error.strerror or error}") from error
    except (EdgeSdkError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, CompressionError):
            raise
        raise CompressionError(f"{source} does not hold a usable teacher: {error}") from error
    if record["digest"] != trained.digest:
        raise CompressionError(f"{source / MODEL_FILE} is not the model that {RECORD_FILE} describes")
    return trained
