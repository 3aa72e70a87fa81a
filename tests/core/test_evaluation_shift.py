"""Input shift: distances as scipy and scikit-learn have them, a test that keeps its size on dependent rows, planted shares."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from quantfleet.errors import DataError
from quantfleet.evaluation import shift
from quantfleet.evaluation.shift import MahalanobisReference, input_shift, two_sample_test

RNG = np.random.default_rng
TIMES = np.datetime64("2024-01-01", "us") + np.arange(20_000) * np.timedelta64(1, "h")


def correlated(rows: int, seed: int, features: int = 5) -> np.ndarray:
    mixing = RNG(99).normal(size=(features, features))
    return (RNG(seed).normal(size=(rows, features)) @ mixing + 3.0).astype(np.float32)


def test_distances_are_those_of_scipy_with_scikit_learns_shrunk_covariance(monkeypatch):
    x, other = correlated(300, 0).astype(np.float64), correlated(1000, 1).astype(np.float64)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    precision = LedoitWolf(assume_centered=True).fit(standard).precision_
    expected = cdist((other - x.mean(axis=0)) / x.std(axis=0), np.zeros((1, 5)), "mahalanobis", VI=precision)[:, 0]
    monkeypatch.setattr(shift, "_BATCH", 64)
    np.testing.assert_allclose(MahalanobisReference.of(x).distance(other), expected, rtol=1e-9)


def test_a_feature_that_does_not_move_is_no_trouble_and_counts_when_it_does():
    x = np.column_stack([correlated(400, 0), np.full(400, 7.0)])
    reference = MahalanobisReference.of(x)
    moved = x[:50] + np.array([0.0] * 5 + [9.0])
    assert (reference.distance(moved) > reference.distance(x[:50]) + 2.0).all()


def test_rows_that_were_planted_outside_are_the_share_that_is_found():
    current = correlated(4000, 2)
    current[2000:2400] += 30.0
    found = input_shift(correlated(8000, 1), current, TIMES, tuple("abcde"))
    assert found.out_share == pytest.approx(0.1 + 0.9 * 0.01, abs=0.006)
    assert [share > 0.9 for _, share in found.out_by_part] == [False] * 5 + [True] + [False] * 4
    assert found.out_by_part[5][0] == str(TIMES[2000])
    assert (found.reference_rows, found.current_rows) == (8000, 4000)


def test_a_shift_of_one_feature_is_named_and_told_apart():
    current = correlated(4000, 2)
    current[:, 3] += 1.5 * current[:, 3].std()
    found = input_shift(correlated(8000, 1), current, TIMES, tuple("abcde"))
    assert found.moved[0][0] == "d"
    assert found.moved[0][1] == pytest.approx(1.5, abs=0.1)
    assert found.auc > 0.8
    assert found.auc_p < 0.001


def autoregressive(rows: int, seed: int, features: int = 3, memory: float = 0.97) -> np.ndarray:
    noise, x = RNG(seed).normal(size=(rows, features)), np.zeros((rows, features))
    for t in range(1, rows):
        x[t] = memory * x[t - 1] + noise[t]
    return x


def test_on_dependent_rows_without_a_shift_it_rejects_about_as_often_as_it_says():
    p_values = [
        two_sample_test(autoregressive(2000, 2 * k), autoregressive(2000, 2 * k + 1), permutations=499, seed=k)[1]
        for k in range(24)
    ]
    assert np.mean(np.array(p_values) < 0.1) <= 0.25  # 2.4 of 24 are expected; more than 6 happen once in 100 times
    assert np.mean(np.array(p_values) < 0.5) == pytest.approx(0.5, abs=0.25)


def test_the_auc_is_scikit_learns_and_p_the_share_of_dealings_that_reach_it(monkeypatch):
    seen = {}

    def spied(ranks_of):
        seen["chance"] = np.array(ranks_of)
        return original(ranks_of)

    from scipy import stats

    original = stats.rankdata
    monkeypatch.setattr(stats, "rankdata", spied)
    auc, p = two_sample_test(correlated(500, 1), correlated(500, 2) * 1.05, blocks=4, permutations=999)
    side = np.repeat([0, 1], len(seen["chance"]) // 2)
    assert auc == pytest.approx(roc_auc_score(side, seen["chance"]), abs=1e-12)
    per_block = seen["chance"].reshape(4, -1)
    splits = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    aucs = [
        roc_auc_score(
            side, np.concatenate([np.delete(per_block, chosen, axis=0).ravel(), per_block[list(chosen)].ravel()])
        )
        for chosen in splits
    ]
    assert p == pytest.approx(np.mean(np.array(aucs) >= auc - 1e-12), abs=0.06)


@pytest.mark.parametrize(
    ("reference", "current", "options", "message"),
    [
        (correlated(150, 0), correlated(900, 1), {}, "150 training rows are too few"),
        (correlated(900, 0), correlated(150, 1), {}, "20 blocks need at least 200 of each"),
        (correlated(900, 0), correlated(900, 1), {"blocks": 5}, "even and at least 4"),
        (correlated(900, 0), correlated(900, 1, features=4), {}, "do not fit 5 names"),
        (correlated(900, 0), correlated(900, 1) * np.nan, {}, "not finite"),
        (correlated(900, 0) * np.nan, correlated(900, 1), {}, "all finite: False"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(reference, current, options, message):
    with pytest.raises(DataError, match=message):
        input_shift(reference, current, TIMES, tuple("abcde"), **options)
