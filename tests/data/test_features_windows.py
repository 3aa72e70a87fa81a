"""Moving windows: each value depends on its own window alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet_data.features import windows as w

ROLLING = {
    "sum": (w.rolling_sum, np.sum),
    "mean": (w.rolling_mean, np.mean),
    "max": (w.rolling_max, np.max),
    "min": (w.rolling_min, np.min),
    "rms": (w.rolling_rms, lambda x: np.sqrt(np.mean(x * x))),
    "std": (w.rolling_std, np.std),
    "mean deviation": (w.rolling_mean_deviation, lambda x: np.mean(np.abs(x - np.mean(x)))),
    "distance from mean": (w.distance_from_mean, lambda x: x[-1] - np.mean(x)),
}
rolling = pytest.mark.parametrize("name", ROLLING)


@rolling
@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_equals_numpy_on_every_window(name, n):
    function, reference = ROLLING[name]
    x = np.random.default_rng(1).normal(100.0, 5.0, 60)
    expected = [np.nan] * (n - 1) + [reference(x[i - n + 1 : i + 1]) for i in range(n - 1, x.size)]
    np.testing.assert_allclose(function(x, n), expected, rtol=1e-12, atol=1e-12)


@rolling
def test_is_all_nan_when_the_window_is_longer_than_the_series(name):
    assert np.isnan(ROLLING[name][0](np.arange(3.0), 4)).all()


@rolling
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 30), skipped=st.integers(0, 50), cut=st.integers(0, 50))
def test_has_the_same_bits_wherever_the_series_starts_and_stops(name, seed, n, skipped, cut):
    function = ROLLING[name][0]
    x = np.random.default_rng(seed).lognormal(0.0, 3.0, 140)
    part = function(np.ascontiguousarray(x[skipped : x.size - cut]), n)
    whole = function(x, n)[skipped : x.size - cut]
    np.testing.assert_array_equal(part[n - 1 :].view(np.int64), np.ascontiguousarray(whole[n - 1 :]).view(np.int64))


@rolling
def test_a_nan_touches_only_the_windows_that_hold_it(name):
    x = np.random.default_rng(2).normal(0.0, 1.0, 50)
    clean = ROLLING[name][0](x, 5)
    x[20] = np.nan
    dirty = ROLLING[name][0](x, 5)
    assert np.flatnonzero(np.isnan(dirty) & ~np.isnan(clean)).tolist() == [20, 21, 22, 23, 24]
    np.testing.assert_array_equal(np.delete(dirty, range(20, 25)), np.delete(clean, range(20, 25)))


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-9, 123456.789])
def test_equal_values_deviate_by_exactly_zero(value):
    x = np.full(30, value)
    for function in (w.rolling_std, w.rolling_mean_deviation, w.distance_from_mean):
        assert (function(x, 21)[20:] == 0.0).all()


def test_one_huge_value_leaves_no_trace_after_it_left_the_window():
    x = np.ones(40)
    x[5] = 1e18
    assert (w.rolling_mean(x, 10)[15:] == 1.0).all()
    assert (w.rolling_std(x, 10)[15:] == 0.0).all()


def test_lag_and_log_change_are_nan_before_there_is_a_past():
    x = np.array([1.0, np.e, np.e**3])
    np.testing.assert_array_equal(w.lag(x, 1), [np.nan, 1.0, np.e])
    np.testing.assert_allclose(w.log_change(x, 2), [np.nan, np.nan, 3.0])
    assert np.isnan(w.lag(x, 5)).all()


def test_safe_ratio_answers_what_it_was_told_where_the_denominator_is_zero():
    ratio = w.safe_ratio(np.array([1.0, 0.0, 3.0]), np.array([0.0, -0.0, 2.0]), undefined=7.0)
    np.testing.assert_array_equal(ratio, [7.0, 7.0, 1.5])
