"""EdgeModel: a bundle loaded on this device, from an input to an answer.

One instance may be used from several threads; they take turns. Processing writes into one buffer
that is reused, and nothing is allocated per call beyond the answer. A child of a fork loads its own.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import count
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_sdk.answers import Reader, Scored, reader_for
from edge_sdk.bundle import Bundle, Manifest
from edge_sdk.errors import EdgeSdkError, InputError, ModelClosedError, ModelError
from edge_sdk.inputs import Input, as_input
from edge_sdk.processing import DeviceProcessor, ProcessingSpec
from edge_sdk.processing.device import size_of
from edge_sdk.processing.sources import Matrix, Pixels
from edge_sdk.processing.steps import Quantize
from edge_sdk.runtime import Threads, open_session
from edge_sdk.runtime.forks import keep_for_ever, watch
from edge_sdk.types import Reason, TensorSpec, Timing

if TYPE_CHECKING:
    from edge_sdk.cascade.policy import Decision, Policy
    from edge_sdk.streams import Stream

__all__ = ["EdgeModel", "Scored", "load", "new_decision_id"]


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
        self._closed = self._forked = False
        try:
            self._check_signature(artifact.inputs, artifact.outputs)
            self._reader: Reader = reader_for(
                self.manifest, self._session.outputs, self.processor.spec, _anchors(bundle)
            )
        except EdgeSdkError:
            self._session.close()
            raise
        self._buffer = np.empty(self.processor.spec.output_shape, dtype=self.processor.spec.output_dtype)
        watch(self)

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Version of the bundle."""
        return self.manifest.version

    @property
    def task(self) -> str:
        """What it does: ``classification``, ``detection``, ``regression`` or ``embedding``."""
        return self.manifest.task

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names by index; empty where the task has none."""
        return self.manifest.labels

    def predict(self, value: Input, *, pixels: Pixels = "rgb", matrix: Matrix = "bt601") -> Any:
        """Answer one input on this device, whatever the policy says of it.

        ``certified`` tells whether the policy would have kept the answer under its certificate;
        ``reason`` is then ``confident``, and ``forced`` where it would have escalated.

        Parameters
        ----------
        value
            For images a uint8 array [height, width(, channels)], a path, JPEG or PNG bytes, or a Pillow
            image; see `edge_sdk.inputs.as_input`. With other `pixels` a frame as a camera delivers it.
        pixels, matrix
            What the bytes of a frame are, as for `DeviceProcessor`; it is read in place.

        Returns
        -------
        Classification, Detections or Tensors
            As the bundle's task says.

        Raises
        ------
        InputError
            The input is not one that the model can take.
        ModelClosedError
            The model has been closed.
        """
        start = time.perf_counter()
        return self._conclude(self.infer(value, pixels=pixels, matrix=matrix), start)

    def predict_tensor(self, x: NDArray[Any]) -> Any:
        """Answer one tensor that is processed already, as `predict` does; boxes are in pixels of the tensor.

        Parameters
        ----------
        x
            [1, …] in the shape and dtype of the processing's output.

        Raises
        ------
        ModelError
            The shape or dtype is another one, or the runtime fails.
        ModelClosedError
            The model has been closed.
        """
        if getattr(x, "shape", None) != self._buffer.shape:  # a model with an open batch would take more, too
            raise ModelError(f"a processed tensor is {self._buffer.dtype}{list(self._buffer.shape)}, not {_kind(x)}")
        start = time.perf_counter()
        raw = self.run(x)
        done = time.perf_counter()
        return self._conclude(self._reader.read(raw, None, (start, start, done)), start)

    def run(self, x: NDArray[Any]) -> list[NDArray[Any]]:
        """Run the model alone: from a processed tensor to its output tensors as they are. The fastest way in.

        Parameters and errors are those of `predict_tensor`.
        """
        with self._lock:
            if self._closed:
                self._check_open()
            try:
                return self._session.run(x)
            except AttributeError as error:  # asked only now, for what this costs is all that it may cost
                if isinstance(x, np.ndarray):
                    raise
                raise ModelError(f"a processed tensor is an array, not {_kind(x)}") from error

    def infer(self, value: Input, *, pixels: Pixels = "rgb", matrix: Matrix = "bt601") -> Scored:
        """Process one input and run the model on it, without applying the policy; parameters are those of `predict`.

        Returns
        -------
        Scored
            `edge_sdk.answers.Located` for a detector, `edge_sdk.answers.Valued` for regression and embedding.

        Raises
        ------
        InputError
            The input is not one that the model can take.
        ModelClosedError
            The model has been closed.
        """
        start = time.perf_counter()
        plain = isinstance(pixels, str) and pixels == "rgb"
        if not plain and self.processor.spec.modality != "image":
            raise InputError(f"pixels: {pixels} is of pictures, and this model takes {self.processor.spec.modality}")
        array = as_input(self.processor.spec, value) if plain else value
        with self._lock:
            self._check_open()
            self.processor(array, out=self._buffer, pixels=pixels, matrix=matrix)
            ready = time.perf_counter()
            raw = self._session.run(self._buffer)
            done = time.perf_counter()
        shape = array.shape if plain else size_of(array, pixels)
        return self._reader.read(raw, shape, (start, ready, done))

    def read(self, outputs: Sequence[NDArray[Any]], shape: tuple[int, ...] | None = None) -> Scored:
        """Return what output tensors say that were computed elsewhere: by this model's second half, say.

        Parameters
        ----------
        outputs
            As `run` returns them, for one input.
        shape
            Of the input before processing; None where only the processed tensor is known.

        Raises
        ------
        ModelError
            They are not such as this model gives, or hold a NaN or an infinity.
        """
        specs = self.manifest.artifacts[0].outputs
        fits = len(outputs) == len(specs) and all(
            y.dtype == np.dtype(spec.dtype)
            and len(y.shape) == len(spec.shape)
            and all(want in (-1, have) for want, have in zip(spec.shape, y.shape, strict=True))
            for y, spec in zip(outputs, specs, strict=True)
        )
        if not fits:
            told = ", ".join(f"{y.dtype}{list(y.shape)}" for y in outputs)
            raise ModelError(f"{self.name} {self.version}: {told or 'nothing'} is not what this model gives")
        now = time.perf_counter()
        return self._reader.read(outputs, shape, (now, now, now))

    def infer_tensor(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Run a classifier on tensors that are processed already.

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
            The shape is another one, there are none, or the bundle has another task.
        ModelError
            The dtype is another one, or the runtime fails.
        ModelClosedError
            The model has been closed.
        """
        self.manifest.require_task("classification", "infer_tensor")
        shape = self.processor.spec.output_shape[1:]
        if not isinstance(x, np.ndarray) or x.shape[1:] != shape or len(x) == 0:
            raise InputError(f"processed tensors should be [n, {', '.join(map(str, shape))}], not {_kind(x)}")
        fixed = self._session.inputs[0].shape[0] == 1
        parts = [x[n : n + 1] for n in range(len(x))] if fixed else [x]
        with self._lock:
            self._check_open()
            raw = [self._session.run(part) for part in parts]
        from edge_sdk.answers import Classes

        assert isinstance(self._reader, Classes)
        return np.concatenate([self._reader.probabilities(part[0]) for part in raw])

    def golden(self, value: Input) -> tuple[NDArray[Any], tuple[NDArray[np.float32], ...]]:
        """Return what a golden example holds of an input: the processed tensor, and the outputs; one row each."""
        processed = self.processor(as_input(self.processor.spec, value))
        outputs = self._reader.golden(self.run(processed))
        if self.task == "classification":
            return processed[0], outputs
        from edge_sdk.bundle import thinned

        return thinned(processed), outputs

    def decide(self, scored: Scored) -> Decision | None:
        """Apply the bundle's policy to an answer; None where it carries none."""
        return None if self.policy is None else self.policy.decide(scored.probabilities)

    def answer(
        self,
        scored: Scored,
        decision: Decision | None,
        *,
        reason: Reason,
        certified: bool,
        started: float,
        cloud_ms: float = 0.0,
        decision_id: str | None = None,
    ) -> Any:
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
        decision_id
            Of a decision that has a name already; None names it.
        """
        total = (time.perf_counter() - started) * 1e3
        return self._reader.answer(
            scored,
            decision,
            source="edge",
            reason=reason,
            certified=certified,
            timing=Timing(scored.pre_ms, scored.infer_ms, scored.post_ms, cloud_ms, total),
            decision_id=decision_id or new_decision_id(),
            model_digest=self.digest,
        )

    async def apredict(self, value: Input, *, pixels: Pixels = "rgb", matrix: Matrix = "bt601") -> Any:
        """As `predict`, without blocking the event loop: the work is done on a thread of the loop's executor."""
        import asyncio

        call = partial(self.predict, value, pixels=pixels, matrix=matrix)
        return await asyncio.get_running_loop().run_in_executor(None, call)

    def stream(
        self,
        source: Iterable[Input],
        *,
        live: bool | None = None,
        depth: int = 1,
        pixels: Pixels | None = None,
        matrix: Matrix = "bt601",
    ) -> Stream[Any]:
        """Answer the inputs of a source, one after the other.

        Parameters
        ----------
        source
            Any iterable of inputs, such as `edge_sdk.sources.Folder` or `edge_sdk.sources.Camera`.
        live
            Whether inputs that come while an answer is made are dropped, but for the newest; by default
            what the source says of itself.
        depth
            How many of the newest frames of a live source wait for their answer.
        pixels, matrix
            What the bytes of its frames are, as for `predict`; by default what the source says of itself.
        """
        from edge_sdk.streams import Stream

        told: Pixels = getattr(source, "pixels", "rgb") if pixels is None else pixels
        return Stream(partial(self.predict, pixels=told, matrix=matrix), source, live=live, depth=depth)

    def warmup(self, n: int = 10) -> float:
        """Run the model ``n`` times on a made-up input, and return the median time of an inference in milliseconds.

        Raises
        ------
        InputError
            ``n`` is below 1.
        """
        if n < 1:
            raise InputError(f"n is {n}; it should be at least 1")
        from edge_sdk.processing import samples

        (value,) = samples(self.processor.spec, 1)
        scored = [self.infer(value) for _ in range(n)]
        return float(np.median([one.pre_ms + one.infer_ms + one.post_ms for one in scored]))

    def predict_many(self, values: Iterable[Input]) -> list[Any]:
        """Answer several inputs, one after the other."""
        return [self.predict(value) for value in values]

    def close(self) -> None:
        """Release the model, after the call under way. Closing twice is no error."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._session.close()
                del self._buffer

    def after_fork(self) -> None:
        """Close the model in the child of a fork, whatever its threads did in the parent; called by itself."""
        self._lock = threading.Lock()  # the old one may be held by a thread that is not here
        if not self._closed:
            self._closed = self._forked = True
            keep_for_ever(self._session)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EdgeModel {self.name} {self.version}, {self.task}>"

    def _check_open(self) -> None:
        if self._forked:
            raise ModelClosedError(
                f"{self.name} {self.version} was loaded before this process was forked, and did not survive that: "
                "load it in the child, or start children with multiprocessing's 'spawn'"
            )
        if self._closed:
            raise ModelClosedError(f"{self.name} {self.version} has been closed")

    def _conclude(self, scored: Scored, started: float) -> Any:
        """Let the policy judge an answer, and give it all the same."""
        decision = self.decide(scored)
        kept = decision is not None and not decision.escalate
        return self.answer(
            scored,
            decision,
            reason="confident" if kept else "forced",
            certified=kept and self.policy is not None and self.policy.certificate is not None,
            started=started,
        )

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


def _anchors(bundle: Bundle) -> NDArray[Any] | None:
    """Return the array that a detector's boxes are offsets to, where it has one."""
    detection = bundle.manifest.detection
    if detection is None or detection.anchors is None:
        return None
    from edge_sdk.bundle import read_array

    return read_array(bundle, detection.anchors)


def _policy(manifest: Manifest, delegate: str | None) -> Policy | None:
    if manifest.cascade is None:
        return None
    from edge_sdk.validity import policy_of

    return policy_of(manifest, delegate)


def load(
    bundle: str | os.PathLike[str] | bytes | IO[bytes], *, threads: Threads = 1, delegate: str | None = None
) -> EdgeModel:
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
        There is no such file or folder, or the argument is none of these.
    BundleError
        It is not a bundle, is damaged, or is made for a newer SDK.
    MissingExtraError
        Its runtime is not installed.
    ModelError
        The model cannot be loaded, or is not what the manifest says.
    """
    return EdgeModel(Bundle.of(bundle), threads=threads, delegate=delegate)


def _kind(x: object) -> str:
    """Return what should have been a tensor, for an error message."""
    return f"{x.dtype}{list(x.shape)}" if isinstance(x, np.ndarray) else type(x).__name__


class _Names:
    """Count from a random number, another in every process: as unlikely to meet as random ones, and sooner made."""

    def __init__(self) -> None:
        self.after_fork()
        watch(self)

    def after_fork(self) -> None:
        self._numbers = count(int.from_bytes(os.urandom(8), "big"))

    def fresh(self) -> str:
        return f"{next(self._numbers) & 0xFFFF_FFFF_FFFF_FFFF:016x}"


_names = _Names()


def new_decision_id() -> str:
    """Return a fresh name for a decision: 16 hexadecimal digits, which nothing else is named by."""
    return _names.fresh()
