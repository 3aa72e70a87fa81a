"""Drift between the numbers a model was fitted on and those it meets."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from quantfleet.evaluation.drift import Drift, ReferenceBins, compare_counts

RNG = np.random.default_rng(5)


def drift(reference: np.ndarray, current: np.ndarray) -> Drift:
    bins = ReferenceBins.of(reference)
    return compare_counts(bins.count(reference), bins.count(current))


def test_the_same_values_have_not_drifted():
    values = RNG.normal(size=5000)
    assert drift(values, values).psi == 0.0
    assert drift(values, RNG.permutation(values)).ks == 0.0


def test_the_index_of_a_worked_example_is_what_the_formula_gives():
    # two bins, 50/50 before and 60/40 after: (0.1) ln(1.2) + (-0.1) ln(0.8)
    found = compare_counts(np.array([50, 50, 0]), np.array([60, 40, 0]))
    assert found.psi == pytest.approx(0.1 * np.log(1.2) - 0.1 * np.log(0.8))
    assert found.ks == pytest.approx(0.1)


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "stable"), (0.4, "moderate"), (1.5, "large")])
def test_a_shift_of_the_mean_is_graded(shift, verdict):
    assert drift(RNG.normal(size=20_000), RNG.normal(shift, size=20_000)).verdict == verdict


def test_the_binned_distance_is_a_lower_bound_of_scipys_and_close_to_it():
    before, after = RNG.normal(size=4000), RNG.normal(0.3, 1.2, size=3000)
    exact = scipy.stats.ks_2samp(before, after).statistic
    assert exact - 0.03 < drift(before, after).ks <= exact + 1e-12


def test_values_that_became_undefined_are_reported_and_not_counted_as_a_shift():
    before = RNG.normal(size=1000)
    after = np.where(np.arange(1000) % 2, np.nan, before)
    found = drift(before, after)
    assert (found.undefined_reference, found.undefined_current) == (0.0, 0.5)
    assert found.psi < 0.1
    assert drift(before, np.full(10, np.nan)).verdict == "undefined"


def test_a_feature_of_two_values_gets_bins_that_tell_them_apart():
    before = np.repeat([0.0, 1.0], [900, 100])
    assert drift(before, before).psi == 0.0
    assert drift(before, np.repeat([0.0, 1.0], [500, 500])).verdict == "large"


@given(st.lists(st.floats(-10, 10) | st.just(float("nan")), min_size=1, max_size=60), st.integers(0, 60))
def test_counts_of_parts_add_up(values, cut):
    bins = ReferenceBins((-1.0, 0.0, 3.0))
    whole = np.array(values)
    assert (bins.count(whole[:cut]) + bins.count(whole[cut:]) == bins.count(whole)).all()
    assert bins.count(whole).sum() == len(whole)


def test_counts_in_other_bins_are_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_counts(np.array([1, 2]), np.array([1, 2, 3]))
