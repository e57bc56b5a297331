"""Verification: a bundle's golden examples, computed again on this device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.bundle import Bundle, GoldenSet
from edge_sdk.errors import GoldenError, SkewError
from edge_sdk.model import EdgeModel

__all__ = ["verify"]


def verify(bundle: Bundle) -> dict[str, float]:
    """Prove that this device computes what the packing machine computed.

    Returns
    -------
    ``examples``, and the largest absolute differences ``processed_error`` (in the processed tensor's
    units) and ``output_error`` (in probability; for tasks other than classification, in units of the
    output, dequantized).

    Raises
    ------
    SkewError
        A processed tensor differs from the stored one beyond its tolerance.
    GoldenError
        A probability or an output does, or an answer has another shape.
    """
    golden, tolerance = GoldenSet.from_bundle(bundle), bundle.manifest.golden
    name = f"{bundle.manifest.name} {bundle.manifest.version}"
    allowed = tolerance.output_atols or (tolerance.output_atol,)
    processed_error = output_error = 0.0
    with EdgeModel(bundle) as model:
        for n, value in enumerate(golden.inputs):
            processed, outputs = model.golden(value)
            difference = _difference(processed, golden.processed[n])
            if not difference <= tolerance.processed_atol:
                raise SkewError(
                    f"{name}: processing of golden example {n} differs by {difference:.4g} "
                    f"from what was packed (at most {tolerance.processed_atol:.4g} is allowed)"
                )
            processed_error = max(processed_error, difference)
            for have, want, atol in zip(outputs, golden.outputs, allowed, strict=True):
                difference = _difference(have, want[n])
                if not difference <= atol:
                    raise GoldenError(
                        f"{name}: the answer to golden example {n} differs by {difference:.4g} "
                        f"from what was packed (at most {atol:.4g} is allowed)"
                    )
                output_error = max(output_error, difference)
    return {"examples": len(golden.inputs), "processed_error": processed_error, "output_error": output_error}


def _difference(have: NDArray[Any], want: NDArray[Any]) -> float:
    if have.shape != want.shape:
        return math.inf
    return float(np.abs(have.astype(np.float64) - want.astype(np.float64)).max())
