"""When to trust the edge: signals, calibration, certificate, policy. Pure functions on arrays."""

from edge_sdk.cascade.certificate import Tuning, certify, tune
from edge_sdk.cascade.deferral import Head
from edge_sdk.cascade.detections import detection_loss
from edge_sdk.cascade.detector import certify_detector
from edge_sdk.cascade.policy import Certificate, Decision, Policy, Stratum
from edge_sdk.cascade.risk import certify_loss, samples_needed

__all__ = [
    "Certificate",
    "Decision",
    "Head",
    "Policy",
    "Stratum",
    "Tuning",
    "certify",
    "certify_detector",
    "certify_loss",
    "detection_loss",
    "samples_needed",
    "tune",
]
