"""Scaled returns, three-class directions, trend scanning and regimes, against independent computation."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from quantfleet.config import load_config
from quantfleet.contracts import Timeframe
from quantfleet.errors import ConfigError
from quantfleet_data.features.trend import SmaRatio
from quantfleet_data.labels import (
    Direction,
    ForwardReturn,
    LabelsConfig,
    MetaLabel,
    TrendScanning,
    VolatilityRegime,
    assert_settled,
    compute_labels,
)
from quantfleet_data.weights import WeightsConfig

DAY = Timeframe("1d")


def trailing(bars, t, n):
    close = bars["close"].to_list()
    return math.sqrt(math.fsum(math.log(close[i] / close[i - 1]) ** 2 for i in range(t - n + 1, t + 1)) / n)


def test_log_and_scaled_returns_are_the_simple_return_in_other_units(make_bars):
    bars = make_bars(1, 60)
    simple, log, scaled = (
        ForwardReturn(horizons_bars=(4,), measure=m, volatility_bars=6).compute(bars, DAY)
        for m in ("simple", "log", "volatility_scaled")
    )
    assert [t.columns[0] for t in (simple, log, scaled)] == ["return_4", "log_return_4", "scaled_return_4"]
    for t in range(55):
        value = simple["return_4"][t]
        assert log["log_return_4"][t] == pytest.approx(math.log1p(value), rel=1e-9, abs=1e-15)
        if t < 6:
            assert math.isnan(scaled["scaled_return_4"][t])
            assert scaled["scaled_return_4__t_end"][t] is None
        else:
            assert scaled["scaled_return_4"][t] == pytest.approx(value / (trailing(bars, t, 6) * 2.0), rel=1e-9)
    assert simple["return_4__t_end"].to_list() == log["log_return_4__t_end"].to_list()


def test_a_scaled_return_after_a_market_that_stood_still_is_unknown_not_infinite(write_bars):
    bars = write_bars([[50.0]] * 6 + [[55.0]] * 4)
    label = ForwardReturn(horizons_bars=(2,), measure="volatility_scaled", volatility_bars=2)
    assert np.isnan(label.compute(bars, DAY)["scaled_return_2"].to_numpy()[2:6]).all()


def test_three_classes_are_up_down_and_within_the_band(write_bars):
    """Opens: 100, 100, 101, 101.05, 100: next-open returns of one bar are +1 %, +5 bp, -1 %."""
    bars = write_bars([[100.0], [100.0], [101.0], [101.05], [100.0]])
    label = Direction(horizons_bars=(1,), classes=3, dead_band_bps=10.0)
    assert label.compute(bars, DAY)["direction3_1"].to_list()[:3] == [1.0, 0.0, -1.0]


@pytest.mark.parametrize("classes", [2, 3])
def test_a_dead_band_in_volatilities_follows_the_market(make_bars, classes):
    bars = make_bars(7, 90)
    label = Direction(horizons_bars=(4,), classes=classes, dead_band_volatilities=0.5, volatility_bars=6)
    values = label.compute(bars, DAY)[label.columns[0]].to_numpy()
    returns = ForwardReturn(horizons_bars=(4,)).compute(bars, DAY)["return_4"].to_numpy()
    assert np.isnan(values[:6]).all()
    for t in range(6, 85):
        band = 0.5 * trailing(bars, t, 6) * 2.0
        expected = 1.0 if returns[t] > band else -1.0 if classes == 3 and returns[t] < -band else 0.0
        assert values[t] == expected
    assert len(set(values[6:85])) == classes


# --- trend scanning ---------------------------------------------------------------------------------------------------


def slow_trend(close, t, shortest, longest):
    best = 0.0
    for span in range(shortest, longest + 1):
        line = stats.linregress(np.arange(span), np.log(close[t + 1 : t + 1 + span]))
        if abs(line.slope / line.stderr) > abs(best):
            best = line.slope / line.stderr
    return best


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shortest=st.integers(3, 6), more=st.integers(0, 10))
def test_the_strongest_trend_has_the_t_value_that_scipy_finds(make_bars, seed, shortest, more):
    bars, longest = make_bars(seed, 30), shortest + more
    table = TrendScanning(shortest_bars=shortest, longest_bars=longest).compute(bars, DAY)
    close = bars["close"].to_numpy()
    for t in range(30 - longest):
        assert table.row(t)[0] == pytest.approx(slow_trend(close, t, shortest, longest), rel=1e-6)
        assert table.row(t)[1] == bars["timestamp"][t + longest] + DAY.delta
    assert np.isnan(table.to_series(0).to_numpy()[30 - longest :]).all()


def test_a_flat_market_has_no_trend_and_a_straight_line_a_large_finite_one(write_bars):
    flat = write_bars([[50.0]] * 30)
    assert set(TrendScanning().compute(flat, DAY)["trend_t_20"].to_list()[:10]) == {0.0}
    rising = write_bars([[100.0 * 1.01**i] for i in range(30)])
    values = TrendScanning().compute(rising, DAY)["trend_t_20"].to_numpy()[:10]
    assert np.isfinite(values).all()
    assert (values > 1e3).all()
    assert set(TrendScanning(value="sign").compute(rising, DAY)["trend_20"].to_list()[:10]) == {1.0}


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(5, 60))
def test_these_labels_are_settled_at_their_t_end(make_bars, seed, cut):
    families = (
        TrendScanning(shortest_bars=3, longest_bars=8),
        ForwardReturn(horizons_bars=(3,), measure="volatility_scaled", volatility_bars=4),
        Direction(horizons_bars=(3,), classes=3, dead_band_volatilities=0.3, volatility_bars=4),
    )
    assert_settled(LabelsConfig(families=families), make_bars(seed, 60), DAY, [cut])


# --- regimes and weights beside the labels ----------------------------------------------------------------------------


def test_a_regime_is_the_tercile_of_the_volatility_among_those_before_it(make_bars):
    bars = make_bars(11, 150)
    regime = VolatilityRegime(volatility_bars=5, warm_up_bars=20).compute(bars).to_list()
    past = [trailing(bars, t, 5) for t in range(5, 150)]
    assert regime[:25] == [None] * 25
    for t in range(25, 150):
        known = past[: t - 4]
        share = (sum(v < known[-1] for v in known) + 0.5) / len(known)
        assert regime[t] == min(int(share * 3), 2)
    assert set(regime[25:]) == {0, 1, 2}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 120), still_share=st.sampled_from([0.0, 0.6]))
def test_cutting_the_future_off_changes_no_regime(make_bars, seed, cut, still_share):
    bars, regime = make_bars(seed, 120, still_share=still_share), VolatilityRegime(volatility_bars=4, warm_up_bars=10)
    assert regime.compute(bars.head(cut)).equals(regime.compute(bars).head(cut))


def test_weights_and_regimes_stand_beside_the_labels_where_they_are_asked_for(make_bars):
    config = LabelsConfig(
        weights=WeightsConfig(label="triple_barrier_21"), regime=VolatilityRegime(warm_up_bars=30, volatility_bars=10)
    )
    table = compute_labels(make_bars(2, 120), config, DAY)
    assert table.columns[-3:] == ["t_end", "weight", "regime"]
    assert table.schema["weight"] == pl.Float64()
    assert table.schema["regime"] == pl.Int16()
    known = table["triple_barrier_21__t_end"].is_not_null()
    assert (table["weight"].filter(known) > 0.0).all()
    assert (table["weight"].filter(~known) == 0.0).all()
    plain = compute_labels(make_bars(2, 120), LabelsConfig(), DAY)
    assert table.drop("weight", "regime").equals(plain)


def test_a_recipe_names_a_primary_rule_weights_and_regimes(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "families:\n  - {kind: meta_label, horizons_bars: [5], primary: {kind: sma_ratio, fast_bars: 5, slow_bars: 20}}\n"
        "weights: {label: meta_5, by: return, oldest_weight: 0.5}\nregime: {regimes: 2}\n"
    )
    config = load_config(LabelsConfig, file=path, environ={}).value
    assert config == LabelsConfig(
        families=(MetaLabel(horizons_bars=(5,), primary=SmaRatio(fast_bars=5, slow_bars=20)),),
        weights=WeightsConfig(label="meta_5", by="return", oldest_weight=0.5),
        regime=VolatilityRegime(regimes=2),
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrendScanning(shortest_bars=2), "shortest_bars=2 must be 3 or more"),
        (lambda: TrendScanning(shortest_bars=9, longest_bars=8), "no more than longest_bars=8"),
        (lambda: Direction(dead_band_bps=1.0, dead_band_volatilities=1.0), "are two dead bands; set one of them to 0"),
        (lambda: Direction(dead_band_volatilities=-1.0), "dead_band_volatilities=-1.0 must be zero or more"),
        (lambda: ForwardReturn(volatility_bars=1), "volatility_bars=1 must be at least 2"),
        (lambda: VolatilityRegime(regimes=1), r"labels.regime.regimes=1 must lie between 2 and 100"),
        (lambda: VolatilityRegime(warm_up_bars=2), "warm_up_bars=2 must be at least regimes=3"),
        (
            lambda: LabelsConfig(weights=WeightsConfig(label="return_6")),
            "'return_6' is no label .* Did you mean 'return_",
        ),
    ],
)
def test_senseless_parameters_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
