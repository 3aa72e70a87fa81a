"""Two runs side by side: scores of each model, and whether the difference could be chance, on the bars both have."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table

from quantfleet.config import Resolved
from quantfleet.errors import ConfigError, DataError
from quantfleet.evaluation import max_drawdown, sharpe, sharpe_difference, total_return
from quantfleet.evaluation.inference import bayes_factor, diebold_mariano
from quantfleet.evaluation.report.text import number, percent
from quantfleet.storage import Storage
from quantfleet_jobs.evaluate import scores_of
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.record import RunRecord

__all__ = ["Compared", "compare_runs", "print_comparison"]

_FEWEST_BARS = 30
_SMALL_EFFECT = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One model of the first run against one of the second, over their common test bars; pairs are (first, second)."""

    first: str
    second: str
    bars: int
    sharpe: tuple[float, float]
    total_return: tuple[float, float]
    max_drawdown: tuple[float, float]
    ic: tuple[float, float]
    """Over each run's own test period."""
    p_value: float
    """Two-sided, of the difference of Sharpe ratios, by the paired stationary bootstrap."""
    diebold_mariano_p: float
    """Two-sided, of the difference of mean returns."""
    bayes_factor: float
    """For a difference of mean returns, against none."""


def compare_runs(a: Resolved[Recipe], b: Resolved[Recipe]) -> list[Compared]:
    """Compare models of one name; where the runs share no candidate, their best candidates by Sharpe ratio, too.

    Raises: MissingInputError: a run was not evaluated. ConfigError: bars of different length. DataError: nothing to compare.
    """
    if (a.value.market, a.value.ingest.timeframe) != (b.value.market, b.value.ingest.timeframe):
        raise ConfigError(
            f"runs {a.value.run.name!r} and {b.value.run.name!r} have bars of {a.value.ingest.timeframe} and "
            f"{b.value.ingest.timeframe}, {a.value.market.bars_per_year:g} and {b.value.market.bars_per_year:g} a year: only "
            "runs of the same bars can be compared."
        )
    first, second = _Evaluated(a), _Evaluated(b)
    pairs = [(name, name) for name in first.curves if name in second.curves]
    if not any(name in first.candidates and name in second.candidates for name, _ in pairs):
        best = (first.best(), second.best())
        pairs += [best] if all(best) and best not in pairs else []
    compared = [found for x, y in pairs if (found := _compare(first, x, second, y)) is not None]
    if not compared:
        raise DataError(
            f"runs {a.value.run.name!r} and {b.value.run.name!r} have no models of one name, or fewer than {_FEWEST_BARS} test "
            "bars in common; there is nothing to compare."
        )
    return compared


class _Evaluated:
    """What an evaluated run earned on test."""

    def __init__(self, resolved: Resolved[Recipe]) -> None:
        recipe = resolved.value
        storage = Storage(recipe.storage).absolute()
        record = RunRecord(storage, recipe.run.name)
        evaluated, traded = (
            record.need("evaluate", of="compare"),
            record.need("backtest", of="compare").outputs["models"],
        )
        self.bars_per_year, self.seed = recipe.market.bars_per_year, recipe.run.seed
        self.candidates = {model.label for model in recipe.models if not model.baseline}
        labels = [model.label for model in recipe.models if model.label in traded]
        self.curves = {
            name: storage.read_parquet(traded[name]["test"]["curve"]).select("timestamp", "net_return")
            for name in labels
        }
        self.scores = {name: scores_of(evaluated, name, storage)["test"] for name in labels}

    def best(self) -> str:
        ranked = {
            name: self.scores[name].get("sharpe", math.nan) for name in sorted(self.candidates & self.curves.keys())
        }
        return max(ranked, key=lambda name: -math.inf if math.isnan(ranked[name]) else ranked[name], default="")


def _compare(first: _Evaluated, x: str, second: _Evaluated, y: str) -> Compared | None:
    both = first.curves[x].join(second.curves[y], on="timestamp", suffix="_b").sort("timestamp")
    both = both.filter(pl.col("net_return").is_finite() & pl.col("net_return_b").is_finite())
    if both.height < _FEWEST_BARS:
        return None
    a_T, b_T = both["net_return"].to_numpy(), both["net_return_b"].to_numpy()
    year, same = first.bars_per_year, bool(np.ptp(a_T - b_T) == 0.0)
    return Compared(
        first=x,
        second=y,
        bars=both.height,
        sharpe=(sharpe(a_T, bars_per_year=year), sharpe(b_T, bars_per_year=year)),
        total_return=(total_return(a_T), total_return(b_T)),
        max_drawdown=(max_drawdown(a_T), max_drawdown(b_T)),
        ic=(first.scores[x].get("ic", math.nan), second.scores[y].get("ic", math.nan)),
        p_value=math.nan if same else _two_sided(a_T, b_T, first),
        diebold_mariano_p=diebold_mariano(-a_T, -b_T, horizon_bars=1).p_value,
        bayes_factor=bayes_factor(a_T - b_T, scale=_SMALL_EFFECT),
    )


def _two_sided(a_T: npt.NDArray[np.float64], b_T: npt.NDArray[np.float64], run: _Evaluated) -> float:
    """Twice the smaller of the two one-sided p-values."""
    sides = [
        sharpe_difference(x_T, y_T, bars_per_year=run.bars_per_year, seed=run.seed).p_value
        for x_T, y_T in ((a_T, b_T), (b_T, a_T))
    ]
    known = [side for side in sides if not math.isnan(side)]  # a side in cash has a ratio as the rival only
    return min(1.0, 2.0 * min(known)) if known else math.nan


def print_comparison(a: Resolved[Recipe], b: Resolved[Recipe], console: Console) -> None:
    """A table of pairs; each cell holds the first run's value, then the second's."""
    title = f"{a.value.run.name} against {b.value.run.name}: common test bars, after costs"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for name in ("model", "bars", "Sharpe", "return", "IC", "p", "DM p", "Bayes"):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for row in compare_runs(a, b):
        table.add_row(
            row.first if row.first == row.second else f"{row.first}, {row.second}",
            f"{row.bars:,}",
            ", ".join(number(value) for value in row.sharpe),
            ", ".join(percent(value, 0) for value in row.total_return),
            ", ".join(number(value, 3) for value in row.ic),
            number(row.p_value, 3),
            number(row.diebold_mariano_p, 3),
            number(row.bayes_factor) if not row.bayes_factor > 1000 else "> 1000",
        )
    console.print(table)
    console.print(
        "p: of the difference of Sharpe ratios (paired stationary bootstrap); DM: of mean returns (Diebold-Mariano); both "
        "two-sided, not corrected for the number of pairs. Bayes: evidence for a difference of means over none.",
        soft_wrap=True,
        highlight=False,
    )
