"""Pictures of the models: equity, Sharpe ratios, learning. Every function is pure: plain data in, SVG out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import IdentityTransform

from quantfleet.evaluation.report.inputs import ModelPage, ReportInputs
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
from quantfleet.evaluation.report.text import number, percent
from quantfleet.evaluation.report.theme import (
    BENCHMARK,
    CARD,
    DASHES,
    INK,
    MUTED,
    NAIVE,
    SERIES,
    SOFT,
    Colour,
)

__all__ = [
    "MOST_ROWS",
    "Stroke",
    "best_epoch",
    "by_sharpe",
    "equity_and_drawdown",
    "learning_curve",
    "sharpe_intervals",
    "spread",
    "strokes",
    "thin",
]

Array = npt.NDArray[np.float64]

MOST_ROWS = 30
"""Models or symbols in one chart; more are not read, and the tables have them all."""


@dataclass(frozen=True, slots=True)
class Stroke:
    """How a model is drawn, the same in every chart."""

    colour: Colour
    width: float
    dash: tuple[float, ...] | None = None
    labelled: bool = True
    order: int = 3


def strokes(inputs: ReportInputs) -> dict[str, Stroke]:
    """Candidates get colours in the order of the recipe, the benchmark is thick grey, other naive models are dashed.

    Beyond six candidates those with the best Sharpe ratios have the colours; the others are thin and without a name.
    """
    best = {page.name for page in by_sharpe(inputs.candidates)[: len(SERIES)]}
    named = [page for page in inputs.candidates if page.name in best]
    naive = [page for page in inputs.models if page.baseline and page.name != inputs.benchmark]
    found = {page.name: Stroke(SOFT, 0.9, labelled=False, order=2) for page in inputs.models}
    found |= {
        page.name: Stroke(NAIVE, 1.3, DASHES[i % len(DASHES)], labelled=i < len(DASHES), order=4)
        for i, page in enumerate(naive)
    }
    found |= {page.name: Stroke(SERIES[i], 1.9, order=5) for i, page in enumerate(named)}
    return {**found, inputs.benchmark: Stroke(BENCHMARK, 4.0, order=3)}


def by_sharpe(pages: Sequence[ModelPage]) -> list[ModelPage]:
    """Best Sharpe ratio first, undefined ones last, equal ones by name."""

    def rank(page: ModelPage) -> tuple[float, str]:
        value = page.metrics.get("sharpe", math.nan)
        return (math.inf if math.isnan(value) else -value), page.name

    return sorted(pages, key=rank)


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move positions as little as possible so that neighbours are `gap` apart, within [low, high]. Keeps their order.

    Least squares by pooling adjacent violators; the gap shrinks when there is no room for it.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    pools: list[list[float]] = []
    for rank, i in enumerate(order):
        pools.append([wanted[i] - rank * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    level = [float(np.mean(pool)) for pool in pools for _ in pool]
    ceiling = high - (len(wanted) - 1) * gap
    placed = [0.0] * len(wanted)
    for rank, i in enumerate(order):
        placed[i] = min(max(level[rank], low), ceiling) + rank * gap
    return placed


def thin(values: Array, buckets: int) -> npt.NDArray[np.int64]:
    """Rows that keep the look of a line: first and last, and the extremes of every bucket."""
    if len(values) <= 2 * buckets:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), buckets + 1).astype(np.int64)
    kept = {0, len(values) - 1}
    for a, b in pairwise(edges.tolist()):
        part = values[a:b]
        if np.isfinite(part).any():
            kept |= {int(a + np.nanargmin(part)), int(a + np.nanargmax(part))}
    return np.array(sorted(kept), dtype=np.int64)


# --- equity and drawdown ----------------------------------------------------------------------------------------------


def equity_and_drawdown(inputs: ReportInputs) -> Chart:
    """Growth of every model on a log scale, and below it, on the same time axis, the loss since the last high."""
    style = strokes(inputs)
    named = [page for page in by_sharpe(inputs.models) if style[page.name].labelled]
    ends = ", ".join(f"{page.name} {percent(page.metrics.get('total_return'), signed=True)}" for page in named)
    label = f"Equity after costs over the test period, with drawdown below. Total return: {ends}."

    def paint(width: int) -> Figure:
        wide = width == WIDE
        length = 24 if wide else 15
        texts = {page.name: _end_text(page, length, returns=wide) for page in named}
        height, left = (540, 50) if wide else (470, 42)
        margin = 34 + max(map(len, texts.values())) * CHARACTER * (1.0 if wide else 0.85)
        figure = new_figure(width, height)
        top = axes_at(figure, left, 30, margin, 210 if wide else 184)
        low = axes_at(figure, left, height - (166 if wide else 140), margin, 30)
        top.set_title("Change since the start, log scale" if wide else "Change since start, log", pad=10)
        low.set_title("Drawdown: loss since the last high" if wide else "Drawdown since last high", pad=10)
        spans = []
        for page in inputs.models:
            stroke = style[page.name]
            day_T, growth_T, drawdown_T = _curve(page.curve)
            options: dict[str, Any] = {
                "color": stroke.colour.light,
                "linewidth": stroke.width if wide else stroke.width * 0.85,
                "zorder": stroke.order,
                "dashes": stroke.dash or (None, None),
            }
            rows = thin(growth_T, width)
            top.plot(day_T[rows], growth_T[rows], **options)
            rows = thin(drawdown_T, width)
            if page.name == inputs.benchmark:
                low.fill_between(day_T[rows], drawdown_T[rows], 0.0, color=stroke.colour.light, alpha=0.35, linewidth=0)
            else:
                low.plot(day_T[rows], drawdown_T[rows], **{**options, "linewidth": options["linewidth"] * 0.75})
            if np.isfinite(growth_T).any():
                spans += [np.nanmin(growth_T), np.nanmax(growth_T)]
        _growth_axis(top, min(spans, default=1.0), max(spans, default=1.0))
        low.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        low.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 0)))
        low.set_ylim(min(low.get_ylim()[0], -0.01), 0.0)
        first = min(_curve(page.curve)[0][0] for page in inputs.models)
        last = max(_curve(page.curve)[0][-1] for page in inputs.models)
        for axes in (top, low):
            axes.set_xlim(first, max(last, first + 1e-6))
            date_axis(axes, wide=wide)
        top.tick_params(labelbottom=False)
        _label_ends(figure, top, named, style, texts, size=12 if wide else 11)
        return figure

    return draw("equity", label, paint)


def _curve(curve: pl.DataFrame) -> tuple[Array, Array, Array]:
    """Days since 1970, equity as a multiple of the start (NaN when nothing is left), and drawdown."""
    day_T = curve["timestamp"].dt.epoch("us").to_numpy() / 86.4e9
    columns = (
        curve[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in ("equity", "net_return", "drawdown")
    )
    equity_T, return_T, drawdown_T = columns
    start = equity_T[0] / (1.0 + return_T[0]) if return_T[0] > -1.0 else equity_T[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        growth_T = np.where(equity_T > 0.0, equity_T / start, np.nan)
    return day_T, growth_T, drawdown_T


def _growth_axis(axes: Axes, low: float, high: float) -> None:
    """A log axis whose ticks are round changes: -20%, 0%, +20%."""
    axes.set_yscale("log")
    pad = max((high / low) ** 0.06, 1.02)
    low, high = low / pad, high * pad
    axes.set_ylim(low, high)
    if high / low < 6.0:
        ticks = [float(t) + 1.0 for t in MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low - 1.0, high - 1.0)]
    else:
        steps = (1, 2, 5) if high / low < 1000.0 else (1,)
        ticks = [step * 10.0**power for power in range(-8, 13) for step in steps]
    axes.yaxis.set_major_locator(FixedLocator([t for t in ticks if low <= t <= high and t > 0.0]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _change(value - 1.0)))
    axes.axhline(1.0, color=MUTED.light, linewidth=1.0, zorder=1.5)


def _change(value: float) -> str:
    if abs(value) < 5e-5:
        return "0%"
    return percent(value, 0 if abs(value * 100 - round(value * 100)) < 0.05 else 1, signed=True)


def _end_text(page: ModelPage, length: int, *, returns: bool) -> str:
    name = clipped(page.name, length)
    return f"{name}  {percent(page.metrics.get('total_return'), 0, signed=True)}" if returns else name


def _label_ends(
    figure: Figure,
    axes: Axes,
    pages: Sequence[ModelPage],
    style: Mapping[str, Stroke],
    texts: Mapping[str, str],
    *,
    size: int,
) -> None:
    """Names beside the ends of the lines, moved apart where they would touch, joined to them by leaders."""
    ends = []
    for page in pages:
        day_T, growth_T, _ = _curve(page.curve)
        known = np.flatnonzero(np.isfinite(growth_T))
        if len(known):
            ends.append((page.name, axes.transData.transform((day_T[known[-1]], growth_T[known[-1]]))))
    box = axes.get_window_extent()
    places = spread([y for _, (_, y) in ends], gap=17.0, low=box.y0 - 10.0, high=box.y1 + 8.0)
    for (name, (x, y)), place in zip(ends, places, strict=True):
        stroke = style[name]
        figure.add_artist(
            Line2D(
                [x, x + 4, box.x1 + 12, box.x1 + 18],
                [y, y, place, place],
                transform=IdentityTransform(),
                color=stroke.colour.light,
                linewidth=min(stroke.width, 2.4),
            )
        )
        write(figure, box.x1 + 22, place, texts[name], fontsize=size)


# --- Sharpe ratios ----------------------------------------------------------------------------------------------------


def sharpe_intervals(inputs: ReportInputs) -> Chart:
    """A dot and its interval per model, best first; a dashed line stands where the benchmark is."""
    style = strokes(inputs)
    pages = by_sharpe(inputs.models)[:MOST_ROWS]
    texts = {page.name: _sharpe_text(page) for page in pages}
    label = "Sharpe ratio after costs with its interval: " + "; ".join(f"{p.name} {texts[p.name]}" for p in pages) + "."

    def paint(width: int) -> Figure:
        wide = width == WIDE
        pitch, above = (34, 34) if wide else (46, 48)
        figure = new_figure(width, above + pitch * len(pages) + 34)
        left = 20 + max(len(clipped(page.name, 24)) for page in pages) * CHARACTER if wide else 14
        right = 20 + max(map(len, texts.values())) * CHARACTER if wide else 14
        axes = axes_at(figure, left, above - (0 if wide else 14), right, 34)
        benchmark = inputs.benchmark_page.metrics.get("sharpe", math.nan)
        bounds = [0.0, 0.5, -0.1]
        for row, page in enumerate(pages):
            estimate, low, high = _sharpe(page)
            stroke = style[page.name]
            colour = (NAIVE if stroke.colour is SOFT else stroke.colour).light
            bounds += [value for value in (estimate, low, high) if math.isfinite(value)]
            if math.isfinite(low) and math.isfinite(high):
                axes.plot([low, high], [row, row], color=colour, linewidth=2.4, zorder=3)
                axes.plot([low, high], [row, row], color=colour, linestyle="", marker="|", markersize=9, zorder=3)
            if math.isfinite(estimate):
                face = CARD.light if page.baseline else colour
                axes.plot(
                    estimate, row, "o", color=colour, markersize=8.5, markerfacecolor=face, markeredgewidth=2, zorder=4
                )
        axes.set_ylim(len(pages) - 0.5, -0.5)
        span = max(bounds) - min(bounds)
        axes.set_xlim(min(bounds) - 0.04 * span, max(bounds) + 0.04 * span)
        axes.xaxis.set_major_locator(MaxNLocator(7 if wide else 5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 1)))
        axes.yaxis.set_major_locator(NullLocator())
        axes.axvline(0.0, color=INK.light, linewidth=1.1, zorder=1.5)
        box = axes.get_window_extent()
        note = "Sharpe ratio per year, after costs"
        if math.isfinite(benchmark):
            axes.axvline(benchmark, color=BENCHMARK.light, linewidth=1.6, dashes=(4, 3), zorder=1.4)
            note += f"; dashed: {clipped(inputs.benchmark, 24 if wide else 16)}"
        write(figure, box.x0, box.y1 + (14 if wide else 24), note, color=MUTED.light, fontsize=12 if wide else 10.5)
        for row, page in enumerate(pages):
            y = axes.transData.transform((0.0, row))[1]
            if wide:
                write(figure, 0.0, y, clipped(page.name, 24))
                write(figure, box.x1 + 20, y, texts[page.name], color=MUTED.light)
            else:
                text = {"fontsize": 11, "horizontalalignment": "right", "color": MUTED.light}
                write(figure, box.x0, y + 17, clipped(page.name, 22), fontsize=11)
                write(figure, box.x1, y + 17, texts[page.name], **text)
        return figure

    return draw("sharpe", label, paint)


def _sharpe(page: ModelPage) -> tuple[float, float, float]:
    estimate, low, high = (page.metrics.get(key, math.nan) for key in ("sharpe", "sharpe_low", "sharpe_high"))
    return estimate, low, high


def _sharpe_text(page: ModelPage) -> str:
    estimate, low, high = _sharpe(page)
    return "undefined" if math.isnan(estimate) else f"{number(estimate)}  [{number(low)}, {number(high)}]"


# --- learning curves --------------------------------------------------------------------------------------------------


def learning_curve(page: ModelPage, colour: Colour, chart_id: str) -> Markup:
    """Loss per epoch, validation thick and training thin, with a dot on the lowest validation loss."""
    epoch_E, train_E, val_E = (
        np.array([float(row.get(key, math.nan)) for row in page.learning_curve])
        for key in ("epoch", "train_loss", "val_loss")
    )
    line = INK if colour is SOFT else colour
    label = f"Loss of {page.name} per epoch, training and validation, over {len(epoch_E)} epochs."

    def paint() -> Figure:
        figure = new_figure(300, 190)
        axes = axes_at(figure, 46, 14, 68, 28)
        shape: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(epoch_E) < 3 else {}
        thin_line: dict[str, Any] = {"color": NAIVE.light, "linewidth": 1.2}
        thick_line: dict[str, Any] = {"color": line.light, "linewidth": 2.2}
        ends = []
        for name, loss_E, options in (
            ("train", train_E, thin_line),
            ("validation", val_E, thick_line),
        ):
            known = np.flatnonzero(np.isfinite(loss_E) & np.isfinite(epoch_E))
            if len(known):
                axes.plot(epoch_E[known], loss_E[known], **options, **shape)
                ends.append((name, epoch_E[known[-1]], loss_E[known[-1]]))
        best = best_epoch(page.learning_curve)
        if best is not None:
            axes.plot(*best, "o", color=line.light, markersize=8, markerfacecolor=CARD.light, markeredgewidth=2)
        losses = np.concatenate([train_E, val_E])
        losses = losses[np.isfinite(losses)]
        if len(losses) and losses.min() > 0.0 and losses.max() > 30.0 * losses.min():
            axes.set_yscale("log")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(visible=False, axis="x")
        axes.tick_params(labelsize=11)
        axes.margins(x=0.03, y=0.12)
        box, _, _ = axes.get_window_extent(), axes.get_xlim(), axes.get_ylim()  # asking for the limits settles them
        ys = [axes.transData.transform((x, y))[1] for _, x, y in ends]
        for (name, _, _), place in zip(ends, spread(ys, gap=15, low=box.y0, high=box.y1), strict=True):
            write(figure, box.x1 + 6, place, name, fontsize=11)
        return figure

    return draw_one(chart_id, label, paint)


def best_epoch(rows: Sequence[Mapping[str, float]]) -> tuple[float, float] | None:
    """(epoch, loss) of the lowest validation loss; None when there is none."""
    known = [(float(row["val_loss"]), float(row["epoch"])) for row in rows if {"val_loss", "epoch"} <= row.keys()]
    known = [pair for pair in known if math.isfinite(pair[0]) and math.isfinite(pair[1])]
    return min(known)[::-1] if known else None
