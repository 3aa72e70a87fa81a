"""Fractional differencing: the published weights, the exact sum, and no later bar in any bit."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import binom

from quantfleet.errors import ConfigError, DataError
from quantfleet_data.features.fractional import FractionalDifference, causal_convolution, fractional_weights


def bits(values):
    return np.where(np.isnan(values), np.nan, values).view(np.int64)


def walk(seed, rows):
    return np.log(100.0) + np.cumsum(np.random.default_rng(seed).normal(0.0, 0.01, rows))


def test_the_weights_are_the_binomial_series_cut_at_the_threshold():
    weights = np.array(fractional_weights(0.4, 1e-5))
    assert weights.size == 1458
    k = np.arange(weights.size)
    np.testing.assert_allclose(weights, (-1.0) ** k * binom(0.4, k), rtol=1e-10)
    assert abs(weights[-1]) >= 1e-5 > abs((-1.0) ** weights.size * binom(0.4, weights.size))


def test_order_one_is_the_log_return_and_order_two_its_change(make_bars):
    bars = make_bars(1, 300)
    log = np.log(bars["close"].to_numpy())
    first, second = (FractionalDifference(order=d, threshold=1e-9) for d in (1.0, 2.0))
    assert (first.lookback_bars, second.lookback_bars) == (2, 3)
    np.testing.assert_allclose(first.compute(bars)[1:], np.diff(log), atol=1e-14)
    np.testing.assert_allclose(second.compute(bars)[2:], np.diff(log, 2), atol=1e-14)


@pytest.mark.parametrize("rows", [1, 127, 128, 129, 1500, 9000])
@pytest.mark.parametrize("threshold", [0.3, 1e-3, 1e-5])
def test_equals_the_direct_sum(rows, threshold):
    weights, x = fractional_weights(0.4, threshold), walk(2, rows)
    np.testing.assert_allclose(causal_convolution(x, weights), np.convolve(x, weights)[:rows], rtol=0, atol=1e-13)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), rows=st.integers(2, 9000), cut=st.floats(0.0, 1.0))
def test_no_later_value_changes_a_bit_even_one_that_dwarfs_all_others(seed, rows, cut):
    weights, x = fractional_weights(0.4, 1e-5), walk(seed, rows)
    keep = 1 + int(cut * (rows - 2))
    other = x.copy()
    other[keep:] *= -1e9
    whole = causal_convolution(x, weights)
    np.testing.assert_array_equal(whole[:keep].view(np.int64), causal_convolution(other, weights)[:keep].view(np.int64))
    np.testing.assert_array_equal(whole[:keep].view(np.int64), causal_convolution(x[:keep], weights).view(np.int64))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16), cuts=st.lists(st.integers(1, 900), max_size=12), threshold=st.sampled_from([1e-2, 1e-4])
)
def test_in_parts_it_gives_the_same_bits_as_in_one_go(make_bars, seed, cuts, threshold):
    bars, feature = make_bars(seed, 900), FractionalDifference(threshold=threshold)
    parts, state = [], None
    for start, stop in pairwise([0, *sorted({c for c in cuts if c < 900}), 900]):
        known = min(start, feature.lookback_bars - 1)
        values, state = feature.advance(bars[start - known : stop], stop - start, state)
        parts.append(values)
    np.testing.assert_array_equal(bits(np.concatenate(parts)), bits(feature.compute(bars)))


def test_a_missing_price_touches_exactly_the_windows_that_hold_it(make_bars):
    bars = make_bars(3, 700)
    close = bars["close"].to_numpy().copy()
    close[300] = np.nan
    feature = FractionalDifference(threshold=1e-3)
    clean, broken = feature.compute(bars), feature.compute(bars.with_columns(close=close))
    gone = np.flatnonzero(np.isnan(broken) & ~np.isnan(clean))
    np.testing.assert_array_equal(gone, np.arange(300, 300 + feature.lookback_bars))
    rest = np.delete(np.arange(700), gone)
    np.testing.assert_allclose(broken[rest], clean[rest], rtol=0, atol=1e-13)


def test_it_is_stationary_where_the_price_is_not_and_remembers_where_the_return_does_not(make_bars):
    bars = make_bars(4, 4000)
    log = np.log(bars["close"].to_numpy())
    half = FractionalDifference(order=0.5, threshold=1e-3).compute(bars)
    known = ~np.isnan(half)
    assert abs(np.corrcoef(half[known][1:], half[known][:-1])[0, 1]) < 0.9
    assert np.corrcoef(half[known], log[known])[0, 1] > abs(np.corrcoef(np.diff(log), log[1:])[0, 1])


def test_senseless_parameters_and_foreign_states_are_refused(make_bars):
    with pytest.raises(ConfigError, match=r"threshold=1\.5 cuts every weight"):
        FractionalDifference(threshold=1.5)
    with pytest.raises(ConfigError, match="raise the threshold"):
        FractionalDifference(order=0.01, threshold=1e-12)
    with pytest.raises(ConfigError, match=r"order=-1\.0 must be a positive number"):
        FractionalDifference(order=-1.0)
    with pytest.raises(DataError, match="state of another feature"):
        FractionalDifference().advance(make_bars(5, 10), 1, np.array([9.0, 1.0]))
    assert math.isclose(sum(fractional_weights(1.0, 1e-9)), 0.0)
