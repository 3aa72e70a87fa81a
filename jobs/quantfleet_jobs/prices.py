"""What is traded at: the checked bars of all symbols, and the funding that perpetual futures pay; panels are cut from them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from quantfleet.backtest import BarPanel
from quantfleet.contracts import TimeInterval
from quantfleet.errors import DataError
from quantfleet.storage import Storage
from quantfleet_data.ingest.reading import read_events
from quantfleet_data.quality_table import CheckedBars
from quantfleet_jobs.inputs import checked_bars
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.record import StageRecord
from quantfleet_jobs.stage import StageContext

__all__ = ["TradedPrices", "needs_funding", "read_prices", "traded_prices"]


@dataclass(frozen=True)
class TradedPrices:
    """Of all symbols, over all time."""

    bars: pl.DataFrame
    funding: pl.DataFrame | None = None
    """FUNDING_COLUMNS; None where nothing pays funding."""

    def panel(self, interval: TimeInterval) -> BarPanel:
        """Prices from the interval's start up to, not including, its end."""
        inside = (pl.col("timestamp") >= interval.start) & (pl.col("timestamp") < interval.end)
        panel = BarPanel.from_bars(self.bars.filter(inside))
        return panel if self.funding is None else panel.with_funding(self.funding)


def needs_funding(recipe: Recipe) -> tuple[str, ...]:
    """For `Stage.also`: stages that trade read the funding where the recipe has it."""
    return () if recipe.funding is None else ("funding",)


def traded_prices(context: StageContext) -> TradedPrices:
    """Needs `ingest`, `quality` and, where the recipe says so, `funding`."""
    return read_prices(context.recipe, context.storage, checked_bars(context), context.inputs)


def read_prices(recipe: Recipe, storage: Storage, bars: CheckedBars, made: Mapping[str, StageRecord]) -> TradedPrices:
    """Args: made: records of the stages, `funding` among them where the recipe has the section.

    Raises: DataError: a symbol that should pay funding has no settlement in the time of its bars, or ceases to have them.
    """
    prices = pl.concat([bars.read(symbol) for symbol in bars.symbols])
    if recipe.funding is None:
        return TradedPrices(prices)
    paying = [symbol for symbol in bars.symbols if symbol not in recipe.funding.without]
    version = int(made["funding"].outputs["version"])
    rates = read_events(storage, "funding", version, source=recipe.funding.source).filter(
        pl.col("symbol").is_in(paying)
    )
    gap = dt.timedelta(hours=recipe.funding.max_gap_h)
    for symbol in paying:
        own = prices.filter(pl.col("symbol") == symbol)["timestamp"]
        settled = rates.filter(pl.col("symbol") == symbol)["timestamp"]
        times = pl.concat([own.head(1), settled.filter(settled.is_between(own[0], own[-1])), own.tail(1)]).sort()
        holes = times.diff()
        widest = holes.arg_max()
        if widest is not None and holes[widest] > gap:
            raise DataError(
                f"{symbol} has bars and no funding from {times[widest - 1]} to {times[widest]}, longer than "
                f"funding.max_gap_h={recipe.funding.max_gap_h:g}. Ingest the settlements that are missing, raise max_gap_h where "
                "the exchange made none, or list the symbol in funding.without if it is no perpetual.",
                symbol=symbol,
            )
    return TradedPrices(prices, rates)
