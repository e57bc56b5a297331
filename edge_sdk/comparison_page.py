"""Comparisons of routers as pictures: a PNG, and an HTML page that needs nothing else."""

from __future__ import annotations

import html
import importlib.util
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edge_sdk.comparison import HEADINGS, Comparison, thinned
from edge_sdk.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["needs_matplotlib", "page", "picture"]

# Okabe and Ito's palette, which people of any colour vision can tell apart; chance and the oracle are dashed
_STYLES = {
    "random": ("#767676", "--", 1.2),
    "oracle": ("#009E73", "--", 1.2),
    "max_probability": ("#0072B2", "-", 1.8),
    "margin": ("#56B4E9", "-", 1.3),
    "entropy": ("#E69F00", "-", 1.3),
    "energy": ("#CC79A7", "-", 1.3),
    "learned": ("#D55E00", "-", 2.2),
}
_MARKERS = "osDv^"
_LOOK: Any = {  # matplotlib types each key apart
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


def needs_matplotlib() -> None:
    """Raise `MissingExtraError` where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "demo")


def picture(comparisons: Sequence[Comparison]) -> bytes:
    """Return all curves as one PNG: a row a pair, accuracy against the share escalated and against bytes sent."""
    stream = io.BytesIO()
    _figure(comparisons).savefig(stream, format="png", dpi=120)
    return stream.getvalue()


def page(title: str, comparisons: Sequence[Comparison]) -> str:
    """Return the curves and tables as one HTML page that needs nothing else.

    Raises
    ------
    MissingExtraError
        Matplotlib is not installed.
    """
    needs_matplotlib()
    sections = "".join(_section(comparison) for comparison in comparisons)
    return _PAGE.format(title=html.escape(title), sections=sections)


def _section(comparison: Comparison) -> str:
    stream = io.StringIO()
    _figure([comparison], titled=False).savefig(
        stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    svg = stream.getvalue()
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in HEADINGS)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in (*row, *("",) * (len(HEADINGS) - len(row))))
        + "</tr>"
        for row in comparison.rows()
    )
    rules = "".join(
        f"<tr><td>{html.escape(point.name)}</td><td>{point.escalated:.1%}</td><td>{point.accuracy:.2%}</td>"
        f"<td>{point.harm:.2%}</td><td>{'' if point.sent is None else f'{point.sent:,.0f}'}</td></tr>"
        for point in comparison.points
    )
    sent = f"; sent as {html.escape(comparison.encoding)}" if comparison.encoding else ""
    return (
        f"<section><h2>{html.escape(comparison.name)}</h2>"
        f"<p>{comparison.n:,} test inputs; the edge alone {comparison.edge:.2%} right, "
        f"the cloud alone {comparison.cloud:.2%}{sent}.</p>"
        f"<div class='wide plot'>{svg[svg.index('<svg') :]}</div>"
        f"<div class='wide'><table class='routers'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        "<div class='wide'><table class='rules'><thead><tr><th>rule with a fixed threshold</th><th>escalated</th>"
        f"<th>accuracy</th><th>harmed</th><th>bytes an input</th></tr></thead><tbody>{rules}</tbody></table></div>"
        "</section>"
    )


def _figure(comparisons: Sequence[Comparison], *, titled: bool = True) -> Figure:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_LOOK):
        columns = 2 if any(comparison.encoding for comparison in comparisons) else 1
        figure = Figure(figsize=(5.8 * columns + 1.8, 4.4 * len(comparisons)), layout="constrained")
        grid = figure.subplots(len(comparisons), columns, squeeze=False)
        for axes, comparison in zip(grid, comparisons, strict=True):
            _draw(axes[0], comparison, against="share")
            axes[0].set(xlabel="inputs escalated to the cloud (%)", ylabel="accuracy of the pair (%)")
            if titled:
                axes[0].set_title(comparison.name, fontsize=10, loc="left")
            if comparison.encoding:
                _draw(axes[1], comparison, against="sent")
                axes[1].set(xlabel=f"bytes sent, mean over all inputs ({comparison.encoding})")
            elif columns == 2:
                axes[1].set_axis_off()
            handles, labels = axes[0].get_legend_handles_labels()
            axes[-1].legend(handles, labels, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _draw(axis: Axes, comparison: Comparison, *, against: str) -> None:
    scale = 100.0 if against == "share" else 1.0
    for router in comparison.routers:
        points = thinned(router)
        colour, line, width = _STYLES.get(router.name, ("#000000", ":", 1.2))
        label = router.name.replace("_", " ")
        axis.plot(scale * points[against], 100 * points["accuracy"], line, color=colour, linewidth=width, label=label)
    for marker, point in zip(_MARKERS, comparison.points, strict=False):
        at = point.escalated if against == "share" else point.sent
        if at is not None:
            axis.plot([scale * at], [100 * point.accuracy], marker, color="black", markersize=6, label=point.name)
    axis.axhline(100 * comparison.cloud, color="black", linewidth=0.8, alpha=0.4)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  :root {{ color-scheme: light; }}
  body {{ font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; max-width: 70rem;
         margin: 2rem auto; padding: 0 1rem; }}
  h1 {{ font-size: 1.6rem; margin: 0 0 .25rem; }}
  h2 {{ font-size: 1.2rem; margin: 2.5rem 0 .25rem; }}
  p {{ max-width: 48rem; }}
  .wide {{ overflow-x: auto; margin: .75rem 0 1.25rem; }}
  .plot svg {{ width: 100%; min-width: 40rem; height: auto; }}
  table {{ border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }}
  th, td {{ text-align: right; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid #e6e8eb; white-space: nowrap; }}
  th:first-child, td:first-child {{ text-align: left; }}
  th {{ font-weight: 500; color: #57606a; }}
  dt {{ font-weight: 600; }} dd {{ margin: 0 0 .5rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>The edge answers, and asks the cloud about some inputs. What decides which ones? Each curve is a router: up is
better, left is cheaper. The thin line is the cloud alone.</p>
{sections}
<h2>What the columns say</h2>
<dl>
<dt>10 % … 50 %</dt><dd>Accuracy of the pair if so many inputs are escalated, least sure first.</dd>
<dt>needed</dt><dd>The smallest share escalated at which the pair is as accurate as the cloud alone.</dd>
<dt>AURC, AUGRC, E-AURC</dt><dd>How well a signal tells right from wrong answers of the edge alone; lower is better.
What is learned ranks by what asking the cloud gains, and is no judge of that.</dd>
<dt>harmed</dt><dd>Kept on the edge, wrong there, and right in the cloud; as a share of all inputs.</dd>
</dl>
</body>
</html>
"""
