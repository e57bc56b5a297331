"""What compression is told, and what it reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from edge_sdk.errors import CompressionError

if TYPE_CHECKING:
    from edge_sdk.compression.distill import Hint

__all__ = ["BACKENDS", "QUANTIZATIONS", "RUNTIMES", "CompressionReport", "Options", "Quantization"]

Quantization = Literal["int8", "int8-trained", "float32", "float16", "dynamic", "int16x8", "int4"]
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
BACKENDS = ("native", "tfmot")
RUNTIMES = ("litert", "onnx")


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
        ``int8`` rounds the trained model; ``int8-trained`` trains on the grid of int8 before; others as of `tflite`.
    keep
        Whether the model itself is compressed, and not a small network that learns from it.
    pattern
        Which weights become zero: ``any``, N:M or RxC; see `prune.Pruning`.
    channels
        Share of channels to remove, from 0 to below 1.
    prune_layers, cluster_layers, channel_layers
        Another value for some layers, by name; see `prune.Pruning`, `cluster.Clustering`, `channels.Narrowing`.
    float_layers, fallback
        Layers that stay in float32 where the file is of int8, by name or pattern, and how many of the most
        sensitive do. With either, layers without an int8 form stay, too.
    hints
        Places that follow the first teacher's.
    backend
        ``native``, or ``tfmot``: tensorflow-model-optimization prunes, clusters and trains for int8.
    runtime
        Of the file: ``litert``, or ``onnx`` for float32 and int8.
    window, half_life
        In days, as of `edge_sdk.cloud.training.Options`; None: as the model was trained, infinite: all the same.
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
    channels: float = 0.0
    prune_layers: Mapping[str, float] = field(default_factory=dict)
    cluster_layers: Mapping[str, int] = field(default_factory=dict)
    channel_layers: Mapping[str, float] = field(default_factory=dict)
    float_layers: tuple[str, ...] = ()
    fallback: int = 0
    hints: tuple[Hint, ...] = ()
    backend: str = "native"
    runtime: str = "litert"
    window: float | None = None
    half_life: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.prune < 1.0:
            raise CompressionError(f"prune is {self.prune}; it must be at least 0 and less than 1")
        if self.epochs is not None and self.epochs < 1:
            raise CompressionError(f"epochs is {self.epochs}; it must be at least 1")
        if not self.temperature >= 1.0:
            raise CompressionError(f"temperature is {self.temperature}; it must be at least 1")
        if not 0.0 <= self.alpha <= 1.0:
            raise CompressionError(f"alpha is {self.alpha}; it must be from 0 to 1")
        if not 0.0 <= self.channels < 1.0:
            raise CompressionError(f"channels is {self.channels}; it must be at least 0 and less than 1")
        if self.seed < 0 or self.fallback < 0:
            raise CompressionError(f"seed is {self.seed} and fallback {self.fallback}; they must be at least 0")
        for name in ("window", "half_life"):
            if (value := getattr(self, name)) is not None and not value > 0.0:
                raise CompressionError(f"{name} is {value}; it must be a number above 0")
        for name, known in (("quantize", QUANTIZATIONS), ("backend", BACKENDS), ("runtime", RUNTIMES)):
            if getattr(self, name) not in known:
                raise CompressionError(f"{name} is {getattr(self, name)!r}; it must be {' or '.join(known)}")
        self._check_together()

    def _check_together(self) -> None:
        if self.runtime == "onnx" and self.quantize not in ("float32", "int8"):
            raise CompressionError(f"a file of ONNX is of float32 or int8, and not of {self.quantize}")
        kept = bool(self.float_layers or self.fallback)
        if kept and (self.precision != "int8" or self.runtime == "onnx"):
            raise CompressionError("layers that stay in float32 are those of int8 and int8-trained files of LiteRT")
        if self.backend == "tfmot":
            if self.pattern != "any" or self.prune_layers or self.cluster_layers or kept:
                raise CompressionError("tfmot takes one share and one number of clusters, no pattern, no float layers")
            if self.half_life not in (None, math.inf):
                raise CompressionError("tfmot's worker weighs all samples alike; give a half-life of inf")
            if not (self.prune or self.cluster or self.quantize == "int8-trained"):
                raise CompressionError("there is nothing for tfmot to do: prune, cluster, or quantize int8-trained")

    @property
    def precision(self) -> str:
        """What the weights of the file are."""
        return "int8" if self.quantize == "int8-trained" else self.quantize

    def as_trained(self, lineage: Mapping[str, Any]) -> Options:
        """Return the same with the window and the half-life that a model was trained with, unless told otherwise."""
        trained = lineage.get("options") or {}
        window, half_life = self.window or trained.get("window"), self.half_life or trained.get("half_life")
        return replace(
            self,
            window=None if window == math.inf else window,
            half_life=None if half_life == math.inf else half_life,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        layers = {name: dict(plain[name]) for name in ("prune_layers", "cluster_layers", "channel_layers")}
        return plain | layers | {"hints": [asdict(one) for one in self.hints], "float_layers": list(self.float_layers)}


@dataclass(frozen=True, slots=True)
class CompressionReport:
    """What compression did.

    Attributes
    ----------
    bundle
        Path of the bundle.
    parameters
        Numbers of weights: of what was given (``teacher``, or ``model`` where that itself was compressed), and
        of the ``student`` that is packed.
    sizes
        Bytes: ``teacher_float32`` or ``model_float32`` and ``student_float32`` (weights), ``student_int8`` (the
        file; or another `precision`), ``student_int8_deflated`` and ``student_int8_zstd`` (what zeros and clusters are
        worth on the wire), ``bundle``.
    accuracy
        By model (``teacher``; ``model`` as it was given, where it is compressed itself; ``student_distilled``,
        ``student_narrowed`` and ``student_clustered`` where there are such; ``student_pruned``; ``student_int8``, or
        another `precision`), then ``validation`` and ``test``; see `evaluate.accuracy`. The last is measured in the
        device's runtime behind the device's processing.
    sparsity
        Exact share of zeros in the student's kernels.
    ingest
        How well the float32 teacher agrees with the trained one.
    quantization_agreement
        Share of validation images to which the file gives the answer of the model.
    seconds
        Wall time of each stage.
    precision
        What the weights of the file are.
    """

    bundle: Path
    parameters: dict[str, int]
    sizes: dict[str, int]
    accuracy: dict[str, dict[str, dict[str, float]]]
    sparsity: float
    ingest: dict[str, float]
    quantization_agreement: float
    seconds: dict[str, float]
    precision: str = "int8"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-compatible values."""
        return {**asdict(self), "bundle": str(self.bundle)}
