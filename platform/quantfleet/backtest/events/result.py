"""What the event engine returns: the books of `BacktestResult`, with fills at prices of their own.

Shapes: T rows, S symbols, N fills.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.backtest.events.orders import Working
from quantfleet.backtest.result import BacktestResult, utc

__all__ = ["EventResult", "FillLog"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FillLog:
    """What each of the N fills was booked at, besides symbol and units."""

    order_N: tuple[str | None, ...]
    """Id of the order; None where target weights asked for it."""
    market_N: Array
    """Price of the market, before slippage."""
    price_N: Array
    commission_N: Array
    maker_N: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class EventResult(BacktestResult):
    """A `BacktestResult` whose fills need not be at opens. With trades and books `prices` holds a row for each time of an event."""

    log: FillLog
    working: tuple[Working, ...]
    """Every order that was given, as it stood at the end."""

    @cached_property
    def positions_TS(self) -> Array:
        """Signed units at the end of each row."""
        traded_TS = np.zeros(self.prices.close_TS.shape)
        np.add.at(traded_TS, (self.orders.bar_N, self.orders.symbol_N), self.orders.units_N)
        return np.cumsum(traded_TS, axis=0, out=traded_TS)

    @cached_property
    def market_N(self) -> Array:
        """Market price of each fill; for makers the fill price."""
        return self.log.market_N

    @cached_property
    def price_N(self) -> Array:
        """Fill price, slippage in it."""
        return self.log.price_N

    @cached_property
    def commission_N(self) -> Array:
        """Fee of each fill, at least 0; the maker's where the order was waiting."""
        return self.log.commission_N

    def order_history(self) -> pl.DataFrame:
        """One row per order in the order given: id, symbol, decided (time), units, limit, stop, filled, status.

        `limit` is on the grid of ticks.
        """
        rows = self.working
        return pl.DataFrame(
            {
                "id": [w.id for w in rows],
                "symbol": [w.order.symbol for w in rows],
                "decided": utc(self.time_T[np.array([w.decided_row for w in rows], dtype=np.int64)]),
                "units": [w.units for w in rows],
                "limit": [w.limit for w in rows],
                "stop": [w.stop for w in rows],
                "filled": [w.filled for w in rows],
                "status": [str(w.status) for w in rows],
            },
            schema_overrides={
                "id": pl.String,
                "symbol": pl.String,
                "units": pl.Float64,
                "limit": pl.Float64,
                "stop": pl.Float64,
                "filled": pl.Float64,
                "status": pl.String,
            },
        )
