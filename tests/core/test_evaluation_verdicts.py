"""What a run says of its candidates: skill is named, luck is not, and what cannot be told is left open."""

from __future__ import annotations

import math

import numpy as np
import pytest

from quantfleet.evaluation import sharpe
from quantfleet.evaluation.inference import judge, years_to_detect

YEAR = 252.0


def returns(mean: float, seed: int, bars: int = 1000) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.01, bars)


def test_skill_is_found_and_luck_is_not():
    market = returns(0.0002, 1)
    found = judge(
        {"skilled": 0.5 * market + returns(0.0035, 2), "lucky": 0.5 * market + returns(0.0001, 3)},
        {"market": market, "cash": np.zeros(1000)},
        bars_per_year=YEAR,
        seed=1,
        resamples=2000,
    )
    assert found is not None
    assert found.years == pytest.approx(1000 / YEAR)
    assert found.superiority.better == ("skilled",)
    skilled, lucky = found.models["skilled"], found.models["lucky"]
    assert skilled.p_value < skilled.adjusted_p < 0.01 < 0.2 < lucky.adjusted_p <= 1.0
    assert skilled.diebold_mariano_p < 0.01 < lucky.diebold_mariano_p
    assert skilled.bayes_factor > 100 > 3 > lucky.bayes_factor
    assert (skilled.in_confidence_set, lucky.in_confidence_set) == (True, False)
    assert skilled.track_record_years < skilled.years_to_detect < found.years < lucky.years_to_detect


def test_the_yardstick_is_the_best_naive_model_and_cash_counts_as_zero():
    losing = returns(-0.002, 4)
    found = judge(
        {"m": returns(0.001, 5)}, {"losing": losing, "cash": np.zeros(1000)}, bars_per_year=YEAR, seed=1, resamples=200
    )
    assert found is not None
    assert found.yardstick == "cash"
    assert found.models["m"].difference == sharpe(returns(0.001, 5), bars_per_year=YEAR)


def test_a_candidate_that_is_the_yardstick_will_never_beat_it():
    market = returns(0.0005, 6)
    found = judge({"copy": market.copy()}, {"market": market}, bars_per_year=YEAR, seed=1, resamples=200)
    assert found is not None
    copy = found.models["copy"]
    assert copy.years_to_beat == math.inf
    assert math.isnan(copy.diebold_mariano_p)
    assert copy.in_confidence_set
    assert copy.p_value > 0.9


def test_power_says_how_little_a_short_period_can_find():
    found = judge({"m": returns(0.0, 7)}, {"cash": np.zeros(1000)}, bars_per_year=YEAR, seed=1, resamples=200)
    assert found is not None
    assert found.models["m"].power < 0.35, "four years find a ratio of 0.5 one time in three or four"
    assert years_to_detect(0.5, bars_per_year=YEAR) > 24


@pytest.mark.parametrize(
    ("candidates", "naive"),
    [
        ({}, {"cash": np.zeros(100)}),
        ({"m": np.zeros(100)}, {}),
        ({"ruined": np.full(100, np.nan)}, {"cash": np.zeros(100)}),
        ({"m": np.zeros(20)}, {"cash": np.zeros(20)}),
    ],
)
def test_without_anything_to_compare_there_is_no_verdict(
    candidates: dict[str, np.ndarray], naive: dict[str, np.ndarray]
):
    assert judge(candidates, naive, bars_per_year=YEAR, seed=1) is None


def test_a_model_that_never_traded_is_no_error():
    found = judge(
        {"idle": np.zeros(100)}, {"market": returns(0.001, 8, 100)}, bars_per_year=YEAR, seed=1, resamples=200
    )
    assert found is not None
    assert math.isnan(found.models["idle"].p_value)
    assert math.isnan(found.models["idle"].track_record_years)
