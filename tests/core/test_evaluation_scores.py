"""New metrics agree with peers (quantstats, empyrical, scikit-learn, properscoring) to nine digits; undefined is NaN."""

from __future__ import annotations

import datetime as dt
import math
import warnings

import numpy as np
import pandas as pd
import polars as pl
import properscoring
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics as sk

from quantfleet import evaluation as ev

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import empyrical
    import quantstats.stats as qs

SEEDS = st.integers(0, 2**32 - 1)


def draw(seed: int, bars: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, bars) * 0.01 + 0.0003


def daily(returns: np.ndarray) -> pd.Series:
    return pd.Series(returns, index=pd.date_range("2001-01-01", periods=len(returns), freq="D"))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, bars=st.integers(30, 400))
def test_trading_metrics_agree_with_quantstats_and_empyrical(seed: int, bars: int):
    returns, benchmark = draw(seed, bars), draw(seed + 1, bars)
    near = lambda value: pytest.approx(value, rel=1e-9, abs=1e-12)  # noqa: E731
    series = daily(returns)
    assert ev.calmar(returns, bars_per_year=252) == near(qs.calmar(series, periods=252))
    assert ev.omega(returns) == near(qs.omega(series, periods=252)) == near(empyrical.omega_ratio(series))
    assert ev.profit_factor(returns) == near(qs.profit_factor(series))
    assert ev.tail_ratio(returns) == near(qs.tail_ratio(series)) == near(empyrical.tail_ratio(returns))
    assert ev.value_at_risk(returns) == near(-empyrical.value_at_risk(returns))
    assert ev.expected_shortfall(returns) == near(-qs.conditional_value_at_risk(series, method="historical"))
    alpha, beta = ev.alpha_beta(returns, benchmark, bars_per_year=252)
    greeks = qs.greeks(series, daily(benchmark), periods=252)
    assert (alpha, beta) == (near(greeks["alpha"]), near(greeks["beta"]))
    assert beta == near(empyrical.beta(returns, benchmark))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_the_longest_drawdown_is_that_of_quantstats(seed: int):
    returns = draw(seed)
    details = qs.drawdown_details(qs.to_drawdown_series(daily(np.concatenate([[0.0], returns]))))
    assert ev.drawdown_length_bars(returns) == (0 if details.empty else details["days"].max())


def test_trading_metrics_that_are_undefined_say_so():
    rising = np.array([0.01, 0.02])
    assert math.isnan(ev.calmar(rising, bars_per_year=252))
    assert math.isnan(ev.omega(rising))
    assert ev.drawdown_length_bars(rising) == 0
    assert all(map(math.isnan, ev.alpha_beta(rising, np.zeros(2), bars_per_year=252)))
    with pytest.raises(ValueError, match="not a number"):
        ev.drawdown_length_bars(np.array([0.1, math.nan]))
    with pytest.raises(ValueError, match=r"between 0\.5 and 1"):
        ev.value_at_risk(rising, confidence=0.05)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, members=st.integers(1, 12))
def test_scoring_rules_agree_with_scikit_learn_and_properscoring(seed: int, members: int):
    rng = np.random.default_rng(seed)
    truth, said, spread = rng.normal(size=50), rng.normal(size=50), rng.uniform(0.1, 2.0, 50)
    ensemble = rng.normal(size=(50, members))
    assert ev.mean_squared_error(said, truth) == pytest.approx(sk.mean_squared_error(truth, said), rel=1e-9)
    assert ev.mean_absolute_error(said, truth) == pytest.approx(sk.mean_absolute_error(truth, said), rel=1e-9)
    assert ev.pinball(said, truth, level=0.1) == pytest.approx(sk.mean_pinball_loss(truth, said, alpha=0.1), rel=1e-9)
    assert ev.crps_normal(said, spread, truth) == pytest.approx(
        properscoring.crps_gaussian(truth, said, spread).mean(), rel=1e-9
    )
    assert ev.crps_ensemble(ensemble, truth) == pytest.approx(
        properscoring.crps_ensemble(truth, ensemble).mean(), rel=1e-9
    )


def test_quantiles_of_a_normal_score_nearly_as_the_normal_itself():
    truth = np.random.default_rng(1).normal(size=200)
    levels = tuple((np.arange(999) + 0.5) / 999)
    quantiles = np.tile(norm.ppf(levels), (200, 1))
    exact = ev.crps_normal(np.zeros(200), np.ones(200), truth)
    assert ev.crps_quantiles(quantiles, truth, levels=levels) == pytest.approx(exact, rel=2e-3)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_class_scores_and_calibration_agree_with_scikit_learn(seed: int):
    rng = np.random.default_rng(seed)
    came, called = rng.integers(-1, 2, 80), rng.integers(-1, 2, 80)
    precision, recall, f1, rows = sk.precision_recall_fscore_support(came, called, zero_division=np.nan)
    for i, score in enumerate(ev.class_scores(called, came).values()):
        assert (score.precision, score.recall, score.rows) == (
            pytest.approx(precision[i], rel=1e-9, nan_ok=True),
            pytest.approx(recall[i], rel=1e-9, nan_ok=True),
            rows[i],
        )
        assert score.f1 == pytest.approx(f1[i], rel=1e-9, abs=1e-12)
    chance, happened = rng.uniform(size=300), rng.integers(0, 2, 300).astype(float)
    assert ev.brier_score(chance, happened) == pytest.approx(sk.brier_score_loss(happened, chance), rel=1e-9)


def test_calibration_is_perfect_where_chances_come_true_and_off_by_what_they_lack():
    chance = np.repeat([0.2, 0.8], 10)
    happened = np.array([1] * 2 + [0] * 8 + [1] * 8 + [0] * 2, dtype=float)
    assert ev.reliability(chance, happened).expected_error == pytest.approx(0.0, abs=1e-12)
    assert ev.reliability(chance, 1.0 - happened).expected_error == pytest.approx(0.6)
    with pytest.raises(ValueError, match="not logits"):
        ev.reliability(np.array([1.5]), np.array([1.0]))


def panel(seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    times = [dt.datetime(2020, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=i) for i in range(40)]
    said = rng.normal(size=(6, 40))
    return pl.DataFrame(
        {
            "symbol": np.repeat(list("ABCDEF"), 40),
            "timestamp": times * 6,
            "expected_return": said.ravel(),
            "realised_return": (said + rng.normal(size=(6, 40))).ravel(),
        }
    )


def test_ic_by_time_is_the_spearman_of_scipy_at_every_time():
    from scipy.stats import spearmanr

    frame = panel()
    series = ev.ic_by_time(frame)
    for (time,), group in frame.group_by("timestamp"):
        expected = spearmanr(group["expected_return"], group["realised_return"]).statistic
        assert series.filter(pl.col("timestamp") == time)["ic"][0] == pytest.approx(expected, rel=1e-9)
    values = series["ic"].to_numpy()
    assert ev.icir(values) == pytest.approx(values.mean() / values.std(ddof=1), rel=1e-12)
    assert ev.ic_by_time(frame.filter(pl.col("symbol") < "C")).is_empty()


def test_a_forecast_of_noise_ages_at_once_and_never_looks_back():
    decay = ev.ic_decay(panel(), delays_bars=(0, 1))["ic"].to_list()
    assert decay[0] > 0.6
    assert abs(decay[1]) < 0.25
    with pytest.raises(ValueError, match="own past"):
        ev.ic_decay(panel(), delays_bars=(-1,))


def test_capacity_is_where_impact_takes_what_it_says():
    found = ev.capacity(0.001, 1e-7)
    eaten = lambda capital: 1e-7 * math.sqrt(capital) / 0.001  # noqa: E731
    assert (eaten(found.break_even), eaten(found.half)) == (pytest.approx(1.0), pytest.approx(0.5))
    money = lambda capital: capital * (0.001 - 1e-7 * math.sqrt(capital))  # noqa: E731
    assert money(found.most_profit) > max(money(found.most_profit * f) for f in (0.98, 1.02))
    assert ev.capacity(-0.001, 1e-7).break_even == 0.0
    assert math.isnan(ev.capacity(0.001, math.nan).half)


def test_impact_reads_only_the_bars_before_the_trade():
    times = [dt.datetime(2020, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=i) for i in range(30)]
    close = 100.0 * np.cumprod(1.0 + np.random.default_rng(1).normal(0, 0.01, 30))
    bars = pl.DataFrame({"timestamp": times, "symbol": "A", "close": close, "volume": 1000.0})
    trades = pl.DataFrame({"timestamp": times[25:26], "symbol": ["A"], "notional": [500.0]})
    sigma = np.std(close[5:25] / close[4:24] - 1.0, ddof=1)
    expected = 0.5**1.5 * sigma / math.sqrt((close[5:25] * 1000.0).mean()) / 10
    got = ev.impact_per_root_capital(trades, bars, capital=1000.0, bars_traded=10)
    assert got == pytest.approx(expected, rel=1e-9)
    without = bars.with_columns(volume=pl.lit(None, dtype=pl.Float64))
    assert math.isnan(ev.impact_per_root_capital(trades, without, capital=1000.0, bars_traded=10))
