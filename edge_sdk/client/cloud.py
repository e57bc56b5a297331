"""The far side as apps describe it: where it is, what is sent there, and how it is asked. Loads no gRPC."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from numbers import Real
from pathlib import Path
from typing import Literal, get_args

from edge_sdk.encodings import SentAs
from edge_sdk.errors import InputError, MissingExtraError

__all__ = ["Balance", "Cloud", "Hedging"]

Balance = Literal["failover", "round_robin"]

_LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
_MOST_ENDPOINTS = 16
_MOST_KEY = 200  # characters
_TEXTS = "model_name", "encoding", "server_name", "token", "key"
_FILES = "tls_ca", "tls_cert", "tls_key", "token_file"


@dataclass(frozen=True, slots=True)
class Hedging:
    """Ask a second time where an answer takes longer than most, and take the answer that comes first.

    Parameters
    ----------
    share
        Of all calls that may be asked a second time, in (0, 0.5].
    quantile
        Of the times that answers took: after this long the second copy goes out, in [0.5, 1).
    """

    share: float = 0.05
    quantile: float = 0.95

    def __post_init__(self) -> None:
        for name in ("share", "quantile"):
            if not isinstance(getattr(self, name), Real):
                raise InputError(f"{name} of hedging is {getattr(self, name)!r}; it should be a number")
        if not 0.0 < self.share <= 0.5:
            raise InputError(f"share of hedged calls is {self.share}; it should be above 0 and at most 0.5")
        if not 0.5 <= self.quantile < 1.0:
            raise InputError(f"quantile of hedging is {self.quantile}; it should be at least 0.5 and below 1")


@dataclass(frozen=True, slots=True)
class Cloud:
    """One model in the cloud, and the way to it; see ``docs/reach-the-cloud.md``.

    Parameters
    ----------
    endpoints
        ``host:port`` or ``host:port/model`` of a server, or several of them.
    model_name
        The model to ask; None asks for the only one that a server has.
    encoding
        What is sent: ``captured``, ``jpeg`` (as it came, or at quality 95), ``jpeg:QUALITY``, ``resized`` or
        ``tensor``; several with commas between them, the best first; or ``auto``: those that the bundle's
        certificate names. Of several, time and budget decide; see ``docs/payload-ladder.md``.
    balance
        Of several endpoints. ``failover``: the first of them that is healthy. ``round_robin``: each in turn.
    tls_ca
        PEM file of the authorities that may have signed a server's certificate; ``system`` for those that this
        system trusts; None is no TLS.
    tls_cert, tls_key
        PEM files of the certificate that a server asks of this device, and of its key.
    server_name
        The name that certificates must bear, where it is not the endpoint's.
    token, token_file
        Bearer token, or a file of one line that holds it.
    hedging
        See `Hedging`; None asks no second time.
    coalesce
        Whether requests that are made at once may travel in one message.
    priority
        Of this link's requests, for servers that know priorities: 1 is the highest; None says nothing.
    key
        A name of this device or its user that goes with every request, up to 200 characters: where versions of a
        model share the requests, one key keeps its version. None sends none.
    feedback
        Whether `HybridModel.feedback` tells the server, too, if its answer was right.

    Raises
    ------
    InputError
        An option is not one of those above, or a token would travel unencrypted to another machine.
    MissingExtraError
        The encoding needs Pillow, which is not installed.
    """

    endpoints: str | Sequence[str]
    _: KW_ONLY
    model_name: str | None = None
    encoding: str = "auto"
    balance: Balance = "failover"
    tls_ca: str | Path | None = None
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None
    server_name: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: str | Path | None = None
    hedging: Hedging | None = None
    coalesce: bool = True
    priority: int | None = None
    key: str | None = None
    feedback: bool = False

    def __post_init__(self) -> None:
        for name in (*_TEXTS, *_FILES):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str if name in _TEXTS else str | Path):
                raise InputError(
                    f"{name} is {type(value).__name__}; it should be a {'text' if name in _TEXTS else 'path'}"
                )
        for name in ("coalesce", "feedback"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}; it should be True or False")
        if self.key is not None and not (0 < len(self.key) <= _MOST_KEY and self.key.isprintable()):
            raise InputError(f"key is {self.key[:40]!r}; it should be 1 to {_MOST_KEY} printable characters")
        targets, model = _parse(self.endpoints)
        if model is not None and self.model_name not in (None, model):
            raise InputError(f"the endpoints name the model {model}, and model_name {self.model_name}: name one")
        object.__setattr__(self, "endpoints", targets)
        object.__setattr__(self, "model_name", self.model_name or model)
        if self.balance not in get_args(Balance):
            raise InputError(f"balance is {self.balance!r}; it should be {' or '.join(get_args(Balance))}")
        self._check_encoding()
        if self.hedging is not None and not isinstance(self.hedging, Hedging):
            raise InputError(f"hedging is {type(self.hedging).__name__}; it should be a Hedging or None")
        if self.priority is not None and (type(self.priority) is not int or not 1 <= self.priority < 2**31):
            raise InputError(f"priority is {self.priority!r}; it should be a whole number, 1 (the highest) or more")
        self._check_secrets()

    @classmethod
    def of(cls, cloud: str | Sequence[str] | Cloud) -> Cloud:
        """Return the record of what apps may give in its place: an endpoint, or several."""
        return cloud if isinstance(cloud, Cloud) else cls(cloud)

    @property
    def targets(self) -> tuple[str, ...]:
        """``host:port`` of each endpoint."""
        return tuple(self.endpoints)

    @property
    def has_token(self) -> bool:
        """True where calls bear a token."""
        return self.token is not None or self.token_file is not None

    def _check_encoding(self) -> None:
        if self.encoding in ("auto", "captured", "jpeg", "tensor"):
            makes_jpeg = self.encoding == "jpeg"
        else:
            try:
                makes_jpeg = any(one.quality is not None for one in SentAs.parse_all(self.encoding))
            except InputError as error:
                raise InputError(f"{error}; or auto, or tensor alone") from error
        if makes_jpeg and importlib.util.find_spec("PIL") is None:
            raise MissingExtraError("Pillow", "image")

    def _check_secrets(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("a certificate of this device needs its key: give tls_cert and tls_key, or neither")
        if self.tls_ca is None:
            for name in ("tls_cert", "server_name"):
                if getattr(self, name) is not None:
                    raise InputError(f"{name} has a meaning under TLS only: give tls_ca")
        if self.token is not None and self.token_file is not None:
            raise InputError("the token is given twice: give token or token_file")
        if self.token is not None and not is_token(self.token):
            raise InputError("the token is empty or has characters that are not printable ASCII")
        if self.has_token and self.tls_ca is None:
            for target in self.targets:
                if target.rpartition(":")[0] not in _LOOPBACK:
                    raise InputError(f"a token for {target} would travel unencrypted: give tls_ca")


def is_token(text: str) -> bool:
    """Tell whether a text can be sent as a bearer token."""
    return bool(text) and text.isascii() and text.isprintable() and text == text.strip()


def _parse(endpoints: object) -> tuple[tuple[str, ...], str | None]:
    """Return the addresses, and the model that they name."""
    listed = [endpoints] if isinstance(endpoints, str) else endpoints
    if not isinstance(listed, Sequence) or not all(isinstance(one, str) for one in listed):
        raise InputError(f"cloud is {type(endpoints).__name__}; it should be host:port, a list of them, or a Cloud")
    if not 1 <= len(listed) <= _MOST_ENDPOINTS:
        raise InputError(f"cloud has {len(listed)} endpoints; it should have 1 to {_MOST_ENDPOINTS}")
    targets, models = [], set()
    for one in listed:
        target, _, model = one.partition("/")
        host, _, port = target.rpartition(":")
        named = host and host.isprintable() and " " not in host and (":" not in host or host.startswith("["))
        if not named or not (port.isascii() and port.isdigit() and len(port) <= 5) or not 0 < int(port) < 65536:
            raise InputError(f"cloud is {one!r}; it should be host:port or host:port/model")
        if target in targets:
            raise InputError(f"cloud names the endpoint {target} twice")
        targets.append(target)
        models.add(model or None)
    if len(models) != 1:
        raise InputError("the endpoints of one cloud name several models; they should serve the same")
    return tuple(targets), models.pop()
