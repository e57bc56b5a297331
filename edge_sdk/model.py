"""EdgeModel: a bundle loaded on this device, from a frame to a class.

One instance may be used from several threads; they take turns. Processing writes into one buffer
that is reused, and nothing is allocated per call beyond the answer.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_sdk.bundle import Bundle, GoldenSet, Manifest
from edge_sdk.bundle.archive import MAX_BUNDLE_BYTES
from edge_sdk.cascade.policy import Decision, Policy
from edge_sdk.errors import GoldenError, InputError, ModelClosedError, ModelError, SkewError
from edge_sdk.ext.quantization import dequantize
from edge_sdk.ext.scores import softmax
from edge_sdk.frames import Frame, as_frame
from edge_sdk.processing import DeviceProcessor, ProcessingSpec
from edge_sdk.processing.steps import Quantize
from edge_sdk.runtime import Threads, open_session
from edge_sdk.streams import Stream
from edge_sdk.types import Classification, Reason, TensorSpec, Timing

__all__ = ["EdgeModel", "Scored", "certified_for", "load", "new_decision_id", "verify"]

logger = logging.getLogger("edge_sdk.model")


@dataclass(frozen=True, slots=True)
class Scored:
    """What the model said of one frame.

    Attributes
    ----------
    probabilities
        Float32 [classes].
    pre_ms, infer_ms, post_ms
        Milliseconds spent on processing, in the runtime, and on the scores.
    """

    probabilities: NDArray[np.float32]
    pre_ms: float
    infer_ms: float
    post_ms: float


class EdgeModel:
    """A model of a bundle, ready to answer. Use `load` to make one.

    Attributes
    ----------
    manifest
        The bundle's manifest.
    policy
        The deferral policy it carries, or None; without a certificate where that is for another
        model, processing, runtime or delegate.
    processor
        Its processing, as the device executes it.
    digest, bundle_digest
        Of what computes, and of the whole bundle.
    """

    def __init__(self, bundle: Bundle, *, threads: Threads = 1, delegate: str | None = None) -> None:
        self.manifest: Manifest = bundle.manifest
        self.digest: str = bundle.manifest.model_digest
        self.bundle_digest: str = bundle.digest
        self.policy: Policy | None = _policy(bundle.manifest, delegate)
        self.processor = DeviceProcessor(ProcessingSpec.from_json(bundle.manifest.processing))
        artifact = bundle.manifest.artifacts[0]
        self._session = open_session(
            bundle.file(artifact.file) or bundle.read(artifact.file),
            artifact.runtime,
            threads=threads,
            delegate=delegate,
        )
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._check_signature(artifact.inputs, artifact.outputs)
        except ModelError:
            self._session.close()
            raise
        self._output: TensorSpec = self._session.outputs[0]
        self._buffer = np.empty(self.processor.spec.output_shape, dtype=self.processor.spec.output_dtype)

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Version of the bundle."""
        return self.manifest.version

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names by index."""
        return self.manifest.labels

    def infer(self, frame: Frame) -> Scored:
        """Process one frame and run the model on it.

        Parameters
        ----------
        frame
            A uint8 array [height, width(, channels)], a path, JPEG or PNG bytes, or a Pillow image.

        Raises
        ------
        InputError
            The frame is not a picture that the model can take.
        ModelClosedError
            The model has been closed.
        """
        start = time.perf_counter()
        pixels = as_frame(frame)
        with self._lock:
            self._check_open()
            self.processor(pixels, out=self._buffer)
            ready = time.perf_counter()
            raw = self._session.run(self._buffer)[0]
            done = time.perf_counter()
        probabilities = self._probabilities(raw)[0]
        end = time.perf_counter()
        return Scored(probabilities, (ready - start) * 1e3, (done - ready) * 1e3, (end - done) * 1e3)

    def infer_tensor(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Run the model on tensors that are processed already.

        Parameters
        ----------
        x
            [n, …] in the shape and dtype of the processing's output.

        Returns
        -------
        Probabilities, float32 [n, classes].

        Raises
        ------
        InputError
            The shape is another one, or there are none.
        ModelError
            The dtype is another one, or the runtime fails.
        ModelClosedError
            The model has been closed.
        """
        shape = self.processor.spec.output_shape[1:]
        if x.shape[1:] != shape or len(x) == 0:
            raise InputError(f"processed tensors should be [n, {', '.join(map(str, shape))}], not {list(x.shape)}")
        fixed = self._session.inputs[0].shape[0] == 1
        parts = [x[n : n + 1] for n in range(len(x))] if fixed else [x]
        with self._lock:
            self._check_open()
            raw = [self._session.run(part)[0] for part in parts]
        return np.concatenate([self._probabilities(part) for part in raw])

    def decide(self, scored: Scored) -> Decision | None:
        """Apply the bundle's policy to an answer; None where it carries none."""
        return None if self.policy is None else self.policy.decide(scored.probabilities)

    def predict(self, frame: Frame) -> Classification:
        """Classify one frame on this device, whatever the policy says of it.

        ``certified`` tells whether the policy would have kept the answer under its certificate;
        ``reason`` is then ``confident``, and ``forced`` where it would have escalated.

        Raises
        ------
        InputError
            The frame is not a picture that the model can take.
        ModelClosedError
            The model has been closed.
        """
        start = time.perf_counter()
        scored = self.infer(frame)
        decision = self.decide(scored)
        kept = decision is not None and not decision.escalate
        return self.answer(
            scored,
            decision,
            reason="confident" if kept else "forced",
            certified=kept and self.policy is not None and self.policy.certificate is not None,
            started=start,
        )

    def answer(
        self,
        scored: Scored,
        decision: Decision | None,
        *,
        reason: Reason,
        certified: bool,
        started: float,
        cloud_ms: float = 0.0,
    ) -> Classification:
        """Put an answer of this model into the record that apps get.

        Parameters
        ----------
        scored, decision
            What the model and the policy said.
        reason, certified
            Why this model answers, and whether under a certificate.
        started
            ``time.perf_counter()`` at the start of the call.
        cloud_ms
            Milliseconds spent asking the cloud in vain.
        """
        index = int(scored.probabilities.argmax())
        total = (time.perf_counter() - started) * 1e3
        return Classification(
            index=index,
            label=self.labels[index],
            confidence=float(scored.probabilities[index]) if decision is None else decision.confidence,
            scores=tuple(scored.probabilities.tolist()),
            source="edge",
            reason=reason,
            certified=certified,
            timing=Timing(scored.pre_ms, scored.infer_ms, scored.post_ms, cloud_ms, total),
            decision_id=new_decision_id(),
            model_digest=self.digest,
        )

    async def apredict(self, frame: Frame) -> Classification:
        """As `predict`, without blocking the event loop: the work is done on a thread of the loop's executor."""
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(None, self.predict, frame)

    def stream(self, source: Iterable[Frame], *, live: bool | None = None, depth: int = 1) -> Stream[Classification]:
        """Classify the frames of a source, one after the other.

        Parameters
        ----------
        source
            Any iterable of frames, such as `edge_sdk.sources.Folder` or `edge_sdk.sources.Camera`.
        live
            Whether frames that come while an answer is made are dropped, but for the newest; by default
            what the source says of itself.
        depth
            How many of the newest frames of a live source wait for their answer.
        """
        return Stream(self.predict, source, live=live, depth=depth)

    def warmup(self, n: int = 10) -> float:
        """Run the model ``n`` times on a grey frame, and return the median time of an inference in milliseconds.

        Raises
        ------
        InputError
            ``n`` is below 1.
        """
        if n < 1:
            raise InputError(f"n is {n}; it should be at least 1")
        folded = self.processor.spec.fold()
        frame = np.full((folded.height, folded.width, folded.channels), 128, np.uint8)
        scored = [self.infer(frame) for _ in range(n)]
        return float(np.median([one.pre_ms + one.infer_ms + one.post_ms for one in scored]))

    def predict_many(self, frames: Iterable[Frame]) -> list[Classification]:
        """Classify several frames, one after the other."""
        return [self.predict(frame) for frame in frames]

    def close(self) -> None:
        """Release the model, after the call under way. Closing twice is no error."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EdgeModel {self.name} {self.version}, {len(self.labels)} classes>"

    def _check_open(self) -> None:
        if self._closed:
            raise ModelClosedError(f"{self.name} {self.version} has been closed")

    def _probabilities(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        scores = raw.reshape(len(raw), -1)
        if self._output.scale is not None and self._output.zero_point is not None:
            scores = dequantize(scores, self._output.scale, self._output.zero_point)
        scores = np.ascontiguousarray(scores, dtype=np.float32)
        if not np.isfinite(scores).all():
            raise ModelError(f"{self.name} {self.version}: the model answered with a NaN or an infinity")
        if self.manifest.outputs == "logits":
            return softmax(scores)
        return scores if self._output.scale is None else _normalized(scores)

    def _check_signature(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        session, spec = self._session, self.processor.spec
        if (session.inputs, session.outputs) != (inputs, outputs):
            raise ModelError(
                f"{self.name}: the model's tensors are not those of its manifest "
                f"({session.inputs} {session.outputs} against {inputs} {outputs})"
            )
        takes = session.inputs[0]
        fits = len(takes.shape) == len(spec.output_shape) and all(
            want in (-1, have) for want, have in zip(takes.shape, spec.output_shape, strict=True)
        )
        if not fits or takes.dtype != np.dtype(spec.output_dtype).name:
            raise ModelError(
                f"{self.name}: processing gives {np.dtype(spec.output_dtype).name}{list(spec.output_shape)}, "
                f"the model takes {takes.dtype}{list(takes.shape)}"
            )
        quantize = spec.find(Quantize)
        if quantize is not None and takes.scale is not None:
            stated, wanted = (quantize.scale, quantize.zero_point), (takes.scale, takes.zero_point)
            if not math.isclose(stated[0], wanted[0], rel_tol=1e-6) or stated[1] != wanted[1]:
                raise ModelError(
                    f"{self.name}: processing quantizes with scale and zero point {stated}, the model takes {wanted}"
                )
        gives = session.outputs[0].shape
        if not gives or gives[0] not in (1, -1) or math.prod(gives[1:]) != len(self.labels):
            raise ModelError(
                f"{self.name}: the model's output is {list(gives)}; for {len(self.labels)} labels it should be "
                f"[1, {len(self.labels)}]"
            )


def _policy(manifest: Manifest, delegate: str | None) -> Policy | None:
    """Return the policy of a bundle, without its certificate unless that was given to what runs here."""
    if manifest.cascade is None:
        return None
    policy = Policy.from_json(manifest.cascade)
    if policy.certificate is None:
        return policy
    here = certified_for(manifest, delegate)
    named = {"edge_model": "", **policy.certificate.validity}  # a certificate must name its model
    other = [key.replace("_", " ") for key, value in here.items() if named.get(key, value) != value]
    if not other:
        return policy
    logger.warning(
        "%s %s: its certificate is for another %s, and void", manifest.name, manifest.version, " and ".join(other)
    )
    return replace(policy, certificate=None)


def certified_for(manifest: Manifest, delegate: str | None = None) -> dict[str, str]:
    """Return what the certificate of an edge model holds for, as a device can tell: a change of any voids it."""
    return {
        "edge_model": manifest.model_digest,
        "processing": ProcessingSpec.from_json(manifest.processing).digest,
        "runtime": manifest.artifacts[0].runtime,
        "delegate": delegate or "default",
    }


def _normalized(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take the rounding of a quantized softmax out of its sum; where all classes were rounded to 0, none leads."""
    totals = scores.sum(axis=1, keepdims=True)
    if not totals.all():
        empty = totals[:, 0] == 0
        scores[empty], totals[empty] = 1.0, scores.shape[1]
    return np.asarray(scores / totals)


def load(bundle: str | Path | bytes | IO[bytes], *, threads: Threads = 1, delegate: str | None = None) -> EdgeModel:
    """Load a ``.edge`` bundle, or the folder it was unpacked to, to run on this device.

    Parameters
    ----------
    bundle
        The file or folder, the file's bytes, or a file opened for reading in binary mode.
    threads
        Threads for one inference; more than one seldom helps a small model. ``auto`` tries it.
    delegate
        What should compute; see `edge_sdk.runtime.open_session`.

    Raises
    ------
    InputError
        There is no such file or folder.
    BundleError
        It is not a bundle, is damaged, or is made for a newer SDK.
    MissingExtraError
        Its runtime is not installed.
    ModelError
        The model cannot be loaded, or is not what the manifest says.
    """
    if isinstance(bundle, str | Path):
        return EdgeModel(Bundle.open(bundle), threads=threads, delegate=delegate)
    data = bundle if isinstance(bundle, bytes) else bundle.read(MAX_BUNDLE_BYTES + 1)
    return EdgeModel(Bundle.from_bytes(data), threads=threads, delegate=delegate)


def new_decision_id() -> str:
    """Return a fresh random name for a decision."""
    return secrets.token_hex(8)


def verify(bundle: Bundle) -> dict[str, float]:
    """Prove that this device computes what the packing machine computed.

    Returns
    -------
    ``examples``, and the largest absolute differences ``processed_error`` (in the processed tensor's
    units) and ``output_error`` (in probability).

    Raises
    ------
    SkewError
        A processed tensor differs from the stored one beyond its tolerance.
    GoldenError
        A probability does, or an answer has another shape.
    """
    golden, tolerance = GoldenSet.from_bundle(bundle), bundle.manifest.golden
    name = f"{bundle.manifest.name} {bundle.manifest.version}"
    processed_error = output_error = 0.0
    with EdgeModel(bundle) as model:
        for n, frame in enumerate(golden.inputs):
            have, want = model.processor(frame)[0].astype(np.float64), golden.processed[n].astype(np.float64)
            difference = float(np.abs(have - want).max()) if have.shape == want.shape else float("inf")
            if not difference <= tolerance.processed_atol:
                raise SkewError(
                    f"{name}: processing of golden example {n} differs by {difference:.4g} "
                    f"from what was packed (at most {tolerance.processed_atol:.4g} is allowed)"
                )
            processed_error = max(processed_error, difference)
            answer = model.infer(frame).probabilities.astype(np.float64)
            expected = golden.outputs[n].astype(np.float64)
            difference = float(np.abs(answer - expected).max()) if answer.shape == expected.shape else float("inf")
            if not difference <= tolerance.output_atol:
                raise GoldenError(
                    f"{name}: the answer to golden example {n} differs by {difference:.4g} "
                    f"from what was packed (at most {tolerance.output_atol:.4g} is allowed)"
                )
            output_error = max(output_error, difference)
    return {"examples": len(golden.inputs), "processed_error": processed_error, "output_error": output_error}
