"""The answer of a model that estimates numbers, or that embeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_sdk.types.prediction import Prediction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Tensors"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tensors(Prediction):
    """The outputs of a model that estimates numbers, or that embeds, as they are.

    ``answer[0]`` is the first output, ``answer["name"]`` the one of that name.

    Attributes
    ----------
    outputs
        Float32 arrays by name, dequantized, without the batch axis; they cannot be written to.
    """

    outputs: Mapping[str, NDArray[np.float32]]

    def __getitem__(self, key: str | int) -> NDArray[np.float32]:
        return self.outputs[key] if isinstance(key, str) else list(self.outputs.values())[key]

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values; arrays become lists."""
        return {
            "outputs": {name: values.tolist() for name, values in self.outputs.items()},
            **Prediction.to_dict(self),
        }
