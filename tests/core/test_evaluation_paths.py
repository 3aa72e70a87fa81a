"""Back tests put together from stretches that different fits were tested on."""

import datetime as dt
import math

import numpy as np
import polars as pl
import pytest

from quantfleet.errors import DataError
from quantfleet.evaluation import max_drawdown, sharpe
from quantfleet.evaluation.paths import path_spread, stitched

START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def curve(returns, first_day: int = 0, capital: float = 100.0) -> pl.DataFrame:
    """As `BacktestResult.curve`."""
    grown = capital * np.cumprod(1.0 + np.asarray(returns, float))
    peak = np.maximum.accumulate(np.maximum(grown, capital))
    return pl.DataFrame(
        {
            "timestamp": [START + dt.timedelta(days=first_day + i) for i in range(len(grown))],
            "equity": grown,
            "net_return": np.asarray(returns, float),
            "drawdown": grown / peak - 1.0,
            "turnover": np.full(len(grown), 0.1),
            "exposure": np.ones(len(grown)),
            "trades": np.ones(len(grown), np.int64),
        }
    )


def test_stretches_grow_on_what_the_one_before_ended_with():
    whole = stitched([curve([0.1, -0.2]), curve([-0.5, 0.4], first_day=5)])
    expected = curve([0.1, -0.2, -0.5, 0.4])
    for name in ("equity", "drawdown", "net_return"):
        np.testing.assert_allclose(whole[name], expected[name], rtol=1e-12)
    assert whole["drawdown"].min() == pytest.approx(-max_drawdown(whole["net_return"].to_numpy()))
    assert whole["trades"].sum() == 4


def test_one_stretch_stays_as_it_is():
    one = curve([0.01, -0.02, 0.03])
    np.testing.assert_allclose(stitched([one])["equity"], one["equity"], rtol=1e-12)


@pytest.mark.parametrize(
    ("curves", "said"),
    [
        ([], "a stretch without a bar"),
        ([curve([0.1]).clear()], "a stretch without a bar"),
        ([curve([0.1, 0.1]), curve([0.1], first_day=1)], "overlap: one ends at 2020-01-02"),
    ],
)
def test_what_cannot_be_put_together_is_said(curves: list[pl.DataFrame], said: str):
    with pytest.raises(DataError, match=said):
        stitched(curves)


def test_the_spread_is_that_of_the_ratios_and_the_yardstick_is_the_best_naive_model_of_each_path():
    rng = np.random.default_rng(0)
    paths = {name: [curve(rng.normal(0.0005, 0.01, 250)) for _ in range(4)] for name in ("model", "long", "trend")}
    paths["cash"] = [curve(np.zeros(250))] * 4
    ratios = {
        name: [
            sharpe(c["net_return"].to_numpy(), bars_per_year=252) if c["net_return"].to_numpy().any() else 0.0
            for c in own
        ]
        for name, own in paths.items()
    }
    spread = path_spread(paths, naive={"long", "trend", "cash"}, bars_per_year=252)
    model = spread["model"]
    assert (model.paths, model.lowest, model.highest) == (4, min(ratios["model"]), max(ratios["model"]))
    assert model.mean == pytest.approx(np.mean(ratios["model"]))
    assert model.deviation == pytest.approx(np.std(ratios["model"], ddof=1))
    best = [max(ratios[name][p] for name in ("long", "trend", "cash")) for p in range(4)]
    assert model.share_below_yardstick == sum(own < b for own, b in zip(ratios["model"], best, strict=True)) / 4
    assert model.share_below_zero == sum(own < 0 for own in ratios["model"]) / 4
    assert math.isnan(spread["long"].share_below_yardstick)
    assert (spread["cash"].mean, spread["cash"].share_below_zero) == (0.0, 0.0)


def test_a_lost_account_is_worse_than_any_ratio():
    lost = curve([0.01, -0.5, math.nan, math.nan])
    spread = path_spread(
        {"model": [lost, curve([0.01, 0.02, 0.0, 0.01])], "long": [curve([-0.1, -0.2, 0.0, -0.1])] * 2},
        naive={"long"}, bars_per_year=252,
    )["model"]  # fmt: skip
    assert spread.lowest == -math.inf
    assert math.isnan(spread.deviation)
    assert spread.share_below_yardstick == spread.share_below_zero == 0.5


def test_without_a_naive_model_or_with_one_path_nothing_is_made_up():
    spread = path_spread({"model": [curve([0.01, -0.02, 0.03])]}, naive=set(), bars_per_year=252)["model"]
    assert math.isnan(spread.share_below_yardstick)
    assert math.isnan(spread.deviation)
