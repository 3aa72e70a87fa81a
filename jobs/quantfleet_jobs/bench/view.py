"""A bench as people see it: tables on the console, one picture, and the same as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantfleet.evaluation.inference import SeededDifference
from quantfleet.evaluation.report.text import DASH, number, percent
from quantfleet.evaluation.report.theme import INK, NAIVE, SERIES
from quantfleet_jobs.bench.ablation import AblationRow
from quantfleet_jobs.bench.rows import BenchRow
from quantfleet_jobs.recipe import Recipe

__all__ = ["bench_png", "budget_text", "print_ablation", "print_bench"]


def budget_text(recipe: Recipe) -> str:
    """What every model was given, in a sentence."""
    bench = recipe.bench
    epochs = f"{bench.epochs} epochs each" if bench.epochs else "the epochs of the recipe"
    time = f", at most what fits into {bench.minutes:g} min" if bench.minutes else ""
    workers = recipe.training.max_workers
    return (
        f"torch models {epochs}{time}, stopped by their patience; other models as the recipe says. "
        f"{workers} worker{'s' * (workers > 1)}, seed {recipe.run.seed}."
    )


def print_bench(rows: Sequence[BenchRow], recipe: Recipe, console: Console) -> None:
    """What the models cost, what they are worth, and why some have failed."""
    whole = [row for row in rows if not row.failed]
    cost = _table(
        f"Cost of the models of run {recipe.run.name}",
        ("model", "size", "epochs", "s/epoch", "fit s", "peak MB", "p50 ms", "p99 ms"),
    )
    for row in whole:
        cost.add_row(
            row.name,
            f"{row.parameters:,}" if row.parameters else DASH,
            str(row.epochs) if row.epochs else DASH,
            number(row.epoch_s),
            number(row.fit_s, 1),
            number(row.peak_mb, 0),
            number(row.p50_ms),
            number(row.p99_ms),
            style="dim" if row.baseline else "",
        )
    worth = _table("On the test period, after costs", ("model", "IC [95 %]", "hit", "Sharpe [95 %]", "return"))
    for row in whole:
        worth.add_row(
            f"{row.name}{'*' * row.baseline}",
            _interval(row.ic, row.ic_low, row.ic_high, 3),
            percent(row.directional_accuracy),
            _interval(row.sharpe, row.sharpe_low, row.sharpe_high, 2),
            percent(row.total_return),
            style="dim" if row.baseline else "",
        )
    console.print(cost)
    console.print(worth)
    for row in rows:
        if row.failed:
            console.print(Text.assemble((f"FAILED {row.name}", "bold red"), f": {row.failed}"), soft_wrap=True)
    console.print(
        f"* naive. Budget: {budget_text(recipe)}\nsize: fitted numbers; of trees, how many. fit s: with the start of its workers. "
        "peak MB: the largest process that fits, libraries included. ms: one answer for one window, in this process. "
        "Intervals: stationary bootstrap, 95 % each; that they overlap means that the order may be luck.",
        soft_wrap=True,
        highlight=False,
    )


def print_ablation(rows: Sequence[AblationRow], reference: str, seeds: Sequence[int], console: Console) -> None:
    """Each model less the reference."""
    title = f"Against {reference}: mean difference over {len(seeds)} seed{'s' * (len(seeds) > 1)} on test"
    table = _table(title, ("model", "IC difference", "Sharpe difference", "verdict"))
    for row in rows:
        if row.failed:
            continue
        table.add_row(
            row.name,
            _difference(row.ic, 3),
            _difference(row.sharpe, 2),
            _verdict(row),
            style="dim" if row.noise else "bold",
        )
    console.print(table)
    for row in rows:
        if row.failed:
            console.print(Text.assemble((f"FAILED {row.name}", "bold red"), f": {row.failed}"), soft_wrap=True)
        elif row.seeds < len(seeds):
            console.print(f"{row.name}: {row.seeds} of {len(seeds)} seeds; its other fits have failed.", soft_wrap=True)
    luck = "of the period and of the seeds" if len(seeds) > 1 else "of the period; of one seed's luck nothing is known"
    console.print(
        f"Intervals hold together for all {sum(not row.failed for row in rows)} models at 95 % (Bonferroni) and hold the luck "
        f"{luck}. up, down: beyond it. A difference whose interval holds 0 is noise: it says nothing for or against a switch.",
        soft_wrap=True,
        highlight=False,
    )


def _verdict(row: AblationRow) -> str:
    said = [
        f"{name} {'up' if found.low > 0 else 'down'}"
        for name, found in (("IC", row.ic), ("Sharpe", row.sharpe))
        if found is not None and not found.noise
    ]
    return ", ".join(said) or "noise"


def _difference(found: SeededDifference | None, digits: int) -> str:
    if found is None or math.isnan(found.estimate):
        return DASH
    low, high = number(found.low, digits, signed=True), number(found.high, digits, signed=True)
    return f"{number(found.estimate, digits, signed=True)} [{low}, {high}]"


def _interval(value: float, low: float, high: float, digits: int) -> str:
    return DASH if math.isnan(value) else f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in ("model", "verdict") else "right", no_wrap=True)
    return table


def bench_png(rows: Sequence[BenchRow], title: str) -> bytes:
    """Sharpe ratio and IC of every model with their intervals, and what it costs: seconds of its fit, milliseconds of an answer."""
    whole = [row for row in rows if not row.failed][::-1]  # the first row on top
    names = [row.name for row in whole]
    colours = [(NAIVE if row.baseline else SERIES[0]).light for row in whole]
    figure = Figure(figsize=(12, 1.6 + 0.34 * len(whole)), layout="constrained")
    worth = figure.subplots(1, 4, sharey=True, width_ratios=(3, 3, 2, 2))
    for axes, what in zip(worth[:2], ("sharpe", "ic"), strict=True):
        for y, (row, colour) in enumerate(zip(whole, colours, strict=True)):
            value, low, high = (getattr(row, f"{what}{end}") for end in ("", "_low", "_high"))
            if math.isfinite(value):
                axes.plot([low, high], [y, y], color=colour, linewidth=2.2, solid_capstyle="round")
                axes.plot(value, y, "o", color=colour, markersize=6)
        axes.axvline(0.0, color=INK.light, linewidth=0.8)
    worth[0].set(title="Sharpe ratio after costs, 95 %", yticks=range(len(names)), yticklabels=names)
    worth[1].set(title="IC, 95 %")
    for axes, label, values in (
        (worth[2], "fit, s", [row.fit_s for row in whole]),
        (worth[3], "one answer, ms", [row.p50_ms for row in whole]),
    ):
        axes.barh(range(len(values)), [max(value, 1e-3) for value in values], color=colours, height=0.6)
        axes.set(title=label, xscale="log")
    for axes in worth:
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
