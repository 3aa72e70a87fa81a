"""Information coefficients through time: across symbols at each time, within each symbol, and as the forecast ages.

A pooled coefficient mixes two skills: knowing which symbol and knowing when. These keep them apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.errors import SchemaError, nearest

__all__ = ["ic_by_time", "ic_decay", "icir"]

Method = Literal["pearson", "spearman"]
_COLUMNS = ("symbol", "timestamp", "expected_return", "realised_return")


def ic_by_time(predictions: pl.DataFrame, *, method: Method = "spearman", at_least: int = 5) -> pl.DataFrame:
    """Correlation across symbols of forecast and outcome, one per time.

    Args:
        predictions: symbol, timestamp, expected_return, realised_return; a row without an outcome is left out.
        at_least: times with fewer symbols have no coefficient: of two symbols it could only be 1 or -1.
    Returns: timestamp (sorted) and ic; times where a side is constant are left out.
    Raises: SchemaError: a column is missing.
    """
    known = _known(predictions)
    ic = pl.corr("expected_return", "realised_return", method=method).alias("ic")
    grouped = known.group_by("timestamp").agg(ic, pl.len().alias("symbols"))
    usable = grouped.filter((pl.col("symbols") >= at_least) & pl.col("ic").is_finite())
    return usable.select("timestamp", "ic").sort("timestamp")


def icir(ic_T: npt.NDArray[np.float64], *, periods_per_year: float | None = None) -> float:
    """Mean over standard deviation (T - 1) of coefficients through time: how steady the skill is.

    Args:
        periods_per_year: annualises by its square root when given; honest only where outcomes do not overlap.
    Returns: NaN with fewer than two coefficients, or where they are all equal.
    Source: Grinold and Kahn (2000), "Active Portfolio Management", chapter 6.
    """
    if len(ic_T) < 2 or np.ptp(ic_T) == 0.0:
        return math.nan
    return float(ic_T.mean() / ic_T.std(ddof=1)) * math.sqrt(1.0 if periods_per_year is None else periods_per_year)


def ic_decay(predictions: pl.DataFrame, *, delays_bars: Sequence[int], method: Method = "pearson") -> pl.DataFrame:
    """How fast a forecast ages: its pooled correlation with the outcome of a decision so many bars later.

    A delay of k pairs the forecast made at t with the outcome of a decision at t + k, symbol by symbol. An honest edge
    fades over its horizon; one that falls to nothing at a delay of one bar lives on the last second, or on a leak.

    Args:
        predictions: as for `ic_by_time`, without holes: a row is a bar.
        delays_bars: 0 or more.
    Returns: delay_bars, ic (NaN where undefined), rows.
    Raises: SchemaError: a column is missing. ValueError: a negative delay, which would look into the future.
    """
    if any(delay < 0 for delay in delays_bars):
        raise ValueError(f"delays_bars={tuple(delays_bars)}: a negative delay pairs a forecast with its own past.")
    _need(predictions)
    ordered = predictions.sort("symbol", "timestamp")
    rows = []
    for delay in delays_bars:
        aged = ordered.with_columns(pl.col("expected_return").shift(delay).over("symbol"))
        known = _known(aged)
        ic = (
            known.select(pl.corr("expected_return", "realised_return", method=method)).item()
            if len(known) > 1
            else None
        )
        rows.append({"delay_bars": delay, "ic": math.nan if ic is None else float(ic), "rows": len(known)})
    return pl.DataFrame(rows, schema={"delay_bars": pl.Int64, "ic": pl.Float64, "rows": pl.Int64})


def _known(predictions: pl.DataFrame) -> pl.DataFrame:
    _need(predictions)
    both = pl.col("expected_return", "realised_return").cast(pl.Float64).fill_nan(None)
    return predictions.select("symbol", "timestamp", both).drop_nulls()


def _need(predictions: pl.DataFrame) -> None:
    for name in _COLUMNS:
        if name not in predictions.columns:
            raise SchemaError(f"predictions have no column {name!r}.{nearest(name, predictions.columns)}", column=name)
