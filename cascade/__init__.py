"""When to trust the edge: signals, calibration, certificate, policy. Pure functions on arrays."""

from edge_sdk.cascade.certificate import Tuning, certify, samples_needed, tune
from edge_sdk.cascade.policy import Certificate, Decision, Policy

__all__ = ["Certificate", "Decision", "Policy", "Tuning", "certify", "samples_needed", "tune"]
