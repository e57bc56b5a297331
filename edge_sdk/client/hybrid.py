"""HybridModel: the edge answers, and asks the cloud when its rule says so, within a deadline.

One instance may be used from several threads. In the modes ``hybrid`` and ``prefer_cloud`` a
failing cloud never raises: the edge's answer is there, and ``reason`` says why it stands.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from edge_sdk.cascade.policy import Decision
from edge_sdk.client.counters import Counters
from edge_sdk.errors import EscalationError, InputError, MissingExtraError, ModelClosedError
from edge_sdk.frames import Frame
from edge_sdk.model import EdgeModel, Scored, load, new_decision_id
from edge_sdk.streams import Stream
from edge_sdk.types import Classification, Reason, Timing

if TYPE_CHECKING:
    from edge_sdk.client.escalation import CloudLink, Outcome
    from edge_sdk.client.payload import Capture, EncodingChoice

__all__ = ["MODES", "HybridModel", "Mode", "connect"]

_log = logging.getLogger("edge_sdk.client")

Mode = Literal["edge", "hybrid", "cloud", "prefer_cloud"]
MODES: tuple[Mode, ...] = get_args(Mode)

# kept back from a deadline to come back to the caller in time: 5 % of it, within these seconds
_MARGIN_SHARE, _MARGIN_LEAST, _MARGIN_MOST = 0.05, 0.001, 0.010


@dataclass(frozen=True, slots=True)
class _EdgeAnswer:
    """What one edge model said of one frame, and that model, which may be swapped meanwhile."""

    model: EdgeModel
    scored: Scored
    decision: Decision | None

    @property
    def kept(self) -> bool:
        return self.decision is not None and not self.decision.escalate

    @property
    def certified(self) -> bool:
        return self.kept and self.model.policy is not None and self.model.policy.certificate is not None


class HybridModel:
    """An edge model with a cloud behind it. Use `connect` to make one from a bundle.

    Parameters
    ----------
    edge
        The edge model; closed with this.
    cloud
        ``host:port``, or ``host:port/model``.
    mode
        ``edge``: never ask. ``hybrid``: ask when the bundle's policy says so. ``prefer_cloud``: ask
        always, and answer from the edge where the cloud does not. ``cloud``: ask always, and raise
        where the cloud does not answer.
    deadline
        Seconds from the start of a call to its answer. None waits for the cloud; 0 never does.
        The edge model itself is not cut short.
    model_name
        The cloud's model. By default the one in ``cloud``, else the only model the server has.
    encoding
        What is sent: ``captured``, ``jpeg``, ``tensor``, or ``auto`` (JPEG stays JPEG, all else
        goes as captured, and as a processed tensor where the server takes nothing else).
    tls_ca
        PEM file of the authority that signed the server's certificate; None is no TLS.
    token
        Bearer token for the server.

    Raises
    ------
    InputError
        An option is not one of those above, or the bundle has no policy for ``hybrid``.
    MissingExtraError
        gRPC is not installed and the mode needs it, or Pillow and the encoding does.
    """

    def __init__(
        self,
        edge: EdgeModel,
        cloud: str,
        *,
        mode: Mode = "hybrid",
        deadline: float | None = 0.150,
        model_name: str | None = None,
        encoding: EncodingChoice = "auto",
        tls_ca: str | Path | None = None,
        token: str | None = None,
    ) -> None:
        if mode not in MODES:
            raise InputError(f"mode is {mode!r}; it should be one of {', '.join(MODES)}")
        if encoding not in ("auto", "captured", "jpeg", "tensor"):
            raise InputError(f"encoding is {encoding!r}; it should be auto, captured, jpeg or tensor")
        if deadline is not None and not deadline >= 0:
            raise InputError(f"deadline is {deadline}; it should be seconds, 0 or more, or None")
        if encoding == "jpeg" and importlib.util.find_spec("PIL") is None:
            raise MissingExtraError("Pillow", "image")
        self._mode: Mode = mode
        self._deadline = deadline
        self._check_edge(edge)
        self._edge = edge
        self._swapping = threading.Lock()
        self._closed = False
        self._counters = Counters()
        self._link: CloudLink | None = None
        if mode != "edge":
            target, in_target = _parse_target(cloud)
            self._link = _new_link(
                target,
                model_name=model_name or in_target,
                encoding=encoding,
                tls_ca=tls_ca,
                token=token,
            )

    @property
    def edge(self) -> EdgeModel:
        """The edge model in use now."""
        return self._edge

    @property
    def bundle_digest(self) -> str:
        """Digest of the bundle in use now."""
        return self._edge.bundle_digest

    @property
    def counters(self) -> dict[str, Any]:
        """What has been done so far; see `edge_sdk.client.counters.Counters.snapshot`."""
        return self._counters.snapshot()

    def predict(self, frame: Frame) -> Classification:
        """Classify one frame.

        Parameters
        ----------
        frame
            A uint8 array [height, width(, channels)], a path, JPEG or PNG bytes, or a Pillow image.

        Returns
        -------
        Classification
            ``certified`` is True only under a certificate: kept by its rule, or answered by the
            cloud model that it names.

        Raises
        ------
        InputError
            The frame is not a picture that the model can take.
        EscalationError
            Mode ``cloud`` only: there is no usable answer.
        ModelClosedError
            This has been closed.
        """
        started = time.perf_counter()
        if self._mode == "edge" or self._link is None:
            answer = self._answer(self._infer(frame), None, started)
        elif self._mode == "hybrid":
            answer = self._hybrid(frame, started, self._link)
        elif self._mode == "prefer_cloud":
            answer = self._prefer_cloud(frame, started, self._link)
        else:
            answer = self._cloud(frame, started, self._link)
        self._counters.request(answer.source, answer.reason)
        return answer

    async def apredict(self, frame: Frame) -> Classification:
        """As `predict`, without blocking the event loop: the work is done on a thread of the loop's executor."""
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(None, self.predict, frame)

    def stream(self, source: Iterable[Frame], *, live: bool | None = None, depth: int = 1) -> Stream[Classification]:
        """Classify the frames of a source, one after the other; see `edge_sdk.model.EdgeModel.stream`."""
        return Stream(self.predict, source, live=live, depth=depth)

    def swap(self, path: str | Path) -> None:
        """Replace the edge model by that of another bundle, while calls go on.

        The new model is loaded first; a call that meets the old one closed runs on the new one.

        Raises
        ------
        InputError, BundleError, ModelError
            The bundle cannot be used; the old model stays.
        ModelClosedError
            This has been closed.
        """
        with self._swapping:
            self._check_open()
            model = load(path)
            try:
                self._check_edge(model)
            except InputError:
                model.close()
                raise
            old, self._edge = self._edge, model
        old.close()

    def close(self) -> None:
        """Release the edge model and the connection. Closing twice is no error."""
        with self._swapping:
            self._closed = True
        self._edge.close()
        if self._link is not None:
            self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_edge(self, edge: EdgeModel) -> None:
        edge.manifest.require_task("classification", "a model with a cloud behind it")
        if self._mode == "hybrid" and edge.policy is None:
            raise InputError(
                f"bundle {edge.name} {edge.version} has no policy to say when to ask the cloud: "
                "run edge-sdk certify on it, or use another mode"
            )

    def _check_open(self) -> None:
        if self._closed:
            raise ModelClosedError("this hybrid model has been closed")

    def _infer(self, frame: Frame) -> _EdgeAnswer:
        while True:
            model = self._edge
            try:
                scored = model.infer(frame)
            except ModelClosedError:
                self._check_open()
                if model is self._edge:  # somebody else closed it
                    raise
                continue
            try:
                return _EdgeAnswer(model, scored, model.decide(scored))
            except InputError:
                # scores that the rule cannot read are no reason to trust them
                return _EdgeAnswer(model, scored, Decision(True, "escalated", 0.0, 1.0))

    def _ends_at(self, started: float) -> float | None:
        if self._deadline is None:
            return None
        margin = min(max(self._deadline * _MARGIN_SHARE, _MARGIN_LEAST), _MARGIN_MOST)
        return started + self._deadline - margin

    def _hybrid(self, frame: Frame, started: float, link: CloudLink) -> Classification:
        capture = _capture(frame)
        edge = self._infer(capture.pixels)
        if edge.kept:
            return self._answer(edge, None, started)
        call = link.begin(
            capture, self._ends_at(started), labels=edge.model.labels, edge_spec=edge.model.processor.spec
        )
        return self._answer(edge, call.wait(), started)

    def _prefer_cloud(self, frame: Frame, started: float, link: CloudLink) -> Classification:
        capture, model, ends_at = _capture(frame), self._edge, self._ends_at(started)
        # the edge works while the cloud does; where the cloud's model is not known yet, asking
        # would wait, and the edge's answer could come too late
        call = None
        if link.described:
            call = link.begin(capture, ends_at, labels=model.labels, edge_spec=model.processor.spec)
        edge = self._infer(capture.pixels)
        if call is None:
            call = link.begin(capture, ends_at, labels=edge.model.labels, edge_spec=edge.model.processor.spec)
        outcome = call.wait()
        if outcome.probabilities is not None and model.labels != edge.model.labels:  # swapped meanwhile
            outcome = replace(outcome, probabilities=None, reason="rejected")
        return self._answer(edge, outcome, started)

    def _cloud(self, frame: Frame, started: float, link: CloudLink) -> Classification:
        self._check_open()
        capture, model = _capture(frame), self._edge
        call = link.begin(capture, self._ends_at(started), labels=model.labels, edge_spec=model.processor.spec)
        outcome = call.wait()
        if outcome.probabilities is None:
            self._count_upload(outcome, model)
            self._counters.request(None, outcome.reason)
            raise EscalationError(f"the cloud gave no usable answer ({outcome.reason}): {outcome.detail}")
        return self._cloud_answer(outcome, model, None, "forced", started)

    def _answer(self, edge: _EdgeAnswer, outcome: Outcome | None, started: float) -> Classification:
        """Put the better answer there is into the record."""
        if outcome is not None and outcome.probabilities is not None:
            reason: Reason = "escalated" if self._mode == "hybrid" else "forced"
            return self._cloud_answer(outcome, edge.model, edge.scored, reason, started)
        if outcome is None:
            reason, cloud_ms = ("confident" if edge.kept else "forced"), 0.0
        else:
            reason, cloud_ms = outcome.reason, outcome.elapsed_ms
            self._count_upload(outcome, edge.model)
            _log.debug("answered by the edge (%s): %s", outcome.reason, outcome.detail)
        answer: Classification = edge.model.answer(
            edge.scored, edge.decision, reason=reason, certified=edge.certified, started=started, cloud_ms=cloud_ms
        )
        return answer

    def _cloud_answer(
        self, outcome: Outcome, model: EdgeModel, scored: Scored | None, reason: Reason, started: float
    ) -> Classification:
        self._count_upload(outcome, model)
        assert outcome.probabilities is not None
        index = int(outcome.probabilities.argmax())
        certificate = None if model.policy is None else model.policy.certificate
        return Classification(
            index=index,
            label=model.labels[index],
            confidence=float(outcome.probabilities[index]),
            scores=tuple(outcome.probabilities.tolist()),
            source="cloud",
            reason=reason,
            certified=certificate is not None and not _is_foreign(outcome, model),
            timing=Timing(
                *((0.0, 0.0, 0.0) if scored is None else (scored.pre_ms, scored.infer_ms, scored.post_ms)),
                cloud_ms=outcome.elapsed_ms,
                total_ms=(time.perf_counter() - started) * 1e3,
            ),
            decision_id=new_decision_id(),
            model_digest=outcome.digest,
        )

    def _count_upload(self, outcome: Outcome, model: EdgeModel) -> None:
        if outcome.bytes_sent:
            usable = outcome.probabilities is not None
            self._counters.upload(outcome.bytes_sent, usable=usable, foreign=usable and _is_foreign(outcome, model))


def connect(
    path: str | Path,
    *,
    cloud: str,
    mode: Mode = "hybrid",
    deadline: float | None = 0.150,
    model_name: str | None = None,
    encoding: EncodingChoice = "auto",
    threads: int = 1,
    tls_ca: str | Path | None = None,
    token: str | None = None,
) -> HybridModel:
    """Load a bundle to run on this device with a cloud behind it; see `HybridModel`.

    The server need not be there: the edge answers until it is.

    Raises
    ------
    InputError, BundleError, ModelError, MissingExtraError
        As `edge_sdk.load` and `HybridModel` do.
    """
    edge = load(path, threads=threads)
    try:
        return HybridModel(
            edge,
            cloud,
            mode=mode,
            deadline=deadline,
            model_name=model_name,
            encoding=encoding,
            tls_ca=tls_ca,
            token=token,
        )
    except BaseException:
        edge.close()
        raise


def _parse_target(cloud: str) -> tuple[str, str | None]:
    target, _, model = cloud.partition("/")
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"cloud is {cloud!r}; it should be host:port or host:port/model")
    return target, model or None


def _new_link(target: str, **options: Any) -> CloudLink:
    try:
        from edge_sdk.client.escalation import CloudLink
    except ModuleNotFoundError as error:
        raise MissingExtraError("grpcio", "hybrid") from error
    return CloudLink(target, **options)


def _capture(frame: Frame) -> Capture:
    from edge_sdk.client.payload import Capture  # needs protobuf, which the mode edge does without

    return Capture.of(frame)


def _is_foreign(outcome: Outcome, model: EdgeModel) -> bool:
    """Tell whether another model answered than the certificate names."""
    certificate = None if model.policy is None else model.policy.certificate
    return certificate is not None and certificate.validity.get("cloud_model") != outcome.digest
