"""Corrected Sharpe ratios reproduce published examples; PBO equals the naive loop over all splits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import kurtosis, skew

from quantfleet import evaluation as ev
from quantfleet.evaluation import overfitting


def sample(ratio: float, bars: int, lean: float, tails: float, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Returns of exactly this Sharpe ratio; skewness and kurtosis are set, as papers give moments and no series."""
    draws = np.random.default_rng(0).normal(size=bars)
    monkeypatch.setattr(overfitting, "skew", lambda _: lean)
    monkeypatch.setattr(overfitting, "kurtosis", lambda _, fisher: tails)
    return (draws - draws.mean()) / draws.std(ddof=1) + ratio


@pytest.mark.parametrize(("trials", "published"), [(100, 0.9004), (46, 0.9505)])
def test_the_deflated_sharpe_ratio_is_that_of_the_papers_example(
    trials: int, published: float, monkeypatch: pytest.MonkeyPatch
):
    """Bailey and López de Prado (2014): annual ratio 2.5 over 5 years of 250 days, variance of the trials 1/2."""
    returns = sample(2.5 / math.sqrt(250), 1250, -3.0, 10.0, monkeypatch)
    deflated = ev.deflated_sharpe(returns, trials=trials, deviation=math.sqrt(0.5 / 250))
    assert deflated == pytest.approx(published, abs=6e-5)


def test_with_normal_returns_the_papers_example_would_have_survived_88_trials(monkeypatch: pytest.MonkeyPatch):
    returns = sample(2.5 / math.sqrt(250), 1250, 0.0, 3.0, monkeypatch)
    assert ev.deflated_sharpe(returns, trials=88, deviation=math.sqrt(0.5 / 250)) == pytest.approx(0.9505, abs=6e-5)
    best = ev.expected_best_sharpe(trials=100, deviation=math.sqrt(0.5 / 250))
    assert best == pytest.approx(0.1132, abs=6e-5), "SR_0 of page 10 of the working paper"


@pytest.mark.parametrize(("bars_a_year", "years"), [(252, 2.73), (52, 2.83), (12, 3.24)])
def test_the_minimum_track_record_is_that_of_the_papers_example(
    bars_a_year: int, years: float, monkeypatch: pytest.MonkeyPatch
):
    """Bailey and López de Prado (2012): an annual ratio of 2 against 1 at 95 %, independent normal returns."""
    returns = sample(2.0 / math.sqrt(bars_a_year), 500, 0.0, 3.0, monkeypatch)
    needed = ev.minimum_track_record_bars(returns, benchmark=1.0 / math.sqrt(bars_a_year))
    assert needed / bars_a_year == pytest.approx(years, abs=0.006)


def test_after_the_minimum_track_record_the_chance_is_the_confidence():
    returns = np.random.default_rng(3).standard_t(5, 800) * 0.01 + 0.0008
    needed = ev.minimum_track_record_bars(returns, confidence=0.9)
    ratio = returns.mean() / returns.std(ddof=1)
    spread = math.sqrt(1 - skew(returns) * ratio + (kurtosis(returns, fisher=False) - 1) / 4 * ratio**2)
    assert ratio * math.sqrt(needed - 1) / spread == pytest.approx(1.2815515655446004, rel=1e-9)
    assert ev.minimum_track_record_bars(-returns) == math.inf


def test_one_trial_deflates_nothing_and_more_trials_deflate_more():
    returns = np.random.default_rng(4).normal(0.001, 0.01, 500)
    chances = [ev.deflated_sharpe(returns, trials=n, deviation=0.03) for n in (1, 10, 1000)]
    assert chances[0] == ev.probabilistic_sharpe(returns)
    assert chances == sorted(chances, reverse=True)


def test_undefined_and_impossible_asks_are_answered_as_such():
    assert math.isnan(ev.probabilistic_sharpe(np.zeros(10)))
    with pytest.raises(ValueError, match="at least 3 bars"):
        ev.probabilistic_sharpe(np.zeros(2))
    with pytest.raises(ValueError, match="trials=0"):
        ev.expected_best_sharpe(trials=0, deviation=1.0)


def naive(returns: np.ndarray, blocks: int) -> list[float]:
    """The definition, split by split, on the returns themselves."""
    cut = np.array_split(returns[len(returns) % blocks :], blocks)
    logits = []
    for chosen in itertools.combinations(range(blocks), blocks // 2):
        inside = np.concatenate([cut[b] for b in chosen])
        outside = np.concatenate([cut[b] for b in range(blocks) if b not in chosen])
        best = np.argmax(inside.mean(axis=0) / inside.std(axis=0, ddof=1))
        ratios = outside.mean(axis=0) / outside.std(axis=0, ddof=1)
        share = (ratios <= ratios[best]).sum() / (returns.shape[1] + 1)
        logits.append(math.log(share / (1 - share)))
    return logits


@pytest.mark.parametrize(("bars", "strategies", "blocks"), [(163, 7, 6), (200, 20, 8)])
def test_overfitting_is_counted_as_by_the_naive_loop(bars: int, strategies: int, blocks: int):
    returns = np.random.default_rng(5).normal(0.0, 0.01, (bars, strategies)) + np.linspace(-1, 1, strategies) * 0.0005
    found = ev.probability_of_overfitting(returns, blocks=blocks)
    expected = naive(returns, blocks)
    assert found.logit_C == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found.probability == np.mean(np.array(expected) <= 0.0)


def test_a_true_edge_is_not_overfitted():
    returns = np.random.default_rng(6).normal(0.0, 0.01, (800, 30))
    returns[:, 3] += 0.004
    assert ev.probability_of_overfitting(returns, blocks=10).probability == 0.0


def test_refuses_blocks_and_returns_that_cannot_be_dealt():
    returns = np.random.default_rng(7).normal(size=(40, 3))
    with pytest.raises(ValueError, match="must be even"):
        ev.probability_of_overfitting(returns, blocks=5)
    with pytest.raises(ValueError, match="at least 2 strategies"):
        ev.probability_of_overfitting(returns[:, :1])
    with pytest.raises(ValueError, match="equal returns"):
        ev.probability_of_overfitting(np.column_stack([returns, np.zeros(40)]), blocks=4)
