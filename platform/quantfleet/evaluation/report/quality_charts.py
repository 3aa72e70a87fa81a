"""Pictures of the data: how much of a table is there, and prices with their findings marked. Plain data in, SVG out.

Both are bounded: a heat map has as many cells as its record, a chart of prices as many points as its sketch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.dates import date2num
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import IdentityTransform

from quantfleet.evaluation.report.svg import (
    CHARACTER,
    WIDE,
    Chart,
    axes_at,
    clipped,
    date_axis,
    draw,
    draw_one,
    new_figure,
    write,
)
from quantfleet.evaluation.report.text import as_time, percent
from quantfleet.evaluation.report.theme import ACCENT, FAIL, INK, MUTED, SOFT, WARN, Colour
from quantfleet.evaluation.report.timelines import mark, marks

__all__ = ["coverage_map", "price_chart"]

_LEVELS: tuple[tuple[str, str, Colour, float], ...] = (
    ("5", "all", SOFT, 1.0),
    ("4", "95%+", WARN, 0.3),
    ("3", "80%+", WARN, 0.6),
    ("2", "half", WARN, 1.0),
    ("1", "less", FAIL, 0.6),
    ("0", "none", FAIL, 1.0),
)
"""Level of a cell, its name, and how it is filled; a dot is left blank."""
_SECONDS_PER_DAY = 86_400.0
_MARKS_IN_A_ROW = 60


def coverage_map(
    coverage: Mapping[str, Any], symbols: Sequence[Mapping[str, Any]], market: Sequence[Mapping[str, Any]]
) -> Chart:
    """Symbols by time, every cell coloured by the share of the bars due that are there.

    Args:
        coverage: `start`, `end` and `rows` of `label`, `symbols` and `cells`, as the quality report has them.
        symbols: records of the quality report; their errors are marked in their rows.
        market: findings about all symbols; halts are marked above the map.
    """
    rows, bounds = coverage["rows"], [as_time(coverage[name]) for name in ("start", "end")]
    first, last = (float(date2num(bound)) for bound in bounds)
    bins = max((len(row["cells"]) for row in rows), default=1)
    halts = [float(date2num(at)) for f in market if f.get("check") == "halts" and (at := as_time(f.get("start")))]
    cells = "".join(row["cells"] for row in rows)
    whole = cells.count("5") / max(len(cells) - cells.count("."), 1)
    grouped = any(row["symbols"] > 1 for row in rows)
    label = f"Coverage of {sum(row['symbols'] for row in rows)} symbols in {bins} steps of time: {percent(whole)} of the cells "
    label += f"have all bars due. {len(halts)} halts are marked."

    def paint(width: int) -> Figure:
        wide = width == WIDE
        pitch = float(np.clip(420 / max(len(rows), 1), 13, 30))
        size, letters = (11 if wide else 9.5), (24 if grouped else 16) if wide else 11
        names = [clipped(row["label"], letters) for row in rows]
        above = 18 if halts else 4
        legend = 54 if wide else 74
        figure = new_figure(width, above + pitch * len(rows) + legend)
        left = 14 + max(map(len, names), default=0) * CHARACTER * size / 12
        axes = axes_at(figure, left, above, 16, legend)
        axes.set_ylim(len(rows), 0)
        axes.set_xlim(first, last)
        date_axis(axes, wide=wide)
        axes.grid(visible=False)
        axes.yaxis.set_major_locator(NullLocator())
        edges = np.linspace(first, last, bins + 1)
        for level, _, colour, alpha in _LEVELS:
            path = _cells([row["cells"] for row in rows], level, edges)
            if path is not None:
                axes.add_patch(PathPatch(path, facecolor=colour.light, alpha=alpha, linewidth=0))
        box = axes.get_window_extent()
        errors = _errors(symbols, _rows_of(rows, symbols), (last - first) / _MARKS_IN_A_ROW)
        for row, days in errors.items():
            axes.plot(
                days, [row + 0.5] * len(days), clip_on=False, **{**mark("error"), "markersize": min(pitch * 0.6, 9)}
            )
        for day in halts:
            x = axes.transData.transform((day, 0.0))[0]
            figure.add_artist(
                Line2D([x], [box.y1 + 7], transform=IdentityTransform(), color=INK.light, marker="v", markersize=6)
            )
        for row, name in enumerate(names):
            y = float(axes.transData.transform((first, row + 0.5))[1])
            write(figure, 0.0, y, name, fontsize=size)
        _legend(figure, left if wide else 0.0, wide=wide, halts=bool(halts), errors=bool(errors))
        return figure

    return draw("coverage", label, paint)


def _cells(rows: Sequence[str], level: str, edges: Any) -> Path | None:
    """All cells of one level as one path; neighbours in a row are one rectangle."""
    corners: list[tuple[float, float]] = []
    for row, cells in enumerate(rows):
        place = 0
        for value, group in groupby(cells):
            count = len(list(group))
            if value == level:
                x0, x1, y0, y1 = edges[place], edges[place + count], row + 0.06, row + 0.94
                corners += [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
            place += count
    if not corners:
        return None
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * (len(corners) // 5)
    return Path(corners, codes)


def _rows_of(rows: Sequence[Mapping[str, Any]], symbols: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Row of every symbol: rows take the symbols in the order of their names."""
    ends = np.cumsum([row["symbols"] for row in rows])
    names = sorted(str(symbol.get("symbol", "")) for symbol in symbols)
    return {name: int(np.searchsorted(ends, place, side="right")) for place, name in enumerate(names)}


def _errors(symbols: Sequence[Mapping[str, Any]], owner: Mapping[str, int], step: float) -> dict[int, list[float]]:
    """Days with an error, by row; at most one per step of time."""
    days: dict[int, dict[int, float]] = {}
    for symbol in symbols:
        for finding in symbol.get("findings", ()):
            at = as_time(finding.get("start"))
            if finding.get("severity") == "error" and at is not None:
                day = float(date2num(at))
                days.setdefault(owner[str(symbol.get("symbol", ""))], {}).setdefault(int(day / step), day)
    return {row: list(marked.values()) for row, marked in days.items()}


def _legend(figure: Figure, x: float, *, wide: bool, halts: bool, errors: bool) -> None:
    text: dict[str, Any] = {"fontsize": 11 if wide else 10, "color": MUTED.light}
    y, step = (14.0, 62.0) if wide else (32.0, 46.0)
    write(figure, x, y, "bars due that are there:" if wide else "there:", **text)
    x += 150.0 if wide else 42.0
    for _, name, colour, alpha in _LEVELS:
        swatch = Rectangle((x, y - 5), 11, 10, transform=IdentityTransform(), facecolor=colour.light, alpha=alpha)
        swatch.set_linewidth(0)
        figure.add_artist(swatch)
        write(figure, x + 15, y, name, **text)
        x += step
    x, y = (x + 18.0, y) if wide else (4.0, 12.0)
    if errors:
        figure.add_artist(Line2D([x], [y], transform=IdentityTransform(), **mark("error")))
        write(figure, x + 10, y, "error", **text)
        x += 66.0
    if halts:
        halt: dict[str, Any] = {"color": INK.light, "marker": "v", "markersize": 6}
        figure.add_artist(Line2D([x], [y], transform=IdentityTransform(), linestyle="", **halt))
        write(figure, x + 10, y, "halt of most symbols", **text)


# --- prices -----------------------------------------------------------------------------------------------------------


def price_chart(sketch: Mapping[str, Any], findings: Sequence[Mapping[str, Any]], chart_id: str) -> Markup:
    """A symbol's closes over its whole history with marks on the findings; beside it, bar by bar, the most telling one.

    Args:
        sketch: `symbol`, `times` in seconds, `low` and `high` of the close per bucket, `around` as rows of seconds,
            open, high, low and close.
        findings: the symbol's, the most telling first.
    """
    day_K = np.array(sketch["times"], np.float64) / _SECONDS_PER_DAY
    low_K, high_K = (np.array(sketch[name], np.float64) for name in ("low", "high"))
    label = f"Prices of {sketch['symbol']} with {len(findings)} findings marked"

    def paint() -> Figure:
        figure = new_figure(440, 200)
        near = bool(sketch["around"])
        axes = axes_at(figure, 52, 24, 186 if near else 8, 26)
        axes.set_title("closes", pad=6, fontsize=11)
        axes.fill_between(day_K, low_K, high_K, color=ACCENT.light, alpha=0.3, linewidth=0)
        axes.plot(day_K, (low_K * high_K) ** 0.5, color=ACCENT.light, linewidth=1.2)
        _price_axis(axes, low_K.min(), high_K.max())
        span = max(float(day_K[-1] - day_K[0]), 1e-6)
        axes.set_xlim(day_K[0] - 0.02 * span, day_K[-1] + 0.02 * span)
        date_axis(axes, wide=False)
        axes.tick_params(labelsize=10)
        step = span / 240.0 * 4.0
        for severity, days in marks(findings, step).items():
            at = np.clip(np.searchsorted(day_K, days, side="right") - 1, 0, len(day_K) - 1)
            axes.plot(days, _extremes(low_K, high_K)[at], clip_on=False, **mark(severity))
        if near:
            _bar_by_bar(figure, sketch["around"], findings)
        return figure

    return draw_one(chart_id, label + ".", paint)


def _extremes(low_K: Any, high_K: Any) -> Any:
    """Of every bucket the price that stands out: the low where it is further from the buckets beside than the high."""
    beside = np.maximum(np.roll(high_K, 1), np.roll(high_K, -1))
    return np.where(beside / low_K > high_K / np.minimum(np.roll(low_K, 1), np.roll(low_K, -1)), low_K, high_K)


def _bar_by_bar(figure: Figure, around: Sequence[Sequence[float]], findings: Sequence[Mapping[str, Any]]) -> None:
    axes = axes_at(figure, 276, 24, 52, 26)
    second_K, open_K, high_K, low_K, close_K = np.array(around, np.float64).T
    rows = np.arange(len(second_K))
    spans = [(as_time(f.get("start")), as_time(f.get("end"))) for f in findings]
    wrong = np.zeros(len(rows), bool)
    for start, end in spans:
        if start is not None and end is not None:
            wrong |= (second_K >= start.timestamp()) & (second_K <= end.timestamp())
    for flags, colour in ((~wrong, MUTED), (wrong, FAIL)):
        x = rows[flags]
        axes.vlines(x, low_K[flags], high_K[flags], color=colour.light, linewidth=1.2)
        axes.hlines(open_K[flags], x - 0.35, x, color=colour.light, linewidth=1.2)
        axes.hlines(close_K[flags], x, x + 0.35, color=colour.light, linewidth=1.2)
    _price_axis(axes, low_K.min(), high_K.max())
    axes.yaxis.tick_right()
    axes.tick_params(labelsize=10, labelbottom=False)
    axes.set_xlim(-1, len(rows))
    axes.xaxis.set_major_locator(NullLocator())
    axes.set_title(f"bars at {_day(second_K, wrong)}", pad=6, fontsize=11)


def _day(second_K: Any, wrong: Any) -> str:
    at = second_K[np.flatnonzero(wrong)[0]] if wrong.any() else second_K[len(second_K) // 2]
    return str(np.datetime64(int(at), "s").astype("datetime64[D]"))


def _price_axis(axes: Axes, low: float, high: float) -> None:
    """Round prices; a log scale where they span more than a factor of four."""
    if low > 0.0 and high / low > 4.0:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.15, high * 1.15)
        steps = (1.0, 2.0, 5.0) if high / low < 60.0 else (1.0,)
        powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [step * 10.0**power for power in powers for step in steps]
        every = max(1, len(powers) // 5) if len(steps) == 1 else 1
        axes.yaxis.set_major_locator(FixedLocator([t for t in ticks[::every] if low / 1.15 <= t <= high * 1.15]))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _price(value)))


def _price(value: float) -> str:
    return f"{value:,.6g}" if value == 0.0 or 1e-4 <= abs(value) < 1e6 else f"{value:.0e}"
