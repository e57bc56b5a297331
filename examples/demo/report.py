"""Step 8: what was measured as ``report.json``, as a table, and as one self-contained page."""

from __future__ import annotations

import html
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["Promise", "page", "promises", "rows", "versions"]

PACKAGES = (
    *("edge-sdk", "numpy", "tensorflow", "keras", "ai-edge-litert", "onnxruntime"),
    *("grpcio", "tuf", "paho-mqtt", "iotcore"),
)

FAULTS = {
    "server_kill": "The server is killed and comes back",
    "update_while_running": "Version 2 is shipped while predictions run",
    "bad_version": "Version 3 is shipped, whose golden outputs do not hold",
    "tampered": "A bundle is shipped that was changed after signing",
}


@dataclass(frozen=True, slots=True)
class Promise:
    """Something that was promised, whether it held, and what was seen."""

    text: str
    held: bool
    seen: str


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that did the work; those not there are left out."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def promises(report: Mapping[str, Any]) -> list[Promise]:
    """Judge a report by what the demo promises."""
    certificate, faults = report["certificate"], report["faults"]
    made = [
        Promise(
            f"At most {certificate['max_accuracy_loss']:.1%} of inputs are harmed by being kept on the edge",
            report["loss_lower_bound"] <= certificate["max_accuracy_loss"],
            f"{report['realised_loss']:.2%} realised on {report['n_test']} test inputs "
            f"(99.9 % lower bound {report['loss_lower_bound']:.2%})",
        ),
        Promise(
            "A device with nothing but a pinned root receives and runs version 1",
            report["ota"]["versions"][:1] == ["1.0.0"],
            f"{report['ota']['bytes']:,} bytes in {report['ota']['seconds']:.1f} s",
        ),
    ]
    for name, fault in faults.items():
        made.append(
            Promise(
                f"{FAULTS[name]}: every call is answered within its deadline",
                0 < fault["calls"] == fault["answered"] == fault["in_deadline"],
                f"{fault['in_deadline']} of {fault['calls']} calls"
                + f" ({fault['withheld']} later, by no more than other programs had the processor)"
                * bool(fault["withheld"]),
            )
        )
    kill, update = faults["server_kill"], faults["update_while_running"]
    made += [
        Promise(
            "While the server is away, reasons say offline or deadline; when it is back, escalation resumes",
            kill["outcome"] == "resumed" and kill["unreachable"] > 0,
            f"{kill['unreachable']} calls said so; {kill['outcome']}",
        ),
        Promise("Version 2 takes over while predictions run", update["outcome"] == "active", update["outcome"]),
    ]
    for name in ("bad_version", "tampered"):
        fault = faults[name]
        made.append(
            Promise(
                f"{FAULTS[name]}: it is not run, and the device stays on version 2",
                fault["outcome"] in ("refused", "rolled_back") and fault["versions"] == ["2.0.0"],
                f"{fault['outcome'].replace('_', ' ')}: {fault['reason']}",
            )
        )
    return made


def rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the main figures as (what, value), for a table."""
    accuracy, latency, sizes, certificate = (report[key] for key in ("accuracy", "latency_ms", "sizes", "certificate"))
    return [
        ("accuracy, edge alone", f"{accuracy['edge']:.2%}"),
        ("accuracy, cloud alone", f"{accuracy['cloud']:.2%}"),
        ("accuracy, hybrid", f"{accuracy['hybrid']:.2%}"),
        ("answered on the device", f"{report['local_share']:.1%}"),
        (
            "certified loss",
            (
                f"≤ {certificate['max_accuracy_loss']:.1%} at {certificate['confidence']:.0%} confidence "
                f"(from {certificate['n']} samples)"
            ),
        ),
        ("realised loss", f"{report['realised_loss']:.2%}"),
        *(
            (f"latency, {mode}", ", ".join(f"{p} {latency[mode][p]:.2f}" for p in ("p50", "p95", "p99")) + " ms")
            for mode in ("edge", "cloud", "hybrid")
        ),
        ("bytes sent, hybrid", f"{report['bytes_sent']['hybrid']:,} (cloud alone {report['bytes_sent']['cloud']:,})"),
        ("teacher", f"{sizes['teacher_bytes']:,} bytes"),
        ("student", f"{sizes['student_bytes']:,} bytes (bundle {sizes['bundle_bytes']:,})"),
        ("first update", f"{report['ota']['bytes']:,} bytes in {report['ota']['seconds']:.1f} s"),
    ]


def page(report: Mapping[str, Any], plots: Sequence[tuple[str, str, str]]) -> str:
    """Return the report as one HTML page that needs nothing else.

    Parameters
    ----------
    report
        The content of ``report.json``.
    plots
        (heading, caption, SVG) each.
    """
    made = promises(report)
    kept = all(promise.held for promise in made)
    figures = "".join(f"<tr><th>{_text(key)}</th><td>{_text(value)}</td></tr>" for key, value in rows(report))
    verdicts = "".join(
        f"<tr class='{'held' if p.held else 'broken'}'><td>{'✓' if p.held else '✗'}</td>"
        f"<th>{_text(p.text)}</th><td>{_text(p.seen)}</td></tr>"
        for p in made
    )
    drawn = "".join(
        f"<figure><h2>{_text(heading)}</h2><div class='plot'>{svg}</div>"
        f"<figcaption>{_text(caption)}</figcaption></figure>"
        for heading, caption, svg in plots
    )
    used = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    verdict = "Every promise held" if kept else "A promise was broken"
    return _PAGE.format(
        title=f"edge-sdk demo: {_text(report['data'])}",
        verdict=verdict,
        tone="held" if kept else "broken",
        summary=_text(
            f"{report['n_test']} test inputs of {report['data']}: {report['local_share']:.0%} answered on the device, "
            f"{report['accuracy']['hybrid']:.1%} right, against {report['accuracy']['edge']:.1%} for the edge alone "
            f"and {report['accuracy']['cloud']:.1%} for the cloud alone."
        ),
        figures=figures,
        verdicts=verdicts,
        plots=drawn,
        versions=_text(used),
        seconds=f"{report['seconds']:.0f}",
    )


def shown(path: Path) -> str:
    """Return a path as people would type it from where they are."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _text(value: object) -> str:
    return html.escape(str(value))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  :root {{ color-scheme: light; }}
  body {{ font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; max-width: 62rem;
         margin: 2rem auto; padding: 0 1rem; }}
  h1 {{ font-size: 1.6rem; margin: 0 0 .25rem; }}
  h2 {{ font-size: 1.15rem; margin: 2.5rem 0 .5rem; }}
  .verdict {{ display: inline-block; padding: .15rem .7rem; border-radius: 1rem; font-weight: 600; }}
  .verdict.held {{ background: #d9f2e6; color: #00573d; }}
  .verdict.broken {{ background: #fbe0d4; color: #8a2f00; }}
  table {{ border-collapse: collapse; width: 100%; }}
  th, td {{ text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid #e6e8eb; vertical-align: top; }}
  th {{ font-weight: 500; }}
  td {{ font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
  tr.held td:first-child {{ color: #007a56; }}
  tr.broken td, tr.broken th {{ color: #b03a00; }}
  figure {{ margin: 0; }}
  .plot {{ overflow-x: auto; }}
  .plot svg {{ width: 100%; min-width: 34rem; height: auto; }}
  figcaption, footer {{ color: #57606a; font-size: .9rem; }}
  footer {{ margin: 3rem 0 1rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p><span class="verdict {tone}">{verdict}</span></p>
<p>{summary}</p>
<h2>What was promised</h2>
<table id="promises">{verdicts}</table>
<h2>What was measured</h2>
<table id="figures">{figures}</table>
{plots}
<footer>Measured in one run of {seconds} s with {versions}.</footer>
</body>
</html>
"""
