"""Levels: extremes, confirmed swings, pivots of closed periods, moves in true ranges."""

import datetime as dt
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import talib

from quantfleet.errors import ConfigError
from quantfleet_data.features import assert_causal, feature_set, spread_cuts
from quantfleet_data.features.levels import (
    AtrMove,
    DistanceToExtreme,
    PriorPeriodLevel,
    SwingAge,
    SwingDistance,
    true_range,
)


def bits(values):
    return np.where(np.isnan(values), np.nan, values).view(np.int64)


def swing_by_definition(bars, row, *, side, window, k):
    """Walk back from the newest bar whose right side is complete until a swing is found inside the window."""
    sign = 1.0 if side == "high" else -1.0
    level = sign * bars[side].to_numpy()
    for s in range(row - k, row - window + k, -1):
        if all(level[s] >= level[s - i] for i in range(1, k + 1)) and all(
            level[s] > level[s + i] for i in range(1, k + 1)
        ):
            return s
    return None


@pytest.mark.parametrize("side", ["high", "low"])
@pytest.mark.parametrize("k", [1, 3])
def test_the_last_confirmed_swing_is_found_as_by_walking_back(make_bars, side, k):
    bars = make_bars(1, 400, still_share=0.3)
    distance = SwingDistance(side=side, bars=30, confirm_bars=k).compute(bars)
    age = SwingAge(side=side, bars=30, confirm_bars=k).compute(bars)
    close, level = bars["close"].to_numpy(), bars[side].to_numpy()
    for row in range(29, 400):
        swing = swing_by_definition(bars, row, side=side, window=30, k=k)
        window = level[row - 29 : row + 1]
        far = window.max() if side == "high" else window.min()
        assert distance[row] == (far if swing is None else level[swing]) / close[row] - 1.0
        assert age[row] == (1.0 if swing is None else (row - swing) / 30)


def test_a_swing_is_unknown_until_it_is_confirmed(write_bars):
    highs = [10.0, 11.0, 12.0, 15.0, 12.0, 11.0, 10.0, 10.5]
    bars = write_bars([[9.0, h, 8.0, 9.0] for h in highs])
    values = SwingAge(side="high", bars=7, confirm_bars=2).compute(bars)
    np.testing.assert_array_equal(values[6:], [3 / 7, 4 / 7])
    assert (
        SwingDistance(side="high", bars=5, confirm_bars=2).compute(bars)[4] == 15.0 / 9.0 - 1.0
    )  # the extreme for now
    assert SwingAge(side="high", bars=5, confirm_bars=2).compute(bars)[4] == 1.0  # no swing is confirmed yet
    assert SwingAge(side="high", bars=5, confirm_bars=2).compute(bars)[5] == 2 / 5


def test_distance_to_an_extreme_is_zero_when_it_is_reached(write_bars):
    bars = write_bars([[10.0, 12.0, 9.0, 11.0], [11.0, 14.0, 10.0, 13.0], [13.0, 15.0, 12.0, 15.0]])
    assert DistanceToExtreme(side="high", bars=3).compute(bars)[-1] == 0.0
    assert DistanceToExtreme(side="low", bars=3).compute(bars)[-1] == 9.0 / 15.0 - 1.0


def test_moves_are_measured_in_ta_libs_true_range(make_bars):
    bars = make_bars(2, 80)
    high, low, close = (bars[n].to_numpy().copy() for n in ("high", "low", "close"))
    peer = talib.TRANGE(high, low, close)
    np.testing.assert_allclose(true_range(bars)[1:], peer[1:], rtol=1e-12)
    mean = np.convolve(peer[1:], np.ones(14) / 14, mode="valid")
    moves = AtrMove(move_bars=5, range_bars=14).compute(bars)
    np.testing.assert_allclose(moves[14:], (close[14:] - close[9:-5]) / mean, rtol=1e-9)


def test_prior_day_levels_are_those_of_the_last_closed_day(make_bars):
    start = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    bars = make_bars(3, 24 * 5, timeframe="1h", start=start)
    days = bars.group_by_dynamic("timestamp", every="1d").agg(
        pl.col("high").max(), pl.col("low").min(), pl.col("close").last()
    )
    high, low, close = days.select("high", "low", "close").row(2)
    pivot = (high + low + close) / 3
    expected = {
        "high": high, "low": low, "close": close, "pivot": pivot, "resistance": 2 * pivot - low,
        "support": 2 * pivot - high,
    }  # fmt: skip
    for level, price in expected.items():
        feature = PriorPeriodLevel(level=level, timeframe="1d", base="1h")
        values = feature.compute(bars)
        now = bars["close"].to_numpy()
        np.testing.assert_allclose(
            values[24 * 3 - 1 : 24 * 4 - 1], price / now[24 * 3 - 1 : 24 * 4 - 1] - 1, rtol=1e-12
        )
        assert feature.column == f"prior_period_level_{level}_1_on_1d"
    two = PriorPeriodLevel(level="high", periods=2, timeframe="1d", base="1h").compute(bars)[-2]
    assert two == pytest.approx(days["high"][2:4].max() / bars["close"][-2] - 1)


def test_prior_levels_in_parts_give_the_same_bits(make_bars):
    bars = make_bars(4, 700, timeframe="5m")
    feature = PriorPeriodLevel(level="pivot", periods=2, timeframe="1h", base="5m")
    parts, state = [], None
    for start, stop in pairwise([0, 1, 7, 12, 13, 200, 411, 700]):
        known = min(start, feature.lookback_bars - 1)
        values, state = feature.advance(bars[start - known : stop], stop - start, state)
        parts.append(values)
    np.testing.assert_array_equal(bits(np.concatenate(parts)), bits(feature.compute(bars)))


def test_the_sets_of_levels_and_longer_bars_are_causal(make_bars):
    bars = make_bars(5, 6000, timeframe="5m", volatility=0.002)
    for name in ("structure", "multi_timeframe_1m", "multi_timeframe_5m"):
        assert_causal(feature_set(name), bars, spread_cuts(bars.height, 3))


def test_a_window_too_short_for_a_swing_is_refused():
    with pytest.raises(ConfigError, match=r"bars=6 cannot hold a swing of confirm_bars=3; set bars >= 7"):
        SwingDistance(bars=6, confirm_bars=3)
