"""Tests of skill agree with published numbers, with other packages, and with what chance does when it is let loose."""

from __future__ import annotations

import math

import numpy as np
import pytest
from arch.bootstrap import SPA
from scipy import stats

from quantfleet.evaluation import minimum_track_record_bars, sharpe
from quantfleet.evaluation.inference import (
    adjusted_p_values,
    bayes_factor,
    bayesian_comparison,
    confidence_set,
    detection_power,
    diebold_mariano,
    permuted_correlation_p,
    sign_flip_p,
    superiority,
    years_to_detect,
)

# --- permutation ------------------------------------------------------------------------------------------------------


def test_sign_flips_give_the_exact_p_value_of_all_assignments():
    values = np.array([0.3, -0.1, 0.5, 0.2, -0.4, 0.6, 0.15])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 7)).reshape(7, -1).T
    exact = np.mean(signs @ values >= values.sum() - 1e-12)
    found = sign_flip_p(values, resamples=200_000, seed=1)
    assert found == pytest.approx(exact, abs=4.0 * math.sqrt(exact * (1 - exact) / 200_000))


def test_the_seed_decides_and_a_million_flips_of_a_clear_edge_find_none_as_good():
    values = np.random.default_rng(2).normal(0.3, 0.1, 100)
    assert sign_flip_p(values, resamples=50_000, seed=3) == 1 / 50_001
    noise = np.random.default_rng(4).normal(size=40)
    assert sign_flip_p(noise, resamples=999, seed=5) == sign_flip_p(noise, resamples=999, seed=5)


def test_a_permuted_correlation_has_the_p_value_of_scipy():
    rng = np.random.default_rng(6)
    x = rng.normal(size=30)
    y = 0.3 * x + rng.normal(size=30)
    peer = stats.permutation_test(
        (x,), lambda z, axis: (z * y).sum(axis=axis), permutation_type="pairings", alternative="greater",
        vectorized=True, n_resamples=9_999, rng=np.random.default_rng(7),
    )  # fmt: skip
    found = permuted_correlation_p(x, y, resamples=100_000, seed=8)
    assert found == pytest.approx(peer.pvalue, abs=4.0 * math.sqrt(peer.pvalue / 9_999))


def test_blocks_keep_a_slow_forecast_from_looking_skilled():
    """Two unrelated series that both drift: row by row their correlation looks like skill far more often than it is."""
    rng = np.random.default_rng(9)
    alone, blocks = [], []
    for seed in range(200):
        x, y = (np.convolve(rng.normal(size=419), np.ones(20), "valid") for _ in range(2))
        alone.append(permuted_correlation_p(x, y, resamples=200, seed=seed) < 0.05)
        blocks.append(permuted_correlation_p(x, y, resamples=200, seed=seed, block_rows=40) < 0.05)
    assert np.mean(alone) > 0.25
    assert np.mean(blocks) < 0.12


def test_permutations_without_anything_to_permute_have_no_p_value():
    assert math.isnan(sign_flip_p(np.array([math.nan]), resamples=10, seed=0))
    assert math.isnan(permuted_correlation_p(np.ones(9), np.arange(9.0), resamples=10, seed=0))
    with pytest.raises(ValueError, match="resamples=0"):
        sign_flip_p(np.ones(3), resamples=0, seed=0)
    with pytest.raises(ValueError, match="in blocks of 0"):
        permuted_correlation_p(np.ones(3), np.ones(3), resamples=1, seed=0, block_rows=0)


# --- many models ------------------------------------------------------------------------------------------------------


def models(edge: float, seed: int = 10) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    yardstick = rng.normal(0.0003, 0.01, 600)
    named = {f"m{i}": 0.5 * yardstick + rng.normal(0.0, 0.01, 600) for i in range(6)}
    named["skilled"] = named["m0"] + edge
    return named, yardstick


def test_only_the_skilled_model_is_better_than_the_yardstick():
    named, yardstick = models(0.003)
    found = superiority(named, yardstick, seed=1)
    assert found.better == ("skilled",)
    assert found.spa_p < 0.01
    assert found.reality_check_p < 0.05


def test_the_best_of_many_without_skill_is_not_better():
    named, yardstick = models(0.0)
    found = superiority(named, yardstick, seed=1)
    assert found.better == ()
    assert min(found.spa_p, found.reality_check_p) > 0.1


def test_superiority_is_what_arch_says_of_negative_returns():
    named, yardstick = models(0.001)
    peer = SPA(
        -yardstick, -np.column_stack(list(named.values())), block_size=5, reps=500, bootstrap="stationary", seed=3
    )
    peer.compute()
    found = superiority(named, yardstick, seed=3, resamples=500, block_bars=5.0)
    assert found.spa_p == pytest.approx((peer.pvalues["consistent"] * 500 + 1) / 501)


def test_the_yardstick_is_not_better_than_itself():
    _, yardstick = models(0.0)
    assert superiority({"same": yardstick}, yardstick, seed=0).spa_p == 1.0
    assert superiority(
        {"same": yardstick, "above": yardstick + np.linspace(0.002, 0.003, 600)}, yardstick, seed=0
    ).better == ("above",)


def test_the_confidence_set_holds_the_best_and_drops_the_hopeless():
    named, _ = models(0.003)
    named["twin"] = named["skilled"].copy()
    named["hopeless"] = named["skilled"] - 0.01
    found = confidence_set(named, seed=2)
    assert found["skilled"] == found["twin"] == 1.0
    assert found["hopeless"] < 0.01
    assert list(found) == list(named)


@pytest.mark.parametrize("bad", [np.zeros(3), np.full(600, np.nan)])
def test_models_that_cannot_be_compared_are_refused(bad: np.ndarray):
    named, yardstick = models(0.0)
    with pytest.raises(ValueError, match=r"the same bars of each|not finite"):
        superiority({**named, "bad": bad}, yardstick, seed=0)


def test_false_discoveries_are_bounded_as_in_the_paper_and_in_scipy():
    """Benjamini and Hochberg (1995), section 4.1: of these 15 they reject 4 at 5 %, Bonferroni 3."""
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1.0,
    ]
    assert (adjusted_p_values(p) <= 0.05).sum() == 4
    assert (np.array(p) * 15 <= 0.05).sum() == 3
    mixed = np.random.default_rng(11).permutation(p)
    assert adjusted_p_values(mixed) == pytest.approx(stats.false_discovery_control(mixed, method="bh"))
    assert adjusted_p_values(mixed, dependent=True) == pytest.approx(stats.false_discovery_control(mixed, method="by"))
    holed = adjusted_p_values([0.01, math.nan, 0.02])
    assert math.isnan(holed[1])
    assert holed[[0, 2]] == pytest.approx([0.02, 0.02])
    with pytest.raises(ValueError, match="must lie in"):
        adjusted_p_values([1.5])


# --- two models -------------------------------------------------------------------------------------------------------


def test_one_bar_ahead_diebold_mariano_is_nearly_the_t_test():
    """With h = 1 the correction turns the statistic into the t statistic exactly: (T - 1) / T under the root."""
    rng = np.random.default_rng(12)
    a, b = rng.normal(size=50) ** 2, rng.normal(size=50) ** 2
    found, peer = diebold_mariano(a, b, horizon_bars=1), stats.ttest_rel(a, b)
    assert found.statistic == pytest.approx(peer.statistic)
    assert found.p_value == pytest.approx(peer.pvalue)


def test_two_bars_ahead_diebold_mariano_is_that_worked_by_hand():
    """d = 1, 3, 2, 4, 5, 3: mean 3, variance 10/6, first autocovariance (0 + 0 - 1 + 2 + 0) / 6 = 1/6, long-run 2;
    correction sqrt((6 + 1 - 4 + 2/6) / 6) = sqrt(5/9); statistic sqrt(5/9) * 3 / sqrt(2/6)."""
    found = diebold_mariano(np.array([1.0, 3.0, 2.0, 4.0, 5.0, 3.0]), np.zeros(6), horizon_bars=2)
    assert found.statistic == pytest.approx(math.sqrt(5 / 9) * 3 / math.sqrt(1 / 3))
    assert found.p_value == pytest.approx(2 * stats.t.sf(found.statistic, 5))
    assert found.p_first_better == pytest.approx(stats.t.cdf(found.statistic, 5))


def test_diebold_mariano_errs_as_often_as_it_says_on_overlapping_errors():
    rng = np.random.default_rng(13)
    rejected = [
        diebold_mariano(np.convolve(rng.normal(size=204), np.ones(5), "valid"), np.zeros(200), horizon_bars=5).p_value
        < 0.1
        for _ in range(400)
    ]
    assert 0.05 < np.mean(rejected) < 0.19  # a t test that ignores the overlap rejects half of the time


def test_losses_that_swing_back_have_a_variance_all_the_same():
    swinging = np.tile([1.0, -1.0], 20) + np.random.default_rng(14).normal(0, 0.01, 40)
    assert math.isfinite(diebold_mariano(swinging, np.zeros(40), horizon_bars=2).p_value)
    assert math.isnan(diebold_mariano(np.ones(9), np.zeros(9), horizon_bars=1).p_value)
    with pytest.raises(ValueError, match="too few"):
        diebold_mariano(np.ones(9), np.zeros(9), horizon_bars=5)


SLEEP = np.array([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])  # R's `sleep`: extra hours, second drug less first


def test_the_bayes_factor_of_the_sleep_data_is_that_of_the_r_package():
    """BayesFactor's manual prints 17.25888 for `ttestBF` on these ten pairs with r = 0.707."""
    assert bayes_factor(SLEEP) == pytest.approx(17.25888, abs=1e-5)
    assert bayes_factor(-SLEEP) == pytest.approx(17.25888, abs=1e-5)


def test_the_bayes_factor_is_the_integral_over_the_effect_itself():
    """The same by another way: the likelihood of t given the effect, a noncentral Student density, under a Cauchy prior."""
    values = np.random.default_rng(15).normal(0.1, 1.0, 60)
    t = values.mean() / values.std(ddof=1) * math.sqrt(60)
    grid = np.linspace(-1.5, 1.5, 6001)
    likelihood = stats.nct.pdf(t, 59, grid * math.sqrt(60)) * stats.cauchy.pdf(grid, scale=0.3)
    assert bayes_factor(values, scale=0.3) == pytest.approx(
        np.trapezoid(likelihood, grid) / stats.t.pdf(t, 59), rel=1e-4
    )


def test_a_long_sample_without_an_edge_speaks_for_none_and_one_with_an_edge_against():
    rng = np.random.default_rng(16)
    assert bayes_factor(rng.normal(0.0, 1.0, 5000)) < 1 / 10
    assert bayes_factor(rng.normal(0.2, 1.0, 5000)) > 1e10
    assert math.isnan(bayes_factor(np.ones(5)))


def test_the_posterior_without_correlation_is_the_t_test_and_with_it_is_wider():
    found = bayesian_comparison(SLEEP)
    assert found.worse == pytest.approx(stats.ttest_1samp(SLEEP, 0.0, alternative="greater").pvalue)
    assert found.worse + found.better == pytest.approx(1.0)
    shared = bayesian_comparison(SLEEP, correlation=0.1, equal_within=0.5)
    spread = SLEEP.std(ddof=1) * math.sqrt(0.1 + 0.1 / 0.9)
    assert shared.better == pytest.approx(stats.t.sf((0.5 - SLEEP.mean()) / spread, 9))
    assert shared.worse + shared.equal + shared.better == pytest.approx(1.0)
    assert shared.worse > stats.t.cdf((-0.5 - SLEEP.mean()) / (SLEEP.std(ddof=1) * math.sqrt(0.1)), 9)


# --- power ------------------------------------------------------------------------------------------------------------


def test_after_the_years_it_takes_the_test_finds_the_edge_as_often_as_it_says():
    bars_per_year, true = 252.0, 1.8
    years = years_to_detect(true, bars_per_year=bars_per_year, power=0.8)
    bars = round(years * bars_per_year)
    ratio = true / math.sqrt(bars_per_year)
    draws = np.random.default_rng(17).normal(ratio, 1.0, (1000, bars))
    found = draws.mean(axis=1) / draws.std(axis=1, ddof=1) * math.sqrt(bars - 1) > 1.6448536269514722
    assert found.mean() == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 1000))
    assert detection_power(true, years=years, bars_per_year=bars_per_year) == pytest.approx(0.8)


def test_smaller_edges_take_longer_by_the_square():
    short, long = (years_to_detect(s, bars_per_year=252, power=0.5) - 1 / 252 for s in (1.0, 0.5))
    assert long / short == pytest.approx(4.0)
    assert years_to_detect(0.0, bars_per_year=252) == math.inf
    assert math.isnan(years_to_detect(math.nan, bars_per_year=252))


def test_half_the_power_is_the_minimum_track_record_of_a_ratio_whose_spread_is_one():
    returns = np.random.default_rng(18).normal(0.0006, 0.01, 4000)
    needed = minimum_track_record_bars(returns) / 252
    asked = years_to_detect(sharpe(returns, bars_per_year=252), bars_per_year=252, power=0.5)
    assert asked == pytest.approx(needed, rel=0.01)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_certainty_takes_for_ever_and_is_refused(power: float):
    with pytest.raises(ValueError, match="must lie in"):
        years_to_detect(1.0, bars_per_year=252, power=power)
