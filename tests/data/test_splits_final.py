"""The final period: no fold trains on it, tests it or knows a label of it; and the paths that plans make up."""

import datetime as dt

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import Timeframe
from quantfleet.errors import ConfigError, LeakageError
from quantfleet_data.splits import CombinatorialPurged, PurgedKFold, RegimeStratified, TimeSplit, WalkForward

DAY = Timeframe("1d")
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
KINDS = {
    "walk_forward": lambda **s: WalkForward(n_splits=3, **s),
    "purged_kfold": lambda **s: PurgedKFold(n_splits=3, **s),
    "combinatorial_purged": lambda **s: CombinatorialPurged(n_groups=4, n_test_groups=2, **s),
    "regime_stratified": lambda **s: RegimeStratified(n_splits=2, blocks_per_fold=2, **s),
}


def labels_of(bars: int, horizon: int, symbols: int = 2) -> pl.DataFrame:
    """Daily labels, known `horizon` bars after they are decided; those of the last bars are not."""
    days = [(s, d) for s in range(symbols) for d in range(bars)]
    return pl.DataFrame(
        {
            "symbol": [f"S{s}" for s, _ in days],
            "timestamp": pl.Series([START + d * DAY.delta for _, d in days], dtype=pl.Datetime("us", "UTC")),
            "t_end": pl.Series(
                [START + (d + horizon) * DAY.delta if d + horizon <= bars else None for _, d in days],
                dtype=pl.Datetime("us", "UTC"),
            ),
            "regime": pl.Series([d // 10 % 2 for _, d in days], dtype=pl.Int16),
        }
    )


def intervals(plan):
    return [*plan.train, *plan.validation, *plan.test]


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    bars=st.integers(80, 160),
    horizon=st.integers(1, 6),
    final=st.sampled_from([0.1, 0.2, 0.35]),
)
def test_no_fold_knows_anything_of_the_final_period(kind: str, bars: int, horizon: int, final: float):
    labels = labels_of(bars, horizon)
    begins = START + (bars - round(bars * final)) * DAY.delta
    for plan in KINDS[kind](final_fraction=final).folds(labels, horizon_bars=horizon, timeframe=DAY):
        for interval in intervals(plan):
            assert interval.end <= begins
        tested = labels.filter(plan.inside("test", pl.col("timestamp")))
        assert tested["t_end"].null_count() == 0
        assert tested["t_end"].max() <= begins, "not even by a label"


def test_the_final_period_is_the_test_period_of_a_split_by_time_with_that_fraction():
    labels = labels_of(137, 5)
    final = TimeSplit(test_fraction=0.2).plan(labels, horizon_bars=5, timeframe=DAY).interval("test")
    plan = WalkForward(n_splits=3, final_fraction=0.2).folds(labels, horizon_bars=5, timeframe=DAY)[-1]
    assert plan.interval("test").end <= final.start
    assert (final.start - plan.interval("test").end) / DAY.delta <= 5, "no more is lost than a horizon"


def test_for_scikit_learn_too():
    labels = labels_of(100, 3, symbols=1)
    splitter = PurgedKFold(n_splits=3, final_fraction=0.2)
    used = {int(i) for train, test in splitter.split(labels) for i in (*train, *test)}
    assert max(used) <= 79 - 2
    paths = CombinatorialPurged(n_groups=4, final_fraction=0.2).paths(labels)
    assert all(max(int(rows.max()) for _, rows in path) == max(used) for path in paths)


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_fraction_that_is_none_is_refused(fraction: float):
    with pytest.raises(ConfigError, match="final_fraction"):
        WalkForward(final_fraction=fraction)


def test_nothing_left_before_the_final_period_is_said():
    with pytest.raises(LeakageError, match=r"final_fraction=0\.9 leaves no bar"):
        WalkForward(final_fraction=0.9).folds(labels_of(40, 6), horizon_bars=6, timeframe=DAY)


# --- paths of plans ---


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_path_tests_all_that_is_tested_once_in_order_of_time(kind: str):
    splitter = KINDS[kind]()
    plans = splitter.folds(labels_of(120, 2), horizon_bars=2, timeframe=DAY)
    paths = splitter.test_paths(plans)
    assert len(paths) == (3 if kind == "combinatorial_purged" else 1)
    stretches = {stretch for plan in plans for stretch in plan.test}
    for path in paths:
        own = [stretch for _, stretch in path]
        assert own == sorted(stretches, key=lambda stretch: stretch.start)
        assert all(stretch in plans[fold].test for fold, stretch in path)
    used = [(fold, stretch) for path in paths for fold, stretch in path]
    assert len(set(used)) == len(used) == sum(len(plan.test) for plan in plans), "each test of each fold on one path"
