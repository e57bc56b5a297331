"""When to trust the edge: signals, calibration, certificate, policy. Pure functions on arrays.

Names are loaded when they are first used: a device that only decides loads nothing of what certifies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_sdk._lazy import loader

if TYPE_CHECKING:
    from edge_sdk.cascade.certificate import Tuning, certify, tune
    from edge_sdk.cascade.deferral import Head
    from edge_sdk.cascade.detections import detection_loss
    from edge_sdk.cascade.detector import certify_detector
    from edge_sdk.cascade.policy import Certificate, Decision, Policy, Rung, Stratum
    from edge_sdk.cascade.risk import certify_loss, samples_needed

__all__ = [
    "Certificate",
    "Decision",
    "Head",
    "Policy",
    "Rung",
    "Stratum",
    "Tuning",
    "certify",
    "certify_detector",
    "certify_loss",
    "detection_loss",
    "samples_needed",
    "tune",
]

if not TYPE_CHECKING:  # or any name would pass for one that is there
    __getattr__ = loader(
        __name__,
        {
            "Certificate": "edge_sdk.cascade.policy",
            "Decision": "edge_sdk.cascade.policy",
            "Head": "edge_sdk.cascade.deferral",
            "Policy": "edge_sdk.cascade.policy",
            "Rung": "edge_sdk.cascade.policy",
            "Stratum": "edge_sdk.cascade.policy",
            "Tuning": "edge_sdk.cascade.certificate",
            "certify": "edge_sdk.cascade.certificate",
            "certify_detector": "edge_sdk.cascade.detector",
            "certify_loss": "edge_sdk.cascade.risk",
            "detection_loss": "edge_sdk.cascade.detections",
            "samples_needed": "edge_sdk.cascade.risk",
            "tune": "edge_sdk.cascade.certificate",
        },
    )
