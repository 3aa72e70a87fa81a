"""A symbol against an index, checked with regressions of numpy's and on real members of a real index."""

import numpy as np
import polars as pl
import pytest

from quantfleet.errors import SchemaError
from quantfleet_data.features import compute_features, feature_set
from quantfleet_data.features.relative import (
    IdiosyncraticVolatility,
    IndexAlpha,
    IndexBeta,
    IndexCorrelation,
    RelativeStrength,
)


@pytest.fixture
def bars(make_bars):
    index = make_bars(1, 200)["close"]
    own = make_bars(2, 200)
    return own.with_columns(pl.col(n) * (index / 100.0) ** 1.5 for n in ("open", "high", "low", "close")).with_columns(
        index_close=index
    )


def test_beta_alpha_correlation_and_residual_are_those_of_the_regression(bars):
    own, index = (np.diff(np.log(bars[n].to_numpy()))[-63:] for n in ("close", "index_close"))
    beta, alpha = np.polyfit(index, own, 1)
    residual = own - alpha - beta * index
    assert IndexBeta(bars=63).compute(bars)[-1] == pytest.approx(beta, rel=1e-9)
    assert IndexAlpha(bars=63).compute(bars)[-1] == pytest.approx(alpha, rel=1e-7)
    assert IndexCorrelation(bars=63).compute(bars)[-1] == pytest.approx(np.corrcoef(own, index)[0, 1], rel=1e-9)
    noise = np.sqrt((residual**2).sum() / (63 - 2))
    assert IdiosyncraticVolatility(bars=63).compute(bars)[-1] == pytest.approx(noise, rel=1e-9)


def test_relative_strength_is_the_difference_of_log_returns(bars):
    close, index = np.log(bars["close"].to_numpy()), np.log(bars["index_close"].to_numpy())
    expected = (close[-1] - close[-22]) - (index[-1] - index[-22])
    assert RelativeStrength(bars=21).compute(bars)[-1] == pytest.approx(expected)


def test_the_index_against_itself_has_beta_one_and_nothing_of_its_own(bars):
    itself = bars.with_columns(close=pl.col("index_close"))
    assert IndexBeta().compute(itself)[-1] == pytest.approx(1.0)
    assert IndexCorrelation().compute(itself)[-1] == pytest.approx(1.0)
    assert IndexAlpha().compute(itself)[-1] == pytest.approx(0.0, abs=1e-15)
    assert IdiosyncraticVolatility().compute(itself)[-1] == pytest.approx(0.0, abs=1e-8)
    assert RelativeStrength().compute(itself)[-1] == 0.0


def test_a_still_index_explains_nothing(bars):
    still = bars.with_columns(index_close=pl.lit(50.0))
    own = np.diff(np.log(bars["close"].to_numpy()))[-63:]
    assert IndexBeta().compute(still)[-1] == 0.0
    assert IdiosyncraticVolatility().compute(still)[-1] == pytest.approx(own.std() * np.sqrt(63 / 61))


def test_windows_without_the_index_are_unknown_not_invented(bars):
    broken = bars.with_columns(index_close=pl.when(pl.int_range(pl.len()) != 100).then("index_close"))
    for feature in (IndexBeta(bars=20), IndexAlpha(bars=20), RelativeStrength(bars=20)):
        clean, missing = feature.compute(bars), feature.compute(broken)
        gone = np.flatnonzero(np.isnan(missing) & ~np.isnan(clean))
        assert set(gone) <= set(range(100, 121))
        assert {100, 120} <= set(gone)


def test_without_the_joined_column_the_set_is_refused_by_name(make_bars):
    with pytest.raises(SchemaError, match="reads the bar column 'index_close', which is not there"):
        compute_features(make_bars(3, 100), feature_set("relative"))


def test_bitcoin_and_ether_move_together_on_real_bars(shared_data):
    path = shared_data / "binance_spot_usdt_5m_2024-01_2024-06.parquet"
    closes = pl.read_parquet(path, columns=["symbol", "timestamp", "open", "high", "low", "close", "volume"])
    index = closes.filter(pl.col("symbol") == "BTC/USDT").select("timestamp", index_close="close")
    ether = closes.filter(pl.col("symbol") == "ETH/USDT").join(index, on="timestamp", how="left").sort("timestamp")
    table = compute_features(ether.head(20_000), feature_set("relative")).drop_nans()
    assert table["index_correlation_63"].median() > 0.7
    assert 0.7 < table["index_beta_63"].median() < 1.5
