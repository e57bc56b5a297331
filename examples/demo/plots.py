"""The plots of the report, drawn by matplotlib as SVG that is put into the page as it is."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edge_sdk.cascade.evaluation import Curve
from edge_sdk.examples.demo.records import REASONS, SOURCES

__all__ = ["Event", "accuracy_plot", "latency_plot", "timeline_plot"]

Event = tuple[float, str]
"""Seconds since the timeline began, and what happened then."""

# Okabe and Ito's palette: told apart with any kind of colour vision
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"
_STYLE: Any = {  # matplotlib types each key apart
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "edge-sdk",
}


def accuracy_plot(curves: Mapping[str, Curve], share: float, accuracy: float) -> str:
    """Accuracy against share escalated, with our operating point; returns SVG."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
        colours = {"random": _GREY, "oracle": _GREEN}
        for name, curve in curves.items():
            style = "--" if name in colours else "-"
            axes.plot(100 * curve.share, 100 * curve.accuracy, style, color=colours.get(name, _BLUE), label=name)
        axes.plot([100 * share], [100 * accuracy], "o", color=_RED, markersize=9, label="this run, certified", zorder=5)
        axes.set_xlabel("inputs escalated to the cloud (%)")
        axes.set_ylabel("accuracy (%)")
        axes.legend(loc="lower right")
        return _svg(figure)


def latency_plot(runs: Mapping[str, NDArray[np.float64]], deadline_ms: float) -> str:
    """Cumulative distributions of latency by who answered; returns SVG."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
        for (name, values), colour in zip(runs.items(), (_BLUE, _ORANGE, _GREEN, _RED), strict=False):
            if len(values):
                ordered = np.sort(values)
                share = 100 * np.arange(1, len(ordered) + 1) / len(ordered)
                axes.step(ordered, share, where="post", color=colour, label=f"{name} ({len(values)} calls)")
        axes.axvline(deadline_ms, color=_RED, linestyle=":", label=f"deadline, {deadline_ms:.0f} ms")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("latency of a call (ms)")
        axes.set_ylabel("calls answered by then (%)")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
        return _svg(figure)


def timeline_plot(rows: NDArray[np.void], start: float, events: Sequence[Event], deadline_ms: float) -> str:
    """Every call of the stream by time and latency, coloured by what became of it; returns SVG."""
    kinds = {
        "edge, confident": (_is(rows, "edge", "confident"), _BLUE),
        "cloud, escalated": (_is(rows, "cloud", "escalated"), _ORANGE),
        "edge, offline": (_is(rows, "edge", "offline", "breaker"), _RED),
        "edge, deadline": (_is(rows, "edge", "deadline"), "#CC79A7"),
    }
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(10, 5.2), layout="constrained")
        when = rows["at"] - start
        shown = np.zeros(len(rows), dtype=bool)
        for name, (mask, colour) in kinds.items():
            _dots(axes, when[mask], rows["latency_ms"][mask], colour, name)
            shown |= mask
        if not shown.all():
            _dots(axes, when[~shown], rows["latency_ms"][~shown], _GREY, "other")
        axes.axhline(deadline_ms, color=_RED, linestyle=":", linewidth=1)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("seconds")
        axes.set_ylabel("latency of a call (ms)")
        for at, text in events:
            axes.axvline(at, color="black", linewidth=0.8, alpha=0.6)
            axes.annotate(
                text,
                (at, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(3, 4),
                textcoords="offset points",
                rotation=35,
                fontsize=8.5,
            )
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=5, markerscale=4)
        return _svg(figure)


def _is(rows: NDArray[np.void], source: str, *reasons: str) -> NDArray[np.bool_]:
    numbers = [REASONS.index(reason) for reason in reasons]
    return np.asarray((rows["source"] == SOURCES.index(source)) & np.isin(rows["reason"], numbers))


def _dots(axes: Axes, x: NDArray[Any], y: NDArray[Any], colour: str, name: str) -> None:
    if not len(x):
        return
    # thousands of points would make the page megabytes: these few layers are drawn as one picture
    axes.plot(x, y, ".", markersize=2.5, color=colour, alpha=0.7, label=f"{name} ({len(x)})", rasterized=True)


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", dpi=140, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    plt.close(figure)
    text = stream.getvalue()
    return text[text.index("<svg") :]
