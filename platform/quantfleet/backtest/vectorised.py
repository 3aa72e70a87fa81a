"""The vectorised engine: a loop over bars, all symbols and all strategies at once, every fill booked by the ledger.

Shapes: T bars, S symbols, P strategies on the same prices.

Time. Row t of the weights is decided at the close of bar t. It is turned into target units there and then, with the
equity and the closes known at that moment (sizing from the next open would look ahead), and filled at the open of bar
t+1, bounded by the cash at the fill. A decision on the last bar is never filled.

Borrow fees. What is held between two opens is charged at the later one, before its fills, at the last known closes.

Missing bars. A symbol without a bar cannot trade: its order, in units, waits for the symbol's next open, unless a later
decision replaces it. Its position is marked at the last known close. A symbol that never returns stays marked there.

Keeping. A NaN weight decides nothing: the position stays as it is, and an order that still waits goes on waiting.

Ruin. An account whose equity is not above zero at a close (shorts can do that) closes everything at the next open and
never opens again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.backtest.config import BacktestConfig
from quantfleet.backtest.panel import BarPanel
from quantfleet.backtest.result import TRADE_SCHEMA, BacktestResult, utc
from quantfleet.errors import BacktestError
from quantfleet.ledger import Account, Fills

__all__ = ["run_backtest", "run_backtests"]

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_YEAR = np.timedelta64(365, "D")
_ROUNDING = 1e-9
"""How far above 1 the absolute weights of a row may sum: 1/3 + 1/3 + 1/3 is not always 1."""


def run_backtest(prices: BarPanel, target_weights_TS: Array, config: BacktestConfig) -> BacktestResult:
    """Trade target weights of one strategy.

    Args:
        prices: T bars of S symbols.
        target_weights_TS: shape (T, S), share of the equity wanted in each symbol, decided at the close of bar t;
            negative is short, NaN keeps the position. The absolute weights of a row sum to at most 1.
    Raises: BacktestError: weights of another shape than the prices, infinite, above the whole capital, short where
        shorting is not allowed, or asking for a symbol before its first bar.
    """
    return run_backtests(prices, {"strategy": target_weights_TS}, config)["strategy"]


def run_backtests(
    prices: BarPanel, target_weights: Mapping[str, Array], config: BacktestConfig
) -> dict[str, BacktestResult]:
    """Trade several strategies on the same prices in one pass, each on an account of its own.

    Args:
        target_weights: for each strategy an array as in `run_backtest`.
    Returns: a result per strategy, in the same order; each equals what `run_backtest` returns for it alone.
    Raises: BacktestError: see `run_backtest`; the message names the strategy.
    """
    if not target_weights:
        return {}
    for name, weights_TS in target_weights.items():
        _check_weights(name, weights_TS, prices, config)
    weights_TPS = np.stack(list(target_weights.values()), axis=1).astype(np.float64)
    account = Account(
        initial_capital=config.initial_capital,
        symbols=len(prices.symbols),
        costs=config.costs,
        allow_short=config.allow_short,
        portfolios=len(target_weights),
    )
    books = _Books(prices, len(target_weights))
    decides_T = np.asarray(~np.isnan(weights_TPS).all(axis=(1, 2)))
    waiting_PS = np.full(account.units_PS.shape, np.nan)  # target units of orders not filled yet
    ruined_P: Flags = np.zeros(len(target_weights), dtype=np.bool_)
    held_years_T = np.diff(prices.time_T, prepend=prices.time_T[:1]) / _YEAR
    for t in range(len(prices.time_T)):
        books.borrow_PT[:, t] = account.accrue(float(held_years_T[t]))
        if not np.isnan(waiting_PS).all():
            order_PS = np.where(np.isnan(waiting_PS), 0.0, waiting_PS - account.units_PS)
            books.log(t, account.fill(order_PS, prices.open_TS[t]))
            waiting_PS[:, ~np.isnan(prices.open_TS[t])] = np.nan
        account.mark(prices.close_TS[t])
        books.close(t, account)
        if decides_T[t]:
            _decide(weights_TPS[t], account, config.rebalance_band, waiting_PS)
        ruined_P = ruined_P | (account.equity <= 0.0)
        if ruined_P.any():
            waiting_PS[ruined_P] = np.where(account.units_PS[ruined_P] != 0.0, 0.0, np.nan)
    return {name: books.result(p, config.initial_capital) for p, name in enumerate(target_weights)}


def _check_weights(name: str, weights_TS: Array, prices: BarPanel, config: BacktestConfig) -> None:
    if weights_TS.shape != prices.close_TS.shape:
        raise BacktestError(
            f"{name}: target weights have shape {weights_TS.shape} but prices have {prices.close_TS.shape} (bars, "
            "symbols). Give one row per bar and one column per symbol; use NaN where nothing is decided.",
            strategy=name,
        )
    known_TS: Array = np.where(np.isnan(weights_TS), 0.0, weights_TS)

    def refuse(wrong_TS: Flags, why: str) -> None:
        wrong_T = wrong_TS.reshape(len(known_TS), -1).any(axis=1)
        if wrong_T.any():
            t = int(np.argmax(wrong_T))
            row = ", ".join(f"{s} {w:.6g}" for s, w in zip(prices.symbols, weights_TS[t], strict=True) if w == w and w)
            raise BacktestError(f"{name}: weights at {prices.time_T[t]} ({row}) {why}", strategy=name, bar=t)

    refuse(np.isinf(known_TS), "are infinite. A weight is a share of the capital.")
    refuse(
        np.abs(known_TS).sum(axis=1) > 1.0 + _ROUNDING,
        "sum to more than the whole capital. There is no leverage: keep the sum of absolute weights at or below 1.",
    )
    if not config.allow_short:
        refuse(known_TS < 0.0, "go short on a long-only account. Set allow_short, or use long_flat.")
    refuse(
        (known_TS != 0.0) & ~prices.listed(),
        "ask for a symbol before its first bar. Use NaN or 0 until it has a price.",
    )


def _decide(weight_PS: Array, account: Account, band: float, waiting_PS: Array) -> None:
    """Turn weights into target units at the known closes; writes the symbols that are decided into `waiting_PS`."""
    equity_P1 = account.equity[:, None]
    solvent_P1 = np.where(equity_P1 > 0.0, equity_P1, 1.0)
    held_PS = account.value / solvent_P1
    target_PS = weight_PS * equity_P1 / np.where(account.mark_S > 0.0, account.mark_S, 1.0)
    small_PS = (np.abs(weight_PS - held_PS) < band) & (weight_PS != 0.0)
    decided_PS = np.where(small_PS, np.nan, target_PS)
    np.copyto(waiting_PS, decided_PS, where=~np.isnan(weight_PS))


class _Books:
    """History of P accounts, written bar by bar."""

    def __init__(self, prices: BarPanel, portfolios: int) -> None:
        bars, width = prices.close_TS.shape
        self.prices = prices
        self.cash_PT: Array = np.zeros((portfolios, bars))
        self.borrow_PT: Array = np.zeros((portfolios, bars))
        self.equity_PT: Array = np.zeros((portfolios, bars))
        self.units_PTS: Array = np.zeros((portfolios, bars, width))
        self.mark_TS: Array = np.zeros((bars, width))
        self.fills: list[Array] = []

    def log(self, t: int, fills: Fills) -> None:
        """Keep one row (bar, portfolio, symbol, units, price, notional, commission, slippage) per fill."""
        p, s = np.nonzero(fills.units_PS)
        values = (fills.units_PS, fills.price_PS, fills.notional, fills.commission_PS, fills.slippage_PS)
        self.fills.append(np.column_stack([np.full(len(p), t), p, s, *(value[p, s] for value in values)]))

    def close(self, t: int, account: Account) -> None:
        """Take down the accounts at the close of bar t."""
        self.cash_PT[:, t] = account.cash_P
        self.equity_PT[:, t] = account.equity
        self.units_PTS[:, t] = account.units_PS
        self.mark_TS[t] = account.mark_S

    def result(self, p: int, initial_capital: float) -> BacktestResult:
        """The history of portfolio p."""
        rows = np.concatenate([np.zeros((0, 8)), *self.fills])
        rows = rows[rows[:, 1] == p]
        bar, symbol = rows[:, 0].astype(np.int64), rows[:, 2].astype(np.int64)
        units, price, notional, commission, slippage = rows[:, 3:].T
        trades = pl.DataFrame(
            {
                "timestamp": utc(self.prices.time_T[bar]),
                "symbol": [self.prices.symbols[s] for s in symbol],
                "side": ["buy" if u > 0 else "sell" for u in units],
                "units": np.abs(units),
                "price": price,
                "notional": notional,
                "commission": commission,
                "slippage_cost": slippage,
            },
            schema=TRADE_SCHEMA,
        )
        return BacktestResult.from_history(
            symbols=self.prices.symbols,
            time_T=self.prices.time_T,
            initial_capital=initial_capital,
            equity_T=self.equity_PT[p],
            cash_T=self.cash_PT[p],
            borrow_T=self.borrow_PT[p],
            positions_TS=self.units_PTS[p],
            value_TS=self.units_PTS[p] * self.mark_TS,
            trades=trades,
            bar_of_trade_N=bar,
        )
