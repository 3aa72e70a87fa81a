"""The search says how likely its winner is luck, from the returns of every trial."""

import numpy as np

from quantfleet_jobs.search import search_overfitting


def trials(edge: float) -> list[np.ndarray]:
    drawn = np.random.default_rng(0).normal(0.0, 0.01, (12, 600))
    drawn[4] += edge
    return list(drawn)


def test_a_true_winner_is_not_overfitted_and_a_lucky_one_about_half_of_the_time():
    assert search_overfitting(trials(0.004)) == 0.0
    lucky = search_overfitting(trials(0.0))
    assert lucky is not None
    assert 0.2 < lucky < 0.95


def test_trials_that_stood_still_or_broke_are_left_out_and_too_few_say_nothing():
    idle, broken = np.zeros(600), np.full(600, np.nan)
    assert search_overfitting([*trials(0.004), idle, broken]) == 0.0
    assert search_overfitting([trials(0.0)[0], idle]) is None
    assert search_overfitting([r[:30] for r in trials(0.0)]) is None
    assert search_overfitting([]) is None
