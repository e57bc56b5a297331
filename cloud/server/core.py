"""The server without its transport: which models there are, and requests run through them.

Requests arrive on the event loop, wait in the line of their model (`edge_sdk.cloud.server.lines`) and are run
by its threads. Failures are plain exceptions that a front translates: `UnknownModelError` (no such model or
version), `InputError` and `ProcessingError` (the request), `OverloadedError` (no room, or no time before the
deadline), `NotReadyError` (a model that hangs), `TimeoutError` (the time was up in the queue), `ModelError`
(the runtime) and `MemoryError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from edge_sdk.cloud.server.admission import Held
from edge_sdk.cloud.server.asked import Answer, ModelState, Request, State
from edge_sdk.cloud.server.company import Coming
from edge_sdk.cloud.server.counts import Counts
from edge_sdk.cloud.server.lines import Line
from edge_sdk.cloud.server.models import ServedModel, load_model, name_of
from edge_sdk.cloud.server.payloads import Payload
from edge_sdk.cloud.server.recall import ask
from edge_sdk.cloud.server.repository import Repository, is_repository
from edge_sdk.cloud.server.routes import Routes
from edge_sdk.cloud.server.routing import version_order
from edge_sdk.cloud.server.runs import Run
from edge_sdk.cloud.server.settings import ModelSettings, Serving
from edge_sdk.cloud.server.waiting import RetiredError
from edge_sdk.errors import InputError, NotReadyError, OverloadedError, UnknownModelError

__all__ = ["Answer", "Core", "ModelState", "Request", "State"]

_log = logging.getLogger("edge_sdk.cloud.server")
AskOthers = Callable[..., Awaitable[Any]]
_WATCH_SECONDS = 0.1


class Core:
    """The models of one server.

    Its methods are called on one event loop, but for `load` and `close`.

    Parameters
    ----------
    serving
        How they are served.
    """

    def __init__(self, serving: Serving | None = None) -> None:
        self.serving = serving or Serving()
        self._repositories: list[Repository] = []
        self._notes: dict[tuple[str, str], ModelState] = {}  # of versions that are not served, or not as they should
        self._lines: dict[str, dict[str, Line]] = {}  # the versions in order; replaced, never changed
        self._retired: list[Line] = []
        self.routes = Routes()
        self.on_run: Callable[[Run], None] | None = None  # is told how the model ran, in the request's own context
        self.ask_others: AskOthers | None = None  # where other processes serve the same models
        self._changing = threading.Lock()
        self._held = Held(self.serving.max_pending_bytes)
        self.coming = Coming()  # calls whose messages are on their way
        self._end = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._watchdog.start()
        self._reloader: threading.Thread | None = None

    @classmethod
    def load(cls, paths: Sequence[Path], serving: Serving | None = None) -> Core:
        """Load models, and warm them up.

        Parameters
        ----------
        paths
            Bundles, plain model files and SavedModel folders (see `load_model`), and repository folders.
        serving
            How they are served.

        Raises
        ------
        InputError, BundleError, ModelError
            A bundle or file cannot be loaded, or two models have one name. Of a repository folder, that is said
            in `index` and the log.
        """
        core = cls(serving)
        try:
            for path in paths:
                if is_repository(path):
                    repository = Repository(path, core, core.serving)
                    if clash := sorted({*repository.names()} & {*core._names()}):
                        raise InputError(f"two models are called {clash[0]}; give one of them")
                    repository.open()
                    core._repositories.append(repository)
                else:
                    core._load_file(path)
        except BaseException:
            core.close()
            raise
        if core._repositories and core.serving.reload_seconds > 0:
            core._reloader = threading.Thread(target=core._reload, name="reload", daemon=True)
            core._reloader.start()
        return core

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """Every version that is ready, the models in the order they came, their versions ascending."""
        return tuple(line.model for versions in self._lines.values() for line in versions.values())

    @property
    def is_ready(self) -> bool:
        """Every model answers."""
        return not any(line.hangs for line in self._all())

    def model(self, name: str, version: str = "") -> ServedModel:
        """Return a model by name, and by version unless that is empty, which is the primary or highest.

        Raises
        ------
        UnknownModelError
            There is none.
        """
        return self._line(name, version).model

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the versions of a model that are ready, ascending; raise `UnknownModelError` where there is none."""
        self._line(name, "")
        return tuple(self._lines[name])

    def settings(self, name: str, version: str = "") -> ModelSettings:
        """Return how a model is served; raise `UnknownModelError` where there is none."""
        return self._line(name, version).settings

    def batch_costs(self, name: str, version: str = "") -> dict[int, float]:
        """Return the seconds that a batch takes by its size, as learned; raise `UnknownModelError` if there is none."""
        return self._line(name, version).batch_costs

    def answers(self, name: str, version: str = "") -> bool:
        """Tell whether a model is there and does not hang."""
        with contextlib.suppress(UnknownModelError):
            return not self._line(name, version).hangs
        return False

    def index(self) -> tuple[ModelState, ...]:
        """Return the state of every version."""
        states = {}
        for line in self._all():
            key = line.model.name, line.model.version
            states[key] = ModelState(*key, "UNAVAILABLE", "hangs") if line.hangs else ModelState(*key, "READY")
        notes = {key: note for key, note in self._notes.items() if key not in states or states[key].state == "READY"}
        return tuple((states | notes).values())

    def statistics(self, name: str = "", version: str = "") -> tuple[tuple[ServedModel, Counts], ...]:
        """Return what was counted: of all models, of the versions of one, or of one version.

        Raises
        ------
        UnknownModelError
            There is no such model or version.
        """
        if not name:
            lines: Iterable[Line] = self._all()
        elif version:
            lines = (self._line(name, version),)
        else:
            self._line(name, "")
            lines = self._lines[name].values()
        return tuple((line.model, line.counted()) for line in lines)

    def refusal_of_any(self, deadline: float | None) -> OverloadedError | None:
        """Return why whatever request would be refused now; None where one may be taken, and with several models."""
        lines = self._all() if len(self._lines) == 1 else []
        return lines[0].refusal(deadline) if len(lines) == 1 and not lines[0].has_priorities else None

    def lasts(self) -> float:
        """Return for how many seconds all models that are asked have work without the event loop; 0 where none is."""
        return min((line.lasts for line in self._all() if line.counts.pending), default=0.0)

    async def infer(self, request: Request) -> Answer:
        """Run one request and return what the model says.

        Raises
        ------
        UnknownModelError, InputError, ProcessingError, OverloadedError, NotReadyError, TimeoutError, ModelError,
        MemoryError
            As the module says.
        """
        if request.deadline is not None and time.monotonic() >= request.deadline:
            raise TimeoutError("no time is left for this request")
        while True:
            line = self._line(request.model, request.version)
            if not request.version and line.settings.routing is not None:
                versions = self._lines.get(request.model) or {line.model.version: line}
                line = self.routes.choose(request.model, request.key, versions)
            model = line.model
            there = [tensor.name for tensor in model.outputs]
            for name in request.outputs:
                if name not in there or request.outputs.count(name) > 1:
                    raise InputError(
                        f"output {name[:80]!r} is unknown or asked for twice; there are {', '.join(there)}"
                    )
            payload = model.reader.read(request.inputs, request.encoding)
            if payload.items > 1 and not request.version:
                self.routes.count_more(line, payload.items - 1)
            try:
                run = await self.ask(line, payload, request)
            except RetiredError:
                if self._lines.get(request.model, {}).get(model.version) is line:
                    raise NotReadyError(f"model {model.name} is closed") from None
                continue  # a newer one is there
            outputs = dict(zip(there, run.outputs, strict=True))
            said = {name: outputs[name] for name in request.outputs} or outputs
            answer = Answer(model, said, run.compute, run.cached)
            if not request.version and line.settings.routing is not None:
                infer = self.infer if self._held.is_little else None
                self.routes.mirror(request, self._lines.get(request.model, {}), answer, infer)
            return answer

    @property
    def served(self) -> object:
        """What is served now: another object after any change of models, versions or settings."""
        return self._lines

    def line(self, name: str, version: str) -> Line | None:
        """Return who answers all requests for a model while `served` is the same; None where that is not one line."""
        line = self._line(name, version)
        return line if version or line.settings.routing is None else None

    async def ask(self, line: Line, payload: Payload, request: Request) -> Run:
        """Ask one line, where the server holds no more than it may; `RetiredError`, or errors as of `infer`."""
        self.hold(line, payload)
        try:
            run = await ask(line, request.inputs, payload, request.deadline, request.priority)
            if self.on_run is not None:
                self.on_run(run)
            return run
        finally:
            self.let_go(payload)

    def hold(self, line: Line, payload: Payload) -> None:
        """Count what a request to a line holds, until `let_go`; raise `OverloadedError` where that is too much."""
        self._held.take(payload.nbytes, line.counts, line.soonest)

    def let_go(self, payload: Payload) -> None:
        """Count what a request held no longer."""
        self._held.give(payload.nbytes)

    def reward(self, name: str, version: str, reward: object, decision: str = "") -> None:
        """Tell a bandit how good an answer was; raise `UnknownModelError` or `InputError` where there is no such.

        What is told twice of one decision, where that is named, counts once.
        """
        line = self._line(name, version)
        self.routes.reward(name, self._lines.get(name) or {version: line}, version, reward, decision)

    async def take_reward(self, name: str, version: str, reward: object, decision: str = "") -> None:
        """Do as `reward`, for all processes of the server."""
        if self.ask_others is None:
            self.reward(name, version, reward, decision)
        else:
            await self.ask_others("reward", name=name, version=version, reward=reward, decision=decision)

    def put(self, line: Line) -> None:
        """Serve a version; one of the same name and version answers what waits for it, and is then released."""
        name, version = line.model.name, line.model.version
        line.company.coming = self.coming
        with self._changing:
            versions = {**self._lines.get(name, {}), version: line}
            old = self._lines.get(name, {}).get(version)
            ordered = dict(sorted(versions.items(), key=lambda item: version_order(item[0])))
            self._lines = {**self._lines, name: ordered}
        if old is not None:
            self._retire(old)

    def drop(self, name: str, version: str) -> None:
        """Serve a version no longer; what waits for it is answered."""
        with self._changing:
            versions = dict(self._lines.get(name, {}))
            old = versions.pop(version, None)
            lines = {**self._lines, name: versions}
            self._lines = {name: versions for name, versions in lines.items() if versions}
        if old is not None:
            self._retire(old)

    def note(self, name: str, version: str, state: State | None, reason: str = "") -> None:
        """Let `index` say something of a version that is not served, or not as its files are; None forgets it."""
        with self._changing:
            notes = {key: note for key, note in self._notes.items() if key != (name, version)}
            if state is not None:
                notes[name, version] = ModelState(name, version, state, reason)
            self._notes = notes

    async def load_model(self, name: str) -> None:
        """Load a model of a repository folder now, or anew where its files have changed.

        Raises
        ------
        UnknownModelError
            No repository has it.
        EdgeSdkError
            It cannot be loaded; what was served before still is.
        """
        await self._change("load", name)

    async def unload_model(self, name: str) -> None:
        """Serve a model of a repository folder no longer; raise `UnknownModelError` where no repository has it."""
        await self._change("unload", name)

    async def change_here(self, what: Literal["load", "unload"], name: str) -> None:
        """Do as `load_model` or `unload_model`, in this process alone."""
        repository = self._repository_of(name)
        await asyncio.to_thread(repository.load if what == "load" else repository.unload, name)

    def look_again(self, *, settled: bool = False) -> None:
        """Serve what the repository folders hold now; ``settled`` is of `Repository.sync`."""
        for repository in self._repositories:
            try:
                repository.sync(settled=settled)
            except Exception:  # noqa: BLE001 - whatever it is, what is served still is
                _log.exception("cannot look at %s", repository.root)

    def close(self) -> None:
        """Finish what runs, drop what waits, release the models."""
        self._end.set()
        self._watchdog.join()
        if self._reloader is not None:
            self._reloader.join(5)
        for line in [*self._all(), *self._retired]:
            line.close()
        _log.debug("models released")

    async def _change(self, what: Literal["load", "unload"], name: str) -> None:
        if self.ask_others is None:
            await self.change_here(what, name)
        else:
            await self.ask_others(what, name=name)  # and this one, so that all do the same in the same order

    def _names(self) -> list[str]:
        return [*self._lines, *(name for repository in self._repositories for name in repository.names())]

    def _load_file(self, path: Path) -> None:
        usual = self.serving.of(name_of(path))
        model = _load(path, usual)
        if model.name in self._names():
            raise InputError(f"two models are called {model.name}; give one of them")
        settings = self.serving.of(model.name)
        if not settings.loads_as(usual):
            model.engine.close()  # of a bundle named otherwise
            model = _load(path, settings)
        self.put(Line(model, settings))

    def _repository_of(self, name: str) -> Repository:
        for repository in self._repositories:
            if name in repository.names():
                return repository
        raise UnknownModelError(f"no repository folder has a model {name[:80]!r}")

    def _reload(self) -> None:
        while not self._end.wait(self.serving.reload_seconds):
            self.look_again()

    def _all(self) -> list[Line]:
        return [line for versions in self._lines.values() for line in versions.values()]

    def _line(self, name: str, version: str) -> Line:
        versions = self._lines.get(name)
        if versions is None:
            raise UnknownModelError(
                f"Request for unknown model: {name[:80]!r} is not found; served are {', '.join(self._lines)}"
            )
        if not version:
            return Routes.main(versions)
        line = versions.get(version)
        if line is None:
            served = ", ".join(versions)
            raise UnknownModelError(
                f"Request for unknown model: {name!r} version {version[:40]!r} is not found; served is {served}"
            )
        return line

    def _retire(self, line: Line) -> None:
        line.retire()
        with self._changing:
            self._retired.append(line)

    def _watch(self) -> None:
        while not self._end.wait(_WATCH_SECONDS):
            now = time.monotonic()
            for line in [*self._all(), *self._retired]:
                line.watch(now)
            with self._changing:
                through = [line for line in self._retired if line.drained]
                self._retired = [line for line in self._retired if line not in through]
            for line in through:
                line.close()


def _load(path: Path, settings: ModelSettings) -> ServedModel:
    table = Path(settings.table) if settings.table else None
    return load_model(path, threads=settings.threads, providers=settings.chosen_providers, table=table)
