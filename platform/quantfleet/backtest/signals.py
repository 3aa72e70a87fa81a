"""Entry and exit signals on one symbol each: one strategy over millions of bars, or thousands of parameter sets at once.

Shapes: P portfolios (parameter sets, or symbols, or both), T bars, S symbols of the panel, N orders of all portfolios.

Time. A signal at row t is decided at the close of bar t and filled at the open of bar t+1, or at the symbol's next open where
that bar is missing, unless the opposite signal comes first. A signal on the last bar is never filled.

Decisions. A portfolio without a position buys on an entry, for its whole capital at the fill or a part of it, costs included: the
order names money, not units. One with a position sells all of it on an exit. Entry and exit at once decide nothing.

The books are those of `quantfleet.ledger`. An account that only ever buys with its own money cannot be ruined and is charged
nothing for holding, so bars between trades need not be looked at: equity and metrics are worked out from the orders.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from quantfleet.backtest.config import BacktestConfig
from quantfleet.backtest.panel import BarPanel
from quantfleet.backtest.result import BacktestResult, OrderLog
from quantfleet.backtest.vectorised import terms_of
from quantfleet.compiled import read_only
from quantfleet.errors import BacktestError

__all__ = ["SignalMetrics", "SignalRuns", "run_signals"]

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Whole = npt.NDArray[np.int64]

_ROOM = 1 << 16
"""Orders that a loop logs before it hands them over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalMetrics:
    """Three numbers of each portfolio, as in `quantfleet.evaluation`."""

    total_return_P: Array
    """Return over all bars, after costs: 0.5 is a gain of 50 %."""
    sharpe_P: Array
    """Annualised Sharpe ratio; NaN for a portfolio that never gained or lost."""
    max_drawdown_P: Array
    """Largest loss from a high to a later low, a positive fraction."""


@dataclass(frozen=True, kw_only=True)
class SignalRuns:
    """The orders of P portfolios, one after the other, and what follows from them when it is asked for."""

    prices: BarPanel
    config: BacktestConfig
    symbol_P: Whole
    """Column of the panel that each portfolio trades."""
    orders_P: Whole
    """How many orders each filled."""
    bar_N: npt.NDArray[np.int32]
    """The bar at whose open an order was filled."""
    units_N: Array
    """Signed: positive bought, negative sold."""
    cash_N: Array
    """Cash of its portfolio after the order."""
    threads: int = 1

    def __len__(self) -> int:
        return len(self.symbol_P)

    @cached_property
    def _end_P(self) -> Whole:
        return np.cumsum(self.orders_P)

    def metrics(self, *, bars_per_year: float) -> SignalMetrics:
        """Total return, Sharpe ratio and drawdown of every portfolio, without its equity curve being written anywhere."""
        from quantfleet.backtest import signal_loop

        measures_P3 = np.empty((len(self), 3))

        def work(start: int, stop: int) -> None:
            signal_loop.measure(
                self.prices.marks_ST,
                self.symbol_P,
                self._end_P,
                self.bar_N,
                self.units_N,
                self.cash_N,
                self.config.initial_capital,
                start,
                stop,
                measures_P3,
            )

        _in_threads(work, len(self), self.threads)
        return SignalMetrics(
            total_return_P=measures_P3[:, 0],
            sharpe_P=measures_P3[:, 1] * math.sqrt(bars_per_year),
            max_drawdown_P=measures_P3[:, 2],
        )

    def result(self, portfolio: int = 0) -> BacktestResult:
        """The whole history of one portfolio, as `run_backtest` gives it, on a panel of its symbol alone.

        Raises: BacktestError: there is no such portfolio.
        """
        from quantfleet.backtest import signal_loop

        if not 0 <= portfolio < len(self):
            raise BacktestError(f"there is no portfolio {portfolio}: the runs have {len(self)}, from 0 on.")
        s = int(self.symbol_P[portfolio])
        stop = int(self._end_P[portfolio])
        own = slice(stop - int(self.orders_P[portfolio]), stop)
        bars, prices = len(self.prices.time_T), self.prices.only(s)
        equity_T, cash_T = np.empty(bars), np.empty(bars)
        capital = self.config.initial_capital
        signal_loop.replay(
            self.prices.marks_ST[s], self.bar_N[own], self.units_N[own], self.cash_N[own], capital, equity_T, cash_T
        )
        return BacktestResult(
            prices=prices,
            terms=terms_of(self.config, prices),
            initial_capital=capital,
            equity_T=equity_T,
            cash_T=cash_T,
            borrow_T=np.zeros(bars),
            interest_T=np.zeros(bars),
            funding_T=np.zeros(bars),
            margin_call_T=np.zeros(bars, dtype=np.bool_),
            stops_T=np.zeros(bars, dtype=np.int64),
            halted_T=np.zeros(bars, dtype=np.int64),
            orders=OrderLog(
                fills_T=np.bincount(self.bar_N[own], minlength=bars),
                symbol_N=np.zeros(own.stop - own.start, dtype=np.int32),
                units_N=self.units_N[own],
            ),
        )


def run_signals(
    prices: BarPanel,
    entries_PT: Flags,
    exits_PT: Flags,
    config: BacktestConfig,
    *,
    symbol_P: npt.ArrayLike | None = None,
    part: float = 1.0,
    threads: int = 1,
) -> SignalRuns:
    """Trade entry and exit signals, each portfolio on an account of its own.

    Args:
        entries_PT, exits_PT: bool, shape (P, T), or (T,) for one portfolio; true where the close of bar t says so.
        symbol_P: which column of the panel each portfolio trades; not needed where there is one symbol only, or where
            portfolio p trades column p.
        part: share of the capital that an entry spends, costs included.
        threads: how many portfolios are traded at a time.
    Memory: the orders, and room for 2**16 more per thread.
    Raises: BacktestError: signals of another length or kind than the prices, a symbol that there is not, an entry before the
        symbol's first bar, a part outside (0, 1].
    """
    entries_PT, exits_PT = np.atleast_2d(entries_PT), np.atleast_2d(exits_PT)
    _check_signals(prices, entries_PT, exits_PT, part, threads)
    _refuse_holding_costs(prices, config)
    columns = _columns(prices, len(entries_PT), symbol_P)
    entries_PT, exits_PT = read_only(entries_PT), read_only(exits_PT)
    orders_P = np.zeros(len(entries_PT), dtype=np.int64)
    logs: dict[int, list[tuple[npt.NDArray[np.int32], Array, Array]]] = {}

    def work(start: int, stop: int) -> None:
        logs[start] = _trade(prices, entries_PT, exits_PT, columns, config, part, start, stop, orders_P)

    _in_threads(work, len(entries_PT), threads)
    pieces = [piece for start in sorted(logs) for piece in logs[start]]
    bar_N, units_N, cash_N = (
        pieces[0] if len(pieces) == 1 else (np.concatenate(column) for column in zip(*pieces, strict=True))
    )
    return SignalRuns(
        prices=prices,
        config=config,
        symbol_P=columns,
        orders_P=orders_P,
        bar_N=bar_N,
        units_N=units_N,
        cash_N=cash_N,
        threads=threads,
    )


def _trade(
    prices: BarPanel,
    entries_PT: Flags,
    exits_PT: Flags,
    symbol_P: Whole,
    config: BacktestConfig,
    part: float,
    start: int,
    stop: int,
    orders_P: Whole,
) -> list[tuple[npt.NDArray[np.int32], Array, Array]]:
    """Trade portfolios [start, stop); returns their log in pieces."""
    from quantfleet.backtest import signal_loop

    log = np.empty(_ROOM, dtype=np.int32), np.empty(_ROOM), np.empty(_ROOM)
    terms = terms_of(config, prices)
    volume_ST = np.zeros((0, 0)) if prices.volume_TS is None or not terms.impact else prices.volume_TS.T
    at = np.array([start, 0.0, config.initial_capital, 0.0])
    pieces: list[tuple[npt.NDArray[np.int32], Array, Array]] = []
    while at[0] < stop:
        orders, early = signal_loop.trade_signals(
            prices.open_ST,
            read_only(volume_ST),
            prices.first_S,
            symbol_P,
            entries_PT,
            exits_PT,
            stop,
            config.initial_capital,
            part,
            terms,
            at,
            orders_P,
            *log,
        )
        if early >= 0:
            p = int(at[0])
            raise BacktestError(
                f"portfolio {p} enters {prices.symbols[symbol_P[p]]} at {prices.time_T[early]}, before its first bar at "
                f"{prices.time_T[prices.first_S[symbol_P[p]]]}. Signals may begin with the prices.",
                bar=int(early),
            )
        pieces.append((log[0][:orders].copy(), log[1][:orders].copy(), log[2][:orders].copy()))
    return pieces


def _check_signals(prices: BarPanel, entries_PT: Flags, exits_PT: Flags, part: float, threads: int) -> None:
    bars = len(prices.time_T)
    for name, signals in (("entries", entries_PT), ("exits", exits_PT)):
        if signals.ndim != 2 or signals.shape[1] != bars or not len(signals) or signals.shape != entries_PT.shape:
            raise BacktestError(
                f"{name} have shape {signals.shape}, but the prices have {bars} bars and entries the shape {entries_PT.shape}; "
                "give entries and exits one row per portfolio and one column per bar."
            )
        if signals.dtype != np.bool_:
            raise BacktestError(
                f"{name} are of type {signals.dtype}; signals are bool. Say what counts as one, as in `values > 0`."
            )
    if not 0.0 < part <= 1.0:
        raise BacktestError(f"part={part} of the capital cannot be spent; it must be above 0 and at most 1.")
    if threads < 1:
        raise BacktestError(f"threads={threads} trade nothing; give at least 1.")


def _refuse_holding_costs(prices: BarPanel, config: BacktestConfig) -> None:
    """Signals are traded from trade to trade; what happens in between belongs to the loop over bars."""
    there = {
        f"backtest.leverage={config.leverage:g}": config.leverage != 1.0,
        "funding to pay": prices.funding_TS is not None,
        "a rule in backtest.risk": config.risk.any,
    }
    if any(there.values()):
        what = next(name for name, is_there in there.items() if is_there)
        raise BacktestError(
            f"signals are traded with the account's own money and without holding costs or risk rules, and there is {what}. Turn "
            "the signals into target weights (1 at an entry, 0 at an exit, NaN elsewhere) and give them to run_backtest."
        )


def _columns(prices: BarPanel, portfolios: int, symbol_P: npt.ArrayLike | None) -> Whole:
    width = len(prices.symbols)
    if symbol_P is None and width not in (1, portfolios):
        raise BacktestError(
            f"{portfolios} portfolios on {width} symbols: say in symbol_P which column of the panel each of them trades."
        )
    if symbol_P is None:
        return np.zeros(portfolios, dtype=np.int64) if width == 1 else np.arange(portfolios)
    columns = np.asarray(symbol_P)
    if columns.shape != (portfolios,) or columns.dtype.kind != "i" or (columns < 0).any() or (columns >= width).any():
        raise BacktestError(
            f"symbol_P={columns} must hold one number between 0 and {width - 1} for each of {portfolios} portfolios."
        )
    return columns.astype(np.int64)


def _in_threads(work: Callable[[int, int], None], portfolios: int, threads: int) -> None:
    """Call `work(start, stop)` on even stretches of portfolios."""
    if threads == 1:
        return work(0, portfolios)
    cuts = np.linspace(0, portfolios, min(threads, portfolios) + 1).astype(int).tolist()
    with ThreadPoolExecutor(max_workers=threads) as pool:
        list(pool.map(work, cuts[:-1], cuts[1:]))
    return None
