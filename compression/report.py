"""What compression is told, and what it reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from edge_sdk.errors import CompressionError

__all__ = ["CompressionReport", "Options", "Quantization"]

Quantization = Literal["int8", "int8-trained"]


@dataclass(frozen=True, slots=True)
class Options:
    """How hard to compress.

    Attributes
    ----------
    prune
        Share of zeros in each kernel, from 0 to below 1.
    epochs
        Passes over the training images for distillation, and 40 % as many for pruning; None:
        enough for about 600 steps (``quick``: 220).
    quick
        Fewer steps, to try things out.
    temperature, alpha
        Of distillation; see `distill.Distillation`.
    seed
        Decides initial weights, order and augmentation.
    cluster
        Values that the weights of a kernel may have, from 2 to 256; 0: as many as there are.
    quantize
        ``int8`` rounds the trained model; ``int8-trained`` trains on the grid of int8 before.
    keep
        Whether the model itself is compressed, and not a small network that learns from it.
    pattern
        Which weights become zero: ``any``, N:M or RxC; see `prune.Pruning`.
    """

    prune: float = 0.5
    epochs: int | None = None
    quick: bool = False
    temperature: float = 3.0
    alpha: float = 0.7
    seed: int = 0
    cluster: int = 0
    quantize: Quantization = "int8"
    keep: bool = False
    pattern: str = "any"

    def __post_init__(self) -> None:
        if not 0.0 <= self.prune < 1.0:
            raise CompressionError(f"prune is {self.prune}; it must be at least 0 and less than 1")
        if self.epochs is not None and self.epochs < 1:
            raise CompressionError(f"epochs is {self.epochs}; it must be at least 1")
        if not self.temperature >= 1.0:
            raise CompressionError(f"temperature is {self.temperature}; it must be at least 1")
        if not 0.0 <= self.alpha <= 1.0:
            raise CompressionError(f"alpha is {self.alpha}; it must be from 0 to 1")
        if self.quantize not in get_args(Quantization):
            raise CompressionError(f"quantize is {self.quantize!r}; it must be {' or '.join(get_args(Quantization))}")


@dataclass(frozen=True, slots=True)
class CompressionReport:
    """What compression did.

    Attributes
    ----------
    bundle
        Path of the bundle.
    parameters
        Numbers of weights of ``teacher`` and ``student``.
    sizes
        Bytes: ``teacher_float32`` and ``student_float32`` (weights), ``student_int8`` (the TFLite
        file), ``student_int8_deflated`` and ``student_int8_zstd`` (what zeros and clusters are worth on
        the wire), ``bundle``.
    accuracy
        By model (``teacher``, ``student_distilled``, ``student_pruned``, ``student_clustered`` where there
        are clusters, ``student_int8``), then
        ``validation`` and ``test``; see `evaluate.accuracy`. int8 is measured in the device's
        runtime behind the device's processing.
    sparsity
        Exact share of zeros in the student's kernels.
    ingest
        How well the float32 teacher agrees with the trained one.
    quantization_agreement
        Share of validation images to which int8 gives the answer of float32.
    seconds
        Wall time of each stage.
    """

    bundle: Path
    parameters: dict[str, int]
    sizes: dict[str, int]
    accuracy: dict[str, dict[str, dict[str, float]]]
    sparsity: float
    ingest: dict[str, float]
    quantization_agreement: float
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-compatible values."""
        return {**asdict(self), "bundle": str(self.bundle)}
