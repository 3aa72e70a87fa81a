"""Twenty years of two indices, bundled: exactly what the reference file beside the repository holds."""

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from quantfleet.contracts import BAR_COLUMNS, SOURCES, FetchRequest, Timeframe, validate_bars
from quantfleet.errors import ConfigError
from quantfleet_data.sources import ArchDailyConfig

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def fetch(config: ArchDailyConfig, *, timeframe: str = "1d", now_utc: dt.datetime = NOW) -> list[pl.DataFrame]:
    return list(config.build().fetch(FetchRequest(Timeframe(timeframe), lambda symbol: None, now_utc)))


def test_both_indices_equal_the_reference_file_exactly(shared_data: Path):
    expected = pl.read_parquet(shared_data / "arch_us_indices_sp500_nasdaq_1d_1999_2018.parquet")
    bars = pl.concat(fetch(ArchDailyConfig()))
    assert bars.equals(expected.select(BAR_COLUMNS).sort("symbol", "timestamp"))


def test_each_symbol_is_one_batch_that_passes_the_contract():
    batches = fetch(ArchDailyConfig())
    assert [batch["symbol"].unique().to_list() for batch in batches] == [["^GSPC"], ["^IXIC"]]
    for batch in batches:
        assert validate_bars(batch, where="arch").equals(batch)
        assert batch.height == 5031


def test_the_date_is_a_label_at_midnight_utc_and_the_close_is_not_adjusted():
    (bars,) = fetch(ArchDailyConfig(symbols=("^GSPC",)))
    assert bars.row(0) == (
        "^GSPC",
        dt.datetime(1999, 1, 4, tzinfo=dt.UTC),
        1229.22998,
        1248.810059,
        1219.099976,
        1228.099976,
        877_000_000.0,
    )


def test_a_day_is_delivered_only_once_it_is_over():
    last = dt.datetime(2018, 12, 31, tzinfo=dt.UTC)
    config = ArchDailyConfig(symbols=("^IXIC",))
    just_before, over = last + dt.timedelta(days=1, microseconds=-1), last + dt.timedelta(days=1)
    assert fetch(config, now_utc=just_before)[0]["timestamp"][-1] == dt.datetime(2018, 12, 28, tzinfo=dt.UTC)
    assert fetch(config, now_utc=over)[0]["timestamp"][-1] == last


def test_it_is_registered_and_refuses_what_it_does_not_have():
    assert SOURCES.get("arch_daily") is ArchDailyConfig
    with pytest.raises(ConfigError, match=r"no symbol 'GSPC'. Did you mean '\^GSPC'"):
        ArchDailyConfig(symbols=("GSPC",))
    with pytest.raises(ConfigError, match="symbols is empty"):
        ArchDailyConfig(symbols=())
    with pytest.raises(ConfigError, match="daily bars only; set timeframe to 1d, not 1h"):
        fetch(ArchDailyConfig(), timeframe="1h")
