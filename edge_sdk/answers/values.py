"""The outputs of models that estimate or embed, to `Tensors`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.answers.base import Scored, Times, check_scale, finite, golden_of, spent
from edge_sdk.errors import ModelError
from edge_sdk.types import Tensors, TensorSpec

if TYPE_CHECKING:
    from edge_sdk.cascade.policy import Decision

__all__ = ["Valued", "Values"]


@dataclass(slots=True, eq=False)
class Valued(Scored):
    """What a model that estimates or embeds said.

    Attributes
    ----------
    outputs
        Float32 arrays by name, without the batch axis, read-only.
    """

    outputs: Mapping[str, NDArray[np.float32]]


class Values:
    """Every output as it is."""

    def __init__(self, who: str, outputs: tuple[TensorSpec, ...]) -> None:
        self._who, self._outputs = who, outputs
        names = [output.name for output in outputs]
        if len(set(names)) != len(names):
            raise ModelError(f"{who}: two outputs of the model have one name ({', '.join(names)})")
        for output in outputs:
            check_scale(who, output)
        self._nothing: NDArray[np.float32] = np.empty(0, np.float32)

    def read(self, raw: Sequence[NDArray[Any]], shape: tuple[int, ...] | None, times: Times) -> Valued:
        """Return the outputs, dequantized."""
        outputs = {}
        for output, array in zip(self._outputs, raw, strict=True):
            values = finite(self._who, array, output)
            if array.shape[:1] == (1,) and output.shape[0] in (1, -1):
                values = values[0]
            values.setflags(write=False)
            outputs[output.name] = values
        return Valued(self._nothing, *spent(times), MappingProxyType(outputs))

    def answer(self, scored: Scored, decision: Decision | None, **common: Any) -> Tensors:
        """Put them into the record that apps get."""
        assert isinstance(scored, Valued)
        return Tensors(outputs=scored.outputs, **common)

    def golden(self, raw: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """Return the outputs, thinned."""
        return golden_of(self._who, raw, self._outputs)
