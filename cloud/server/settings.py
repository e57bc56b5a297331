"""How models are served: what a configuration file may say of one, and of the server as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from edge_sdk.errors import InputError

__all__ = ["Limits", "ModelSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """How one model is served.

    Attributes
    ----------
    max_batch
        Items that run together at most; None tries up to 64, 1 runs each alone.
    instances
        Threads that run the model at a time.
    threads
        Of the runtime, for one inference.
    providers
        Execution providers of ONNX Runtime in the order to be tried: ``cpu``, ``cuda``, ``tensorrt``,
        ``openvino`` or ONNX Runtime's own names. Empty leaves it to ONNX Runtime.
    max_queue
        Requests that wait at most.
    default_priority
        Of requests that name none; 1 goes first.
    hang_seconds
        A run that takes longer is given up, and the model is not ready until it returns.
    """

    max_batch: int | None = None
    instances: int = 1
    threads: int = 1
    providers: tuple[str, ...] = ()
    max_queue: int = 256
    default_priority: int = 2
    hang_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_batch", "instances", "threads", "max_queue", "default_priority"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; it should be at least 1")
        if not self.hang_seconds > 0:
            raise InputError(f"hang_seconds is {self.hang_seconds}; it should be more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the server as a whole.

    Attributes
    ----------
    max_pending_bytes
        Bytes of inputs that wait or run, of all models.
    """

    max_pending_bytes: int = 512 * 2**20
