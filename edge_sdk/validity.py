"""Validity: whether the certificate that a bundle carries was given to the model that runs here."""

from __future__ import annotations

import logging
from dataclasses import replace

from edge_sdk.bundle import Manifest
from edge_sdk.cascade.policy import Policy
from edge_sdk.errors import CertificateError
from edge_sdk.processing import ProcessingSpec

__all__ = ["certified_for", "not_certified_for", "policy_of"]

logger = logging.getLogger("edge_sdk.model")


def policy_of(manifest: Manifest, delegate: str | None) -> Policy | None:
    """Return the policy of a bundle, without its certificate unless that was given to what runs here.

    Raises
    ------
    CertificateError
        The policy cannot be read, or cannot judge the answers of the bundle's task.
    """
    if manifest.cascade is None:
        return None
    policy = Policy.from_json(manifest.cascade)
    if manifest.task not in ("classification", "detection") or (manifest.task == "detection") != (
        policy.signal == "detections"
    ):
        raise CertificateError(
            f"{manifest.name} {manifest.version}: a policy on {policy.signal} cannot judge the answers of a task "
            f"{manifest.task}"
        )
    other = not_certified_for(policy, manifest, delegate)
    if not other:
        return policy
    logger.warning(
        "%s %s: its certificate is for another %s, and void", manifest.name, manifest.version, " and ".join(other)
    )
    return replace(policy, certificate=None)


def not_certified_for(policy: Policy, manifest: Manifest, delegate: str | None = None) -> list[str]:
    """Return what of an edge model is another than a policy's certificate is for; empty without a certificate."""
    if policy.certificate is None:
        return []
    here = certified_for(manifest, delegate)
    named = {"edge_model": "", **policy.certificate.validity}  # a certificate must name its model
    return [key.replace("_", " ") for key, value in here.items() if named.get(key, value) != value]


def certified_for(manifest: Manifest, delegate: str | None = None) -> dict[str, str]:
    """Return what the certificate of an edge model holds for, as a device can tell: a change of any voids it."""
    return {
        "edge_model": manifest.model_digest,
        "processing": ProcessingSpec.from_json(manifest.processing).digest,
        "runtime": manifest.artifacts[0].runtime,
        "delegate": delegate or "default",
    }
