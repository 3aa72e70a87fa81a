"""Rolling moments, autocorrelation, variance ratio and Hurst exponent against scipy, statsmodels-free definitions, theory."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from quantfleet.errors import ConfigError
from quantfleet_data.features.moments import Hurst, ReturnAutocorrelation, ReturnKurtosis, ReturnSkewness, VarianceRatio
from quantfleet_data.features.rolling import (
    rolling_autocorrelation,
    rolling_correlation,
    rolling_moments,
    rolling_place_of_max,
    rolling_place_of_min,
    rolling_quantile,
    rolling_rank,
    rolling_trend,
)

ONE_SERIES = {
    "slope": lambda x, n: rolling_trend(x, n)[0],
    "R squared": lambda x, n: rolling_trend(x, n)[1],
    "residual": lambda x, n: rolling_trend(x, n)[2],
    "autocorrelation": lambda x, n: rolling_autocorrelation(x, n, 1),
    "skewness": lambda x, n: rolling_moments(x, n)[0],
    "kurtosis": lambda x, n: rolling_moments(x, n)[1],
    "rank": rolling_rank,
    "quantile": lambda x, n: rolling_quantile(x, n, 0.3),
    "place of max": rolling_place_of_max,
    "place of min": rolling_place_of_min,
    "correlation": lambda x, n: rolling_correlation(x, np.sqrt(np.abs(x)), n),
}
every_one = pytest.mark.parametrize("name", ONE_SERIES)


def log_returns(bars):
    return pd.Series(np.log(bars["close"].to_numpy())).diff()


@every_one
@pytest.mark.parametrize("n", [2, 7, 40])
def test_a_window_has_the_same_bits_wherever_the_series_starts_and_stops(name, n):
    function, x = ONE_SERIES[name], np.random.default_rng(1).lognormal(0.0, 2.0, 500).round(1)
    whole = function(x, n)
    for skipped, cut in ((0, 100), (3, 77), (200, 12), (131, 0)):
        part = function(x[skipped : x.size - cut], n)
        np.testing.assert_array_equal(
            part[n - 1 :].view(np.int64), whole[skipped + n - 1 : x.size - cut].view(np.int64)
        )


@every_one
def test_a_nan_touches_only_the_windows_that_hold_it(name):
    function, x = ONE_SERIES[name], np.random.default_rng(2).normal(0.0, 1.0, 60)
    clean = function(x, 6)
    x[25] = np.nan
    broken = function(x, 6)
    assert np.flatnonzero(np.isnan(broken) & ~np.isnan(clean)).tolist() == list(range(25, 31))
    np.testing.assert_array_equal(np.delete(broken, range(25, 31)), np.delete(clean, range(25, 31)))


@every_one
def test_a_window_longer_than_the_series_is_all_nan(name):
    assert np.isnan(ONE_SERIES[name](np.arange(4.0), 5)).all()


def test_skewness_and_kurtosis_equal_scipys(make_bars):
    bars = make_bars(1, 300)
    rolled = log_returns(bars).rolling(63)
    np.testing.assert_allclose(
        ReturnSkewness(bars=63).compute(bars)[63:], rolled.apply(stats.skew, raw=True)[63:], rtol=1e-8
    )
    np.testing.assert_allclose(
        ReturnKurtosis(bars=63).compute(bars)[63:], rolled.apply(stats.kurtosis, raw=True)[63:], rtol=1e-8
    )


def test_autocorrelation_equals_its_definition(make_bars):
    bars = make_bars(2, 200)

    def by_definition(window):
        centred = window - window.mean()
        return (centred[5:] * centred[:-5]).sum() / (centred**2).sum()

    expected = log_returns(bars).rolling(63).apply(by_definition, raw=True)
    values = ReturnAutocorrelation(bars=63, shift_bars=5).compute(bars)
    np.testing.assert_allclose(values[63:], expected[63:], rtol=1e-9, atol=1e-12)


def test_variance_ratio_and_hurst_tell_trend_from_noise_from_reversal(write_bars):
    rng = np.random.default_rng(3)
    noise = rng.normal(0.0, 0.01, 6000)
    trending = noise + 0.5 * np.concatenate([[0.0], noise[:-1]])
    reversing = noise - 0.5 * np.concatenate([[0.0], noise[:-1]])
    for moves, ratio, hurst in ((noise, 1.0, 0.5), (trending, 1.64, 0.6), (reversing, 0.36, 0.25)):
        bars = write_bars([[100.0 * p] for p in np.exp(np.cumsum(moves))], timeframe="1h")
        assert VarianceRatio(bars=5000, step_bars=5).compute(bars)[-1] == pytest.approx(ratio, abs=0.12)
        assert Hurst(bars=5000).compute(bars)[-1] == pytest.approx(hurst, abs=0.1)


def test_hurst_is_half_the_slope_of_log_mean_square_against_log_duration(make_bars):
    bars = make_bars(4, 200)
    log, row = np.log(bars["close"].to_numpy()), 180
    durations = np.array([1, 2, 4, 8])
    squares = [np.mean((log[row - 125 : row + 1] - log[row - 125 - d : row + 1 - d]) ** 2) for d in durations]
    assert Hurst(bars=126).compute(bars)[row] == pytest.approx(np.polyfit(np.log(durations), np.log(squares), 1)[0] / 2)


def test_a_still_market_has_the_moments_of_a_random_walk(write_bars):
    still = write_bars([[3.3]] * 200)
    expected = {
        ReturnSkewness(): 0.0,
        ReturnKurtosis(): 0.0,
        ReturnAutocorrelation(): 0.0,
        VarianceRatio(): 1.0,
        Hurst(): 0.5,
    }
    for feature, value in expected.items():
        assert feature.compute(still)[-1] == value


def test_a_shift_as_long_as_the_window_is_refused():
    with pytest.raises(ConfigError, match="shift_bars=5 leaves no pair in bars=5"):
        ReturnAutocorrelation(bars=5, shift_bars=5)
