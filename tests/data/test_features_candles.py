"""Candlestick patterns: TA-Lib's own, but a function of their window alone."""

import numpy as np
import polars as pl
import pytest
import talib

from quantfleet.errors import ConfigError
from quantfleet_data.features import assert_causal, feature_set, spread_cuts
from quantfleet_data.features.candles import CANDLE_PATTERNS, CandlePattern

PRICES = ("open", "high", "low", "close")


def ta_lib(pattern, bars):
    return getattr(talib, f"CDL{pattern.upper()}")(*(bars[name].to_numpy().copy() for name in PRICES)) / 100.0


def test_all_61_patterns_of_ta_lib_are_there():
    assert len(CANDLE_PATTERNS) == len(set(feature_set("candles").columns)) == 61
    assert feature_set("candles").lookback_bars == 15


def test_they_equal_ta_lib_on_random_bars_from_their_look_back_on(make_bars):
    bars = make_bars(1, 3000, still_share=0.2)
    found = 0
    for pattern in CANDLE_PATTERNS:
        feature = CandlePattern(pattern=pattern)
        mine = feature.compute(bars)
        assert np.isnan(mine[: feature.lookback_bars - 1]).all(), pattern
        np.testing.assert_array_equal(
            mine[feature.lookback_bars - 1 :], ta_lib(pattern, bars)[feature.lookback_bars - 1 :], err_msg=pattern
        )
        found += np.count_nonzero(np.nan_to_num(mine))
    assert found > 3000


def test_on_real_prices_they_differ_from_ta_lib_only_where_decimals_tie(shared_data):
    path = shared_data / "binance_spot_usdt_1h_2020-12_2021-07.parquet"
    bars = pl.read_parquet(path).filter(pl.col("symbol") == "COCOS/USDT").head(4000)
    cells = found = differ = 0
    for pattern in CANDLE_PATTERNS:
        feature = CandlePattern(pattern=pattern)
        mine, peer = feature.compute(bars)[14:], ta_lib(pattern, bars)[14:]
        cells, found, differ = (
            cells + mine.size,
            found + np.count_nonzero(peer),
            differ + np.count_nonzero(mine != peer),
        )
    assert found > 5000
    assert differ < 0.02 * found


@pytest.mark.parametrize("skipped", [1, 17, 400])
def test_a_pattern_does_not_know_where_its_history_began(make_bars, skipped):
    """With ticks of 0.01 and equal bodies everywhere, where rounding errors of a running total would show."""
    ticks = make_bars(2, 1500, volatility=0.001).with_columns(pl.col(PRICES).round(2))
    for pattern in CANDLE_PATTERNS:
        feature = CandlePattern(pattern=pattern)
        whole, late = feature.compute(ticks), feature.compute(ticks[skipped:])
        np.testing.assert_array_equal(late[feature.lookback_bars - 1 :], whole[skipped + feature.lookback_bars - 1 :])


def test_they_are_causal(make_bars):
    bars = make_bars(3, 400, still_share=0.3)
    assert_causal(feature_set("candles"), bars, spread_cuts(bars.height, 6))


def test_a_bullish_engulfing_is_one_and_a_bearish_one_is_minus_one(write_bars):
    calm = [[100.0, 101.0, 99.0, 100.5]] * 12
    bullish = write_bars([*calm, [100.0, 100.2, 98.8, 99.0], [98.9, 101.2, 98.8, 101.0]])
    bearish = write_bars([*calm, [99.0, 100.2, 98.8, 100.0], [100.1, 100.2, 98.0, 98.5]])
    assert CandlePattern(pattern="engulfing").compute(bullish)[-1] == 1.0
    assert CandlePattern(pattern="engulfing").compute(bearish)[-1] == -1.0


def test_a_missing_price_silences_only_the_windows_that_hold_it(make_bars):
    bars = make_bars(4, 200)
    broken = bars.with_columns(close=pl.when(pl.int_range(pl.len()) == 100).then(np.nan).otherwise("close"))
    feature = CandlePattern(pattern="doji")
    mine, clean = feature.compute(broken), feature.compute(bars)
    gone = np.arange(100, 100 + feature.lookback_bars)
    assert np.isnan(mine[gone]).all()
    np.testing.assert_array_equal(np.delete(mine, gone), np.delete(clean, gone))


def test_an_unknown_pattern_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no pattern 'hamer'\. Did you mean 'hammer'\?"):
        CandlePattern(pattern="hamer")
