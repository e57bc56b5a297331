"""The names of the wire: topics, block size, request and reply forms, and the identifiers allowed in them.

A device publishes requests on ``get`` and hears the answers on ``reply``; both topics follow from
its own id alone, so that nobody can ask the repository to publish anywhere else. A request is
JSON, ``{"metadata": NAME, "block": N}`` or ``{"target": PATH, "block": N}``, with correlation
data. A reply carries the same correlation data, the block's bytes, and two user properties:
``status`` (as in HTTP) and ``size`` (of the whole file, in bytes).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge_sdk.bundle.manifest import NAME
from edge_sdk.errors import InputError

__all__ = [
    "BLOCK_BYTES",
    "MAX_MESSAGE_BYTES",
    "REPORT_BURST",
    "REPORT_RATE",
    "Topics",
    "check_id",
    "check_model",
    "device_and_model",
]

BLOCK_BYTES = 120 * 1024
"""Bytes of one block; with topic and properties a message stays under `MAX_MESSAGE_BYTES`."""

MAX_MESSAGE_BYTES = 128_000
"""Largest MQTT message that is sent or accepted, headers included (the limit of AWS IoT Core)."""

REPORT_RATE = 10.0
"""Reports a second that a device sends for long; the repository service takes twice as many."""

REPORT_BURST = 100
"""Reports that a device sends at once after each of its starts; the repository service takes twenty times as many."""

_ROOT = "edge/v1"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PREFIX = re.compile(r"(?=.{0,64}\Z)(?:[A-Za-z0-9_.:$@-]+/)*")


def check_id(kind: str, value: str) -> str:
    """Return a fleet or device id; raise `InputError` if it could not stand in a topic or file name."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InputError(
            f"{kind} id {value!r} is not 1-64 letters, digits, '_', '.', '-' beginning with a letter or digit"
        )
    return value


def check_model(name: str) -> str:
    """Return the name of one of a device's several models; raise `InputError` if no bundle can have it."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError(f"model {name!r} is not the name of a bundle: 1-64 of a-z, 0-9, '_', '.', '-'")
    return name


def device_and_model(place: str) -> tuple[str, str]:
    """Split ``DEVICE`` or ``DEVICE/MODEL``; raise `InputError` for another form. The model may be empty."""
    device, slash, model = place.partition("/")
    return check_id("device", device), check_model(model) if slash else ""


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one device in one fleet; ``device="+"`` gives the filters of the repository service.

    ``prefix`` stands before all of them: levels that each end with a slash.
    """

    fleet: str
    device: str
    prefix: str = ""

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise InputError(
                f"topic prefix {self.prefix!r} is not levels of letters, digits, '_', '.', ':', '$', '@', '-', "
                "each ending with '/', of at most 64 characters"
            )
        check_id("fleet", self.fleet)
        if self.device != "+":
            check_id("device", self.device)

    def _of(self, kind: str) -> str:
        return f"{self.prefix}{_ROOT}/{self.fleet}/device/{self.device}/{kind}"

    @property
    def get(self) -> str:
        """Requests of the device to the repository."""
        return self._of("get")

    @property
    def reply(self) -> str:
        """Answers of the repository to the device."""
        return self._of("reply")

    @property
    def desired(self) -> str:
        """Retained hint that the device's assignment changed."""
        return self._of("desired")

    @property
    def update(self) -> str:
        """Reports of the device about its updates."""
        return self._of("update")

    @property
    def status(self) -> str:
        """Whether the device is connected: retained, with a last will."""
        return self._of("status")

    @classmethod
    def parse(cls, topic: str, prefix: str = "") -> tuple[Topics, str] | None:
        """Return a topic's device topics and kind, or None if it is not one of ours."""
        if not topic.startswith(prefix):
            return None
        parts = topic.removeprefix(prefix).split("/")
        if len(parts) != 6 or "/".join(parts[:2]) != _ROOT or parts[3] != "device":
            return None
        try:
            return cls(check_id("fleet", parts[2]), check_id("device", parts[4]), prefix), parts[5]
        except InputError:
            return None
