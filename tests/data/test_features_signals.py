"""The signal set and the signals of its own: averages in order, their slope, runs."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import talib

from quantfleet.errors import ConfigError
from quantfleet_data.features import advance_features, assert_causal, compute_features, feature_set, spread_cuts
from quantfleet_data.features.signals import EmaAlignment, EmaSlope, RunLength


def test_the_set_holds_28_features_of_28_columns():
    features = feature_set("signals")
    assert len(features.features) == len(set(features.columns)) == 28
    assert features.inputs == ("close", "high", "low", "open", "timestamp", "volume")


def test_every_signal_is_finite_from_its_look_back_on_real_bars_and_causal(shared_data):
    path = shared_data / "binance_spot_usdt_1h_2020-12_2021-07.parquet"
    bars = pl.read_parquet(path).filter(pl.col("symbol") == "COCOS/USDT").head(3000)
    features = feature_set("signals")
    table = compute_features(bars, features).drop("symbol", "timestamp").to_numpy()
    assert np.isfinite(table[features.lookback_bars - 1 :]).all()
    assert (table[features.lookback_bars - 1 :].std(axis=0) > 0.0).all()
    assert_causal(features, bars, spread_cuts(bars.height, 4))


def test_alignment_and_slope_follow_ta_libs_averages(make_bars):
    bars = make_bars(1, 600)
    close = bars["close"].to_numpy()
    fast, middle, slow = (talib.EMA(close, n) for n in (9, 21, 50))
    signs = (np.sign(close - fast) + np.sign(fast - middle) + np.sign(middle - slow)) / 3.0
    feature = EmaAlignment()
    start = feature.lookback_bars - 1
    np.testing.assert_allclose(feature.compute(bars)[start:], signs[start:], rtol=1e-12)
    slope = EmaSlope(bars=21, slope_bars=5)
    start = slope.lookback_bars - 1
    np.testing.assert_allclose(slope.compute(bars)[start:], (middle[5:] / middle[:-5] - 1.0)[start - 5 :], rtol=1e-9)


def test_a_straight_trend_is_fully_aligned_and_a_still_market_is_not_aligned_at_all(write_bars):
    rising = write_bars([[100.0 * 1.01**i] for i in range(400)])
    still = write_bars([[100.0]] * 400)
    feature = EmaAlignment()
    assert feature.compute(rising)[-1] == 1.0
    assert feature.compute(rising.with_columns(pl.col("close").reverse()))[-1] == -1.0
    assert feature.compute(still)[-1] == 0.0


def test_runs_count_the_bars_in_a_row_up_to_their_window(write_bars):
    bars = write_bars([[p] for p in (5.0, 6.0, 7.0, 7.0, 8.0, 9.0, 10.0, 11.0, 10.0, 9.0)])
    up, down = (RunLength(direction=d, bars=3).compute(bars) for d in ("up", "down"))
    np.testing.assert_array_equal(up, [np.nan, np.nan, np.nan, 0, 1, 2, 3, 3, 0, 0])
    np.testing.assert_array_equal(down, [np.nan, np.nan, np.nan, 0, 0, 0, 0, 0, 1, 2])


def test_averages_that_do_not_rise_are_refused():
    with pytest.raises(ConfigError, match="fast_bars=21, middle_bars=21 and slow_bars=50 must rise"):
        EmaAlignment(fast_bars=21)


@pytest.mark.parametrize("name", ["signals", "alpha158", "candles", "structure", "relative"])
@pytest.mark.parametrize("volume", ["traded", "patchy"])
def test_the_wide_sets_give_the_same_bits_in_parts_as_in_one_go(make_bars, name, volume):
    features = feature_set(name)
    bars = make_bars(7, 420, timeframe="1h", still_share=0.2, volume=volume)
    bars = bars.with_columns(index_close=make_bars(8, 420)["close"])
    parts, states = [], None
    for start, stop in pairwise([0, 1, 2, 130, 288, 289, 419, 420]):
        known = min(start, features.lookback_bars - 1)
        part, states = advance_features(bars[start - known : stop], features, stop - start, states)
        parts.append(part)
    whole, joined = compute_features(bars, features), pl.concat(parts)
    for column in features.columns:
        one, other = whole[column].to_numpy(), joined[column].to_numpy()
        np.testing.assert_array_equal(np.isnan(one), np.isnan(other), err_msg=column)
        assert one[~np.isnan(one)].tobytes() == other[~np.isnan(other)].tobytes(), column
