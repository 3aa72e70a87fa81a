"""What a backtest returns: the account's history as arrays, and the same as polars tables.

Shapes: T bars, S symbols. Money in the quote currency, returns and weights as fractions.
Time: row t holds the account as it stands at the close of bar t; trades carry the open of the bar they were filled in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["TRADE_SCHEMA", "BacktestResult"]

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


@dataclass(frozen=True, kw_only=True, slots=True)
class BacktestResult:
    """The books of one strategy over T bars."""

    symbols: tuple[str, ...]
    time_T: npt.NDArray[np.datetime64]
    equity_T: Array
    """Cash plus positions at the last known closes."""
    cash_T: Array
    borrow_T: Array
    """Borrow fees charged in the bar, at least 0."""
    positions_TS: Array
    """Signed units."""
    value_TS: Array
    """Signed value of each position at its last known close."""
    net_return_T: Array
    """Simple return of the equity per bar, after costs. Bar 0 is 0: no decision comes before it. NaN after ruin."""
    gross_return_T: Array
    """The same with the bar's own commission, slippage and borrow fees added back."""
    drawdown_T: Array
    """Equity over its running maximum, less 1: 0 at a high, -0.25 when a quarter of the highest equity is gone."""
    turnover_T: Array
    """Traded notional of the bar over the equity at the previous close: 1.0 turns the whole capital once."""
    exposure_T: Array
    """Gross exposure (longs plus shorts) over the equity at the close; NaN when no equity is left."""
    fills_T: npt.NDArray[np.int64]
    """How many trades were filled in each bar."""
    trades: pl.DataFrame
    """One row per fill, in time order; columns TRADE_SCHEMA."""

    @classmethod
    def from_history(
        cls,
        *,
        symbols: tuple[str, ...],
        time_T: npt.NDArray[np.datetime64],
        initial_capital: float,
        equity_T: Array,
        cash_T: Array,
        borrow_T: Array,
        positions_TS: Array,
        value_TS: Array,
        trades: pl.DataFrame,
        bar_of_trade_N: npt.NDArray[np.int64],
    ) -> BacktestResult:
        """Work out returns, drawdown, turnover and exposure from what an account went through.

        Args:
            bar_of_trade_N: shape (N,), the bar in which each row of `trades` was filled.
        """
        bars = len(time_T)
        fill_costs_T = np.bincount(bar_of_trade_N, (trades["commission"] + trades["slippage_cost"]).to_numpy(), bars)
        costs_T = fill_costs_T + borrow_T
        notional_T = np.bincount(bar_of_trade_N, trades["notional"].to_numpy(), bars)
        before_T = np.concatenate([[initial_capital], equity_T[:-1]])
        # Once the equity is gone no ratio to it has a meaning, whatever it does later.
        before_T = np.where(np.minimum.accumulate(before_T) > 0.0, before_T, np.nan)
        solvent_T = np.where(equity_T > 0.0, equity_T, np.nan)
        return cls(
            symbols=symbols,
            time_T=time_T,
            equity_T=equity_T,
            cash_T=cash_T,
            borrow_T=borrow_T,
            positions_TS=positions_TS,
            value_TS=value_TS,
            net_return_T=equity_T / before_T - 1.0,
            gross_return_T=(equity_T + costs_T) / before_T - 1.0,
            drawdown_T=equity_T / np.maximum.accumulate(equity_T) - 1.0,
            turnover_T=notional_T / before_T,
            exposure_T=np.abs(value_TS).sum(axis=1) / solvent_T,
            fills_T=np.bincount(bar_of_trade_N, minlength=bars),
            trades=trades,
        )

    def curve(self) -> pl.DataFrame:
        """One row per bar: timestamp, equity, cash, net_return, gross_return, drawdown, turnover, exposure, trades,
        borrow.

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
                "trades": self.fills_T,
                "borrow": self.borrow_T,
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
