"""What a bundle needs of the device that is to run it, as signed with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import edge_sdk
from edge_sdk.errors import InputError, MissingExtraError, ModelError
from edge_sdk.runtime.opening import check_runtime

__all__ = ["Needs", "precedence"]

_CLASS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_VERSION = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}(-[0-9A-Za-z.-]{1,60})?")


@dataclass(frozen=True, slots=True)
class Needs:
    """What has to be true of a device; what is empty asks for nothing.

    Attributes
    ----------
    device_classes
        Kinds of device that it is for.
    sdk
        The least version of edge-sdk.
    runtime
        The runtime that its model runs in.

    Raises
    ------
    InputError
        A class or version has another form.
    """

    device_classes: tuple[str, ...] = ()
    sdk: str = ""
    runtime: str = ""

    def __post_init__(self) -> None:
        for name in self.device_classes:
            if not _CLASS.fullmatch(name):
                raise InputError(f"device class {name!r} is not 1-64 letters, digits, '_', '.', '-'")
        if self.sdk and not _VERSION.fullmatch(self.sdk):
            raise InputError(f"{self.sdk!r} is not a version such as 1.2.0")

    def objection(self, device_class: str) -> str | None:
        """Return why this device cannot run it, or None."""
        if self.device_classes and device_class not in self.device_classes:
            which = f"this one is {device_class}" if device_class else "this one says none"
            return f"it is for devices of the class {', '.join(self.device_classes)}; {which}"
        here = _VERSION.match(edge_sdk.__version__)  # builds between releases have an ending of their own
        if self.sdk and here is not None and precedence(here[0]) < precedence(self.sdk):
            return f"it needs edge-sdk {self.sdk}; {edge_sdk.__version__} is here"
        if self.runtime:
            try:
                check_runtime(self.runtime)
            except (MissingExtraError, ModelError) as error:
                return f"it needs the runtime {self.runtime}: {error}"
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values."""
        return {"device_classes": list(self.device_classes), "sdk": self.sdk, "runtime": self.runtime}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Needs:
        """Read what was signed; raise `InputError`, `KeyError` or `TypeError` if it has another form."""
        classes, sdk, runtime = tuple(document["device_classes"]), document["sdk"], document["runtime"]
        if not all(isinstance(text, str) for text in (*classes, sdk, runtime)):
            raise InputError("what a bundle needs is said in texts")
        return cls(classes, sdk, runtime)


def precedence(version: str) -> tuple[Any, ...]:
    """Return a key that orders semantic versions (semver.org, item 11)."""
    core, _, pre = version.partition("+")[0].partition("-")
    numbers = tuple(int(part) for part in core.split("."))
    parts = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in pre.split(".")) if pre else ()
    return (numbers, not pre, parts)
