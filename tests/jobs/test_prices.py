"""Perpetual futures pay funding in a recipe's books, and a rate that is missing is said."""

import datetime as dt
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from support.recipes import small_recipe, write_recipe

from quantfleet.backtest import BacktestConfig, run_backtest
from quantfleet.contracts import FUNDING_SCHEMA, TimeInterval
from quantfleet.errors import ConfigError, DataError, MissingInputError
from quantfleet.ledger import CostModel
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.ingest.tables import TABLES
from quantfleet_jobs import funding, prices
from quantfleet_jobs.recipe import FundingConfig, Recipe, load_recipe
from quantfleet_jobs.run import stages_of

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
HOURS, RATE = 48, 1e-4
PERP, SPOT = "BTC/USDT:USDT", "ETH/USDT"


class Bars:
    """Flat prices of a perpetual and a spot pair, as `CheckedBars` gives them."""

    symbols = (PERP, SPOT)

    def read(self, symbol: str) -> pl.DataFrame:
        times = [START + dt.timedelta(hours=h) for h in range(HOURS)]
        return pl.DataFrame({"symbol": symbol, "timestamp": times, "open": 100.0, "close": 100.0, "volume": 1.0}).cast(
            {"timestamp": pl.Datetime("us", "UTC")}
        )


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    made = small_recipe(str(tmp_path / "store"), models=[{"kind": "buy_and_hold"}], funding={"without": [SPOT]})
    return load_recipe(str(write_recipe(tmp_path, made))).value


def settle(monkeypatch: pytest.MonkeyPatch, *hours: int) -> None:
    """The lake holds settlements of the perpetual at these hours."""
    rates = pl.DataFrame(
        {
            "symbol": PERP,
            "timestamp": pl.Series([START + dt.timedelta(hours=h) for h in hours], dtype=pl.Datetime("us", "UTC")),
            "rate": RATE,
            "interval_h": 8.0,
        }
    )
    monkeypatch.setattr(prices, "read_events", lambda *_, **__: rates)


def read(recipe: Recipe) -> prices.TradedPrices:
    made = {"funding": SimpleNamespace(outputs={"version": 3})}
    return prices.read_prices(recipe, None, Bars(), made)  # type: ignore[arg-type]


def test_who_holds_a_perpetual_pays_each_settlement(recipe: Recipe, monkeypatch: pytest.MonkeyPatch):
    settle(monkeypatch, 0, 8, 16, 24, 32, 40)
    panel = read(recipe).panel(TimeInterval(START, START + dt.timedelta(hours=HOURS)))
    free = BacktestConfig(costs=CostModel(commission_bps=0.0, slippage_bps=0.0))
    result = run_backtest(panel, np.tile([1.0, 0.0], (HOURS, 1)), free)
    paid = result.funding_T / result.equity_T[0]
    assert np.flatnonzero(paid).tolist() == [8, 16, 24, 32, 40], "held from hour 1 on"
    assert paid[8] == pytest.approx(RATE)
    assert result.equity_T[-1] < result.equity_T[0]


def test_funding_that_ceases_is_said_with_the_hours_it_lacks(recipe: Recipe, monkeypatch: pytest.MonkeyPatch):
    settle(monkeypatch, 0, 8)
    with pytest.raises(
        DataError, match=r"BTC/USDT:USDT has bars and no funding from 2024-01-01 08:00.* to 2024-01-02 23:00"
    ):
        read(recipe)
    read(replace(recipe, funding=FundingConfig(without=(SPOT,), max_gap_h=40.0)))


def test_a_symbol_that_never_pays_must_be_listed(recipe: Recipe, monkeypatch: pytest.MonkeyPatch):
    settle(monkeypatch, 0, 8, 16, 24, 32, 40)
    with pytest.raises(DataError, match=r"ETH/USDT has bars and no funding.*list the symbol in funding\.without"):
        read(replace(recipe, funding=FundingConfig()))


def test_a_recipe_without_the_section_pays_none(recipe: Recipe):
    plain = replace(recipe, funding=None)
    assert read(plain).funding is None
    assert "funding" not in [stage.name for stage in stages_of(plain)]
    assert prices.needs_funding(plain) == ()
    with pytest.raises(ConfigError, match=r"no section `funding`"):
        funding.STAGE.check(plain)  # type: ignore[misc]


def test_the_version_of_the_rates_is_an_input_of_all_that_trades(recipe: Recipe):
    assert "funding" in [stage.name for stage in stages_of(recipe)]
    trading = [stage for stage in stages_of(recipe) if stage.also is not None and stage.also(recipe) == ("funding",)]
    assert [stage.name for stage in trading] == ["backtest", "evaluate"]


def test_a_lake_without_rates_says_how_to_get_them(recipe: Recipe, tmp_path):
    context = SimpleNamespace(recipe=recipe, storage=Storage(StorageConfig(root=str(tmp_path))))
    with pytest.raises(MissingInputError, match=r"holds no funding rates\. Ingest them"):
        funding.STAGE.work(context)  # type: ignore[arg-type]
    assert TABLES["funding"].path("1h") == "lake/funding"


def test_the_newest_version_of_the_rates_is_noted(recipe: Recipe, tmp_path):
    storage = Storage(StorageConfig(root=str(tmp_path)))
    LakeTable(storage, "lake/funding").append(FUNDING_SCHEMA.empty_table())
    made = funding.STAGE.work(SimpleNamespace(recipe=recipe, storage=storage))  # type: ignore[arg-type]
    assert (made.outputs["table"], made.outputs["version"]) == ("lake/funding", 0)
