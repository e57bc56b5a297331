from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__all__ = ["LogMel", "LogMelStream", "path", "paths", "use_path"]

def path() -> str: ...
def paths() -> tuple[str, ...]: ...
def use_path(name: str) -> None: ...

@final
class LogMel:
    frame_length: int
    frame_step: int
    columns: int
    def __init__(
        self,
        *,
        sample_rate: float,
        frame_length: int,
        frame_step: int,
        fft_length: int,
        mels: int,
        low_hz: float,
        high_hz: float,
        floor: float = 1e-6,
        mfcc: int = 0,
        power: float = 2.0,
    ) -> None: ...
    @property
    def window(self) -> NDArray[np.float32]: ...
    @property
    def weights(self) -> NDArray[np.float32]: ...
    def frames(self, samples: int) -> int: ...
    def __call__(
        self,
        x: NDArray[np.float32] | NDArray[np.int16],
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]: ...
    def stream(self) -> LogMelStream: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

@final
class LogMelStream:
    def __init__(self, log_mel: LogMel) -> None: ...
    def push(self, x: NDArray[np.float32] | NDArray[np.int16]) -> NDArray[np.float32]: ...
    def reset(self) -> None: ...
