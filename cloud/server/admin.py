"""Loading and unloading of models by request: off unless allowed, and written down."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

from edge_sdk.cloud.server.core import Core
from edge_sdk.errors import EdgeSdkError, InputError, ModelError, UnknownModelError, one_line

__all__ = ["Admin"]

_audit = logging.getLogger("edge_sdk.cloud.server.audit")


class Admin:
    """What clients may do to the models of a `Core`.

    Every try is logged to ``edge_sdk.cloud.server.audit`` with who it was and how it ended.

    Parameters
    ----------
    core
        The models.
    allowed
        Whether clients may do anything.
    """

    def __init__(self, core: Core, *, allowed: bool) -> None:
        self._core, self._allowed = core, allowed

    async def load(self, model: str, who: str, parameters: Iterable[str] = ()) -> None:
        """Load a model of a repository folder, or load it anew.

        Raises
        ------
        PermissionError
            It is not allowed.
        UnknownModelError
            No repository folder has the model.
        InputError
            It should be loaded in another way than it is there.
        ModelError
            It cannot be loaded; what was served before still is.
        """
        await self._do("load", self._core.load_model, model, who, parameters)

    async def unload(self, model: str, who: str, parameters: Iterable[str] = ()) -> None:
        """Serve a model of a repository folder no longer; raises as `load` does."""
        # no model depends on another here
        await self._do("unload", self._core.unload_model, model, who, {*parameters} - {"unload_dependents"})

    async def _do(
        self,
        action: str,
        run: Callable[[str], Awaitable[None]],
        model: str,
        who: str,
        parameters: Iterable[str],
    ) -> None:
        what = f"{who} asks to {action} model {model[:80]!r}"
        if not self._allowed:
            _audit.warning("%s: refused", what)
            raise PermissionError(f"the server does not let clients {action} models: start it with --allow-admin")
        for name in parameters:
            _audit.warning("%s: refused for its parameter %r", what, name[:80])
            raise InputError(f"parameter {name[:80]!r} is not supported: a model is loaded as it is in its folder")
        try:
            await run(model)
        except UnknownModelError:
            _audit.warning("%s: no such model", what)
            raise
        except EdgeSdkError as error:
            line = one_line(error)
            _audit.warning("%s: failed: %s", what, line)
            raise ModelError(f"failed to {action} {model!r}: {line}") from error
        _audit.warning("%s: done", what)
