"""Intervals of an IC are drawn as `arch` draws them, keep the symbols of a time together, and never flatter the undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from arch.bootstrap import StationaryBootstrap
from scipy import stats

from quantfleet.evaluation.forecast import information_coefficient
from quantfleet.evaluation.ic_bootstrap import ic_interval, resample_ics
from quantfleet.evaluation.inference import difference_over_seeds, pooled_deviation

ROWS = 250


def pair(seed: int, *, rows: int = ROWS, skill: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """A forecast and an outcome that both remember the bar before."""
    shocks = np.random.default_rng(seed).normal(size=(2, rows))
    for t in range(1, rows):
        shocks[:, t] += 0.5 * shocks[:, t - 1]
    return shocks[0], skill * shocks[0] + shocks[1]


@pytest.mark.parametrize("block_bars", [2.0, 10.0])
def test_resampled_ics_are_distributed_as_those_of_arch(block_bars: float):
    x, y = pair(1)
    ours = resample_ics(x, y, np.arange(ROWS), block_bars=block_bars, resamples=20_000, seed=2)[:, 0]
    theirs = StationaryBootstrap(block_bars, x, y, seed=3).apply(lambda a, b: np.array([np.corrcoef(a, b)[0, 1]]), 2000)
    # 0.1 % critical value of the two-sample statistic for these sizes
    assert stats.ks_2samp(ours, theirs[:, 0]).statistic < 1.95 * math.sqrt(22_000 / (20_000 * 2000))


def test_a_symbol_that_says_the_same_again_adds_no_certainty():
    x, y = pair(4)
    time = np.arange(ROWS)
    one = resample_ics(x, y, time, block_bars=5.0, resamples=500, seed=5)
    twice = resample_ics(np.tile(x, 2), np.tile(y, 2), np.tile(time, 2), block_bars=5.0, resamples=500, seed=5)
    np.testing.assert_allclose(twice, one, atol=1e-12)


def test_paired_forecasts_take_the_same_times_as_each_would_alone():
    (x, y), (z, _) = pair(6), pair(7)
    both = resample_ics(np.stack([x, z]), y, np.arange(ROWS), block_bars=5.0, resamples=300, seed=8)
    alone = [resample_ics(f, y, np.arange(ROWS), block_bars=5.0, resamples=300, seed=8)[:, 0] for f in (x, z)]
    np.testing.assert_allclose(both, np.stack(alone, axis=1), atol=1e-12)


def test_a_forecast_far_from_zero_that_varies_little_keeps_its_correlation():
    x, y = pair(9)
    args = {"block_bars": 5.0, "resamples": 300, "seed": 10}
    shifted = resample_ics(1e6 + 1e-3 * x, y, np.arange(ROWS), **args)
    np.testing.assert_allclose(shifted, resample_ics(x, y, np.arange(ROWS), **args), atol=1e-4)


def test_the_interval_holds_the_estimate_and_overlapping_outcomes_make_it_wider():
    x, y = pair(11, rows=1000, skill=0.2)
    narrow = ic_interval(x, y, np.arange(1000), horizon_bars=1, seed=12)
    assert narrow.estimate == pytest.approx(information_coefficient(x, y))
    assert narrow.low < narrow.estimate < narrow.high
    independent = 2 * 1.96 / math.sqrt(1000)
    assert narrow.high - narrow.low > independent, "neighbours repeat themselves: there is less to learn from them"
    assert ic_interval(x, y, np.arange(1000), horizon_bars=30, seed=12).block_bars >= 30


def test_rows_without_an_outcome_are_left_out_and_the_undefined_stays_undefined():
    x, y = pair(13)
    unknown = np.where(np.arange(ROWS) < 200, y, np.nan)
    cut = ic_interval(x[:200], y[:200], np.arange(200), horizon_bars=5, seed=14)
    assert ic_interval(x, unknown, np.arange(ROWS), horizon_bars=5, seed=14) == cut
    for broken in (np.zeros(ROWS), np.where(np.arange(ROWS) == 3, np.nan, x)):
        found = ic_interval(broken, y, np.arange(ROWS), horizon_bars=5, seed=14)
        assert np.isnan([found.estimate, found.low, found.high]).all()


def test_what_cannot_be_resampled_is_refused():
    x, y = pair(15)
    with pytest.raises(ValueError, match="do not pair"):
        resample_ics(x[1:], y, np.arange(ROWS), block_bars=5.0, resamples=10, seed=0)
    with pytest.raises(ValueError, match="cannot resample"):
        resample_ics(x, y, np.arange(ROWS), block_bars=1.0, resamples=10, seed=0)
    with pytest.raises(ValueError, match=r"confidence=1\.0"):
        ic_interval(x, y, np.arange(ROWS), horizon_bars=1, seed=0, confidence=1.0)


# --- over seeds ---


def test_where_the_period_is_no_luck_the_interval_of_a_difference_is_students():
    differences = np.array([0.01, 0.03, 0.05])
    found = difference_over_seeds(differences, np.tile(differences, (200_000, 1)), confidence=0.9, seed=1)
    low, high = stats.t.interval(0.9, 2, loc=0.03, scale=0.02 / math.sqrt(3))
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))
    assert found.seed_deviation == pytest.approx(0.02)
    assert found.noise


def test_one_seed_leaves_the_luck_of_the_period_alone():
    drawn = np.random.default_rng(2).normal(0.5, 0.1, (50_000, 1))
    found = difference_over_seeds(np.array([0.5]), drawn, confidence=0.95, seed=3)
    assert (found.low, found.high) == (pytest.approx(0.304, abs=0.01), pytest.approx(0.696, abs=0.01))
    assert math.isnan(found.seed_deviation)
    assert not found.noise


def test_the_luck_of_seeds_is_learnt_from_all_comparisons_together():
    rng = np.random.default_rng(5)
    estimates = [rng.normal(shift, 0.1, 3) for shift in np.linspace(-1.0, 1.0, 400)]
    deviation, freedom = pooled_deviation([*estimates, np.array([7.0]), np.array([math.nan, 1.0])])
    assert (deviation, freedom) == (pytest.approx(0.1, rel=0.05), 800)
    three = np.tile(estimates[0], (100_000, 1))
    found = difference_over_seeds(estimates[0], three, confidence=0.95, seed=6, over_seeds=(deviation, freedom))
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation / math.sqrt(3), rel=0.02)
    assert pooled_deviation([np.array([0.3])])[1] == 0


def test_a_difference_that_is_undefined_is_noise():
    found = difference_over_seeds(np.array([math.nan, 0.1]), np.full((10, 2), math.nan), confidence=0.95, seed=4)
    assert math.isnan(found.estimate)
    assert found.noise
    with pytest.raises(ValueError, match="do not pair"):
        difference_over_seeds(np.array([0.1]), np.zeros((10, 2)), confidence=0.95, seed=4)
