"""Folds of every kind: no training label meets a test label, nothing is lost for another reason, every row is tested."""

import dataclasses
import datetime as dt
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, cross_val_score

from quantfleet.config import load_config
from quantfleet.contracts import SplitPlan, SplitterConfig, Timeframe
from quantfleet.errors import ConfigError, EmptyTableError, LeakageError, SchemaError
from quantfleet_data.labels import LabelsConfig, VolatilityRegime, compute_labels
from quantfleet_data.splits import (
    CombinatorialPurged,
    PurgedKFold,
    RegimeStratified,
    WalkForward,
    assert_no_leak,
    assign_segments,
    check_split,
)

DAY = Timeframe("1d")
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def day(n):
    return START + n * DAY.delta


def table(rows):
    """A label table from (symbol, day, day of t_end or None, regime)."""
    return pl.DataFrame(
        {
            "symbol": [r[0] for r in rows],
            "timestamp": pl.Series([day(r[1]) for r in rows], dtype=pl.Datetime("us", "UTC")),
            "t_end": pl.Series([None if r[2] is None else day(r[2]) for r in rows], dtype=pl.Datetime("us", "UTC")),
            "regime": pl.Series([r[3] for r in rows], dtype=pl.Int16),
        }
    )


@st.composite
def label_tables(draw):
    """Random rows of up to three symbols: gaps, uneven spans, a label across a long halt, unknown labels, any order."""
    rows = []
    for symbol in ("A", "B", "C")[: draw(st.integers(1, 3))]:
        days = draw(st.lists(st.integers(0, 79), min_size=25, max_size=55, unique=True))
        spans = draw(st.lists(st.none() | st.integers(1, 9), min_size=len(days), max_size=len(days)))
        regimes = draw(st.lists(st.none() | st.integers(0, 2), min_size=len(days), max_size=len(days)))
        rows += [(symbol, d, None if s is None else d + s, r) for d, s, r in zip(days, spans, regimes, strict=True)]
    if draw(st.booleans()):
        rows[0] = (rows[0][0], rows[0][1], rows[0][1] + 25, 0)
    return table(draw(st.permutations(rows)))


SPLITTERS = st.sampled_from(
    [
        PurgedKFold(n_splits=4),
        PurgedKFold(n_splits=3, embargo_bars=4, purge_bars=2),
        PurgedKFold(n_splits=3, embargo_s=5 * 86_400),
        CombinatorialPurged(n_groups=5, n_test_groups=2),
        CombinatorialPurged(n_groups=4, n_test_groups=2, embargo_bars=2),
        RegimeStratified(n_splits=3, blocks_per_fold=2, embargo_bars=1),
        WalkForward(n_splits=3, embargo_bars=2),
        WalkForward(n_splits=3, test_bars=5, window="rolling", train_bars=10, embargo_s=2 * 86_400),
        PurgedKFold(n_splits=3, validation_fraction=0.25, embargo_bars=2),
    ]
)


def split_rows(splitter, labels):
    """The folds as plain Python rows; None where the random table leaves a fold nothing to train on, which is refused."""
    try:
        return list(splitter.split(labels))
    except LeakageError:
        return None


@settings(max_examples=30, deadline=None)
@given(label_tables(), SPLITTERS)
def test_no_training_label_interval_touches_a_test_interval_whatever_the_symbol(labels, splitter):
    folds = split_rows(splitter, labels)
    t = labels["timestamp"].dt.epoch("us").to_numpy()
    end = labels["t_end"].dt.epoch("us").fill_null(-1).to_numpy()
    for train, test in folds or ():
        assert len(np.intersect1d(train, test)) == 0
        assert (end[train] > 0).all(), "a row whose label is unknown is never trained on"
        test_end = np.maximum(end[test], t[test] + 1)
        overlap = (t[train][:, None] < test_end) & (t[test] < end[train][:, None])  # every pair of rows
        assert not overlap.any()
        assert_no_leak(labels[train], labels[test])


@settings(max_examples=30, deadline=None)
@given(label_tables(), SPLITTERS)
def test_nothing_is_lost_unless_it_is_unknown_purged_or_embargoed(labels, splitter):
    """From the definition, row by row: blocks of tested bars, their label intervals, and the embargo after (or before) them."""
    if splitter.validation_fraction or splitter.purge_bars:
        return
    folds = split_rows(splitter, labels)
    t, t_end = labels["timestamp"].to_list(), labels["t_end"].to_list()
    stamps = sorted(set(t))
    place = {stamp: i for i, stamp in enumerate(stamps)}
    for train, test in folds or ():
        tested = sorted({place[t[i]] for i in test})
        blocks = np.split(tested, np.flatnonzero(np.diff(tested) > 1) + 1)
        kept = set(train.tolist())
        forward = isinstance(splitter, WalkForward)
        allowed = range(len(stamps))
        if forward:
            first = tested[0]
            allowed = range(first - splitter.train_bars if splitter.window == "rolling" else 0, first)
        for row in set(range(labels.height)) - kept - set(test.tolist()):
            reasons = [t_end[row] is None, place[t[row]] not in allowed]
            for block in blocks:
                start = stamps[block[0]]
                known = max(
                    [stamps[block[-1]], *(t_end[i] for i in test if place[t[i]] in block and t_end[i] is not None)]
                )
                quiet = start
                if forward:
                    before = [s for s in stamps if s <= start - dt.timedelta(seconds=splitter.embargo_s)]
                    quiet = stamps[max(min(block[0] - splitter.embargo_bars, len(before) - 1), 0)]
                    reasons.append(t[row] >= quiet)
                if t_end[row] is not None:
                    reasons.append(t[row] < start and t_end[row] > quiet)
                if not forward and t[row] > start:
                    settled = max(block[-1] + 1, sum(s < known for s in stamps))
                    reasons.append(t[row] < known + dt.timedelta(seconds=splitter.embargo_s))
                    reasons.append(place[t[row]] < settled + splitter.embargo_bars)
            assert any(reasons), (row, t[row], t_end[row])


@settings(max_examples=30, deadline=None)
@given(label_tables(), SPLITTERS)
def test_the_embargo_holds_after_each_tested_row(labels, splitter):
    t, end = (labels[c].dt.epoch("us").fill_null(-1).to_numpy() for c in ("timestamp", "t_end"))
    stamps = np.unique(t)
    for train, test in split_rows(splitter, labels) or ():
        for i in test:
            known = max(end[i], t[i])
            later = t[train][t[train] > t[i]]
            if later.size:
                assert later.min() >= known + splitter.embargo_s * 1_000_000
                skipped = ((stamps >= known) & (stamps < later.min())).sum()
                assert skipped >= splitter.embargo_bars


@settings(max_examples=25, deadline=None)
@given(label_tables(), st.integers(3, 7), st.data())
def test_every_path_of_the_combinatorial_split_tests_every_row_once(labels, groups, data):
    k = data.draw(st.integers(1, groups - 1))
    splitter = CombinatorialPurged(n_groups=groups, n_test_groups=k)
    assert splitter.n_folds == math.comb(groups, k) == splitter.get_n_splits()
    paths = splitter.paths(labels)
    assert len(paths) == splitter.n_paths == math.comb(groups, k) * k // groups
    used = [(fold, g) for path in paths for g, (fold, _) in enumerate(path)]
    assert len(set(used)) == len(used) == math.comb(groups, k) * k, "each fold's each group is on exactly one path"
    folds = split_rows(splitter, labels)
    for path in paths:
        together = np.concatenate([rows for _, rows in path])
        assert sorted(together.tolist()) == list(range(labels.height))
        for fold, rows in path if folds else ():
            assert set(rows.tolist()) <= set(folds[fold][1].tolist())


def test_the_books_count_of_paths_comes_out():
    """Section 12.4.1, figure 12.1: six groups, two tested: 15 splits, 5 paths."""
    splitter = CombinatorialPurged(n_groups=6, n_test_groups=2)
    assert (splitter.n_folds, splitter.n_paths) == (15, 5)
    assert splitter.path_folds.shape == (5, 6)
    assert splitter.path_folds[0].tolist() == [0, 0, 1, 2, 3, 4]


@settings(max_examples=30, deadline=None)
@given(label_tables(), st.sampled_from([PurgedKFold(n_splits=5), RegimeStratified(n_splits=3, blocks_per_fold=3)]))
def test_k_folds_test_every_row_exactly_once(labels, splitter):
    folds = split_rows(splitter, labels)
    if folds:
        assert len(folds) == splitter.get_n_splits(labels)
        assert sorted(np.concatenate([test for _, test in folds]).tolist()) == list(range(labels.height))


# --- walk-forward -----------------------------------------------------------------------------------------------------


def daily(rows=100, horizon=5, symbols=("A",)):
    return table(
        [(s, d, d + horizon + 1 if d + horizon < rows else None, d // 20 % 3) for s in symbols for d in range(rows)]
    )


def test_walk_forward_trains_on_the_past_alone_and_tests_back_to_back_up_to_the_last_bar():
    labels = daily()
    folds = list(WalkForward(n_splits=4, test_bars=15).split(labels))
    assert [(test[0], test[-1]) for _, test in folds] == [(40, 54), (55, 69), (70, 84), (85, 99)]
    assert [(train[0], train[-1]) for train, _ in folds] == [(0, 34), (0, 49), (0, 64), (0, 79)]
    rolling = list(WalkForward(n_splits=4, test_bars=15, window="rolling", train_bars=20).split(labels))
    assert [(train[0], train[-1]) for train, _ in rolling] == [(20, 34), (35, 49), (50, 64), (65, 79)]


def test_the_embargo_of_walk_forward_lies_before_the_test():
    (train, _), *_ = WalkForward(n_splits=4, test_bars=15, embargo_bars=3).split(daily())
    assert train[-1] == 34 - 3
    (train, _), *_ = WalkForward(n_splits=4, test_bars=15, embargo_s=4 * 86_400).split(daily())
    assert train[-1] == 34 - 4


def test_by_default_the_stretches_are_those_of_scikit_learns_time_series_split():
    from sklearn.model_selection import TimeSeriesSplit

    labels = daily(rows=103, horizon=1)
    ours = [test.tolist() for _, test in WalkForward(n_splits=5).split(labels)]
    assert ours == [test.tolist() for _, test in TimeSeriesSplit(n_splits=5).split(labels.to_numpy())]


# --- regimes ----------------------------------------------------------------------------------------------------------


def test_every_fold_tests_its_share_of_every_regime(make_bars):
    config = LabelsConfig(regime=VolatilityRegime(volatility_bars=10, warm_up_bars=30))
    tables = []
    for i in range(3):
        calm, wild = (
            make_bars(i, 500, volatility=0.005, symbol=f"S{i}"),
            make_bars(i, 500, volatility=0.03, symbol=f"S{i}"),
        )
        mixed = pl.concat([calm.head(250), wild.slice(250, 120), calm.tail(130)])
        tables.append(compute_labels(mixed, config, DAY))
    labels = pl.concat(tables)

    def spread(splitter):
        counts = [
            np.bincount(labels["regime"].gather(test).fill_null(3).to_numpy(), minlength=4)
            for _, test in splitter.split(labels)
        ]
        shares = np.array(counts) / np.sum(counts, axis=0)
        return float(np.abs(shares - 1 / len(counts))[:, :3].max())

    assert spread(RegimeStratified(n_splits=5, blocks_per_fold=8)) < 0.05
    assert spread(PurgedKFold(n_splits=5)) > 0.15


def test_pure_blocks_are_shared_out_evenly_to_the_row():
    labels = table([("A", d, d + 1, d // 10 % 3) for d in range(180)])
    for _, test in RegimeStratified(n_splits=3, blocks_per_fold=6).split(labels):
        assert np.bincount(labels["regime"].gather(test).to_numpy()).tolist() == [20, 20, 20]
        assert (np.diff(test, prepend=-1, append=test[-1] + 11) > 1).sum() <= 7, "whole blocks, not single rows"


def test_regimes_may_be_names():
    labels = daily().with_columns(state=pl.col("regime").replace_strict({0: "calm", 1: "usual", 2: "wild"}))
    numbers = list(RegimeStratified(n_splits=2).split(labels))
    names = list(RegimeStratified(n_splits=2, regime_column="state").split(labels))
    assert all((a[1] == b[1]).all() for a, b in zip(numbers, names, strict=True))


def test_a_table_without_regimes_is_refused():
    with pytest.raises(SchemaError, match=r"no column 'regime' to stratify by; .*Set `labels.regime`"):
        list(RegimeStratified().split(daily().drop("regime")))


# --- scikit-learn -----------------------------------------------------------------------------------------------------


def regression_data(rows=400, horizon=10):
    labels = daily(rows, horizon, symbols=("A", "B"))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(labels.height, 2))
    y = x[:, 0] + 0.1 * rng.normal(size=labels.height)
    return labels, x, y


@pytest.mark.parametrize(
    "splitter",
    [PurgedKFold(n_splits=4), CombinatorialPurged(n_groups=4), WalkForward(n_splits=3), RegimeStratified(n_splits=3)],
)
def test_scikit_learn_takes_the_splitter_as_it_is(splitter):
    labels, x, y = regression_data()
    scores = cross_val_score(LinearRegression(), x, y, groups=labels, cv=splitter)
    assert len(scores) == splitter.get_n_splits()
    assert (scores > 0.9).all()
    as_pandas = labels.with_columns(pl.col("regime").cast(pl.Int64)).to_pandas()
    np.testing.assert_allclose(
        scores, cross_val_score(LinearRegression(), pd.DataFrame(x), y, groups=as_pandas, cv=splitter)
    )


def test_a_grid_search_takes_it_too():
    labels, x, y = regression_data()
    search = GridSearchCV(LinearRegression(), {"fit_intercept": [True, False]}, cv=PurgedKFold(n_splits=3))
    search.fit(x, y, groups=labels)
    assert search.n_splits_ == 3


def test_purging_takes_away_the_skill_that_overlapping_labels_lend_to_a_model_without_any():
    """A nearest neighbour in time, labels that overlap for 40 bars: skill is all leakage, and gone once purged and embargoed."""
    from sklearn.model_selection import KFold
    from sklearn.neighbors import KNeighborsRegressor

    rng = np.random.default_rng(3)
    moves = rng.normal(size=2100)
    y = np.array([moves[i + 1 : i + 41].sum() for i in range(2000)])
    labels = table([("A", d, d + 41, 0) for d in range(2000)])
    x = np.arange(2000.0)[:, None]
    model = KNeighborsRegressor(n_neighbors=1)
    leaky = cross_val_score(model, x, y, cv=KFold(100))
    clean = cross_val_score(model, x, y, groups=labels, cv=PurgedKFold(n_splits=100))

    def error(scores):
        return np.median(1.0 - scores)

    assert error(leaky) < 0.75 * error(clean)


def test_what_is_no_label_table_or_too_short_is_refused():
    labels, x, _ = regression_data(50)
    with pytest.raises(SchemaError, match=r"X is a ndarray, not a label table\. Pass the table"):
        next(PurgedKFold().split(x))
    with pytest.raises(SchemaError, match="X has 100 rows and the label table in `groups` 99"):
        next(PurgedKFold().split(x, groups=labels.head(99)))
    with pytest.raises(SchemaError, match="no column 't_end'"):
        next(PurgedKFold().split(labels.drop("t_end")))


# --- plans ------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(label_tables(), SPLITTERS)
def test_a_stored_fold_assigns_rows_that_are_clean_and_tests_what_the_splitter_tests(labels, splitter):
    splitter = dataclasses.replace(splitter, purge_bars=None)
    try:
        plans = splitter.folds(labels, horizon_bars=3, timeframe=DAY)
        for plan, (train, test) in zip(plans, splitter.split(labels), strict=True):
            stored = SplitPlan.from_json(plan.to_json())
            assert stored == plan
            assigned = assign_segments(labels, stored)
            check_split(assigned, stored)
            row = assigned.with_row_index().group_by("segment").agg("index")
            rows = {segment: set(index) for segment, index in row.iter_rows()}
            assert rows["test"] == set(test.tolist())
            if not splitter.validation_fraction and not isinstance(splitter, WalkForward):
                assert rows["train"] <= set(train.tolist())
    except (LeakageError, EmptyTableError) as error:
        refused = ("left for", "has no row", "gets no rows")
        if not any(text in error.message for text in refused):
            raise


def test_a_fold_has_training_on_both_sides_of_its_test_and_says_so_in_json():
    plans = PurgedKFold(n_splits=5, embargo_bars=2).folds(daily(), horizon_bars=5, timeframe=DAY)
    middle = plans[2]
    assert [(i.start, i.end) for i in middle.train] == [(day(0), day(35)), (day(67), day(100))]
    assert [(i.start, i.end) for i in middle.test] == [(day(40), day(60))]
    record = middle.to_json()
    assert '"validation": []' in record
    assert middle.intervals("validation") == ()
    with pytest.raises(ConfigError, match=r"train has 2 intervals .* one stretch of time is needed here"):
        middle.interval("train")


def test_validation_is_the_latest_share_of_the_training_bars():
    plan = PurgedKFold(n_splits=5, validation_fraction=0.25, fold=2).plan(daily(), horizon_bars=5, timeframe=DAY)
    assert [(i.start, i.end) for i in plan.validation] == [(day(82), day(100))]
    assert [(i.start, i.end) for i in plan.train] == [(day(0), day(35)), (day(65), day(77))]


def test_a_run_takes_the_last_fold_unless_it_names_another():
    labels = daily()
    plans = WalkForward(n_splits=4).folds(labels, horizon_bars=5, timeframe=DAY)
    assert WalkForward(n_splits=4).plan(labels, horizon_bars=5, timeframe=DAY) == plans[-1]
    assert WalkForward(n_splits=4, fold=1).plan(labels, horizon_bars=5, timeframe=DAY) == plans[1]
    assert plans[-1].interval("test").end == day(100)


def test_a_label_across_a_halt_keeps_training_away_until_it_is_known():
    """B's label of day 45 is known on day 75 only: A may not train before that, though its own labels are short."""
    rows = [("A", d, d + 2, 0) for d in range(100)] + [("B", 45, 75, 0)]
    train, test = list(PurgedKFold(n_splits=5).split(table(rows)))[2]
    assert 100 in test
    assert sorted(train)[39:41] == [75, 76] or min(i for i in train if i > 60) == 75


def test_a_purge_shorter_than_the_horizon_is_refused():
    with pytest.raises(LeakageError, match=r"purge_bars=4 is shorter than the longest label horizon, 5 bars"):
        PurgedKFold(purge_bars=4).folds(daily(), horizon_bars=5, timeframe=DAY)


def test_a_fold_without_training_is_refused_with_the_numbers():
    with pytest.raises(
        LeakageError, match=r"no bars are left for train of fold 0. Of 100 distinct .* 90 bars or 0 s"
    ) as caught:
        PurgedKFold(embargo_bars=90).folds(daily(), horizon_bars=5, timeframe=DAY)
    assert caught.value.fields["fold"] == 0
    with pytest.raises(LeakageError, match="100 distinct timestamps cannot be cut into 200 folds"):
        PurgedKFold(n_splits=200).folds(daily(), horizon_bars=5, timeframe=DAY)
    with pytest.raises(LeakageError, match="too few for 5 test stretches of 20 bars"):
        WalkForward(test_bars=20).folds(daily(), horizon_bars=5, timeframe=DAY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PurgedKFold(n_splits=1), "n_splits=1 must be at least 2"),
        (lambda: PurgedKFold(embargo_s=-1), "embargo_s=-1 must be zero or more"),
        (lambda: PurgedKFold(purge_bars=-1), "purge_bars=-1 must be zero or more"),
        (lambda: PurgedKFold(validation_fraction=1.0), r"validation_fraction=1\.0 must be 0 or more and below 1"),
        (lambda: PurgedKFold(fold=5), "fold=5: there are 5 folds, 0 to 4"),
        (
            lambda: CombinatorialPurged(n_groups=3, n_test_groups=3),
            "n_test_groups=3 must be 1 or more and less than n_groups=3",
        ),
        (lambda: WalkForward(train_bars=50), "train_bars=50 belongs to a rolling window"),
        (lambda: WalkForward(test_bars=0), "test_bars=0 must be at least 1"),
        (lambda: WalkForward(n_splits=0), "n_splits=0 must be at least 1"),
        (lambda: RegimeStratified(blocks_per_fold=0), "blocks_per_fold=0 must be at least 1"),
    ],
)
def test_senseless_splitters_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@dataclasses.dataclass(frozen=True)
class Recipe:
    split: SplitterConfig = dataclasses.field(default_factory=PurgedKFold)


@pytest.mark.parametrize(
    ("text", "splitter"),
    [
        ("{kind: purged_kfold, n_splits: 3}", PurgedKFold(n_splits=3)),
        ("{kind: combinatorial_purged, n_groups: 8, fold: 3}", CombinatorialPurged(n_groups=8, fold=3)),
        ("{kind: walk_forward, window: rolling, train_bars: 9}", WalkForward(window="rolling", train_bars=9)),
        ("{kind: regime_stratified, embargo_s: 3600}", RegimeStratified(embargo_s=3600)),
    ],
)
def test_a_recipe_names_the_splitter(tmp_path, text, splitter):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"split: {text}\n")
    assert load_config(Recipe, file=path, environ={}).value.split == splitter


def test_ten_real_pairs_with_exchange_halts_fold_clean(shared_data):
    bars = pl.read_parquet(shared_data / "binance_spot_usdt_1h_2020-12_2021-07.parquet")
    symbols = bars["symbol"].unique().sort().head(10).to_list()
    config, hour = LabelsConfig(), Timeframe("1h")
    labels = pl.concat([compute_labels(bars.filter(pl.col("symbol") == s), config, hour) for s in symbols])
    for splitter in (PurgedKFold(embargo_bars=24), CombinatorialPurged(n_groups=4, embargo_s=86_400)):
        for plan in splitter.folds(labels, horizon_bars=config.horizon_bars, timeframe=hour):
            check_split(assign_segments(labels, plan), plan)
