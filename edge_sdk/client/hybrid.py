"""HybridModel: the edge answers, and asks the cloud when its rule says so, within a deadline.

One instance may be used from several threads. In the modes ``hybrid`` and ``prefer_cloud`` a
failing cloud never raises: the edge's answer is there, and ``reason`` says why it stands.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from edge_sdk.cascade.control import Budget
from edge_sdk.client.cache import Cache
from edge_sdk.client.cloud import Cloud
from edge_sdk.client.counters import Counters
from edge_sdk.client.feedback import true_class
from edge_sdk.client.journal import Journal
from edge_sdk.client.modes import MODES, Answering, Given, Mode, checked_deadline
from edge_sdk.client.oversight import Oversight
from edge_sdk.client.privacy import PrivacyRule, check_rules
from edge_sdk.errors import InputError, MissingExtraError
from edge_sdk.inputs import Input
from edge_sdk.model import EdgeModel, load
from edge_sdk.processing.sources import Matrix, Pixels
from edge_sdk.streams import Stream
from edge_sdk.types import Classification

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from edge_sdk.client.asking import Asking
    from edge_sdk.client.forwarding import Forwarder
    from edge_sdk.client.outbox import Outbox

__all__ = ["MODES", "HybridModel", "Mode"]

_MOST_THREADS = 64  # of `apredict`: they wait more than they work


class HybridModel:
    """An edge model with a cloud behind it. Use `connect` to make one from a bundle.

    Parameters
    ----------
    edge
        The edge model; closed with this.
    cloud
        ``host:port`` or ``host:port/model`` of a server, several of them, or an `edge_sdk.client.Cloud`,
        which says how it is asked as well.
    mode
        ``edge``: never ask. ``hybrid``: ask when the bundle's policy says so. ``prefer_cloud``: ask
        always, and answer from the edge where the cloud does not. ``cloud``: ask always, and raise
        where the cloud does not answer.
    deadline
        Seconds from the start of a call to its answer, a day at most. None waits for the cloud; 0 never does.
        The edge model itself is not cut short.
    audit_rate
        Share of the confident answers that the cloud is asked about as well, in [0, 1]; mode ``hybrid``
        only. None is 0.01 where the certificate says how often the two disagreed, so that a guard can
        watch over it, and else 0.
    audit_key
        Secret of the audit's coin, 16 to 64 bytes. None keeps one in the journal's folder, or takes a
        fresh one where there is no journal.
    budget
        What requests to the cloud, audits among them, may cost; None is no limit.
    journal
        A folder that every decision is written to, or an `edge_sdk.client.Journal`, which its
        owner closes; mode ``hybrid`` only.
    privacy
        Rules of what may not leave the device, or only less of it; see ``docs/privacy.md``.
    cache
        How many answers of the cloud to keep for inputs that come again, or an
        `edge_sdk.client.Cache`; None keeps none.
    outbox
        A folder in which inputs wait that the cloud should have seen, or an `edge_sdk.client.Outbox`,
        which its owner closes; needs a journal, where the answers go. See ``docs/work-offline.md``.

    Raises
    ------
    InputError
        An option is not one of those above, or the bundle has no policy for ``hybrid``.
    StorageError
        The journal or the outbox cannot be begun.
    MissingExtraError
        gRPC is not installed and the mode needs it.
    """

    def __init__(
        self,
        edge: EdgeModel,
        cloud: str | Sequence[str] | Cloud,
        *,
        mode: Mode = "hybrid",
        deadline: float | None = 0.150,
        audit_rate: float | None = None,
        audit_key: bytes | None = None,
        budget: Budget | None = None,
        journal: str | Path | Journal | None = None,
        privacy: Iterable[PrivacyRule] = (),
        cache: Cache | int | None = None,
        outbox: str | Path | Outbox | None = None,
    ) -> None:
        if mode not in MODES:
            raise InputError(f"mode is {mode!r}; it should be one of {', '.join(MODES)}")
        cloud = Cloud.of(cloud)
        deadline = checked_deadline(deadline)
        self._mode: Mode = mode
        self._check_edge(edge)
        rules = _check_rules(privacy, edge)
        self._swapping, self._starting = threading.Lock(), threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._counters = Counters()
        self._asking: Asking | None = None
        with ExitStack() as undo:
            self._oversight = Oversight(
                mode, audit_rate=audit_rate, audit_key=audit_key, budget=budget, journal=journal
            )
            undo.callback(self._oversight.close)
            if mode != "edge":
                self._asking = _new_asking(
                    cloud,
                    cache=cache if cache is None or isinstance(cache, Cache) else Cache(cache),
                    counters=self._counters,
                    gate=self._oversight.gate,
                    pilot=self._oversight,
                )
                undo.callback(self._asking.close)
            self._answering = Answering(
                mode,
                deadline,
                self._oversight.watch(edge, rules),
                oversight=self._oversight,
                counters=self._counters,
                asking=self._asking,
            )
            self._forwarder = None if outbox is None else self._forward(outbox)
            undo.pop_all()

    @property
    def edge(self) -> EdgeModel:
        """The edge model in use now."""
        return self._answering.watch.model

    @property
    def bundle_digest(self) -> str:
        """Digest of the bundle in use now."""
        return self._answering.watch.model.bundle_digest

    @property
    def deadline(self) -> float | None:
        """Seconds from the start of a call to its answer; when set, it holds for calls that begin then."""
        return self._answering.deadline

    @deadline.setter
    def deadline(self, seconds: float | None) -> None:
        self._answering.deadline = checked_deadline(seconds)

    @property
    def certificate_void(self) -> str | None:
        """Why the certificate in use now is void; None where it is not, or there is none.

        An alarm of the audits' guard is for good. That another cloud model answers, or sees another
        encoding than it was certified to, is over when the right one answers again.
        """
        return self._answering.watch.void

    @property
    def counters(self) -> dict[str, Any]:
        """What has been done so far; see `edge_sdk.client.counters.Counters.snapshot`.

        Beside that ``audits``: ``asked``, ``answered`` and ``missing`` add up, ``disagreed`` are of those
        answered; ``network``: what calls tell of ``round_trip_ms`` and ``bytes_per_second``, None where
        size makes no difference; ``certificate_void``; ``journal``: records ``written`` and ``lost``; and
        ``cache``: ``hits`` and ``misses`` of inputs that were to be sent, and the ``entries`` kept now;
        where there is one, ``outbox``; see `edge_sdk.client.Outbox.counters`; and with ``Cloud(feedback=True)``
        ``feedback``; see `edge_sdk.client.rewards.Rewards.counters`.
        """
        more: dict[str, Any] = {} if self._asking is None else self._asking.snapshot()
        if self._forwarder is not None:
            more["outbox"] = self._forwarder.counters
        return {**self._counters.snapshot(), **self._oversight.snapshot(self._answering.watch), **more}

    def metrics(self) -> str:
        """Return the counters as text that Prometheus reads; see ``docs/metrics.md``."""
        from edge_sdk.client.metrics import exposition

        edge = self.edge
        info = {"model": edge.name, "version": edge.version, "digest": edge.bundle_digest, "mode": self._mode}
        return exposition(self.counters, info)

    def predict(
        self,
        frame: Input,
        context: Mapping[str, Any] | None = None,
        *,
        pixels: Pixels = "rgb",
        matrix: Matrix = "bt601",
    ) -> Classification:
        """Classify one frame.

        Parameters
        ----------
        frame
            A uint8 array [height, width(, channels)], a path, JPEG or PNG bytes, or a Pillow image. With
            other `pixels` a frame as a camera delivers it.
        context
            What privacy rules are to know of this call, such as ``{"tenant": "acme"}``.
        pixels, matrix
            What the bytes of a frame are, as for `edge_sdk.EdgeModel.predict`. The edge reads it in place;
            the cloud is sent, and rules and the cache see, the same picture as RGB.

        Returns
        -------
        Classification
            ``certified`` is True only under a certificate: kept by its rule, or answered by the
            cloud model that it names.

        Raises
        ------
        InputError
            The frame is not a picture that the model can take, or the context no mapping.
        EscalationError
            Mode ``cloud`` only: there is no usable answer.
        ModelClosedError
            This has been closed.
        """
        return self._answering.answer(Given(frame, context, pixels, matrix))

    async def apredict(
        self,
        frame: Input,
        context: Mapping[str, Any] | None = None,
        *,
        pixels: Pixels = "rgb",
        matrix: Matrix = "bt601",
    ) -> Classification:
        """As `predict`, without blocking the event loop.

        The work is done on threads of this model, so that calls that wait for the cloud hold up nobody
        else. At most 64 are under way at once; what more have to wait is part of their deadline.
        """
        import asyncio

        given = Given(frame, context, pixels, matrix)
        return await asyncio.wrap_future(self._submit(given))

    def stream(
        self,
        source: Iterable[Input],
        *,
        live: bool | None = None,
        depth: int = 1,
        context: Mapping[str, Any] | None = None,
        pixels: Pixels | None = None,
        matrix: Matrix = "bt601",
    ) -> Stream[Classification]:
        """Classify the frames of a source, one after the other and all in one context.

        See `edge_sdk.model.EdgeModel.stream`. Meanwhile, requests to the cloud share one call that stays open,
        where the server offers that.
        """
        told: Pixels = getattr(source, "pixels", "rgb") if pixels is None else pixels
        answer = partial(self.predict, context=context, pixels=told, matrix=matrix)
        around = nullcontext if self._asking is None else self._asking.streaming
        return Stream(answer, source, live=live, depth=depth, around=around)

    def feedback(self, decision_id: str, label: str | int) -> None:
        """Write into the journal what an answer should have been, be it days later.

        With ``Cloud(feedback=True)``, the server that answered is told whether it was right, in the background.

        Parameters
        ----------
        decision_id
            Of the answer.
        label
            Name or index of the true class.

        Raises
        ------
        InputError
            There is no such class, nobody to tell, or that is no id; one that the journal does not know is no error.
        """
        labels = self._answering.watch.model.labels
        index = true_class(labels, decision_id, label)
        rewards = None if self._asking is None else self._asking.rewards
        if rewards is None or self._oversight.journal is not None:
            self._oversight.feedback(decision_id, index)
        if rewards is not None:
            rewards.put(decision_id, labels[index])

    def swap(self, path: str | Path, *, privacy: Iterable[PrivacyRule] | None = None) -> None:
        """Replace the edge model by that of another bundle, while calls go on.

        The new model is loaded first; a call that meets the old one closed runs on the new one.

        Parameters
        ----------
        path
            The bundle.
        privacy
            Rules that come into force with it; None keeps those that are.

        Raises
        ------
        InputError, BundleError, ModelError
            The bundle cannot be used, or privacy rules name labels that it does not have; the old
            model stays, and its rules.
        ModelClosedError
            This has been closed.
        """
        with self._swapping:
            self._answering.check_open()
            model = load(path)
            try:
                self._check_edge(model)
                rules = _check_rules(self._answering.watch.rules if privacy is None else privacy, model)
                watch = self._oversight.watch(model, rules)
            except BaseException:
                model.close()
                raise
            old, self._answering.watch = self._answering.watch.model, watch
            if self._asking is not None:
                self._asking.forget()
        old.close()

    def close(self) -> None:
        """Release the edge model and the connection. Closing twice is no error."""
        with self._swapping:
            self._answering.closed = True
        with self._starting:
            threads, self._threads = self._threads, None
        self._answering.watch.model.close()
        if self._forwarder is not None:
            self._forwarder.stop()
        if self._asking is not None:
            self._asking.close()
        if threads is not None:
            threads.shutdown()  # what was under way has nobody to wait for now
        if self._forwarder is not None:
            self._forwarder.close()
        self._oversight.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _forward(self, outbox: str | Path | Outbox) -> Forwarder:
        """Begin to keep inputs in an outbox, and to send them."""
        journal, answering = self._oversight.journal, self._answering
        if journal is None or self._asking is None:
            raise InputError("an outbox needs the mode hybrid and a journal, where answers go: give journal=FOLDER")
        from edge_sdk.client.forwarding import Forwarder
        from edge_sdk.client.outbox import Outbox

        if not isinstance(outbox, str | Path | Outbox):
            raise InputError(f"the outbox is {type(outbox).__name__}; it should be a folder or an Outbox")
        forwarder = Forwarder(outbox, journal, self._asking, self._oversight, lambda: answering.watch)
        answering.forwarder = forwarder
        return forwarder

    def _submit(self, given: Given) -> Future[Classification]:
        from concurrent.futures import ThreadPoolExecutor

        with self._starting:
            self._answering.check_open()
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_MOST_THREADS, "edge-sdk-apredict")
            return self._threads.submit(self._answering.answer, given)

    def _check_edge(self, edge: EdgeModel) -> None:
        edge.manifest.require_task("classification", "a model with a cloud behind it")
        if self._mode == "hybrid" and edge.policy is None:
            raise InputError(
                f"bundle {edge.name} {edge.version} has no policy to say when to ask the cloud: "
                "run edge-sdk certify on it, or use another mode"
            )


def _new_asking(cloud: Cloud, **options: Any) -> Asking:
    try:
        from edge_sdk.client.asking import Asking
    except ModuleNotFoundError as error:
        raise MissingExtraError("grpcio", "hybrid") from error
    return Asking(cloud, **options)


def _check_rules(rules: Iterable[PrivacyRule], edge: EdgeModel) -> tuple[PrivacyRule, ...]:
    return check_rules(rules, edge.labels, edge.processor.spec.modality)
