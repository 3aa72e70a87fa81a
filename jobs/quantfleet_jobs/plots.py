"""Pictures of one model for its MLflow run; the HTML report has its own, of all models together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import polars as pl
from matplotlib.figure import Figure

from quantfleet.contracts import Segment

__all__ = ["curve_png", "learning_png", "paths_png"]


def curve_png(name: str, curve: pl.DataFrame, *, period: Segment) -> bytes:
    """Growth of 1 (above) and drawdown (below) of a backtest curve over one segment."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    time = curve["timestamp"].dt.replace_time_zone(None).to_numpy()
    above.plot(time, (curve["equity"] / curve["equity"][0]).to_numpy(), linewidth=1.2)
    above.set(title=f"{name}: growth of 1 after costs, {period} period", ylabel="growth of 1")
    below.fill_between(time, (curve["drawdown"] * 100).to_numpy(), 0, alpha=0.4)
    below.set(ylabel="drawdown, %")
    return _png(figure)


def learning_png(name: str, rows: Sequence[Mapping[str, float]]) -> bytes:
    """Training and validation loss by step, or by epoch where rows have no steps; rows without a loss are left out."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    along = "step" if all("step" in row for row in rows) else "epoch"
    for key, said in (("train_loss", "training"), ("val_loss", "validation")):
        known = [(row[along], row[key]) for row in rows if math.isfinite(row.get(key, math.nan))]
        if known:
            axes.plot(*zip(*known, strict=True), label=said, marker="." if len(known) == 1 else None)
    axes.set(title=f"{name}: loss", xlabel=along, ylabel="loss")
    axes.legend()
    return _png(figure)


def paths_png(run: str, curves: Mapping[str, Sequence[pl.DataFrame]], *, naive: set[str]) -> bytes:
    """Growth of 1 on every path: a panel a candidate, its paths over those of the naive models, which are grey."""
    candidates = [name for name in curves if name not in naive] or list(curves)
    figure = Figure(figsize=(9, 3 * len(candidates)), layout="constrained")
    for axes, name in zip(figure.subplots(len(candidates), squeeze=False)[:, 0], candidates, strict=True):
        for rival in sorted(naive - {name}):
            for curve in curves[rival]:
                axes.plot(*_growth(curve), color="0.75", linewidth=0.8)
            axes.annotate(
                rival, (_growth(curves[rival][0])[0][-1], _growth(curves[rival][0])[1][-1]), color="0.5", fontsize=7
            )
        for curve in curves[name]:
            axes.plot(*_growth(curve), linewidth=1.2)
        axes.set(
            title=f"{run}, {name}: growth of 1 after costs, every path; naive models grey",
            ylabel="growth of 1",
        )
        axes.set_yscale("log")
    return _png(figure)


def _growth(curve: pl.DataFrame) -> tuple[Any, Any]:
    time = curve["timestamp"].dt.replace_time_zone(None).to_numpy()
    return time, (1.0 + curve["net_return"]).cum_prod().to_numpy()


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
