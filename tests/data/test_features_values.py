"""Feature values against something independent: published numbers, formulas written as loops, known limits."""

import datetime as dt
import itertools
import math
import statistics

import numpy as np
import polars as pl
import pytest

from quantfleet_data.features.bands import AtrRatio, BollingerB, BollingerWidth
from quantfleet_data.features.base import START_WEIGHT, warm_up_bars
from quantfleet_data.features.calendar import DayOfMonth, DayOfWeek, HourOfDay, MonthOfYear
from quantfleet_data.features.directional import AroonOscillator, AverageDirectionalIndex
from quantfleet_data.features.momentum import (
    CommodityChannelIndex,
    RateOfChange,
    RelativeStrengthIndex,
    StochasticD,
    StochasticK,
    WilliamsR,
)
from quantfleet_data.features.returns import IntradayReturn, LogReturn, OpenGap, SimpleReturn
from quantfleet_data.features.trend import (
    CloseEmaRatio,
    CloseSmaRatio,
    MacdHistogram,
    SmaRatio,
)
from quantfleet_data.features.volatility import (
    GarmanKlass,
    Parkinson,
    RealisedVolatility,
    VolatilityRatio,
)
from quantfleet_data.features.volume import ChaikinMoneyFlow, ObvSlope, VolumeRatio, VolumeZScore

ROWS = 400
LAST = ROWS - 1


@pytest.fixture(scope="module")
def bars(make_bars):
    return make_bars(11, ROWS)


@pytest.fixture(scope="module")
def ohlcv(bars):
    return {name: bars[name].to_list() for name in ("open", "high", "low", "close", "volume")}


def ema(values, n):
    """Seeded with the average of the first n values; None before."""
    out = [None] * (n - 1) + [sum(values[:n]) / n]
    for value in values[n:]:
        out.append(out[-1] + 2 / (n + 1) * (value - out[-1]))
    return out


def wilder(values, n):
    out = [None] * (n - 1) + [sum(values[:n]) / n]
    for value in values[n:]:
        out.append((out[-1] * (n - 1) + value) / n)
    return out


def true_ranges(x):
    pairs = zip(x["high"][1:], x["low"][1:], x["close"][:-1], strict=True)
    return [max(h - lo, abs(h - c), abs(lo - c)) for h, lo, c in pairs]


def test_rsi_gives_the_published_values_of_stockcharts(write_bars):
    """StockCharts, ChartSchool, "Relative Strength Index": QQQQ from 2009-12-14, 14 periods."""
    closes = [
        44.3389, 44.0902, 44.1497, 43.6124, 44.3278, 44.8264, 45.0955, 45.4245, 45.8433, 46.0826, 45.8931,
        46.0328, 45.6140, 46.2820, 46.2820, 46.0028, 46.0328, 46.4116, 46.2222, 45.6439, 46.2122, 46.2521,
        45.7137, 46.4515, 45.7835, 45.3548, 44.0288, 44.1783, 44.2181, 44.5672, 43.4205, 42.6628, 43.1314,
    ]  # fmt: skip
    published = [
        70.53, 66.32, 66.55, 69.41, 66.36, 57.97, 62.93, 63.26, 56.06, 62.38, 54.71, 50.42, 39.99, 41.46, 41.87,
        45.46, 37.30, 33.08, 37.77,
    ]  # fmt: skip
    rsi = RelativeStrengthIndex(bars=14).values(write_bars([[c] for c in closes]))
    np.testing.assert_allclose(rsi[14:], published, atol=0.006)


def test_rsi_follows_wilders_averages(bars, ohlcv):
    changes = [b - a for a, b in itertools.pairwise(ohlcv["close"])]
    up, down = wilder([max(c, 0) for c in changes], 14)[-1], wilder([max(-c, 0) for c in changes], 14)[-1]
    assert RelativeStrengthIndex(bars=14).compute(bars)[-1] == pytest.approx(100 - 100 / (1 + up / down), rel=1e-10)


def test_rsi_of_a_market_that_never_moved_is_neutral_not_a_collapse(write_bars):
    flat = write_bars([[7.0]] * 200)
    assert RelativeStrengthIndex().compute(flat)[-1] == 50.0
    falling = write_bars([[7.0]] * 150 + [[7.0 - 0.01 * i] for i in range(50)])
    assert RelativeStrengthIndex().compute(falling)[-1] == 0.0


def test_returns_measure_from_the_right_price_to_the_right_price(bars, ohlcv):
    close, opened = ohlcv["close"], ohlcv["open"]
    assert LogReturn(bars=5).compute(bars)[-1] == pytest.approx(math.log(close[LAST] / close[LAST - 5]), rel=1e-12)
    assert SimpleReturn(bars=21).compute(bars)[-1] == pytest.approx(close[LAST] / close[LAST - 21] - 1, rel=1e-12)
    assert RateOfChange(bars=63).compute(bars)[-1] == pytest.approx(
        100 * (close[LAST] / close[LAST - 63] - 1), rel=1e-12
    )
    assert OpenGap().compute(bars)[-1] == pytest.approx(opened[LAST] / close[LAST - 1] - 1, rel=1e-12)
    assert IntradayReturn().compute(bars)[-1] == pytest.approx(close[LAST] / opened[LAST] - 1, rel=1e-12)


def test_gap_and_intraday_return_compound_to_the_simple_return(bars):
    whole = (1 + OpenGap().compute(bars)) * (1 + IntradayReturn().compute(bars)) - 1
    np.testing.assert_allclose(whole, SimpleReturn(bars=1).compute(bars), rtol=1e-9, atol=1e-12)


def test_simple_averages_are_averages(bars, ohlcv):
    close = ohlcv["close"]
    fast, slow = statistics.fmean(close[-50:]), statistics.fmean(close[-200:])
    assert SmaRatio(fast_bars=50, slow_bars=200).compute(bars)[-1] == pytest.approx(fast / slow - 1, rel=1e-10)
    assert CloseSmaRatio(bars=50).compute(bars)[-1] == pytest.approx(close[-1] / fast - 1, rel=1e-10)


def test_sma_ratio_is_called_by_its_windows():
    assert SmaRatio(fast_bars=50, slow_bars=200).column == "sma_ratio_50_200"


def test_sma_ratio_is_positive_in_a_rise_and_negative_in_a_fall(write_bars):
    rising = write_bars([[100.0 + i] for i in range(250)])
    falling = write_bars([[400.0 - i] for i in range(250)])
    assert SmaRatio().compute(rising)[-1] > 0.2
    assert SmaRatio().compute(falling)[-1] < -0.2


def test_ema_ratio_and_macd_follow_exponential_averages(bars, ohlcv):
    close = ohlcv["close"]
    assert CloseEmaRatio(bars=21).compute(bars)[-1] == pytest.approx(close[-1] / ema(close, 21)[-1] - 1, rel=1e-9)
    fast, slow = ema(close[26 - 12 :], 12)[12 - 1 :], ema(close, 26)[26 - 1 :]  # TA-Lib lets both start at the slow one
    line = [f - s for f, s in zip(fast, slow, strict=True)]
    histogram = line[-1] - ema(line, 9)[-1]
    assert MacdHistogram().compute(bars)[-1] == pytest.approx(histogram / close[-1], rel=1e-9)


def test_atr_follows_wilders_average_of_true_ranges(bars, ohlcv):
    expected = wilder(true_ranges(ohlcv), 14)[-1] / ohlcv["close"][-1]
    assert AtrRatio(bars=14).compute(bars)[-1] == pytest.approx(expected, rel=1e-10)


def test_adx_follows_wilders_directional_system(bars, ohlcv):
    high, low = ohlcv["high"], ohlcv["low"]
    plus, minus = [], []
    for i in range(1, ROWS):
        up, down = high[i] - high[i - 1], low[i - 1] - low[i]
        plus.append(up if up > down and up > 0 else 0.0)
        minus.append(down if down > up and down > 0 else 0.0)
    averages = [wilder(series, 14)[13:] for series in (plus, minus, true_ranges(ohlcv))]
    dx = [100 * abs(p - m) / (p + m) if p + m else 0.0 for p, m, _ in zip(*averages, strict=True)]
    # Wilder's books and programs seed the averages differently; after the warm-up that must not matter.
    assert AverageDirectionalIndex(bars=14).compute(bars)[-1] == pytest.approx(wilder(dx, 14)[-1], abs=1e-3)


def test_aroon_counts_the_bars_since_the_extremes(bars, ohlcv):
    high, low = ohlcv["high"][-26:], ohlcv["low"][-26:]
    expected = 100 * (high.index(max(high)) - low.index(min(low))) / 25
    assert AroonOscillator(bars=25).compute(bars)[-1] == pytest.approx(expected)


def test_stochastics_place_the_close_in_its_range(bars, ohlcv):
    def place(last, n):
        highest, lowest = max(ohlcv["high"][last - n + 1 : last + 1]), min(ohlcv["low"][last - n + 1 : last + 1])
        return 100 * (ohlcv["close"][last] - lowest) / (highest - lowest)

    assert StochasticK(bars=14).compute(bars)[-1] == pytest.approx(place(LAST, 14))
    smoothed = statistics.fmean(place(LAST - i, 14) for i in range(3))
    assert StochasticD(bars=14, smooth_bars=3).compute(bars)[-1] == pytest.approx(smoothed)
    assert WilliamsR(bars=63).compute(bars)[-1] == pytest.approx(place(LAST, 63) - 100)


def test_cci_measures_in_mean_deviations(bars, ohlcv):
    typical = [sum(t) / 3 for t in zip(ohlcv["high"], ohlcv["low"], ohlcv["close"], strict=True)][-20:]
    mean = statistics.fmean(typical)
    deviation = statistics.fmean(abs(t - mean) for t in typical)
    assert CommodityChannelIndex(bars=20).compute(bars)[-1] == pytest.approx((typical[-1] - mean) / (0.015 * deviation))


def test_bollinger_bands_stand_two_deviations_from_the_average(bars, ohlcv):
    window = ohlcv["close"][-20:]
    mean, deviation = statistics.fmean(window), statistics.pstdev(window)
    lower, upper = mean - 2 * deviation, mean + 2 * deviation
    assert BollingerB().compute(bars)[-1] == pytest.approx((window[-1] - lower) / (upper - lower), rel=1e-9)
    assert BollingerWidth().compute(bars)[-1] == pytest.approx((upper - lower) / mean, rel=1e-9)


def test_realised_volatility_is_the_root_mean_square_of_log_returns(bars, ohlcv):
    close = ohlcv["close"]
    changes = [math.log(b / a) for a, b in itertools.pairwise(close)]

    def rms(n):
        return math.sqrt(statistics.fmean(c * c for c in changes[-n:]))

    assert RealisedVolatility(bars=21).compute(bars)[-1] == pytest.approx(rms(21), rel=1e-10)
    assert VolatilityRatio(fast_bars=5, slow_bars=63).compute(bars)[-1] == pytest.approx(
        rms(5) / rms(63) - 1, rel=1e-10
    )


def test_range_estimators_find_the_volatility_of_a_brownian_motion():
    """Unbiased for a continuous path; 2,000 steps a bar leave about 2 % of it unseen, 20,000 bars 1 % of noise."""
    rng = np.random.default_rng(12)
    sigma, rows, steps = 0.02, 20_000, 2_000
    path = np.empty((rows, 4))
    for i in range(rows):
        walk = np.cumsum(rng.standard_normal(steps)) * (sigma / math.sqrt(steps))
        path[i] = 0.0, max(walk.max(), 0.0), min(walk.min(), 0.0), walk[-1]
    bars = pl.DataFrame({n: np.exp(path[:, i]) for i, n in enumerate(("open", "high", "low", "close"))})
    for feature in (Parkinson(bars=rows), GarmanKlass(bars=rows)):
        assert feature.compute(bars)[-1] == pytest.approx(sigma, rel=0.04)


def test_garman_klass_of_bars_that_contradict_themselves_is_zero_not_nan(write_bars):
    outside = write_bars([[10.0, 10.1, 10.0, 20.0]] * 30)
    assert GarmanKlass().compute(outside)[-1] == 0.0


def test_volume_features_weigh_what_they_say(bars, ohlcv):
    volume, close = ohlcv["volume"], ohlcv["close"]
    window = volume[-21:]
    score = (window[-1] - statistics.fmean(window)) / statistics.pstdev(window)
    assert VolumeZScore(bars=21).compute(bars)[-1] == pytest.approx(score, rel=1e-9)
    ratio = statistics.fmean(volume[-5:]) / statistics.fmean(volume[-63:]) - 1
    assert VolumeRatio().compute(bars)[-1] == pytest.approx(ratio, rel=1e-9)
    balance = sum(math.copysign(volume[i], close[i] - close[i - 1]) for i in range(ROWS - 21, ROWS))
    assert ObvSlope(bars=21).compute(bars)[-1] == pytest.approx(balance / sum(window), rel=1e-9)
    flow = 0.0
    for i in range(ROWS - 21, ROWS):
        high, low = ohlcv["high"][i], ohlcv["low"][i]
        flow += volume[i] * ((close[i] - low) - (high - close[i])) / (high - low)
    assert ChaikinMoneyFlow(bars=21).compute(bars)[-1] == pytest.approx(flow / sum(window), rel=1e-9)


@pytest.mark.parametrize(
    "feature", [VolumeZScore(), VolumeRatio(), ObvSlope(), ChaikinMoneyFlow()], ids=lambda f: f.kind
)
@pytest.mark.parametrize("volume", ["null", "zero"])
def test_without_volume_the_volume_features_are_zero(make_bars, feature, volume):
    values = feature.compute(make_bars(13, 100, volume=volume))
    assert np.isnan(values[: feature.lookback_bars - 1]).all()
    assert (values[feature.lookback_bars - 1 :] == 0.0).all()


@pytest.mark.parametrize(
    "feature", [VolumeZScore(), VolumeRatio(), ObvSlope(), ChaikinMoneyFlow()], ids=lambda f: f.kind
)
def test_one_null_volume_silences_only_the_windows_that_hold_it(make_bars, feature):
    bars = make_bars(14, 220)
    row = 100
    broken = bars.with_columns(volume=pl.when(pl.int_range(pl.len()) != row).then("volume"))
    clean, dirty = feature.compute(bars), feature.compute(broken)
    changed = np.flatnonzero((clean != dirty) & ~np.isnan(clean))
    assert changed[0] == row
    assert changed[-1] < row + feature.lookback_bars
    assert (dirty[changed] == 0.0).all()


def at(*times):
    stamps = pl.Series(times, dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"timestamp": stamps})


def test_calendar_features_read_the_bars_own_time():
    utc = dt.UTC
    thursday = at(dt.datetime(2024, 2, 29, 18, 30, tzinfo=utc))
    assert DayOfWeek(wave="sin").compute(thursday)[0] == pytest.approx(math.sin(2 * math.pi * 3 / 7))
    assert DayOfWeek(wave="cos").compute(thursday)[0] == pytest.approx(math.cos(2 * math.pi * 3 / 7))
    assert MonthOfYear(wave="sin").compute(thursday)[0] == pytest.approx(math.sin(2 * math.pi / 12))
    assert HourOfDay(wave="cos").compute(thursday)[0] == pytest.approx(math.cos(2 * math.pi * 18.5 / 24))
    assert DayOfMonth().compute(thursday)[0] == 1.0
    first, middle = at(dt.datetime(2023, 2, 1, tzinfo=utc)), at(dt.datetime(2023, 1, 16, tzinfo=utc))
    assert DayOfMonth().compute(first)[0] == 0.0
    assert DayOfMonth().compute(middle)[0] == 0.5


def test_the_warm_up_leaves_the_start_less_than_its_weight():
    for alpha in (2 / 27, 1 / 14, 0.5):
        k = warm_up_bars(alpha)
        assert (1 - alpha) ** k < START_WEIGHT <= (1 - alpha) ** (k - 1)


def test_the_warm_up_of_two_averages_in_a_row_is_that_of_their_joint_weights():
    alpha = 1 / 14
    kernel = alpha * (1 - alpha) ** np.arange(2000)
    joint = np.convolve(kernel, kernel)[:2000]
    tail = 1.0 - np.cumsum(joint)
    assert tail[warm_up_bars(alpha, stages=2) - 1] < START_WEIGHT * 1.2
    assert warm_up_bars(alpha, stages=2) > warm_up_bars(alpha)
    assert warm_up_bars(1.0) == 0
