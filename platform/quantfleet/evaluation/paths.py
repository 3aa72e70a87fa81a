"""Back tests put together from stretches that different fits were tested on: walk-forward, and the paths of cross-validation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from quantfleet.errors import DataError
from quantfleet.evaluation.base import CURVE_COLUMNS
from quantfleet.evaluation.metrics import sharpe

__all__ = ["PathSpread", "path_spread", "stitched"]


def stitched(curves: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """One curve from those of stretches that follow each other; each begins in cash with what the one before ended with.

    Positions are left at the last close of a stretch without paying for it, and those of the next are bought anew.

    Args: curves: CURVE_COLUMNS of each, in order of time.
    Returns: CURVE_COLUMNS; equity relative to the first stretch's capital, drawdown from the highest equity of all so far.
    Raises: DataError: no curve, an empty one, or stretches that overlap.
    """
    if not curves or any(curve.is_empty() for curve in curves):
        raise DataError("there is no back test to put together: a stretch without a bar. Use more bars or fewer folds.")
    for before, after in itertools.pairwise(curves):
        if before["timestamp"][-1] >= after["timestamp"][0]:
            raise DataError(
                f"stretches overlap: one ends at {before['timestamp'][-1]}, the next begins at {after['timestamp'][0]}."
            )
    capital = float(curves[0]["equity"][0]) / (1.0 + float(curves[0]["net_return"][0]))
    whole = pl.concat(curve.select(CURVE_COLUMNS) for curve in curves)
    grown = capital * (1.0 + pl.col("net_return")).cum_prod()
    return whole.with_columns(equity=grown).with_columns(
        drawdown=pl.col("equity") / pl.max_horizontal(pl.col("equity").cum_max(), pl.lit(capital)) - 1.0
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PathSpread:
    """Annualised Sharpe ratios of one model over all paths, which share most of their training: no independent draws."""

    paths: int
    mean: float
    deviation: float
    """NaN for one path."""
    lowest: float
    highest: float
    share_below_zero: float
    share_below_yardstick: float
    """Of the paths, how many earn less than the best naive model does on the same path; NaN without one."""


def path_spread(
    returns: Mapping[str, Sequence[pl.DataFrame]], *, naive: set[str], bars_per_year: float
) -> dict[str, PathSpread]:
    """How much a model's Sharpe ratio depends on which history it happened to be trained and tested on.

    Args:
        returns: model to its stitched curve on each path; all models have the same paths.
        naive: names of naive models; on each path the best of them is the yardstick.
    Source: Lopez de Prado (2018), Advances in Financial Machine Learning, 12.4: the distribution over paths, not one back test.
    """
    ratios = {name: np.array([_ratio(curve, bars_per_year) for curve in curves]) for name, curves in returns.items()}
    rivals = [ratios[name] for name in sorted(naive & ratios.keys())]
    best_P = np.max(rivals, axis=0) if rivals else None
    spreads = {}
    for name, own_P in ratios.items():
        spreads[name] = PathSpread(
            paths=len(own_P),
            mean=float(own_P.mean()),
            deviation=float(own_P.std(ddof=1)) if len(own_P) > 1 and np.isfinite(own_P).all() else math.nan,
            lowest=float(own_P.min()),
            highest=float(own_P.max()),
            share_below_zero=float((own_P < 0.0).mean()),
            share_below_yardstick=math.nan if best_P is None or name in naive else float((own_P < best_P).mean()),
        )
    return spreads


def _ratio(curve: pl.DataFrame, bars_per_year: float) -> float:
    """0 for a path that stayed in cash, which neither earned nor lost; minus infinity for one whose account was lost."""
    returns = curve["net_return"].to_numpy()
    if not np.isfinite(returns).all():
        return -math.inf
    return 0.0 if not returns.any() else sharpe(returns, bars_per_year=bars_per_year)
