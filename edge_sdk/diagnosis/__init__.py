"""What this device is and has: processor, packages, kernels, heat, memory, room, time."""

from __future__ import annotations

from pathlib import Path

from edge_sdk.diagnosis.findings import Finding
from edge_sdk.diagnosis.hardware import heat, machine, memory, processor
from edge_sdk.diagnosis.software import kernels, packages
from edge_sdk.diagnosis.surroundings import clock, disk, state_folder

__all__ = ["Finding", "examine"]

ROOT = Path("/")


def examine(root: Path = ROOT, state: Path | None = None) -> list[Finding]:
    """Look at this device.

    Parameters
    ----------
    root
        Where ``/proc`` and ``/sys`` are.
    state
        Folder of the update agent; not looked at by default, and the room then is that of `root`.
    """
    findings = [machine(), processor(root), *memory(root), *heat(root), kernels(), *packages()]
    if state is not None:
        findings.append(state_folder(state))
    return [*findings, *disk(state or root), clock(root)]
