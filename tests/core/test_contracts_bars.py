"""The bars contract: what passes comes back as it was, what does not is refused with column, place and what to do."""

import datetime as dt
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from quantfleet.contracts import BAR_COLUMNS, PRICE_COLUMNS, VALUE_COLUMNS, validate_bars
from quantfleet.errors import DataError, EmptyTableError, PriceError, SchemaError, TimeError

UTC_US = pl.Datetime("us", "UTC")


def day(number: int) -> dt.datetime:
    """Midnight UTC of the given day of January 2024."""
    return dt.datetime(2024, 1, number, tzinfo=dt.UTC)


def bars() -> pl.DataFrame:
    rows = [("BTC/USDT", day(1), 1.5), ("BTC/USDT", day(2), None), ("ETH/USDT", day(1), 0.0), ("ETH/USDT", day(2), 9.0)]
    return pl.DataFrame(
        {
            "symbol": [r[0] for r in rows],
            "timestamp": pl.Series([r[1] for r in rows], dtype=UTC_US),
            **{name: [10.0, 20.0, 30.0, 40.0] for name in PRICE_COLUMNS},
            "volume": [r[2] for r in rows],
        }
    )


def with_value(column: str, value: float | None, row: int = 1) -> pl.DataFrame:
    frame = bars()
    return frame.with_columns(
        pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value, pl.Float64)).otherwise(column).alias(column)
    )


FIRST_BAD = r"BTC/USDT 2024-01-02 00:00:00\+00:00"
BAD_BARS = {
    "no close column": (
        bars().drop("close"),
        SchemaError,
        r"has no column 'close'\..* Map its columns with `columns:`",
    ),
    "close misspelt": (bars().rename({"close": "clsoe"}), SchemaError, r"no column 'close'\. Did you mean 'clsoe'\?"),
    "no symbol column": (bars().drop("symbol"), SchemaError, "has no column 'symbol'"),
    "no rows": (bars().clear(), EmptyTableError, r"holds no bars\. Check the symbols and the time range"),
    "naive timestamps": (
        bars().with_columns(pl.col("timestamp").dt.replace_time_zone(None)),
        TimeError,
        r"timestamps are naive .column 'timestamp' .*first BTC/USDT 2024-01-01 .*say which zone .* `time_zone: UTC`",
    ),
    "timestamps as text": (
        bars().with_columns(pl.col("timestamp").cast(pl.String)),
        TimeError,
        r"column 'timestamp' is String, not a date and time .*Convert it at the source",
    ),
    "dates": (
        bars().with_columns(pl.col("timestamp").dt.date()),
        TimeError,
        "column 'timestamp' is Date, not a date and",
    ),
    "prices as text": (
        bars().with_columns(pl.col("low").cast(pl.String)),
        SchemaError,
        r"column 'low' is String, not a number\. Convert it",
    ),
    "volume as truth": (
        bars().with_columns(volume=pl.lit(True)),
        SchemaError,
        "column 'volume' is Boolean, not a number",
    ),
    "symbols in lists": (
        bars().with_columns(pl.concat_list("symbol")),
        SchemaError,
        "column 'symbol' is List.*not a text",
    ),
    "a null symbol": (
        bars().with_columns(symbol=pl.Series(["BTC/USDT", None, "ETH/USDT", "ETH/USDT"])),
        SchemaError,
        r"null in 1 rows \(column 'symbol'\); .*Drop or mend them at the source",
    ),
    "null timestamps": (
        bars().with_columns(timestamp=pl.lit(None, dtype=UTC_US)),
        SchemaError,
        r"null in 4 rows \(column 'timestamp'\);",
    ),
    "a bar twice": (
        bars()[[0, 1, 1, 2, 3]],
        TimeError,
        rf"1 duplicated timestamps, first {FIRST_BAD}\. Keep one row per symbol and time",
    ),
    "unsorted": (
        bars()[[1, 0, 2, 3]],
        TimeError,
        r"timestamps are not sorted, first step back at BTC/USDT 2024-01-01 00:00:00\+00:00\. Sort by symbol and time",
    ),
    "a symbol in two places": (
        bars()[[0, 2, 1, 3]],
        TimeError,
        rf"rows of one symbol are not together, {FIRST_BAD} comes after another symbol\. Sort",
    ),
    **{
        f"{column} {value}": (
            with_value(column, value),
            PriceError,
            rf"1 rows have a {column} that is NaN, null, infinite or not positive, first {FIRST_BAD} {column}=.*Drop or mend",
        )
        for column in PRICE_COLUMNS
        for value in (None, float("nan"), float("inf"), float("-inf"), 0.0, -1.0)
    },
    **{
        f"volume {value}": (
            with_value("volume", value),
            PriceError,
            rf"1 rows have a volume that is NaN, infinite or negative, first {FIRST_BAD} volume=.*Use null where",
        )
        for value in (float("nan"), float("inf"), -1.0)
    },
}


@pytest.mark.parametrize("name", BAD_BARS)
def test_bad_bars_are_refused_with_table_column_place_and_what_to_do(name):
    frame, error, message = BAD_BARS[name]
    with pytest.raises(error, match=message) as caught:
        validate_bars(frame, where="file bars.parquet")
    assert type(caught.value) is error
    assert str(caught.value).startswith("file bars.parquet")


@pytest.mark.parametrize(
    ("name", "column"), [("unsorted", "timestamp"), ("close nan", "close"), ("a null symbol", "symbol")]
)
def test_a_refusal_carries_the_column_as_a_field(name, column):
    with pytest.raises(DataError) as caught:
        validate_bars(BAD_BARS[name][0], where="x")
    assert caught.value.fields["column"] == column


def test_good_bars_come_back_as_they_are():
    assert_frame_equal(validate_bars(bars(), where="x"), bars())


def test_other_columns_are_left_behind_and_the_order_is_the_contracts():
    odd = bars().with_columns(note=pl.lit("x")).select(sorted([*BAR_COLUMNS, "note"]))
    assert validate_bars(odd, where="x").columns == list(BAR_COLUMNS)


@pytest.mark.parametrize(
    "as_delivered",
    [
        pl.col("timestamp").dt.convert_time_zone("Asia/Tokyo"),
        pl.col("timestamp").dt.cast_time_unit("ns"),
        pl.col("timestamp").dt.cast_time_unit("ms"),
        pl.col("symbol").cast(pl.Categorical),
        pl.col(VALUE_COLUMNS).cast(pl.Float32),
        pl.col(PRICE_COLUMNS).cast(pl.Int64),
        pl.col(PRICE_COLUMNS).cast(pl.Decimal(18, 4)),
    ],
)
def test_other_zones_units_and_number_types_become_the_contracts(as_delivered):
    assert_frame_equal(validate_bars(bars().with_columns(as_delivered), where="x"), bars())


def test_times_that_fall_together_in_microseconds_are_duplicates():
    nanoseconds = pl.Series([0, 1], dtype=pl.Int64).cast(pl.Datetime("ns", "UTC"))
    with pytest.raises(TimeError, match="1 duplicated timestamps"):
        validate_bars(bars()[:2].with_columns(timestamp=nanoseconds), where="x")


@st.composite
def valid_bars(draw: st.DrawFn) -> pl.DataFrame:
    symbols = draw(st.lists(st.text("ABC/-.", min_size=1, max_size=4), min_size=1, max_size=3, unique=True))
    price = st.floats(min_value=1e-12, max_value=1e12)
    frames = []
    for symbol in symbols:
        stamps = sorted(draw(st.sets(st.integers(0, 4_000_000_000_000_000), min_size=1, max_size=6)))
        size = {"min_size": len(stamps), "max_size": len(stamps)}
        volumes = draw(st.lists(st.none() | st.floats(min_value=0, max_value=1e15), **size))
        frames.append(
            pl.DataFrame(
                {
                    "symbol": [symbol] * len(stamps),
                    "timestamp": pl.Series(stamps, dtype=pl.Int64).cast(UTC_US),
                    **{name: draw(st.lists(price, **size)) for name in PRICE_COLUMNS},
                    "volume": pl.Series(volumes, dtype=pl.Float64),
                }
            )
        )
    return pl.concat(frames)


@given(valid_bars())
def test_every_valid_table_passes_and_comes_back_equal(frame):
    assert_frame_equal(validate_bars(frame, where="x"), frame)


@given(valid_bars(), st.data())
def test_one_bad_price_anywhere_is_found_where_it_is(frame, data):
    row, column = data.draw(st.integers(0, frame.height - 1)), data.draw(st.sampled_from(PRICE_COLUMNS))
    value = data.draw(st.sampled_from([None, float("nan"), float("inf"), 0.0, -3.0]))
    values = frame[column].to_list()
    values[row] = value
    place = f"{frame['symbol'][row]} {frame['timestamp'][row]} {column}="
    with pytest.raises(PriceError, match=re.escape(place)):
        validate_bars(frame.with_columns(pl.Series(column, values, dtype=pl.Float64)), where="x")


@given(valid_bars(), st.randoms())
def test_rows_in_any_other_order_are_refused_unless_only_symbols_moved(frame, random):
    order = list(range(frame.height))
    random.shuffle(order)
    mixed = frame[order]
    runs = mixed["symbol"].rle_id().n_unique()
    rising = mixed.group_by("symbol").agg(pl.col("timestamp").is_sorted())["timestamp"].all()
    if runs == mixed["symbol"].n_unique() and rising:
        assert_frame_equal(validate_bars(mixed, where="x"), mixed)
    else:
        with pytest.raises(TimeError, match="Sort by symbol and time"):
            validate_bars(mixed, where="x")
