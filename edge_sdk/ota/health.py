"""The health probe: a new version must answer on this device as it did where it was packed."""

from __future__ import annotations

from typing import Any

from edge_sdk.bundle import Bundle
from edge_sdk.errors import HealthError
from edge_sdk.verification import verify

__all__ = ["probe"]


def probe(bundle: Bundle) -> dict[str, Any]:
    """Run a bundle's golden examples through its processing and model on this device.

    Returns
    -------
    dict
        What was measured, as `edge_sdk.verification.verify` reports it.

    Raises
    ------
    HealthError
        An output or a processed tensor is not as stored, or the model cannot be run at all.
    """
    try:
        return dict(verify(bundle))
    except Exception as error:  # a runtime may raise anything on a bad model; none of it may end the agent
        raise HealthError(f"{bundle.manifest.name}-{bundle.manifest.version} is not healthy: {error}") from error
