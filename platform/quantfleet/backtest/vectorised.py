"""The vectorised engine: one compiled loop over bars for all symbols of a strategy, every fill booked by the ledger.

Shapes: T bars, S symbols, D decisions.

Time. Row t of the weights is decided at the close of bar t. It is turned into target units there and then, with the
equity and the closes known at that moment (sizing from the next open would look ahead), and filled at the open of bar
t+1, bounded by the cash at the fill. A decision on the last bar is never filled.

Holding costs. Borrow fees, interest and funding of what is held between two opens are charged at the later one, before its fills,
at the last known closes.

Missing bars. A symbol without a bar cannot trade: its order, in units, waits for the symbol's next open, unless a later
decision replaces it. Its position is marked at the last known close. A symbol that never returns stays marked there.

Keeping. A NaN weight decides nothing: the position stays as it is, and an order that still waits goes on waiting.

Margin calls. Where the equity is below the maintenance margin at a close, everything is closed at the next open, and decisions
count for nothing until it is; then the account may trade again.

Risk rules (`quantfleet.ledger.risk`) look at the same closes and go before what the strategy decides there.

Impact. An order is measured by the volume of the bar it was decided in, which is known then. A symbol whose last bar had no volume
does not trade; its order waits.

Ruin. An account whose equity is not above zero at a close (shorts can do that) closes everything at the next open and
never opens again. That is a margin call too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from quantfleet.backtest.config import BacktestConfig
from quantfleet.backtest.panel import BarPanel, PriceRows
from quantfleet.backtest.result import BacktestResult, OrderLog
from quantfleet.compiled import read_only
from quantfleet.errors import BacktestError
from quantfleet.ledger.terms import FREE_UNITS, Terms

__all__ = ["Rules", "run_backtest", "run_backtests", "terms_of"]

Array = npt.NDArray[np.float64]

_YEAR = np.timedelta64(365, "D")
_NOTHING = np.zeros((0, 0))


class Rules(NamedTuple):
    """What the loop over bars goes by, as plain numbers; see `BacktestConfig`."""

    capital: float
    band: float
    allow_short: bool
    borrow_per_year: float
    margin_per_year: float
    maintenance: float


def run_backtest(
    prices: BarPanel,
    target_weights_TS: Array,
    config: BacktestConfig,
    *,
    decided_at: npt.ArrayLike | None = None,
) -> BacktestResult:
    """Trade target weights of one strategy.

    Args:
        prices: T bars of S symbols.
        target_weights_TS: shape (T, S), share of the equity wanted in each symbol, decided at the close of bar t;
            negative is short, NaN keeps the position. The absolute weights of a row sum to at most 1, or the leverage.
        decided_at: with it, the weights have shape (D, S), one row for each of these bars, whose numbers rise; the same as
            rows of NaN at all others, without the memory.
    Raises: BacktestError: weights of another shape than the prices, infinite, above the whole capital, short where
        shorting is not allowed, or asking for a symbol before its first bar; bars that do not rise or that there are not.
    """
    every = np.arange(len(prices.time_T)) if decided_at is None else np.asarray(decided_at)
    return _trade("strategy", prices, every, target_weights_TS, config)


def run_backtests(
    prices: BarPanel, target_weights: Mapping[str, Array], config: BacktestConfig
) -> dict[str, BacktestResult]:
    """Trade several strategies on the same prices, each on an account of its own.

    Args:
        target_weights: for each strategy an array as in `run_backtest`.
    Returns: a result per strategy, in the same order; each equals what `run_backtest` returns for it alone.
    Raises: BacktestError: see `run_backtest`; the message names the strategy.
    """
    every_T = np.arange(len(prices.time_T))
    return {name: _trade(name, prices, every_T, weights_TS, config) for name, weights_TS in target_weights.items()}


def _trade(
    name: str, prices: BarPanel, bar_D: npt.NDArray[np.int64], weights_DS: Array, config: BacktestConfig
) -> BacktestResult:
    from quantfleet.backtest import loop
    from quantfleet.backtest.targets import refused_weights

    bars, width = prices.close_TS.shape
    if bar_D.ndim != 1 or (len(bar_D) and (bar_D[0] < 0 or bar_D[-1] >= bars)) or (np.diff(bar_D) <= 0).any():
        raise BacktestError(
            f"{name}: decided_at={bar_D} must hold rising numbers of bars between 0 and {bars - 1}.", strategy=name
        )
    if weights_DS.shape != (len(bar_D), width):
        raise BacktestError(
            f"{name}: target weights have shape {weights_DS.shape} but prices have {prices.close_TS.shape} (bars, "
            f"symbols). Give one row for each of the {len(bar_D)} bars decided at and one column per symbol; use NaN where "
            "nothing is decided.",
            strategy=name,
        )
    weights_DS = np.asarray(weights_DS, dtype=np.float64)
    books_KT, fills_T = np.zeros((loop.BOOKS, bars)), np.zeros(bars, dtype=np.int64)
    # Room for an order a bar and symbol: pages that are never written take no memory.
    symbol_N, units_N = np.empty(bars * width, dtype=np.int32), np.empty(bars * width)
    terms, limits = terms_of(config, prices), config.risk.limits()
    orders, refusal, decision = loop.trade_weights(
        read_only(prices.open_TS),
        read_only(prices.close_TS),
        read_only(_NOTHING if prices.volume_TS is None or not terms.impact else prices.volume_TS),
        read_only(_NOTHING if prices.funding_TS is None else prices.funding_TS),
        np.diff(prices.time_T, prepend=prices.time_T[:1]) / _YEAR,
        read_only(bar_D.astype(np.int64)),
        read_only(weights_DS),
        read_only(prices.time_T.astype("datetime64[D]").astype(np.int64)),
        read_only(prices.marks_TS if limits is not None and limits.needs_window else _NOTHING),
        Rules(
            capital=config.initial_capital,
            band=config.rebalance_band,
            allow_short=config.allow_short,
            borrow_per_year=config.costs.borrow_rate_per_year,
            margin_per_year=config.costs.margin_rate_per_year,
            maintenance=config.maintenance_margin,
        ),
        limits,
        terms,
        books_KT,
        fills_T,
        symbol_N,
        units_N,
    )
    if refusal:
        raise refused_weights(name, prices, config, int(bar_D[decision]), weights_DS[decision], refusal)
    return BacktestResult(
        prices=prices,
        terms=terms,
        initial_capital=config.initial_capital,
        equity_T=books_KT[loop.EQUITY],
        cash_T=books_KT[loop.CASH],
        borrow_T=books_KT[loop.BORROW],
        interest_T=books_KT[loop.INTEREST],
        funding_T=books_KT[loop.FUNDING],
        margin_call_T=books_KT[loop.CALLED] != 0.0,
        stops_T=books_KT[loop.STOPS].astype(np.int64),
        halted_T=books_KT[loop.HALTED].astype(np.int64),
        orders=OrderLog(fills_T=fills_T, symbol_N=symbol_N[:orders], units_N=units_N[:orders]),
    )


def terms_of(config: BacktestConfig, prices: PriceRows) -> Terms:
    """The terms on which these symbols trade.

    Raises: BacktestError: the costs have an impact and the panel no volumes, or wrong ones.
    """
    if config.costs.impact_bps:
        prices.require_volume()
    return config.costs.terms(
        leverage=config.leverage,
        lot_S=_steps(prices.lot_S, config.lot_units, prices),
        tick_S=_steps(prices.tick_S, config.tick, prices),
    )


def _steps(own_S: Array | None, common: float, prices: PriceRows) -> Array:
    if own_S is not None:
        return read_only(np.asarray(own_S, dtype=np.float64))
    return read_only(np.full(len(prices.symbols), common)) if common else FREE_UNITS
