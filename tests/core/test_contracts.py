"""The contracts between rooms: timeframes, data specs, chunks, split plans, feature sets, forecasts."""

import datetime as dt
import json
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantfleet.contracts import (
    ChunkBatch,
    DataSpec,
    FeatureConfig,
    FeatureSet,
    Forecast,
    SplitPlan,
    Timeframe,
    TimeInterval,
    chunk_schema,
    t_end_column,
)
from quantfleet.errors import ConfigError, LeakageError, SchemaError

UTC_US = pl.Datetime("us", "UTC")
DAY = dt.timedelta(days=1)


def day(number: int) -> dt.datetime:
    """Midnight UTC of the given day of January 2024."""
    return dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + (number - 1) * DAY


# --- timeframes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("5m", 300), ("4h", 14_400), ("1d", 86_400), ("2w", 1_209_600)]
)
def test_a_timeframe_is_a_count_and_a_unit(text, seconds):
    timeframe = Timeframe(text)
    assert (timeframe.seconds, timeframe.delta, str(timeframe)) == (seconds, dt.timedelta(seconds=seconds), text)


@pytest.mark.parametrize(
    "text", ["", "1", "d", "0d", "-1d", "1D", "01d", "1 d", "1d ", "1d\n", "1Mo", "1.5h", "1٣d", "daily"]
)
def test_anything_else_is_no_timeframe(text):
    with pytest.raises(
        ConfigError, match=r"timeframe .* is not a count and a unit of s, m, h, d, w, such as '1d' or '5m'"
    ):
        Timeframe(text)


# --- data spec and chunks ---------------------------------------------------------------------------------------------

SPEC = DataSpec(
    symbols=("BTC/USDT", "ETH/USDT"),
    feature_columns=("rsi_14", "sma_5"),
    feature_digest="0123456789abcdef",
    horizons_bars=(1, 5),
    timeframe="1h",
    lookback_bars=3,
    chunk_bars=4,
)


def test_a_data_spec_survives_json():
    assert DataSpec.from_dict(json.loads(SPEC.to_json())) == SPEC
    assert DataSpec.from_dict(SPEC.to_dict()) == SPEC


def test_a_data_spec_counts_rows_and_names_labels():
    assert (SPEC.features, SPEC.chunk_rows) == (2, 6)
    assert SPEC.label_columns == ("return_1", "return_5", "direction_1", "direction_5", "volatility_1", "volatility_5")


@pytest.mark.parametrize(
    ("record", "odd"), [({}, "chunk_bars"), ({**SPEC.to_dict(), "extra": 1}, "extra"), ({"symbols": []}, "timeframe")]
)
def test_a_record_that_is_no_data_spec_is_refused_by_name(record, odd):
    with pytest.raises(SchemaError, match=rf"no stored data spec: .*{odd}"):
        DataSpec.from_dict(record)


def chunks(count: int, seed: int = 0, spec: DataSpec = SPEC) -> ChunkBatch:
    """Arrays of random values, NaN among them."""
    rng = np.random.default_rng(seed)
    C, T, F, K = spec.chunk_bars, spec.chunk_rows, spec.features, len(spec.label_columns)

    def values(*shape: int) -> npt.NDArray[np.float32]:
        drawn = rng.normal(size=shape).astype(np.float32)
        drawn[rng.random(shape) < 0.1] = np.nan
        return drawn

    return ChunkBatch(
        chunk_id_B=rng.integers(-1, 1 << 40, count),
        symbol_id_B=rng.integers(-1, 2, count, dtype=np.int32),
        time_BC=rng.integers(-1, 1 << 60, (count, C)),
        x_BTF=values(count, T, F),
        y_BCK=values(count, C, K),
        mask_BC=rng.random((count, C)) < 0.5,
        weight_BC=rng.random((count, C), dtype=np.float32),
    )


def assert_same(left: ChunkBatch, right: ChunkBatch, rows: slice | list[int] = slice(None)) -> None:
    for name in ChunkBatch.__slots__:
        a, b = getattr(left, name)[rows], getattr(right, name)
        np.testing.assert_array_equal(a, b, err_msg=name)
        assert a.dtype == b.dtype, name


@given(st.integers(0, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32))
def test_chunks_survive_arrow_whatever_their_shape(count, lookback, chunk, features, seed):
    columns = tuple(f"f{i}" for i in range(features))
    spec = replace(SPEC, lookback_bars=lookback, chunk_bars=chunk, feature_columns=columns)
    batch = chunks(count, seed, spec)
    table = batch.to_arrow(spec)
    assert table.schema.equals(chunk_schema(spec), check_metadata=True)
    assert_same(batch, ChunkBatch.from_arrow(table, spec))


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6))
def test_slices_and_concatenations_of_a_chunk_table_decode_to_their_own_rows(first, length, cut):
    batch = chunks(6)
    table = batch.to_arrow(SPEC)
    assert_same(batch, ChunkBatch.from_arrow(table.slice(first, length), SPEC), slice(first, first + length))
    joined = pa.concat_tables([table.slice(cut), table.slice(0, cut)])
    assert_same(batch, ChunkBatch.from_arrow(joined, SPEC), [*range(cut, 6), *range(cut)])
    inside = pa.concat_tables([table.slice(0, cut), table.slice(cut)]).slice(first, length)
    assert_same(batch, ChunkBatch.from_arrow(inside, SPEC), slice(first, first + length))


def test_an_empty_chunk_table_decodes_to_no_chunks():
    assert_same(chunks(0), ChunkBatch.from_arrow(chunk_schema(SPEC).empty_table(), SPEC))


def test_the_spec_travels_in_the_schema():
    record = json.loads(chunk_schema(SPEC).metadata[b"quantfleet.spec"])
    assert DataSpec.from_dict(record) == SPEC


def test_a_chunk_table_without_a_column_is_refused():
    with pytest.raises(SchemaError, match="chunk table lacks y, mask; it has chunk_id, symbol_id, time, x"):
        ChunkBatch.from_arrow(chunks(2).to_arrow(SPEC).drop_columns(["y", "mask"]), SPEC)


@pytest.mark.parametrize("change", [{"lookback_bars": 4}, {"chunk_bars": 3}, {"feature_columns": ("a",)}])
def test_chunks_of_another_shape_are_refused(change):
    with pytest.raises(SchemaError, match=r"These chunks were written for another spec|is of type"):
        ChunkBatch.from_arrow(chunks(2).to_arrow(SPEC), replace(SPEC, **change))


def test_chunks_of_another_number_type_are_refused():
    table = chunks(2).to_arrow(SPEC)
    doubles = table.set_column(3, "x", table["x"].cast(pa.list_(pa.float64(), 12)))
    with pytest.raises(SchemaError, match=r"chunk column 'x' is of type .*double.*, not .*float"):
        ChunkBatch.from_arrow(doubles, SPEC)


# --- split plans ------------------------------------------------------------------------------------------------------


def plan(**changes: object) -> SplitPlan:
    values = {
        "train": (TimeInterval(day(1), day(10)),),
        "validation": (TimeInterval(day(12), day(20)),),
        "test": (TimeInterval(day(22), day(30)),),
        "horizon_bars": 2,
        "purge_bars": 2,
        "embargo_bars": 0,
        "timeframe": "1d",
    }
    return SplitPlan(**{**values, **changes})


def members(split: SplitPlan, rows: list[tuple[int, int | None]]) -> list[str]:
    """The segments, joined by +, of rows given as day and day of t_end."""
    frame = pl.DataFrame(
        {"t": [day(t) for t, _ in rows], "t_end": [None if e is None else day(e) for _, e in rows]},
        schema={"t": UTC_US, "t_end": UTC_US},
    )
    masks = {
        s: frame.select(split.mask(s, pl.col("t"), pl.col("t_end"))).to_series()
        for s in ("train", "validation", "test")
    }
    assert all(mask.null_count() == 0 for mask in masks.values())
    return ["+".join(s for s, mask in masks.items() if mask[i]) for i in range(len(rows))]


def test_a_row_belongs_to_the_segment_whose_interval_holds_it():
    assert members(plan(), [(1, 3), (9, 11), (12, 14), (19, 21), (22, 24), (29, 31)]) == [
        "train", "train", "validation", "validation", "test", "test",
    ]  # fmt: skip


def test_rows_between_the_segments_belong_to_none():
    assert members(plan(), [(0, 1), (10, 11), (11, 12), (20, 21), (21, 22), (30, 31)]) == [""] * 6


def test_a_row_whose_label_reaches_past_the_start_of_the_next_segment_is_purged():
    assert members(plan(), [(9, 12), (9, 13), (19, 22), (19, 23), (29, 99)]) == ["train", "", "validation", "", "test"]


def test_a_row_whose_label_is_not_known_yet_is_test_only():
    assert members(plan(), [(5, None), (15, None), (25, None)]) == ["", "", "test"]


@given(st.lists(st.tuples(st.integers(0, 31), st.none() | st.integers(1, 15)), min_size=1, max_size=30), st.data())
def test_no_label_of_a_segment_is_known_only_inside_a_later_one(drawn, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, 31), min_size=6, max_size=6)))
    intervals = [TimeInterval(day(cuts[i]), day(cuts[i + 1])) for i in (0, 2, 4)]
    split = plan(train=(intervals[0],), validation=(intervals[1],), test=(intervals[2],))
    rows = [(t, None if span is None else t + span) for t, span in drawn]
    for (t, t_end), segment in zip(rows, members(split, rows), strict=True):
        assert "+" not in segment
        own = {"train": intervals[0], "validation": intervals[1], "test": intervals[2]}.get(segment)
        assert own is None or own.start <= day(t) < own.end
        if segment in ("train", "validation"):
            later = intervals[1] if segment == "train" else intervals[2]
            assert t_end is not None
            assert day(t_end) <= later.start


def test_a_plan_survives_json():
    odd = plan(train=(TimeInterval(day(1) + dt.timedelta(microseconds=1), day(10)),), embargo_bars=3, purge_bars=7)
    assert SplitPlan.from_json(odd.to_json()) == odd


def test_a_plan_is_kept_in_utc_whatever_zone_it_came_in():
    tokyo = dt.timezone(dt.timedelta(hours=9))
    moved = plan(train=(TimeInterval(day(1).astimezone(tokyo), day(10).astimezone(tokyo)),))
    assert moved == plan()
    assert moved.to_json() == plan().to_json()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"train": 3}', json.dumps({**json.loads(plan().to_json()), "extra": 1})]
)
def test_a_text_that_is_no_plan_is_refused(text):
    with pytest.raises(SchemaError, match=r"this is no stored split plan .*plan it again"):
        SplitPlan.from_json(text)


def test_a_stored_plan_that_was_tampered_with_is_refused():
    record = json.loads(plan().to_json())
    with pytest.raises(LeakageError, match="shorter than the longest label horizon"):
        SplitPlan.from_json(json.dumps({**record, "purge_bars": 1}))


def test_a_purge_shorter_than_the_horizon_is_refused_with_both_numbers():
    with pytest.raises(
        LeakageError, match=r"split\.purge_bars=4 is shorter .* 5 bars; .*Set purge_bars >= 5"
    ) as caught:
        plan(horizon_bars=5, purge_bars=4)
    assert caught.value.fields == {"purge_bars": 4, "horizon_bars": 5}
    assert plan(horizon_bars=5, purge_bars=5).purge_bars == 5


@pytest.mark.parametrize("change", [{"embargo_bars": -1}, {"horizon_bars": 0, "purge_bars": 0}])
def test_a_negative_embargo_and_an_empty_horizon_are_refused(change):
    with pytest.raises(LeakageError, match="must be 1 or more"):
        plan(**change)


@pytest.mark.parametrize(
    "change", [{"train": (TimeInterval(day(1), day(13)),)}, {"validation": (TimeInterval(day(12), day(23)),)}]
)
def test_segments_that_overlap_are_refused(change):
    with pytest.raises(LeakageError, match=r"split: (train|validation) ends .*, after (validation|test) starts"):
        plan(**change)


def test_an_interval_without_time_zone_or_without_time_is_refused():
    with pytest.raises(LeakageError, match="is naive; give it with its time zone"):
        TimeInterval(dt.datetime(2024, 1, 1), day(2))
    with pytest.raises(LeakageError, match="is empty"):
        TimeInterval(day(2), day(2))


# --- features, labels, forecasts --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Lag(FeatureConfig):
    """A feature of the test's own, never registered."""

    bars: int = 1

    @property
    def column(self) -> str:
        return f"lag_{self.bars}"

    @property
    def lookback_bars(self) -> int:
        return self.bars + 1

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("close",)

    @property
    def source(self) -> str:
        return "this test"

    def compute(self, bars: pl.DataFrame) -> npt.NDArray[np.float64]:
        return bars["close"].shift(self.bars).to_numpy()


def feature_set(*lags: int, name: str = "lags", version: int = 1) -> FeatureSet:
    return FeatureSet(name=name, version=version, features=tuple(Lag(bars=n) for n in lags))


def test_a_feature_set_needs_the_longest_look_back_of_its_features():
    assert (feature_set(1, 7, 3).columns, feature_set(1, 7, 3).lookback_bars) == (("lag_1", "lag_7", "lag_3"), 8)


def test_the_digest_changes_with_name_version_parameters_and_order():
    sets = [feature_set(1, 2), feature_set(2, 1), feature_set(1, 3), feature_set(1), feature_set(1, 2, version=2)]
    sets.append(feature_set(1, 2, name="other"))
    assert len({s.digest for s in sets}) == len(sets)
    assert feature_set(1, 2).digest == feature_set(1, 2).digest


def test_an_empty_feature_set_and_a_feature_listed_twice_are_refused():
    with pytest.raises(ConfigError, match="'lags' lists no features"):
        feature_set()
    with pytest.raises(ConfigError, match="'lags' computes lag_2 twice; list each feature once"):
        feature_set(2, 1, 2)


def test_the_end_of_a_label_has_a_column_of_its_own():
    assert t_end_column("return_5") == "return_5__t_end"


def forecast(**changes: tuple[int, ...]) -> Forecast:
    shapes = {"return_BCH": (2, 3, 1), "direction_logit_BCH": (2, 3, 1), "volatility_BCH": (2, 3, 1), **changes}
    return Forecast(**{name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


def test_a_forecast_whose_heads_agree_is_accepted():
    assert forecast().position_BC is None
    assert forecast(position_BC=(2, 3)).position_BC.shape == (2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"return_BCH": (2, 3)}, r"return_BCH has shape \(2, 3\); it needs chunks x targets x horizons"),
        ({"volatility_BCH": (2, 3, 2)}, r"volatility_BCH has shape \(2, 3, 2\), return_BCH has \(2, 3, 1\)"),
        ({"direction_logit_BCH": (1, 3, 1)}, r"direction_logit_BCH has shape \(1, 3, 1\)"),
        ({"position_BC": (2, 3, 1)}, r"position_BC has shape \(2, 3, 1\); it needs \(2, 3\)"),
    ],
)
def test_a_forecast_whose_heads_disagree_is_refused(change, message):
    with pytest.raises(SchemaError, match=message):
        forecast(**change)
