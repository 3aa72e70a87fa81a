"""The funding contract: rates are fractions, one per settlement, in order of time."""

import datetime as dt

import polars as pl
import pytest

from quantfleet.contracts import FUNDING_COLUMNS, validate_funding
from quantfleet.errors import EmptyTableError, PriceError, SchemaError, TimeError

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def funding(rates: list[float | None], hours: list[float] | None = None, **columns: pl.Expr) -> pl.DataFrame:
    stamps = [START + dt.timedelta(hours=h) for h in (hours or [8.0 * n for n in range(len(rates))])]
    return pl.DataFrame(
        {
            "symbol": ["BTC/USDT:USDT"] * len(rates),
            "timestamp": stamps,
            "rate": rates,
            "interval_h": [8.0] * len(rates),
        },
        schema_overrides={"timestamp": pl.Datetime("us", "UTC"), "rate": pl.Float64},
    ).with_columns(**columns)


def test_real_rates_pass_as_they_are(shared_data):
    real = pl.read_parquet(shared_data / "freqtrade_testdata_xrpusdt_perp_funding_8h_2021-11.parquet")
    renamed = real.rename({"funding_rate": "rate"}).with_columns(interval_h=pl.lit(8.0))
    checked = validate_funding(renamed, where="file")
    assert checked.columns == list(FUNDING_COLUMNS)
    assert checked["rate"].equals(real["funding_rate"])
    assert checked.height == 91


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (funding([]), EmptyTableError, "holds no funding rates"),
        (funding([1e-4, float("nan")]), PriceError, "1 rows have a rate that is NaN"),
        (funding([1e-4, 1.0]), PriceError, "or no fraction"),
        (funding([1e-4, None]), SchemaError, "rate is null in 1 rows"),
        (funding([1e-4, 1e-4], [8.0, 0.0]), TimeError, "timestamps are not sorted"),
        (funding([1e-4, 1e-4], [8.0, 8.0]), TimeError, "1 duplicated timestamps"),
        (funding([1e-4], interval_h=pl.lit(0.0)), PriceError, "interval_h not positive"),
        (funding([1e-4], timestamp=pl.col("timestamp").dt.replace_time_zone(None)), TimeError, "timestamps are naive"),
    ],
    ids=["empty", "nan", "per-cent", "null", "unsorted", "doubled", "no-interval", "naive"],
)
def test_what_breaks_the_contract_is_refused_by_name(rows, error, message):
    with pytest.raises(error, match=message):
        validate_funding(rows, where="test")


def test_an_unknown_interval_is_null():
    assert validate_funding(funding([1e-4], interval_h=pl.lit(None)), where="test")["interval_h"].to_list() == [None]
