"""What a backtest returns: the account's history as arrays, and the same as polars tables.

Shapes: T bars, S symbols. Money in the quote currency, returns and weights as fractions.
Time: row t holds the account as it stands at the close of bar t; trades carry the open of the bar they were filled in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.backtest.panel import BarPanel
from quantfleet.ledger.terms import Terms

__all__ = ["TRADE_SCHEMA", "BacktestResult", "OrderLog"]

Array = npt.NDArray[np.float64]

_TIME = pl.Datetime("us", "UTC")

TRADE_SCHEMA: dict[str, pl.DataType] = {
    "timestamp": _TIME,
    "symbol": pl.String(),
    "side": pl.String(),
    "units": pl.Float64(),
    "price": pl.Float64(),
    "notional": pl.Float64(),
    "commission": pl.Float64(),
    "slippage_cost": pl.Float64(),
}
"""Columns of `BacktestResult.trades`. `side` is "buy" or "sell", `units` positive, `price` the fill price with slippage
in it, `notional` units x price, `slippage_cost` the money lost to slippage and half the spread."""


def utc(time_T: npt.NDArray[np.datetime64]) -> pl.Series:
    """Times of a panel as a polars column, UTC microseconds."""
    return pl.Series("timestamp", time_T.astype("datetime64[us]")).dt.replace_time_zone("UTC")


@dataclass(frozen=True, kw_only=True)
class OrderLog:
    """What was filled, N orders in the order of time and, within a bar, of symbols."""

    fills_T: npt.NDArray[np.int64]
    """How many orders were filled in each bar."""
    symbol_N: npt.NDArray[np.int32]
    """Column of the panel."""
    units_N: Array
    """Signed: positive bought, negative sold."""

    def __len__(self) -> int:
        return len(self.units_N)

    @cached_property
    def bar_N(self) -> npt.NDArray[np.int64]:
        """The bar at whose open each order was filled."""
        return np.repeat(np.arange(len(self.fills_T)), self.fills_T)


@dataclass(frozen=True, kw_only=True)
class BacktestResult:
    """The books of one strategy over T bars. What the engine did not write down is worked out when it is asked for."""

    prices: BarPanel
    terms: Terms
    """On which the orders were filled."""
    initial_capital: float
    equity_T: Array
    """Cash plus positions at the last known closes."""
    cash_T: Array
    borrow_T: Array
    """Borrow fees charged in the bar, at least 0."""
    interest_T: Array
    """Interest on money owed charged in the bar, at least 0."""
    funding_T: Array
    """Funding paid in the bar; negative when received."""
    margin_call_T: npt.NDArray[np.bool_]
    """Whether the close was a margin call, after which everything is closed."""
    stops_T: npt.NDArray[np.int64]
    """How many positions hit a stop or took their profit at the close."""
    halted_T: npt.NDArray[np.int64]
    """1 while a day's loss, 2 once the drawdown has closed everything; 0 otherwise."""
    orders: OrderLog

    @property
    def symbols(self) -> tuple[str, ...]:
        """The panel's."""
        return self.prices.symbols

    @property
    def time_T(self) -> npt.NDArray[np.datetime64]:
        """The panel's: opens of the bars, UTC."""
        return self.prices.time_T

    @property
    def fills_T(self) -> npt.NDArray[np.int64]:
        """How many trades were filled in each bar."""
        return self.orders.fills_T

    @cached_property
    def positions_TS(self) -> Array:
        """Signed units at each close."""
        traded_TS = np.zeros(self.prices.close_TS.shape)
        traded_TS[self.orders.bar_N, self.orders.symbol_N] = self.orders.units_N
        return np.cumsum(traded_TS, axis=0, out=traded_TS)

    @cached_property
    def value_TS(self) -> Array:
        """Signed value of each position at its last known close."""
        value_TS: Array = self.positions_TS * self.prices.marks_TS
        return value_TS

    @cached_property
    def market_N(self) -> Array:
        """Market price of each order: the open of its bar."""
        market_N: Array = self.prices.open_TS[self.orders.bar_N, self.orders.symbol_N]
        return market_N

    @cached_property
    def price_N(self) -> Array:
        """Fill price of each order, slippage in it."""
        from quantfleet.ledger import kernel

        orders, volume_N = self.orders, np.ones(0)
        if self.prices.volume_TS is not None and self.terms.impact > 0.0:
            volume_N = self.prices.volume_TS[orders.bar_N - 1, orders.symbol_N]
        price_N: Array = kernel.prices_paid(orders.units_N, orders.symbol_N, self.market_N, volume_N, self.terms)
        return price_N

    @cached_property
    def commission_N(self) -> Array:
        """Fee of each order, at least 0."""
        fee_N: Array = self._notional_N * self.terms.commission
        return fee_N

    @cached_property
    def slippage_N(self) -> Array:
        """Money that each order lost to the difference between fill price and market price, at least 0."""
        lost_N: Array = np.abs(self.orders.units_N * (self.price_N - self.market_N))
        return lost_N

    @cached_property
    def _notional_N(self) -> Array:
        value_N: Array = np.abs(self.orders.units_N) * self.price_N
        return value_N

    @cached_property
    def _before_T(self) -> Array:
        """Equity before each bar; NaN once it is gone: no ratio to it has a meaning then, whatever it does later."""
        before_T = np.concatenate([[self.initial_capital], self.equity_T[:-1]])
        return np.where(np.minimum.accumulate(before_T) > 0.0, before_T, np.nan)

    @cached_property
    def net_return_T(self) -> Array:
        """Simple return of the equity per bar, after costs. Bar 0 is 0: no decision comes before it. NaN after ruin."""
        return_T: Array = self.equity_T / self._before_T - 1.0
        return return_T

    @cached_property
    def gross_return_T(self) -> Array:
        """The same with the bar's own commission, slippage, borrow fees, interest and funding added back."""
        trading_T = np.bincount(self.orders.bar_N, self.commission_N + self.slippage_N, len(self.time_T))
        holding_T = self.borrow_T + self.interest_T + self.funding_T
        return_T: Array = (self.equity_T + trading_T + holding_T) / self._before_T - 1.0
        return return_T

    @cached_property
    def drawdown_T(self) -> Array:
        """Equity over its running maximum, less 1: 0 at a high, -0.25 when a quarter of the highest equity is gone."""
        drawdown_T: Array = self.equity_T / np.maximum.accumulate(self.equity_T) - 1.0
        return drawdown_T

    @cached_property
    def turnover_T(self) -> Array:
        """Traded notional of the bar over the equity at the previous close: 1.0 turns the whole capital once."""
        turnover_T: Array = np.bincount(self.orders.bar_N, self._notional_N, len(self.time_T)) / self._before_T
        return turnover_T

    @cached_property
    def exposure_T(self) -> Array:
        """Gross exposure (longs plus shorts) over the equity at the close; NaN when no equity is left."""
        exposure_T: Array = np.abs(self.value_TS).sum(axis=1) / np.where(self.equity_T > 0.0, self.equity_T, np.nan)
        return exposure_T

    @cached_property
    def trades(self) -> pl.DataFrame:
        """One row per fill, in time order; columns TRADE_SCHEMA."""
        bought = pl.Series(self.orders.units_N > 0.0)
        columns = {
            "timestamp": utc(self.time_T[self.orders.bar_N]),
            "symbol": pl.Series(list(self.symbols), dtype=pl.String).gather(self.orders.symbol_N),
            "side": pl.select(pl.when(bought).then(pl.lit("buy")).otherwise(pl.lit("sell"))).to_series(),
            "units": np.abs(self.orders.units_N),
            "price": self.price_N,
            "notional": self._notional_N,
            "commission": self.commission_N,
            "slippage_cost": self.slippage_N,
        }
        return pl.DataFrame(columns, schema=TRADE_SCHEMA)

    def curve(self) -> pl.DataFrame:
        """One row per bar: timestamp, equity, cash, net_return, gross_return, drawdown, turnover, exposure, trades,
        borrow, interest, funding, margin_call, stops, halted.

        `trades` counts the fills of the bar.
        """
        return pl.DataFrame(
            {
                "timestamp": utc(self.time_T),
                "equity": self.equity_T,
                "cash": self.cash_T,
                "net_return": self.net_return_T,
                "gross_return": self.gross_return_T,
                "drawdown": self.drawdown_T,
                "turnover": self.turnover_T,
                "exposure": self.exposure_T,
                "trades": self.orders.fills_T,
                "borrow": self.borrow_T,
                "interest": self.interest_T,
                "funding": self.funding_T,
                "margin_call": self.margin_call_T,
                "stops": self.stops_T,
                "halted": self.halted_T,
            }
        )

    def positions(self) -> pl.DataFrame:
        """One row per bar and symbol: timestamp, symbol, units, value, weight (value over equity; NaN after ruin)."""
        equity_T = np.where(self.equity_T > 0.0, self.equity_T, np.nan)
        bars, width = self.positions_TS.shape
        return pl.DataFrame(
            {
                "timestamp": utc(np.repeat(self.time_T, width)),
                "symbol": pl.Series(list(self.symbols) * bars, dtype=pl.String),
                "units": self.positions_TS.reshape(-1),
                "value": self.value_TS.reshape(-1),
                "weight": (self.value_TS / equity_T[:, None]).reshape(-1),
            }
        )
