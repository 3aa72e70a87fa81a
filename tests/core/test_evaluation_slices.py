"""Parts of a period add up to it, crises are where prices say, and assets earn what their positions did."""

from __future__ import annotations

import datetime as dt
import json
import math

import numpy as np
import polars as pl
import pytest
from arch.data import sp500

from quantfleet.backtest import BacktestConfig, BarPanel, run_backtest
from quantfleet.evaluation import EvaluationView, sharpe, total_return
from quantfleet.evaluation.plain import json_ready
from quantfleet.evaluation.slices import CRISES, SliceScore, slice_scores

BARS = 500


@pytest.fixture(scope="module")
def scores() -> tuple[dict[tuple[str, str], SliceScore], EvaluationView]:
    """Two symbols from July 2007 to the end of 2008, half of the capital in each; the second half of the time is wilder."""
    rng = np.random.default_rng(0)
    start = dt.datetime(2007, 7, 1, tzinfo=dt.UTC)
    times = pl.Series([start + dt.timedelta(days=i) for i in range(BARS)], dtype=pl.Datetime("us", "UTC"))
    spread = np.where(np.arange(BARS) < BARS // 2, 0.005, 0.02)
    frames = []
    for symbol, drift in (("UP", 0.002), ("DOWN", -0.002)):
        close = 100 * np.exp(np.cumsum(rng.normal(drift, spread)))
        frames.append(pl.DataFrame({"symbol": symbol, "timestamp": times, "open": close, "close": close}))
    bars = pl.concat(frames)
    panel = BarPanel.from_bars(bars)
    result = run_backtest(panel, np.full((BARS, 2), 0.5), BacktestConfig())
    answers = bars.select(
        "symbol",
        "timestamp",
        expected_return=pl.Series(rng.normal(size=2 * BARS)),
        direction_probability=pl.lit(0.6),
        position=pl.lit(None, dtype=pl.Float64),
        realised_return=pl.Series(rng.normal(size=2 * BARS)),
    )
    view = EvaluationView(predictions=answers, curve=result.curve(), bars_per_year=365)
    found = slice_scores(view, closes=bars, positions=result.positions())
    return {(score.group, score.name): score for score in found}, view


def test_years_are_the_curve_cut_at_new_year(scores: tuple[dict[tuple[str, str], SliceScore], EvaluationView]):
    found, view = scores
    years = [found["year", name] for name in ("2007", "2008")]
    assert sum(year.bars for year in years) == BARS
    assert math.prod(1 + year.total_return for year in years) == pytest.approx(
        1 + total_return(view.curve["net_return"].to_numpy())
    )
    own = view.curve.filter(pl.col("timestamp").dt.year() == 2007)["net_return"].to_numpy()
    assert years[0].sharpe == sharpe(own, bars_per_year=365)


def test_regimes_are_thirds_by_what_was_known_and_the_wild_one_is_late(
    scores: tuple[dict[tuple[str, str], SliceScore], EvaluationView],
):
    found, _ = scores
    regimes = [found["regime", name] for name in ("calm", "normal", "wild")]
    assert sum(r.bars for r in regimes) == BARS - 22, "21 returns must be known first"
    assert max(r.bars for r in regimes) - min(r.bars for r in regimes) <= 2
    assert regimes[2].max_drawdown > regimes[0].max_drawdown


def test_only_crises_that_the_period_touches_are_listed(
    scores: tuple[dict[tuple[str, str], SliceScore], EvaluationView],
):
    found, _ = scores
    assert [name for group, name in found if group == "crisis"] == ["financial crisis"]
    assert found["crisis", "financial crisis"].bars == (dt.date(2008, 11, 11) - dt.date(2007, 10, 9)).days + 1


def test_an_asset_earns_what_its_position_did(scores: tuple[dict[tuple[str, str], SliceScore], EvaluationView]):
    found, view = scores
    up, down = found["asset", "UP"], found["asset", "DOWN"]
    assert up.total_return > 0.0 > down.total_return
    gross = view.curve["gross_return"].sum()
    assert up.total_return + down.total_return == pytest.approx(gross, abs=0.02)


def test_the_first_two_crises_are_the_falls_of_the_index():
    """Highest and lowest close of the S&P 500 around each; the data end in 2018."""
    close = sp500.load()["Adj Close"]
    for (_, first, last), (since, until) in zip(CRISES, (("1999", "2003-06"), ("2006", "2009-12")), strict=False):
        around = close.loc[since:until]
        assert around.loc[: str(last)].idxmax().date() == first
        assert around.loc[str(first) :].idxmin().date() == last


def test_rows_are_json_without_nan(scores: tuple[dict[tuple[str, str], SliceScore], EvaluationView]):
    found, _ = scores
    text = json.dumps(json_ready(tuple(found.values())), allow_nan=False)
    assert json.loads(text)[-1]["max_drawdown"] is None
