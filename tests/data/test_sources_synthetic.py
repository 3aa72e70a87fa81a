"""The made-up market: deterministic, shaped like a market, and labelled as what it is."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from quantfleet.contracts import FetchRequest, Timeframe, validate_bars
from quantfleet.errors import ConfigError
from quantfleet_data.sources.synthetic import SyntheticConfig


def fetched(config: SyntheticConfig, timeframe: str = "1m", now: dt.datetime | None = None) -> pl.DataFrame:
    request = FetchRequest(
        timeframe=Timeframe(timeframe),
        last_known=lambda symbol: None,
        now_utc=now or dt.datetime(2030, 1, 1, tzinfo=dt.UTC),
    )
    return pl.concat([validate_bars(batch, where="synthetic") for batch in config.build().fetch(request)])


def test_more_symbols_and_later_days_change_no_bar_that_was_there():
    small = fetched(SyntheticConfig(symbols=2, days=4, listed_late_share=0.0))
    large = fetched(SyntheticConfig(symbols=4, days=6, listed_late_share=0.0))
    end = dt.datetime(2024, 1, 5, tzinfo=dt.UTC)
    same = large.filter(pl.col("symbol").is_in(["S00000", "S00001"]) & (pl.col("timestamp") < end))
    assert small.equals(same)


def test_returns_have_fat_tails_a_common_factor_and_clustered_volatility():
    bars = fetched(SyntheticConfig(symbols=8, days=60, listed_late_share=0.0), "15m")
    wide = bars.pivot("symbol", index="timestamp", values="close").sort("timestamp").drop_nulls().drop("timestamp")
    returns = np.diff(np.log(wide.to_numpy()), axis=0)
    assert returns.shape[1] == 8
    standard = (returns - returns.mean(0)) / returns.std(0)
    assert (standard**4).mean() > 5
    pairs = np.corrcoef(returns.T)[np.triu_indices(8, 1)]
    assert 0.2 < pairs.mean() < 0.8
    daily = np.abs(returns).reshape(-1, 8).mean(1)[: 60 * 90].reshape(-1, 90).mean(1)
    assert np.corrcoef(daily[:-1], daily[1:])[0, 1] > 0.3
    assert bars["close"].log().diff().abs().mean() > 0


def test_outages_hit_all_symbols_at_once_and_some_symbols_come_late_or_leave():
    bars = fetched(SyntheticConfig(symbols=30, days=40, missing_share=0.05, listed_late_share=0.3), "1h")
    spans = bars.group_by("symbol").agg(first=pl.col("timestamp").min(), last=pl.col("timestamp").max())
    assert spans["first"].n_unique() > 3
    assert spans["last"].n_unique() > 3
    at_once = bars.group_by("timestamp").len()["len"]
    due = 40 * 24
    assert at_once.len() < due, "hours of an outage have no bar of any symbol"


def test_rows_say_that_they_are_synthetic_and_unfinished_bars_are_not_delivered():
    config = SyntheticConfig(symbols=1, days=2)
    assert config.source_name == "synthetic"
    now = dt.datetime(2024, 1, 1, 6, 0, 30, tzinfo=dt.UTC)
    assert fetched(config, now=now)["timestamp"].max() == dt.datetime(2024, 1, 1, 5, 59, tzinfo=dt.UTC)


def test_a_start_within_a_day_and_bars_that_do_not_fill_one_are_refused():
    with pytest.raises(ConfigError, match="must be a midnight in UTC"):
        SyntheticConfig(start_utc=dt.datetime(2024, 1, 1, 5, tzinfo=dt.UTC))
    with pytest.raises(ConfigError, match="fill a day"):
        fetched(SyntheticConfig(), "7m")
