"""The model card: what a person should know before using a model, from its manifest.

Markdown behind a YAML head, in the form that Hugging Face reads. Mitchell et al., "Model Cards for
Model Reporting", FAT* 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_sdk.bundle.manifest import Manifest

__all__ = ["CARD", "render"]

CARD = "MODEL_CARD.md"

_TAGS = {
    "classification": "image-classification",
    "detection": "object-detection",
    "regression": "tabular-regression",
    "embedding": "feature-extraction",
}


def render(manifest: Manifest) -> str:
    """Return the card of a bundle as Markdown."""
    artifact = manifest.artifacts[0]
    lines = [
        "---",
        f"pipeline_tag: {_TAGS[manifest.task]}",
        f"library_name: {artifact.runtime}",
        "---",
        "",
        f"# {manifest.name} {manifest.version}",
        "",
        f"A model for {manifest.task}: {artifact.precision}, {artifact.size:,} bytes, run by {artifact.runtime}.",
        *([f"It tells apart {len(manifest.labels)} classes: {_some(manifest.labels)}."] if manifest.labels else []),
        "",
        "## Intended use",
        "",
        "Inputs like those it was trained on. Answers for other inputs are not covered by any figure below.",
        "",
        "## What was measured",
        "",
        *(_rows(manifest.metrics) or ["Nothing was measured when it was packed."]),
        "",
        "## When it asks the cloud",
        "",
        *(_rows(manifest.cascade or {}) or ["No rule was made: the device answers alone."]),
        "",
        "## Where it comes from",
        "",
        *(_rows(manifest.lineage) or ["Its origin was not stated when it was packed."]),
        "",
        f"Model digest: `{manifest.model_digest}`",
        "",
    ]
    return "\n".join(lines)


def _some(labels: tuple[str, ...], limit: int = 20) -> str:
    return ", ".join(labels[:limit]) + (", …" if len(labels) > limit else "")


def _rows(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    rows: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _rows(value, f"{prefix}{key}.")
        else:
            rows.append(f"- {prefix}{key}: {f'{value:.6g}' if isinstance(value, float) else value}")
    return rows
