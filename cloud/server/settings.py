"""How models are served: what a configuration says of the server, and of each model.

A model's settings come, the later the stronger, from ``[models."*"]`` of the server's configuration file, from
the ``config.pbtxt`` in its own folder, and from ``[models.NAME]``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from google.protobuf import text_format

from edge_sdk.cloud.server.access import Caller, callers_from
from edge_sdk.cloud.server.engines import PROVIDERS
from edge_sdk.cloud.server.routing import Routing
from edge_sdk.errors import InputError, one_line
from edge_sdk.protocol import messages

__all__ = ["ModelSettings", "Serving", "labels_file", "read_labels", "read_model_config"]

_ModelConfig: Any = messages.message("inference.ModelConfig")
_MOST_BYTES = 2**20  # of a configuration file


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """How one model is served.

    Attributes
    ----------
    max_batch
        Items that run together at most; None tries up to 64, 1 runs each request alone.
    instances
        Threads that run the model at a time. None is one, or of ONNX models on the processor that take long and gain
        nothing by batches, as many as there are cores for.
    threads
        Of the runtime, for one inference.
    providers
        Execution providers of ONNX Runtime in the order to be tried: ``cpu``, ``cuda``, ``tensorrt``,
        ``openvino`` or ONNX Runtime's own names. Empty leaves it to ONNX Runtime.
    provider_options
        Of those, by the name that it has there: what ONNX Runtime calls them, with a text, number or truth each.
    max_queue
        Requests that wait at most.
    default_priority
        Of requests that name none; 1 goes first.
    cache_bytes
        Of answers that are kept for equal requests; 0 keeps none.
    table
        Parquet file of answers that were worked out before; empty for none. Named from the folder of the file that
        names it, or from the version's own folder, if it is there.
    hang_seconds
        A run that takes longer is given up, and the model is not ready until it returns.
    warm_up_seconds
        A model whose warm-up takes longer is not served.
    versions
        Which versions in a repository folder are served: the latest so many, ``all``, or these; those that
        ``routing`` names are, too.
    routing
        Which version answers requests that name none; None is the highest.
    """

    max_batch: int | None = None
    instances: int | None = None
    threads: int = 1
    providers: tuple[str, ...] = ()
    provider_options: Mapping[str, Mapping[str, str | float]] = field(default_factory=dict)
    max_queue: int = 256
    default_priority: int = 2
    cache_bytes: int = 0
    table: str = ""
    hang_seconds: float = 30.0
    warm_up_seconds: float = 300.0
    versions: int | Literal["all"] | tuple[str, ...] = 1
    routing: Routing | None = None

    def __post_init__(self) -> None:
        for name in ("max_batch", "instances", "threads", "max_queue", "default_priority"):
            value = getattr(self, name)
            if not (name in ("max_batch", "instances") and value is None) and not (_is_int(value) and value >= 1):
                raise InputError(f"{name} is {value!r}; it should be a whole number, at least 1")
        if not _is_int(self.cache_bytes) or self.cache_bytes < 0:
            raise InputError(f"cache_bytes is {self.cache_bytes!r}; it should be a whole number, 0 or more")
        for name in ("hang_seconds", "warm_up_seconds"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value > 0:
                raise InputError(f"{name} is {value!r}; it should be more than 0")
        if not isinstance(self.table, str):
            raise InputError(f"table is {self.table!r}; it should be the path of a Parquet file")
        if not _are_texts(self.providers):
            raise InputError(f"providers is {self.providers!r}; it should be a list of names")
        self._check_provider_options()
        latest = _is_int(self.versions) and self.versions >= 1  # type: ignore[operator]
        if not latest and self.versions != "all" and not (_are_texts(self.versions) and self.versions):
            raise InputError(f"versions is {self.versions!r}; it should be a number, 'all', or a list of versions")

    @property
    def chosen_providers(self) -> tuple[tuple[str, Mapping[str, str]], ...]:
        """The providers in their order, each with its options as texts."""
        return tuple(
            (name, {key: str(value) for key, value in self.provider_options.get(name, {}).items()})
            for name in self.providers
        )

    def loads_as(self, other: Self) -> bool:
        """Tell whether other settings would have a model loaded in the same way."""
        return (self.threads, self.chosen_providers, self.table) == (other.threads, other.chosen_providers, other.table)

    def _check_provider_options(self) -> None:
        if not isinstance(self.provider_options, Mapping):
            raise InputError(f"provider_options is {self.provider_options!r}; it should be a table of providers")
        for name, given in self.provider_options.items():
            if name not in (*PROVIDERS, *PROVIDERS.values(), *self.providers):
                raise InputError(f"provider_options is of {name!r}; there are {', '.join(PROVIDERS)}")
            if not isinstance(given, Mapping) or not all(isinstance(one, str | int | float) for one in given.values()):
                raise InputError(f"provider_options.{name} is {given!r}; it should be a table of texts and numbers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How the server serves its models.

    Attributes
    ----------
    max_pending_bytes
        Bytes of inputs that wait or run at most, of all models.
    reload_seconds
        How often repository folders are looked at for changes; 0 is never.
    models
        Settings by model name, as `ModelSettings` names them; ``*`` is for every model.
    callers
        Who may do what; where there are none, everybody may do all.
    """

    max_pending_bytes: int = 512 * 2**20
    reload_seconds: float = 0.0
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    callers: tuple[Caller, ...] = ()

    def __post_init__(self) -> None:
        if not _is_int(self.max_pending_bytes) or self.max_pending_bytes < 1:
            raise InputError(f"max_pending_bytes is {self.max_pending_bytes!r}; it should be at least 1")
        if not isinstance(self.reload_seconds, int | float) or not self.reload_seconds >= 0:
            raise InputError(f"reload_seconds is {self.reload_seconds!r}; it should be 0 or more")
        for name in self.models:
            self.of(name)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a configuration file (TOML).

        Raises
        ------
        InputError
            It is not there, or something in it is unknown or out of range; the message says what.
        StorageError
            A file that it names cannot be read.
        """
        try:
            values = tomllib.loads(_text(path))
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{path}: {error}") from error
        models = values.get("models", {})
        if not isinstance(models, dict) or not all(isinstance(value, dict) for value in models.values()):
            raise InputError(f"{path}: models should be tables, as [models.NAME]")
        try:
            _check_names(values, cls)
            values["models"] = {name: _from_folder(model, path.parent) for name, model in models.items()}
            return cls(**{**values, "callers": callers_from(values.get("callers", {}), path.parent)})
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def of(self, name: str, own: Mapping[str, Any] | None = None) -> ModelSettings:
        """Return the settings of a model.

        Parameters
        ----------
        name
            The model.
        own
            What its own configuration says.

        Raises
        ------
        InputError
            A setting is unknown or out of range.
        """
        merged = {**self.models.get("*", {}), **(own or {}), **self.models.get(name, {})}
        _check_names(merged, ModelSettings)
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in merged.items()}
        try:
            if "routing" in values:
                values["routing"] = Routing.of(values["routing"])
            return ModelSettings(**values)
        except InputError as error:
            raise InputError(f"model {name}: {error}") from error


def _from_folder(settings: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Return settings whose paths are no longer relative."""
    table = settings.get("table")
    return {**settings, "table": str(folder.resolve() / table)} if table and isinstance(table, str) else settings


def read_model_config(path: Path, name: str) -> dict[str, Any]:
    """Return the settings in a model's ``config.pbtxt``; fields that are not known here are passed over.

    Read are ``max_batch_size`` (0: each request runs alone), ``instance_group`` (counts; ``KIND_GPU`` puts CUDA
    before the processor), ``version_policy``, and the ``parameters`` that are named as `ModelSettings` has them.

    Raises
    ------
    InputError
        It cannot be read, or names another model.
    """
    config = _model_config(path)
    if config.name not in ("", name):
        raise InputError(f"{path} is of a model {config.name!r}, in the folder of {name}")
    settings: dict[str, Any] = {}
    if "max_batch_size" in _text(path):
        settings["max_batch"] = max(1, config.max_batch_size)
    if config.instance_group:
        settings["instances"] = sum(max(1, group.count) for group in config.instance_group)
        if any(group.kind == _KIND_GPU for group in config.instance_group):
            settings["providers"] = ("cuda", "cpu")
    policy = config.version_policy
    match policy.WhichOneof("policy_choice"):
        case "latest":
            settings["versions"] = max(1, policy.latest.num_versions)
        case "all":
            settings["versions"] = "all"
        case "specific":
            settings["versions"] = tuple(map(str, policy.specific.versions))
    known = {one.name for one in fields(ModelSettings)} - {"versions"}
    for key, parameter in config.parameters.items():
        if key in known:
            settings[key] = _parameter(path, key, parameter.string_value)
    return settings


def labels_file(path: Path) -> Path | None:
    """Return the file of class names that a model's ``config.pbtxt`` names for an output, the first; None for none.

    Raises
    ------
    InputError
        The configuration cannot be read, or names a file elsewhere than in the model's folder.
    """
    for output in _model_config(path).output:
        if output.label_filename:
            if Path(output.label_filename).name != output.label_filename:
                raise InputError(f"{path}: label_filename is {output.label_filename[:80]!r}; it should be beside it")
            return path.parent / str(output.label_filename)
    return None


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the class names of a file, one a line; raise `InputError` where it cannot be read."""
    return tuple(_text(path).splitlines())


def _model_config(path: Path) -> Any:
    config = _ModelConfig()
    try:
        text_format.Parse(_text(path), config, allow_unknown_field=True, descriptor_pool=messages.POOL)
    except text_format.ParseError as error:
        raise InputError(f"{path}: {one_line(error)}") from error
    return config


_KIND_GPU = messages.POOL.FindEnumTypeByName("inference.ModelInstanceGroup.Kind").values_by_name["KIND_GPU"].number


def _parameter(path: Path, key: str, value: str) -> object:
    if key in ("routing", "provider_options"):
        try:
            return tomllib.loads(value)
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{path}: parameter {key}: {error}") from error
    if key == "table":
        return value
    if key == "providers":
        return tuple(part.strip() for part in value.split(",") if part.strip())
    try:
        return float(value) if key.endswith("_seconds") else int(value)
    except ValueError:
        raise InputError(f"{path}: parameter {key} is {value[:40]!r}; it should be a number") from None


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path} is too large for a configuration file")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no text'}") from error


def _check_names(values: Mapping[str, Any], record: type[Any]) -> None:
    known = [one.name for one in fields(record)]
    for name in values:
        if name not in known:
            raise InputError(f"there is no setting {name!r}; there are {', '.join(known)}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, str) for one in value)
