"""Pictures of the data: what the bars cover and what was found in them, and how time was split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.dates import date2num
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator
from matplotlib.transforms import IdentityTransform

from quantfleet.evaluation.report.charts import MOST_ROWS
from quantfleet.evaluation.report.inputs import SEGMENTS, ReportInputs
from quantfleet.evaluation.report.svg import (
    CHARACTER,
    WIDE,
    Chart,
    axes_at,
    clipped,
    date_axis,
    draw,
    new_figure,
    write,
)
from quantfleet.evaluation.report.text import as_time, count
from quantfleet.evaluation.report.theme import ACCENT, BENCHMARK, CARD, FAIL, MUTED, NAIVE, SOFT, WARN

__all__ = ["mark", "marks", "quality_timeline", "split_timeline"]

_SEVERITY = {"info": (NAIVE, "o", 6.5), "warning": (WARN, "D", 7.0), "error": (FAIL, "X", 9.0)}
"""Colour, shape and size of a mark, the mildest first, so that the gravest lies on top."""


def quality_timeline(symbols: Sequence[Mapping[str, Any]], total: int) -> Chart:
    """A bar per symbol from its first to its last bar, with a mark for every finding.

    Args:
        symbols: records of the quality report, at most as many as are to be drawn.
        total: how many there are in all.
    """
    rows = [s for s in symbols if as_time(s.get("first")) and as_time(s.get("last"))][:MOST_ROWS]
    names = [clipped(str(s.get("symbol", "")), 20) for s in rows]
    sizes = [f"{count(s.get('rows'))} bars" for s in rows]
    found = sum(len(s.get("findings", ())) for s in rows)
    label = f"Coverage of {len(rows)} of {total} symbols with {found} findings marked on it."
    spans = [[float(date2num(as_time(s[key]))) for key in ("first", "last")] for s in rows]
    first, last = min(a for a, _ in spans), max(b for _, b in spans)

    def paint(width: int) -> Figure:
        wide = width == WIDE
        pitch, above = (32, 8) if wide else (46, 22)
        figure = new_figure(width, above + pitch * len(rows) + (62 if found else 30))
        left = 20 + max(map(len, names)) * CHARACTER if wide else 6
        right = 20 + max(map(len, sizes)) * CHARACTER if wide else 6
        axes = axes_at(figure, left, above, right, 58 if found else 26)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        pad = max(last - first, 1e-3) * 0.006
        axes.set_xlim(first - pad, last + pad)
        date_axis(axes, wide=wide)
        axes.grid(visible=False)
        axes.yaxis.set_major_locator(NullLocator())
        box = axes.get_window_extent()
        tall = 16.0 / pitch
        step = (last - first) / box.width * 3.0
        seen = set()
        for row, (symbol, (start, end)) in enumerate(zip(rows, spans, strict=True)):
            axes.add_patch(Rectangle((start, row - tall / 2), end - start, tall, facecolor=SOFT.light, linewidth=0))
            for severity, days in marks(symbol.get("findings", ()), step).items():
                axes.plot(days, [row] * len(days), clip_on=False, **mark(severity))
                seen.add(severity)
            y = axes.transData.transform((0.0, row))[1]
            if wide:
                write(figure, 0.0, y, names[row])
                write(figure, box.x1 + 20, y, sizes[row], color=MUTED.light)
            else:
                text = {"fontsize": 11, "horizontalalignment": "right", "color": MUTED.light}
                write(figure, box.x0, y + 18, names[row], fontsize=11)
                write(figure, box.x1, y + 18, sizes[row], **text)
        x = box.x0 + 6
        for severity in (name for name in _SEVERITY if name in seen):
            figure.add_artist(Line2D([x], [14], transform=IdentityTransform(), **mark(severity)))
            write(figure, x + 10, 14, severity, fontsize=11, color=MUTED.light)
            x += 92
        return figure

    return draw("quality", label, paint)


def mark(severity: str) -> dict[str, Any]:
    """How findings of a severity are drawn."""
    colour, marker, size = _SEVERITY[severity]
    edge = {"markeredgecolor": CARD.light, "markeredgewidth": 0.8}
    return {"linestyle": "", "marker": marker, "color": colour.light, "markersize": size, **edge}


def marks(findings: Sequence[Mapping[str, Any]], step: float) -> dict[str, list[float]]:
    """Days to mark per severity, mildest first, at most one mark per step."""
    marks: dict[str, dict[int, float]] = {severity: {} for severity in _SEVERITY}
    for finding in findings:
        start = as_time(finding.get("start"))
        if start is not None:
            day = float(date2num(start))
            marks.get(str(finding.get("severity")), marks["warning"]).setdefault(int(day / max(step, 1e-9)), day)
    return {severity: list(days.values()) for severity, days in marks.items() if days}


def split_timeline(inputs: ReportInputs) -> Chart:
    """The three segments on one time axis, to scale; what is white between them belongs to none."""
    times = {name: [as_time(bound) for bound in inputs.split[name]] for name in SEGMENTS}
    label = "Split by time: " + "; ".join(
        f"{name} from {start:%Y-%m-%d} to {end:%Y-%m-%d}" for name, (start, end) in times.items() if start and end
    )

    def paint(width: int) -> Figure:
        wide = width == WIDE
        figure = new_figure(width, 84 if wide else 104)
        axes = axes_at(figure, 2, 22 if wide else 38, 2, 28)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_locator(NullLocator())
        bounds = {name: [float(date2num(time)) for time in pair] for name, pair in times.items()}
        axes.set_xlim(min(a for a, _ in bounds.values()), max(b for _, b in bounds.values()))
        date_axis(axes, wide=wide)
        axes.grid(visible=False)
        box = axes.get_window_extent()
        for name, colour, lift in (
            ("train", SOFT, 0),
            ("validation", BENCHMARK, 0 if wide else 15),
            ("test", ACCENT, 0),
        ):
            start, end = bounds[name]
            axes.add_patch(Rectangle((start, 0.12), end - start, 0.88, facecolor=colour.light, linewidth=0))
            x = float(axes.transData.transform((start, 0.0))[0])
            write(figure, x, box.y1 + 11 + lift, name, fontsize=12 if wide else 11)
        return figure

    return draw("split", label + ".", paint)
