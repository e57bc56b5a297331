"""Who may do what: callers known by a bearer token or by their certificate, models, methods, and how often.

A caller is one table of the server's configuration file. What is kept of a token is its SHA-256.

    [callers.cameras]
    token_file = "cameras.token"       # or token_sha256; beside this file, where it is relative
    models = ["teacher", "wake-*"]
    requests_per_second = 50

    [callers.release]
    certificates = ["release.example"]
    methods = ["describe", "admin"]
"""

from __future__ import annotations

import fnmatch
import hashlib
import hmac
import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from edge_sdk.cloud.server.certificates import read_file
from edge_sdk.cloud.server.rates import Bucket, SharedBucket, SharedRates
from edge_sdk.errors import InputError, RateLimitError, UnknownCallerError

__all__ = ["KINDS", "Access", "Caller", "Kind", "callers_from", "read_token"]

Kind = Literal["describe", "infer", "admin", "metrics"]
KINDS: tuple[str, ...] = get_args(Kind)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_audit = logging.getLogger("edge_sdk.cloud.server.audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One who is known to the server.

    Attributes
    ----------
    name
        For logs and messages.
    tokens
        SHA-256 of each of the bearer tokens; several while one takes over from another.
    certificates
        Names in certificates: alternative names, or the common name of one that has none.
    models
        Names or patterns (``*``, ``?``, ``[…]``) of the models that it may use.
    methods
        ``describe`` (metadata, configuration, statistics, readiness, index), ``infer``, ``admin`` (load and unload),
        ``metrics`` (of all models).
    requests_per_second
        How often it may ask in the long run; None sets no limit. Each request of a stream counts.
    burst
        How many requests it may send at once; None is those of a second, and at least one.
    """

    name: str
    tokens: tuple[bytes, ...] = field(default=(), repr=False)
    certificates: tuple[str, ...] = ()
    models: tuple[str, ...] = ("*",)
    methods: tuple[str, ...] = ("describe", "infer")
    requests_per_second: float | None = None
    burst: int | None = None

    def __post_init__(self) -> None:
        if not self.tokens and not self.certificates:
            raise InputError(f"caller {self.name} needs token_file, token_sha256 or certificates, to be known by")
        for method in self.methods:
            if method not in KINDS:
                raise InputError(f"caller {self.name}: there is no method {method!r}; there are {', '.join(KINDS)}")
        rate, burst = self.requests_per_second, self.burst
        if rate is not None and not (_is_number(rate) and 0 < rate < math.inf):
            raise InputError(f"caller {self.name}: requests_per_second is {rate!r}; it should be more than 0")
        if burst is not None and not (_is_number(burst) and isinstance(burst, int) and burst >= 1):
            raise InputError(f"caller {self.name}: burst is {burst!r}; it should be a whole number, at least 1")
        if burst is not None and rate is None:
            raise InputError(f"caller {self.name}: burst needs requests_per_second")

    def sees(self, model: str) -> bool:
        """Tell whether it may use a model."""
        return any(fnmatch.fnmatchcase(model, pattern) for pattern in self.models)


class Access:
    """The callers of a server, and how much each may still ask; for one thread.

    Parameters
    ----------
    callers
        All that are known; nobody else is let in.
    clock
        Seconds that never go back.
    shared
        Where it is kept how much each may still ask, where several processes serve the same callers.

    Raises
    ------
    InputError
        Two callers have a token or a certificate's name in common.
    """

    def __init__(
        self,
        callers: Iterable[Caller],
        clock: Callable[[], float] = time.monotonic,
        shared: SharedRates | None = None,
    ) -> None:
        self.callers = tuple(callers)
        self._by_token = [(digest, caller) for caller in self.callers for digest in caller.tokens]
        self._by_certificate = {name: caller for caller in self.callers for name in caller.certificates}
        for what, keys in (
            ("token", [digest for digest, _ in self._by_token]),
            ("certificate", [name for caller in self.callers for name in caller.certificates]),
        ):
            if len(keys) != len({*keys}):
                raise InputError(f"two callers have the same {what}: nobody could tell which is asking")
        self._buckets = {
            caller.name: Bucket(caller.requests_per_second, caller.burst, clock)
            if shared is None
            else SharedBucket(shared, place, caller.requests_per_second, caller.burst, clock)
            for place, caller in enumerate(self.callers)
            if caller.requests_per_second is not None
        }

        self.needs_certificates = bool(self._by_certificate)
        """Whether somebody is known by a certificate."""
        self.unknown = "a valid bearer token is needed" + ", or a certificate" * self.needs_certificates
        """What those are told who are not known."""

    def identify(self, authorization: str | bytes | None, certificate_names: Iterable[str] = ()) -> Caller:
        """Return who is calling.

        Parameters
        ----------
        authorization
            What the call carries, ``Bearer TOKEN``; a wrong one is refused whatever the certificate says.
        certificate_names
            Of the certificate that the connection was made with, already verified.

        Raises
        ------
        UnknownCallerError
            It is nobody who is known.
        """
        if authorization is not None:
            given = authorization.encode(errors="replace") if isinstance(authorization, str) else authorization
            scheme, _, token = given.partition(b" ")
            digest, found = hashlib.sha256(token).digest(), None
            for expected, caller in self._by_token:  # all of them, so that the time does not tell which
                if hmac.compare_digest(digest, expected):
                    found = caller
            if found is not None and scheme.lower() == b"bearer":
                return found
        else:
            for name in certificate_names:
                if name in self._by_certificate:
                    return self._by_certificate[name]
        raise UnknownCallerError(self.unknown)

    def admit(self, caller: Caller, kind: Kind, model: str) -> None:
        """Let a caller do one thing, and count it.

        Parameters
        ----------
        caller
            As `identify` told.
        kind
            What it asks for.
        model
            The model; empty for all of them.

        Raises
        ------
        PermissionError
            It may not, whether there is such a model or not.
        RateLimitError
            It asks too often.
        """
        if kind not in caller.methods or (model and not caller.sees(model)):
            if kind == "admin":
                _audit.warning("%s asks to load or unload model %r: refused by [callers]", caller.name, model[:80])
            what = f"use {kind!r} of model {model[:80]!r}" if model else f"use {kind!r}"
            raise PermissionError(f"{caller.name} may not {what}: its table in [callers] does not say so")
        bucket = self._buckets.get(caller.name)
        if bucket is not None and (wait := bucket.take()) > 0:
            raise RateLimitError(
                f"{caller.name} may ask {caller.requests_per_second:g} times a second", retry_after=wait
            )


def callers_from(tables: object, folder: Path) -> tuple[Caller, ...]:
    """Read the tables ``[callers.NAME]`` of a configuration file.

    Parameters
    ----------
    tables
        What TOML has under ``callers``.
    folder
        Of the configuration file; token files are named from there.

    Raises
    ------
    InputError
        Something in it is unknown or out of range, or a token file is missing or holds none.
    StorageError
        A token file cannot be read.
    """
    if not isinstance(tables, Mapping) or not all(isinstance(table, Mapping) for table in tables.values()):
        raise InputError("callers should be tables, as [callers.NAME]")
    return tuple(_caller(name, table, folder) for name, table in tables.items())


def _caller(name: str, table: Mapping[str, Any], folder: Path) -> Caller:
    if not name or not name.isprintable():
        raise InputError(f"a caller's name should be printable text, not {name[:40]!r}")
    values = dict(table)
    lists: dict[str, Any] = {}
    for key in ("token_file", "token_sha256", "certificates", "models", "methods"):
        if key in values:
            given = values.pop(key)
            given = [given] if isinstance(given, str) else given
            if not isinstance(given, list) or not given or not all(map(_is_line, given)):
                raise InputError(f"caller {name}: {key} should be a line of text or a list of such")
            lists[key] = tuple(given)
    for key in values:
        if key not in ("requests_per_second", "burst"):
            raise InputError(
                f"caller {name}: there is no setting {key!r}; there are token_file, token_sha256, certificates, "
                "models, methods, requests_per_second and burst"
            )
    tokens = [read_token(folder / file) for file in lists.pop("token_file", ())]
    for digest in lists.pop("token_sha256", ()):
        if not _DIGEST.fullmatch(digest):  # what was given may be the token itself, and stays out of the message
            raise InputError(f"caller {name}: token_sha256 should be the 64 hexadecimal digits of a token's SHA-256")
        tokens.append(bytes.fromhex(digest))
    return Caller(name=name, tokens=tuple(tokens), **values, **lists)


def read_token(path: Path) -> bytes:
    """Return the SHA-256 of the token that a file holds.

    Raises
    ------
    InputError
        There is no such file, or no token in it.
    StorageError
        It cannot be read.
    """
    token = read_file(path).decode("ascii", errors="replace").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(f"{path} should hold one token of printable ASCII without spaces")
    return hashlib.sha256(token.encode()).digest()


def _is_line(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
