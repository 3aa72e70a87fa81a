"""The stationary bootstrap draws what `arch` draws, covers what it promises, and never flatters the undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from arch.bootstrap import StationaryBootstrap, optimal_block_length

from quantfleet.evaluation import (
    bootstrap,
    bootstrap_kernel,
    optimal_block_bars,
    resample_sharpes,
    sharpe,
    sharpe_difference,
    sharpe_interval,
)


def ar1(bars: int, seed: int, mean: float = 0.0005, phi: float = 0.3) -> np.ndarray:
    """Autocorrelated returns: where block and iid resampling differ."""
    rng = np.random.default_rng(seed)
    shocks = rng.normal(0.0, 0.01, bars)
    series = np.empty(bars)
    series[0] = shocks[0]
    for t in range(1, bars):
        series[t] = phi * series[t - 1] + shocks[t]
    return series + mean


def ratio(sample: np.ndarray) -> np.ndarray:
    return np.atleast_1d(sample.mean(axis=0) / sample.std(axis=0, ddof=1))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sample Kolmogorov-Smirnov statistic."""
    grid = np.sort(np.concatenate([a, b]))
    return float(
        np.abs(
            np.searchsorted(np.sort(a), grid, side="right") / len(a)
            - np.searchsorted(np.sort(b), grid, side="right") / len(b)
        ).max()
    )


@pytest.mark.parametrize("block_bars", [1.0, 5.0, 40.0])
def test_resamples_are_distributed_as_those_of_arch(block_bars: float):
    returns = ar1(250, seed=1)
    ours = resample_sharpes(returns, block_bars=block_bars, resamples=20_000, seed=2)[:, 0]
    theirs = StationaryBootstrap(block_bars, returns, seed=3).apply(ratio, 4000)[:, 0]
    # 0.1 % critical value of the statistic for these sizes: 1.95 sqrt((n + m) / (n m)).
    assert distance(ours, theirs) < 1.95 * math.sqrt((20_000 + 4000) / (20_000 * 4000))


def test_the_difference_of_paired_ratios_is_distributed_as_that_of_arch():
    a = ar1(250, seed=4)
    b = 0.7 * a + ar1(250, seed=5)
    drawn = resample_sharpes(np.stack([a, b]), block_bars=5.0, resamples=20_000, seed=6)
    both = StationaryBootstrap(5, np.column_stack([a, b]), seed=7).apply(ratio, 4000)
    assert distance(drawn[:, 0] - drawn[:, 1], both[:, 0] - both[:, 1]) < 1.95 * math.sqrt(24_000 / 80_000_000)


def test_a_block_length_that_is_wrong_is_seen_by_the_same_comparison():
    returns = ar1(250, seed=1, phi=0.6)
    ours = resample_sharpes(returns, block_bars=1.0, resamples=20_000, seed=2)[:, 0]
    theirs = StationaryBootstrap(20, returns, seed=3).apply(ratio, 4000)[:, 0]
    assert distance(ours, theirs) > 1.95 * math.sqrt(24_000 / 80_000_000)


def test_prefix_sums_give_the_ratio_of_the_resampled_bars_themselves():
    """A resample of one single block is a rotation of the series: same values, same ratio."""
    returns = ar1(50, seed=8, mean=5.0)  # a large mean would spoil sums of squares that are not centred
    drawn = resample_sharpes(returns, block_bars=1e12, resamples=50, seed=9)[:, 0]
    assert drawn == pytest.approx(np.full(50, ratio(returns)[0]), rel=1e-12)


def test_slices_of_bounded_memory_are_filled_to_the_last_resample():
    returns = ar1(3000, seed=10)
    drawn = resample_sharpes(returns, block_bars=1.5, resamples=101, seed=11)
    assert drawn.shape == (101, 1)
    assert np.isfinite(drawn).all()
    assert len(np.unique(drawn)) == 101
    assert not np.isclose(drawn, ratio(returns)[0], rtol=1e-9, atol=0.0).any()  # none is the series itself


def test_the_seed_decides_the_draw():
    returns = ar1(100, seed=12)
    first, again, other = (resample_sharpes(returns, block_bars=3.0, resamples=50, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("block_bars", [1.0, 7.0])
def test_draws_do_not_depend_on_threads_or_on_how_many_more_are_drawn(
    block_bars: float, monkeypatch: pytest.MonkeyPatch
):
    returns = np.stack([ar1(101, seed=12), ar1(101, seed=13)])
    monkeypatch.setattr(bootstrap, "_SLICE_PLACES", 500)  # a hundred slices and more
    alone, together = (
        resample_sharpes(returns, block_bars=block_bars, resamples=1000, seed=3, threads=t) for t in (1, 4)
    )
    fewer = resample_sharpes(returns, block_bars=block_bars, resamples=77, seed=3)
    assert np.array_equal(alone, together)
    assert np.array_equal(alone[:77], fewer)


@pytest.mark.parametrize("block_bars", [1.0, 4.0, 700.0])
def test_a_series_is_drawn_alike_alone_and_beside_others(block_bars: float):
    a, b, c = (ar1(301, seed=s) for s in (25, 26, 27))
    alone = resample_sharpes(a, block_bars=block_bars, resamples=200, seed=4)[:, 0]
    beside = resample_sharpes(np.stack([b, a, c]), block_bars=block_bars, resamples=200, seed=4)[:, 1]
    assert alone == pytest.approx(beside, rel=1e-9)


@pytest.mark.parametrize("block_bars", [1.5, 20.0, 400.0, 1e6])
def test_block_lengths_are_geometric(block_bars: float):
    keep, other = bootstrap_kernel.length_table(block_bars)
    chance = np.zeros(256)
    np.add.at(chance, np.arange(256), keep / 2.0**24 / 256)
    np.add.at(chance, other, (1.0 - keep / 2.0**24) / 256)
    geometric = np.append((1 - 1 / block_bars) ** 255, (1 - 1 / block_bars) ** np.arange(255) / block_bars)
    assert chance == pytest.approx(geometric, abs=2.0**-24)


def test_pairs_take_the_same_bars():
    returns = ar1(200, seed=13)
    drawn = resample_sharpes(np.stack([returns, 3.0 * returns]), block_bars=5.0, resamples=100, seed=14)
    assert drawn[:, 0] == pytest.approx(drawn[:, 1], rel=1e-9)


def test_block_length_is_that_of_politis_and_white():
    returns = ar1(1000, seed=15, phi=0.5)
    assert optimal_block_bars(returns) == optimal_block_length(returns)["stationary"].iloc[0]
    assert optimal_block_bars(returns) > 3.0


@pytest.mark.parametrize("series", [np.zeros(100), np.full(100, 0.1), np.array([0.1, 0.2]), np.zeros(0) + 1.0])
def test_block_length_of_a_series_that_has_none_is_one_bar(series: np.ndarray):
    assert optimal_block_bars(series) == 1.0


def test_the_interval_holds_the_estimate_and_narrows_with_less_confidence():
    returns = ar1(1000, seed=16)
    wide = sharpe_interval(returns, bars_per_year=252, seed=0, confidence=0.99, resamples=4000)
    narrow = sharpe_interval(returns, bars_per_year=252, seed=0, confidence=0.5, resamples=4000)
    assert wide.estimate == sharpe(returns, bars_per_year=252)
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high
    assert wide.block_bars == optimal_block_bars(returns)


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says():
    rng = np.random.default_rng(17)
    true = 0.05 * math.sqrt(252)
    hits = 0
    for seed in range(300):
        returns = rng.normal(0.0005, 0.01, 250)
        interval = sharpe_interval(returns, bars_per_year=252, seed=seed, confidence=0.9, resamples=400, block_bars=1.0)
        hits += interval.low <= true <= interval.high
    assert 0.84 < hits / 300 < 0.95  # 90 % give or take 3.5 standard errors of 1.7 %


def test_the_one_sided_p_value_is_uniform_when_neither_is_better():
    rng = np.random.default_rng(18)
    p_values = [
        sharpe_difference(
            *rng.normal(0.0005, 0.01, (2, 200)), bars_per_year=252, seed=s, resamples=400, block_bars=1.0
        ).p_value
        for s in range(300)
    ]
    for level in (0.05, 0.25, 0.5, 0.75):
        share = float(np.mean(np.array(p_values) < level))
        assert abs(share - level) < 3.5 * math.sqrt(level * (1 - level) / 300)


def test_a_clear_difference_is_found_and_its_mirror_is_not():
    rng = np.random.default_rng(19)
    base = rng.normal(0.0, 0.01, 500)
    better = base + 0.002 + rng.normal(0.0, 0.001, 500)
    found = sharpe_difference(better, base, bars_per_year=252, seed=0, resamples=2000)
    mirror = sharpe_difference(base, better, bars_per_year=252, seed=0, resamples=2000)
    assert found.p_value == 1 / 2001
    assert mirror.p_value > 0.99
    assert 0.0 < found.low < found.estimate < found.high
    assert mirror.estimate == -found.estimate


def test_the_paired_block_length_is_the_mean_of_both():
    a, b = ar1(500, seed=20, phi=0.6), ar1(500, seed=21, phi=0.0)
    test = sharpe_difference(a, b, bars_per_year=252, seed=0, resamples=10)
    assert test.block_bars == pytest.approx((optimal_block_bars(a) + optimal_block_bars(b)) / 2)


def test_cash_is_a_rival_with_a_ratio_of_zero():
    returns = ar1(500, seed=22, mean=0.002)
    test = sharpe_difference(returns, np.zeros(500), bars_per_year=252, seed=0, resamples=2000, block_bars=2.0)
    alone = sharpe_interval(returns, bars_per_year=252, seed=0, resamples=2000, block_bars=2.0)
    assert test.estimate == pytest.approx(alone.estimate)
    assert (test.low, test.high) == pytest.approx((alone.low, alone.high))
    assert test.p_value < 0.01


def test_an_undefined_ratio_has_no_interval_and_no_p_value():
    flat = np.zeros(100)
    interval = sharpe_interval(flat, bars_per_year=252, seed=0, resamples=100)
    assert all(math.isnan(v) for v in (interval.estimate, interval.low, interval.high))
    test = sharpe_difference(flat, ar1(100, seed=23), bars_per_year=252, seed=0, resamples=100)
    assert all(math.isnan(v) for v in (test.estimate, test.low, test.high, test.p_value))
    holed = ar1(100, seed=23)
    holed[5] = math.nan
    assert math.isnan(sharpe_interval(holed, bars_per_year=252, seed=0, resamples=100).low)


def test_resamples_without_a_ratio_count_against_a_strategy_that_hardly_traded():
    once = np.zeros(200)
    once[100] = 0.05  # one winning bar: about 37 % of iid resamples miss it
    drawn = resample_sharpes(once, block_bars=1.0, resamples=4000, seed=0)
    assert np.isnan(drawn).mean() == pytest.approx(math.exp(-1.0), abs=0.03)
    assert (drawn[~np.isnan(drawn)] > 0.0).all()
    interval = sharpe_interval(once, bars_per_year=252, seed=0, resamples=4000, block_bars=1.0)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    test = sharpe_difference(once, np.zeros(200), bars_per_year=252, seed=0, resamples=4000, block_bars=1.0)
    assert test.p_value > 0.35


@pytest.mark.parametrize(
    ("returns", "options"),
    [
        (np.array([0.1]), {"block_bars": 1.0, "resamples": 1}),
        (np.array([0.1, 0.2]), {"block_bars": 0.5, "resamples": 1}),
        (np.array([0.1, 0.2]), {"block_bars": math.inf, "resamples": 1}),
        (np.array([0.1, 0.2]), {"block_bars": 1.0, "resamples": 0}),
        (np.array([0.1, math.nan]), {"block_bars": 1.0, "resamples": 1}),
    ],
)
def test_what_cannot_be_resampled_is_refused(returns: np.ndarray, options: dict[str, float]):
    with pytest.raises(ValueError, match="cannot resample"):
        resample_sharpes(returns, seed=0, **options)  # type: ignore[arg-type]


def test_no_threads_are_refused():
    with pytest.raises(ValueError, match="threads=0"):
        resample_sharpes(np.array([0.1, 0.2]), block_bars=1.0, resamples=1, seed=0, threads=0)


def test_series_of_different_length_are_no_pair():
    with pytest.raises(ValueError, match="differ in shape"):
        sharpe_difference(np.zeros(3), np.zeros(4), bars_per_year=252, seed=0)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 1.5, math.nan])
def test_a_confidence_outside_its_range_is_refused(confidence: float):
    with pytest.raises(ValueError, match="confidence="):
        sharpe_interval(ar1(50, seed=24), bars_per_year=252, seed=0, confidence=confidence)
