"""The demo from data to report; ``command`` is its face."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk import canonical, datasets
from edge_sdk.cascade.policy import Policy
from edge_sdk.examples.demo import pipeline, plots, records, report
from edge_sdk.examples.demo.device import save_images
from edge_sdk.examples.demo.faults import Broken, break_things
from edge_sdk.examples.demo.fleet import Fleet, Update, check_broker
from edge_sdk.examples.demo.measure import Sweeps, percentiles, window
from edge_sdk.examples.demo.records import REASONS, SOURCES
from edge_sdk.files import write_durably

__all__ = ["DEADLINE", "check_input", "run_demo"]

DEADLINE = 0.250  # seconds an app here waits for an answer at most
FAULT_SECONDS, FAULT_SECONDS_QUICK = 6.0, 3.0
SWEEP_SECONDS = 600.0

Progress = Callable[[str, int, int], None]


def check_input(data: str, *, seed: int, broker: str | None) -> datasets.Splits:
    """Load the data, and refuse what the demo would fail on later; nothing is written or removed.

    Raises
    ------
    EdgeSdkError
        The data or the broker cannot be used, or there is too little data to certify.
    """
    if broker is not None:
        check_broker(broker)
    splits = datasets.load_splits(data, seed=seed)
    pipeline.check_enough(splits)
    return splits


def run_demo(
    splits: datasets.Splits, out: Path, *, seed: int, quick: bool, broker: str | None, on_progress: Progress
) -> dict[str, Any]:
    """Do the main job end to end and return the report, which is also written into ``out``.

    Parameters
    ----------
    splits
        What `check_input` loaded.
    out
        Folder for everything that is made, made ready by `workspace.prepare`.
    seed
        Of splits, training and compression.
    quick
        Train and break things for less long.
    broker
        URL of an MQTT 5 broker; None starts the embedded one.
    on_progress
        Called with (stage, done, total).

    Raises
    ------
    EdgeSdkError
        The data, the folder or the broker cannot be used. Every process has ended by then.
    """
    begun = time.monotonic()
    models = pipeline.build(splits, out / "models", seed=seed, quick=quick, on_progress=on_progress)
    images = out / "records" / "test.npz"
    save_images(images, splits.test.images)
    policy = Policy.from_json(models.first.manifest.cascade or {})

    with Fleet(out, _path(models.cloud), broker) as fleet:
        on_progress("ship version 1.0.0", 0, 1)
        shipped = fleet.ship(_path(models.first))
        on_progress("ship version 1.0.0", 1, 1)
        app = fleet.start_app(images, DEADLINE)
        swept: dict[str, NDArray[np.void]] = {}
        sent: dict[str, int] = {}
        for number, mode in enumerate(("edge", "cloud", "hybrid")):
            on_progress(f"run the test split: {mode}", number, 3)
            file = out / "records" / f"{mode}.npy"
            reply = app.ask({"do": "sweep", "mode": mode, "out": str(file)}, timeout=SWEEP_SECONDS)
            swept[mode], sent[mode] = records.read(file), int(reply["bytes_sent"])
        on_progress("run the test split", 3, 3)

        stream = out / "records" / "stream.npy"
        app.ask({"do": "stream", "out": str(stream)}, timeout=60)
        done = 0

        def note(text: str) -> None:
            nonlocal done
            on_progress(f"break things: {text}", done, 5)
            done += 1

        broken = break_things(
            fleet,
            _path(models.second),
            _path(models.bad),
            _path(models.tampered),
            seconds=FAULT_SECONDS_QUICK if quick else FAULT_SECONDS,
            on_progress=note,
        )
        app.ask({"do": "stop"}, timeout=60)
        on_progress("break things", 5, 5)

    sweeps = Sweeps(swept["edge"], swept["cloud"], swept["hybrid"], splits.test.labels)
    rows = records.read(stream)
    result = _report(splits.spec, seed, quick, models, sweeps, sent, shipped, broken, rows)
    result["seconds"] = time.monotonic() - begun
    result["promises"] = [{"text": p.text, "held": p.held, "seen": p.seen} for p in report.promises(result)]
    write_durably(out / "report.json", canonical.dumps(result))
    write_durably(out / "report.html", report.page(result, _plots(sweeps, policy, rows, broken)).encode())
    return result


def _report(
    data: str,
    seed: int,
    quick: bool,
    models: pipeline.Models,
    sweeps: Sweeps,
    sent: dict[str, int],
    shipped: Update,
    broken: Broken,
    rows: NDArray[np.void],
) -> dict[str, Any]:
    loss = sweeps.loss()
    policy = models.first.manifest.cascade or {}
    certificate = policy["certificate"]
    versions = [u.version for u in (shipped, *broken.updates.values()) if u.state == "active"]
    return {
        "data": data,
        "seed": seed,
        "quick": quick,
        "n_test": len(sweeps.labels),
        "accuracy": sweeps.accuracy,
        "local_share": float(sweeps.local.mean()),
        "certificate": {
            "max_accuracy_loss": certificate["max_accuracy_loss"],
            "confidence": certificate["confidence"],
            "n": certificate["n"],
            "threshold": policy["threshold"],
        },
        "realised_loss": loss["realised_loss"],
        "loss_lower_bound": loss["lower_bound"],
        "latency_ms": {mode: percentiles(getattr(sweeps, mode)["latency_ms"]) for mode in ("edge", "cloud", "hybrid")},
        "deadline_ms": DEADLINE * 1e3,
        "bytes_sent": sent,
        "sizes": {
            "teacher_bytes": models.cloud.manifest.artifacts[0].size,
            "student_bytes": models.first.manifest.artifacts[0].size,
            "bundle_bytes": _path(models.first).stat().st_size,
        },
        "compression": models.report.to_dict() | {"bundle": models.report.bundle.name},
        "precision": models.policy,
        "ota": {"seconds": shipped.seconds, "bytes": shipped.bytes, "versions": versions},
        "faults": _faults(rows, broken),
        "versions": report.versions(),
    }


def _faults(rows: NDArray[np.void], broken: Broken) -> dict[str, Any]:
    faults = {name: window(rows, *span, DEADLINE) for name, span in broken.windows.items()}
    kill = faults["server_kill"]
    escalated = (rows["at"] >= broken.server_back) & (rows["reason"] == REASONS.index("escalated"))
    within = escalated & (rows["at"] < broken.windows["server_kill"][1])
    kill["outcome"] = "resumed" if within.any() else "not resumed"
    kill["unreachable"] = sum(kill["reasons"].get(reason, 0) for reason in ("offline", "breaker", "deadline"))
    if within.any():
        kill["resumed_after_seconds"] = float(rows["at"][within][0] - broken.server_back)
    for name, update in broken.updates.items():
        faults[name] |= {
            "outcome": update.state,
            "reason": update.reason,
            "version": update.version,
            "seconds": update.seconds,
            "bytes": update.bytes,
        }
    return faults


def _plots(sweeps: Sweeps, policy: Policy, rows: NDArray[np.void], broken: Broken) -> list[tuple[str, str, str]]:
    hybrid = sweeps.hybrid
    by_source = {
        f"hybrid, answered by the {name}": hybrid["latency_ms"][hybrid["source"] == SOURCES.index(name)]
        for name in ("edge", "cloud")
    }
    start = float(rows["at"][0])
    return [
        (
            "Accuracy against share escalated",
            "Every point of a line is another threshold. The oracle knows which answers are right; random asks by lot.",
            plots.accuracy_plot(sweeps.curves(policy), 1 - float(sweeps.local.mean()), sweeps.accuracy["hybrid"]),
        ),
        (
            "Latency by who answered",
            "Cumulative, on a logarithmic axis: further left is faster.",
            plots.latency_plot({"edge alone": sweeps.edge["latency_ms"], **by_source}, DEADLINE * 1e3),
        ),
        (
            "What was broken, and what the app saw of it",
            "Each dot is one call. A vertical line is something that was done to the fleet, or what came of it.",
            plots.timeline_plot(rows, start, [(at - start, text) for at, text in broken.events], DEADLINE * 1e3),
        ),
    ]


def _path(bundle: Any) -> Path:
    assert bundle.path is not None  # every bundle here was written to a file
    return Path(bundle.path)
