"""The manifest of a bundle: frozen records, and their strict reading from untrusted JSON."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge_sdk.canonical import digest_of, dumps, loads
from edge_sdk.errors import BundleFormatError, BundleVersionError, InputError
from edge_sdk.types import TensorSpec

if TYPE_CHECKING:
    from edge_sdk.bundle.detector import Detector

__all__ = ["FORMAT", "NAME", "OUTPUTS", "RUNTIME", "TASKS", "VERSION", "Artifact", "Golden", "Manifest"]

FORMAT = (1, 1)
"""Major and minor version of the format. Readers accept every minor of their major that is not newer in meaning:
a newer minor only adds fields that an older reader may ignore, and tasks that it refuses by name. 1.1 brought
the tasks beside classification."""

TASKS = ("classification", "detection", "regression", "embedding")
LABELLED = ("classification", "detection")
RUNTIME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
OUTPUTS = ("probabilities", "logits")
"""What the first output of a classifier may hold; of other tasks, outputs are ``tensors``."""
NAME = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,62}[a-z0-9])?")
VERSION = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(-[0-9A-Za-z.-]{1,64})?")
MEMBER = re.compile(r"(?:golden/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,200}")  # labels end up on terminals
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
DTYPES = frozenset(
    ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"]
)
MAX_LABELS = 100_000


@dataclass(frozen=True, slots=True)
class Artifact:
    """One model file of a bundle and the signature it must have when loaded.

    Attributes
    ----------
    file
        Member name.
    runtime
        ``litert`` or ``onnx``.
    precision
        What the weights are, such as ``int8`` or ``float32``.
    sha256, size
        Digest of the file as ``sha256:<hex>``, and its length in bytes.
    inputs, outputs
        Tensor signatures.
    """

    file: str
    runtime: str
    precision: str
    sha256: str
    size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Golden:
    """How closely a device must reproduce the stored answers.

    Attributes
    ----------
    count
        Number of stored examples.
    processed_atol
        Largest absolute difference of a processed tensor, in its own units.
    output_atol
        Largest absolute difference of a probability; for tasks other than classification, of any output.
    output_atols
        For those tasks, the largest absolute difference of each output, dequantized.
    """

    count: int
    processed_atol: float
    output_atol: float
    output_atols: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a bundle says about itself.

    Attributes
    ----------
    name, version
        Lower-case name and semantic version; together they name the bundle.
    task
        One of `TASKS`.
    labels
        Class names by index; empty for regression and embedding.
    processing
        The processing specification as JSON; see `edge_sdk.processing.ProcessingSpec`.
    artifacts
        Model files, the preferred one first.
    outputs
        What the model's first output holds: ``probabilities`` or ``logits``; ``tensors`` for other tasks.
    cascade
        The deferral policy and its certificate as JSON, or None.
    golden
        Tolerances of the golden examples.
    files
        Digest of every member but the manifest.
    lineage, metrics, requirements
        Where the model comes from (by digest), what was measured of it, and what it needs.
    detection
        How a detector's outputs are read; None for other tasks.
    format
        Major and minor version of the format.
    """

    name: str
    version: str
    task: str
    labels: tuple[str, ...]
    processing: Mapping[str, Any]
    artifacts: tuple[Artifact, ...]
    outputs: str
    golden: Golden
    files: Mapping[str, str]
    cascade: Mapping[str, Any] | None = None
    lineage: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    requirements: Mapping[str, Any] = field(default_factory=dict)
    detection: Detector | None = None
    format: tuple[int, int] = FORMAT

    @property
    def model_digest(self) -> str:
        """Digest of what computes: the artifacts, the processing and the decoder, not the file around them."""
        computes: dict[str, Any] = {"artifacts": [a.sha256 for a in self.artifacts], "processing": self.processing}
        if self.detection is not None:
            computes["detection"] = self.detection.to_json()
            computes["anchors"] = self.files.get(self.detection.anchors or "")
        return digest_of(computes)

    @property
    def golden_outputs(self) -> int:
        """How many outputs the golden examples hold."""
        return 1 if self.task == "classification" else len(self.artifacts[0].outputs)

    def require_task(self, task: str, what: str) -> None:
        """Raise `InputError` unless the bundle is for a task; ``what`` names who asks for it."""
        if self.task != task:
            raise InputError(f"{self.name} {self.version} is a bundle for {self.task}; {what} takes {task} only")

    def to_bytes(self) -> bytes:
        """Return the manifest as canonical JSON."""
        golden = {
            "count": self.golden.count,
            "processed_atol": self.golden.processed_atol,
            "output_atol": self.golden.output_atol,
        }
        return dumps(
            {
                "format": {"major": self.format[0], "minor": self.format[1]},
                "name": self.name,
                "version": self.version,
                "task": self.task,
                "labels": list(self.labels),
                "processing": self.processing,
                "artifacts": [_artifact_json(a) for a in self.artifacts],
                "outputs": self.outputs,
                "cascade": self.cascade,
                "golden": golden
                | ({"output_atols": list(self.golden.output_atols)} if self.golden.output_atols else {}),
                "files": dict(self.files),
                "lineage": self.lineage,
                "metrics": self.metrics,
                "requirements": self.requirements,
                "model_digest": self.model_digest,
                **({} if self.detection is None else {"detection": self.detection.to_json()}),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read a manifest from untrusted bytes.

        Raises
        ------
        BundleVersionError
            The format's major version is not this SDK's.
        BundleFormatError
            A field is missing, has the wrong type or an impossible value; the message names it.
        """
        try:
            document = loads(data)
        except InputError as error:
            raise BundleFormatError(f"manifest.json is {error}") from error
        top = _Fields(document, "manifest")
        version = _Fields(top.get("format", dict), "format")
        major, minor = version.integer("major"), version.integer("minor")
        if major != FORMAT[0]:
            raise BundleVersionError(f"bundle format {major}.{minor} cannot be read; this SDK reads {FORMAT[0]}.x")
        golden = _Fields(top.get("golden", dict), "golden")
        task = top.text("task", among=TASKS)
        manifest = cls(
            format=(major, minor),
            name=top.text("name", pattern=NAME),
            version=top.text("version", pattern=VERSION),
            task=task,
            labels=top.texts("labels", limit=MAX_LABELS),
            processing=top.get("processing", dict),
            artifacts=tuple(_artifact(item, n) for n, item in enumerate(top.get("artifacts", list))),
            outputs=top.text("outputs", among=OUTPUTS if task == "classification" else ("tensors",)),
            cascade=top.optional("cascade", dict),
            golden=Golden(
                count=golden.integer("count"),
                processed_atol=golden.number("processed_atol"),
                output_atol=golden.number("output_atol"),
                output_atols=() if golden.optional("output_atols", list) is None else golden.numbers("output_atols"),
            ),
            files=_files(top.get("files", dict)),
            lineage=top.get("lineage", dict),
            metrics=top.get("metrics", dict),
            requirements=top.get("requirements", dict),
            detection=_detection(top.optional("detection", dict)),
        )
        manifest._check(top.text("model_digest", pattern=DIGEST))
        return manifest

    def _check(self, stated_digest: str) -> None:
        if not self.artifacts:
            raise BundleFormatError("manifest.artifacts is empty")
        if len(set(self.labels)) != len(self.labels):
            raise BundleFormatError("manifest.labels holds a name twice")
        if bool(self.labels) != (self.task in LABELLED):
            raise BundleFormatError(f"manifest.labels holds {len(self.labels)} names, which a task {self.task} has not")
        if (self.detection is None) == (self.task == "detection"):
            raise BundleFormatError("manifest.detection should be there for the task detection, and for no other")
        anchors = None if self.detection is None else self.detection.anchors
        if anchors is not None and anchors not in self.files:
            raise BundleFormatError(f"manifest.detection.anchors is {anchors[:80]!r}, which is not a member")
        for artifact in self.artifacts:
            if not artifact.inputs or not artifact.outputs:
                raise BundleFormatError(f"manifest.artifacts: {artifact.file} has no inputs or no outputs")
            if self.files.get(artifact.file) != artifact.sha256:
                raise BundleFormatError(f"manifest.files and artifacts disagree about {artifact.file}")
        if len(self.golden.output_atols) != (0 if self.task == "classification" else self.golden_outputs):
            raise BundleFormatError(
                f"golden.output_atols holds {len(self.golden.output_atols)} numbers for "
                f"{self.golden_outputs} outputs of a task {self.task}"
            )
        try:
            digest = self.model_digest
        except InputError as error:
            raise BundleFormatError(f"manifest.processing is {error}") from error
        if stated_digest != digest:
            raise BundleFormatError("manifest.model_digest is not that of its artifacts and processing")


class _Fields:
    """Typed access to a JSON object; each failure names the field."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise BundleFormatError(f"{where} should be an object, not {type(value).__name__}")
        self._value = value
        self._where = where

    def get(self, key: str, kind: type) -> Any:
        if key not in self._value:
            raise BundleFormatError(f"{self._where}.{key} is missing")
        value = self._value[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise BundleFormatError(f"{self._where}.{key} should be {kind.__name__}, not {type(value).__name__}")
        return value

    def optional(self, key: str, kind: type) -> Any:
        return None if self._value.get(key) is None else self.get(key, kind)

    def text(self, key: str, *, pattern: re.Pattern[str] | None = None, among: tuple[str, ...] | None = None) -> str:
        value: str = self.get(key, str)
        if among is not None and value not in among:
            raise BundleFormatError(f"{self._where}.{key} is {value!r}; it should be one of {', '.join(among)}")
        if pattern is not None and not pattern.fullmatch(value):
            raise BundleFormatError(f"{self._where}.{key} is {value[:80]!r}, which is not a valid {key}")
        return value

    def texts(self, key: str, *, limit: int) -> tuple[str, ...]:
        values = self.get(key, list)
        if len(values) > limit or not all(isinstance(v, str) and PRINTABLE.fullmatch(v) for v in values):
            raise BundleFormatError(
                f"{self._where}.{key} should hold at most {limit} names of 1 to 200 characters, no control characters"
            )
        return tuple(values)

    def integer(self, key: str) -> int:
        value: int = self.get(key, int)
        if not 0 <= value < 1 << 53:
            raise BundleFormatError(f"{self._where}.{key} is {value}, out of range")
        return value

    def number(self, key: str) -> float:
        value = self._value.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
            raise BundleFormatError(f"{self._where}.{key} should be a finite number of at least 0")
        return float(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        values = self.get(key, list)
        return tuple(_Fields({key: value}, self._where).number(key) for value in values)


def _detection(value: dict[str, Any] | None) -> Detector | None:
    if value is None:
        return None
    from edge_sdk.bundle.detector import Detector

    try:
        return Detector.from_json(value)
    except InputError as error:
        raise BundleFormatError(f"manifest.{error}") from error


def _tensor_json(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "shape": list(spec.shape),
        "scale": spec.scale,
        "zero_point": spec.zero_point,
    }


def _artifact_json(artifact: Artifact) -> dict[str, Any]:
    return {
        "file": artifact.file,
        "runtime": artifact.runtime,
        "precision": artifact.precision,
        "sha256": artifact.sha256,
        "size": artifact.size,
        "inputs": [_tensor_json(spec) for spec in artifact.inputs],
        "outputs": [_tensor_json(spec) for spec in artifact.outputs],
    }


def _artifact(value: Any, number: int) -> Artifact:
    where = f"artifacts[{number}]"
    fields = _Fields(value, where)
    return Artifact(
        file=fields.text("file", pattern=MEMBER),
        runtime=fields.text("runtime", pattern=RUNTIME),
        precision=fields.text("precision"),
        sha256=fields.text("sha256", pattern=DIGEST),
        size=fields.integer("size"),
        inputs=tuple(_tensor(item, f"{where}.inputs") for item in fields.get("inputs", list)),
        outputs=tuple(_tensor(item, f"{where}.outputs") for item in fields.get("outputs", list)),
    )


def _tensor(value: Any, where: str) -> TensorSpec:
    fields = _Fields(value, where)
    shape = fields.get("shape", list)
    if len(shape) > 8 or not all(isinstance(n, int) and not isinstance(n, bool) and -1 <= n < 1 << 31 for n in shape):
        raise BundleFormatError(f"{where}.shape should be at most 8 extents of at least -1")
    dtype = fields.text("dtype")
    if dtype not in DTYPES:
        raise BundleFormatError(f"{where}.dtype is {dtype[:40]!r}, which no runtime here has")
    scale = None if fields.optional("scale", object) is None else fields.number("scale")
    zero_point = fields.optional("zero_point", int)
    if (scale is None) != (zero_point is None) or scale == 0.0:
        raise BundleFormatError(f"{where} should have both a positive scale and a zero point, or neither")
    return TensorSpec(fields.text("name"), dtype, tuple(shape), scale, zero_point)


def _files(value: dict[str, Any]) -> dict[str, str]:
    for name, digest in value.items():
        if not MEMBER.fullmatch(name) or name == "manifest.json":
            raise BundleFormatError(f"manifest.files names {name[:80]!r}, which is not a member name")
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise BundleFormatError(f"manifest.files[{name!r}] is not a sha256 digest")
    return value
