"""Pictures of how robust a result is: rolling Sharpe ratios, bootstrap distributions, and small panels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from quantfleet.evaluation.bootstrap import optimal_block_bars, resample_sharpes
from quantfleet.evaluation.report.charts import Stroke, strokes, thin
from quantfleet.evaluation.report.inputs import ModelPage, ReportInputs
from quantfleet.evaluation.report.svg import WIDE, Chart, axes_at, clipped, date_axis, draw, draw_one, new_figure, write
from quantfleet.evaluation.report.text import number
from quantfleet.evaluation.report.theme import INK, MUTED, NAIVE

__all__ = ["bootstrap_distribution", "panels", "rolling_sharpe"]

Doubles = npt.NDArray[np.float64]

_RESAMPLES = 5_000
_MOST_MODELS = 6
_FEWEST_WINDOWS = 20
_FEWEST_ROWS = 30
"""A bin of stated chances with fewer rows is not drawn."""


def shown(inputs: ReportInputs) -> list[ModelPage]:
    """The candidates with a colour, and the benchmark behind them."""
    style = strokes(inputs)
    named = [page for page in inputs.candidates if style[page.name].labelled][:_MOST_MODELS]
    return [inputs.benchmark_page, *named]


def rolling_sharpe(inputs: ReportInputs) -> Chart | None:
    """Sharpe ratio of the last year (or fifth of a shorter period) at every bar; None where the period is too short to roll."""
    pages, style = shown(inputs), strokes(inputs)
    bars = min(page.curve.height for page in pages)
    window = min(round(inputs.bars_per_year), bars // 5)
    if window < _FEWEST_WINDOWS:
        return None
    lines = {page.name: _rolling(page.curve["net_return"].to_numpy(), window, inputs.bars_per_year) for page in pages}
    names = ", ".join(lines)

    def paint(width: int) -> Figure:
        wide = width == WIDE
        figure = new_figure(width, 300 if wide else 250)
        axes = axes_at(figure, 44, 34, 14, 30)
        for page in pages:
            rows = thin(lines[page.name], width // 2)
            _line(axes, page.curve["timestamp"].to_numpy()[rows], lines[page.name][rows], style[page.name])
        axes.axhline(0.0, color=INK.light, linewidth=1.1, zorder=1.5)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 1)))
        axes.margins(x=0.01)
        date_axis(axes, wide=wide)
        text = f"Sharpe ratio of the {window:,} bars before, per year, after costs"
        write(
            figure, 0.0, figure.get_size_inches()[1] * 72 - 14, text, color=MUTED.light, fontsize=12 if wide else 10.5
        )
        return figure

    return draw("rolling", f"Rolling Sharpe ratio over {window} bars of {names}.", paint)


def _rolling(returns_T: Doubles, window: int, bars_per_year: float) -> Doubles:
    """NaN before the window is full, and where nothing moved in it."""
    centred = returns_T - returns_T.mean()
    sums = np.concatenate([[0.0], np.cumsum(centred)])
    squares = np.concatenate([[0.0], np.cumsum(centred**2)])
    total, square = sums[window:] - sums[:-window], squares[window:] - squares[:-window]
    variance = (square - total**2 / window) / (window - 1)
    defined = variance > 1e-9 * max(float(centred.var()), 1e-300)
    ratio = (returns_T.mean() + total / window) / np.sqrt(np.where(defined, variance, 1.0)) * math.sqrt(bars_per_year)
    return np.concatenate([np.full(window - 1, np.nan), np.where(defined, ratio, np.nan)])


def bootstrap_distribution(inputs: ReportInputs) -> Chart | None:
    """How Sharpe ratios of the same length scatter, by the stationary bootstrap; None where no ratio is defined."""
    style = strokes(inputs)
    drawn = {}
    for page in shown(inputs):
        returns = page.curve["net_return"].to_numpy()
        if len(returns) > 1 and np.isfinite(returns).all() and np.ptp(returns) > 0.0:
            block = optimal_block_bars(returns)
            sample = resample_sharpes(returns, block_bars=block, resamples=_RESAMPLES, seed=0)[:, 0]
            drawn[page.name] = sample[np.isfinite(sample)] * math.sqrt(inputs.bars_per_year)
    drawn = {name: sample for name, sample in drawn.items() if len(sample)}
    if not drawn:
        return None
    low = min(float(np.quantile(sample, 0.001)) for sample in drawn.values())
    high = max(float(np.quantile(sample, 0.999)) for sample in drawn.values())
    edges = np.linspace(low, high, 71)
    below = {name: float((sample <= 0.0).mean()) for name, sample in drawn.items()}
    label = "Bootstrap distribution of Sharpe ratios; share at or below 0: " + ", ".join(
        f"{name} {share:.1%}" for name, share in below.items()
    )

    def paint(width: int) -> Figure:
        wide = width == WIDE
        figure = new_figure(width, 230 if wide else 210)
        axes = axes_at(figure, 14, 34, 14, 30)
        for name, sample in drawn.items():
            density, _ = np.histogram(sample, edges, density=True)
            smooth = np.convolve(np.pad(density, 2, mode="edge"), np.ones(5) / 5, "valid")
            stroke = style[name]
            middle = (edges[1:] + edges[:-1]) / 2
            axes.fill_between(middle, smooth, color=stroke.colour.light, alpha=0.12, linewidth=0, zorder=stroke.order)
            axes.plot(middle, smooth, color=stroke.colour.light, linewidth=min(stroke.width, 2.4), zorder=stroke.order)
        axes.axvline(0.0, color=INK.light, linewidth=1.1, zorder=6)
        axes.yaxis.set_major_locator(NullLocator())
        axes.xaxis.set_major_locator(MaxNLocator(8 if wide else 5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 1)))
        axes.set_ylim(bottom=0.0)
        text = "Sharpe ratio per year in resamples of the test period"
        write(
            figure, 0.0, figure.get_size_inches()[1] * 72 - 14, text, color=MUTED.light, fontsize=12 if wide else 10.5
        )
        return figure

    return draw("bootstrap", label + ".", paint)


def panels(inputs: ReportInputs) -> list[tuple[str, Markup]]:
    """(title, picture) of what costs, delays and age do to each model, and how its stated chances came true."""
    kinds: tuple[tuple[str, str, str, str, str], ...] = (
        ("costs", "Sharpe ratio by cost per fill, bps", "cost_bps", "sharpe", "cost"),
        ("delays", "Sharpe ratio by delay of orders, bars", "delay_bars", "sharpe", "delay"),
        ("ic_decay", "IC by age of the forecast, bars", "delay_bars", "ic", "decay"),
        ("calibration", "How often it rose, by the chance stated", "stated", "happened", "calibration"),
    )
    found = []
    for key, title, x, y, chart_id in kinds:
        lines = {page.name: _points(page.detail.get(key, ()), x, y) for page in shown(inputs)}
        lines = {name: points for name, points in lines.items() if len(points[0]) > 1 and np.isfinite(points[1]).any()}
        if key in ("ic_decay", "calibration"):  # a naive rule states the same for every bar
            lines.pop(inputs.benchmark, None)
        if lines:
            found.append((title, _panel(inputs, lines, chart_id, title, diagonal=key == "calibration")))
    return found


def _points(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> tuple[Doubles, Doubles]:
    enough = [row for row in rows if row.get("rows", _FEWEST_ROWS) >= _FEWEST_ROWS]
    known = [(row[x], math.nan if row[y] is None else row[y]) for row in enough if row[x] is not None]
    table = np.array(known, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _panel(
    inputs: ReportInputs, lines: Mapping[str, tuple[Doubles, Doubles]], chart_id: str, title: str, *, diagonal: bool
) -> Markup:
    style = strokes(inputs)

    def paint() -> Figure:
        figure = new_figure(420, 200)
        axes = axes_at(figure, 46, 14, 14, 28)
        for name, (x, y) in lines.items():
            _line(axes, x, y, style[name], marker="o")
        if diagonal:
            ends = [min(x.min() for x, _ in lines.values()), max(x.max() for x, _ in lines.values())]
            axes.plot(ends, ends, color=NAIVE.light, linewidth=1.2, dashes=(4, 3), zorder=1.5)
        else:
            axes.axhline(0.0, color=INK.light, linewidth=1.1, zorder=1.5)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(visible=False, axis="x")
        axes.tick_params(labelsize=11)
        axes.margins(x=0.03, y=0.12)
        return figure

    return draw_one(chart_id, f"{title}: {', '.join(clipped(name, 24) for name in lines)}.", paint)


def _line(axes: Axes, x: Any, y: Doubles, stroke: Stroke, **options: Any) -> None:
    axes.plot(
        x,
        y,
        color=stroke.colour.light,
        linewidth=min(stroke.width, 3.0),
        zorder=stroke.order,
        markersize=3.5,
        **options,
    )
