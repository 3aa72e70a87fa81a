"""The time splitter: where segments start and end, and what it refuses."""

import dataclasses
import datetime as dt
from dataclasses import dataclass

import polars as pl
import pytest

from quantfleet.config import load_config
from quantfleet.contracts import SplitPlan, SplitterConfig, Timeframe
from quantfleet.errors import ConfigError, EmptyTableError, LeakageError, SchemaError, TimeError
from quantfleet_data.labels import ForwardReturn, LabelsConfig, compute_labels
from quantfleet_data.splits import TimeSplit

DAY = Timeframe("1d")
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def day(n):
    return START + n * DAY.delta


def label_table(days, *, symbols=("AAA",), horizon=5):
    """A row a day; each label is known at the close of the bar `horizon` bars ahead."""
    stamps = pl.Series([day(n) for n in range(days)], dtype=pl.Datetime("us", "UTC"))
    t_end = stamps.shift(-horizon) + DAY.delta
    return pl.concat(
        [pl.DataFrame({"symbol": [s] * days, "timestamp": stamps, "t_end": t_end}) for s in symbols], how="vertical"
    )


def plan(splitter, days=100, horizon=5, **table):
    return splitter.plan(label_table(days, horizon=horizon, **table), horizon_bars=horizon, timeframe=DAY)


def test_fractions_count_distinct_timestamps_and_the_hole_is_cut_from_the_earlier_segment():
    made = plan(TimeSplit(validation_fraction=0.2, test_fraction=0.1), symbols=("AAA", "BBB"))
    assert (made.interval("train").start, made.interval("train").end) == (day(0), day(70 - 5))
    assert (made.interval("validation").start, made.interval("validation").end) == (day(70), day(90 - 5))
    assert (made.interval("test").start, made.interval("test").end) == (day(90), day(100))
    assert (made.purge_bars, made.horizon_bars, made.embargo_bars, made.timeframe) == (5, 5, 0, "1d")


def test_the_test_interval_ends_at_the_close_of_the_last_bar_so_that_it_holds_it():
    assert plan(TimeSplit()).interval("test").end == day(99) + DAY.delta


def test_the_embargo_widens_the_hole_and_leaves_validation_and_test_where_they_start():
    without, with_embargo = plan(TimeSplit()), plan(TimeSplit(embargo_bars=7))
    assert with_embargo.interval("train").end == without.interval("train").end - 7 * DAY.delta
    assert with_embargo.interval("validation").start == without.interval("validation").start
    assert with_embargo.test == without.test


def test_a_longer_purge_widens_the_hole_too():
    assert (
        plan(TimeSplit(purge_bars=9)).interval("train").end == plan(TimeSplit()).interval("train").end - 4 * DAY.delta
    )


def test_explicit_starts_move_on_to_the_first_bar_and_need_no_fractions():
    splitter = TimeSplit(validation_start=day(60), test_start=day(80) - dt.timedelta(hours=3))
    made = plan(splitter)
    assert (made.interval("train").end, made.interval("validation").start, made.interval("validation").end) == (
        day(55),
        day(60),
        day(75),
    )
    assert made.interval("test").start == day(80)


def test_explicit_starts_may_be_given_in_any_time_zone():
    east = dt.timezone(dt.timedelta(hours=9))
    splitter = TimeSplit(validation_start=day(60).astimezone(east), test_start=day(80).astimezone(east))
    assert plan(splitter) == plan(TimeSplit(validation_start=day(60), test_start=day(80)))


def test_the_intervals_are_the_same_for_symbols_that_were_listed_late():
    late = label_table(100).filter(pl.col("timestamp") >= day(50)).with_columns(symbol=pl.lit("LATE"))
    both = pl.concat([label_table(100), late])
    assert TimeSplit().plan(both, horizon_bars=5, timeframe=DAY) == plan(TimeSplit())


def test_a_plan_survives_being_stored():
    made = plan(TimeSplit(embargo_bars=3))
    assert SplitPlan.from_json(made.to_json()) == made


def test_a_purge_shorter_than_the_label_horizon_is_refused():
    with pytest.raises(LeakageError, match=r"purge_bars=4 is shorter than the longest label horizon, 5 bars") as caught:
        plan(TimeSplit(purge_bars=4))
    assert caught.value.fields == {"purge_bars": 4, "horizon_bars": 5}


def test_a_purge_shorter_than_the_horizon_of_the_real_labels_is_refused(make_bars):
    config = LabelsConfig(families=(ForwardReturn(horizons_bars=(10,)),))
    labels = compute_labels(make_bars(1, 200), config, DAY)
    with pytest.raises(LeakageError, match="purge_bars=10 is shorter than the longest label horizon, 11 bars"):
        TimeSplit(purge_bars=10).plan(labels, horizon_bars=config.horizon_bars, timeframe=DAY)
    assert TimeSplit(purge_bars=11).plan(labels, horizon_bars=11, timeframe=DAY).purge_bars == 11


@pytest.mark.parametrize(
    ("splitter", "segment"),
    [
        (TimeSplit(embargo_bars=70), "train"),
        (TimeSplit(validation_fraction=0.03, test_fraction=0.3), "validation"),
        (TimeSplit(validation_fraction=0.3, test_fraction=0.001), "test"),
        (TimeSplit(validation_start=day(-5), test_start=day(50)), "train"),
        (TimeSplit(validation_start=day(50), test_start=day(500)), "test"),
    ],
)
def test_a_segment_without_bars_is_refused_with_the_numbers_and_what_to_change(splitter, segment):
    with pytest.raises(
        LeakageError, match=rf"no bars are left for {segment}. Of 100 distinct.* Use more bars"
    ) as caught:
        plan(splitter)
    assert caught.value.fields["segment"] == segment


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"embargo_bars": -1}, "split.embargo_bars=-1 must be zero or more"),
        ({"test_fraction": 0.0}, "split.test_fraction=0.0 must lie between 0 and 1"),
        ({"validation_fraction": 0.6, "test_fraction": 0.4}, "leave nothing to train on"),
        ({"test_start": day(3)}, "belong together"),
        ({"validation_start": day(3), "test_start": day(3)}, "must lie before test_start"),
        (
            {"validation_start": dt.datetime(2020, 1, 1), "test_start": day(3)},
            r"naive; add its time zone, such as .*\+00:00",
        ),
    ],
)
def test_contradictory_configs_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        TimeSplit(**config)


def test_a_label_table_that_is_none_is_refused():
    table = label_table(50)
    with pytest.raises(SchemaError, match="no column 't_end'"):
        TimeSplit().plan(table.drop("t_end"), horizon_bars=5, timeframe=DAY)
    with pytest.raises(EmptyTableError, match="nothing to split"):
        TimeSplit().plan(table.clear(), horizon_bars=5, timeframe=DAY)
    naive = table.with_columns(pl.col("timestamp").dt.replace_time_zone(None))
    with pytest.raises(TimeError, match=r"'timestamp' .* not a time in UTC"):
        TimeSplit().plan(naive, horizon_bars=5, timeframe=DAY)
    with pytest.raises(TimeError, match="null values"):
        TimeSplit().plan(table.with_columns(timestamp=None).cast(table.schema), horizon_bars=5, timeframe=DAY)


@dataclass(frozen=True)
class Recipe:
    split: SplitterConfig = dataclasses.field(default_factory=TimeSplit)


def test_a_recipe_names_the_splitter_and_its_times(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "split:\n  kind: time\n  validation_start: 2020-03-01T00:00:00Z\n  test_start: 2020-03-21T00:00:00+00:00\n"
        "  purge_bars: 5\n"
    )
    splitter = load_config(Recipe, file=path, environ={}).value.split
    assert splitter == TimeSplit(validation_start=day(60), test_start=day(80), purge_bars=5)
    path.write_text("split: {kind: time, embargo_bars: -2}\n")
    with pytest.raises(ConfigError, match=r"split.embargo_bars=-2 .*recipe.yaml:1"):
        load_config(Recipe, file=path, environ={})
