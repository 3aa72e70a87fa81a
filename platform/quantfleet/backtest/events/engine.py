"""The event engine: one event after the other, to orders first and then to the strategy.

A row is a bar, or a time at which trades or books happened. In each: what holding cost is charged; orders that have arrived see the
row's prices (`matching.py`); positions are marked at its last price; the strategy is asked with what is known then. What it decides
arrives `latency_us` later and sees the next row that begins by then at the earliest, so no order trades at a price that was known
when it was given.

Target weights are turned into units at the decision and filled by market orders, as in `vectorised.py`: on bars, without latency
and bounds on volume, both engines make the same trades. A later decision about a symbol replaces what still waits of an earlier
one; orders are independent of targets. Margin calls and ruin are as there; a margin call also takes every order back.

Shapes: T rows, S symbols, N fills.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from quantfleet.backtest.config import BacktestConfig
from quantfleet.backtest.events.base import Cancel, Decision, ExecutionConfig, Fill, Order, Strategy
from quantfleet.backtest.events.books import Books
from quantfleet.backtest.events.matching import Market
from quantfleet.backtest.events.orders import OrderStatus, Working, on_the_safe_tick
from quantfleet.backtest.events.result import EventResult, FillLog
from quantfleet.backtest.events.sources import BarEvents, EventSource, QuoteEvents
from quantfleet.backtest.events.view import MarketView
from quantfleet.backtest.result import OrderLog
from quantfleet.errors import BacktestError

__all__ = ["EventEngine", "run_events"]

Array = npt.NDArray[np.float64]

_DAY_US = 86_400_000_000


def run_events(
    source: EventSource,
    strategy: Strategy,
    config: BacktestConfig,
    *,
    execution: ExecutionConfig | None = None,
) -> EventResult:
    """Run a strategy over events.

    Args:
        source: `BarEvents`, `TradeEvents` or `BookEvents`.
        config: of the account. `risk` must be empty: rules go into the strategy's `manage_risk`.
        execution: latency, bounds on volume and how limits fill; by default none and at a touch.
    Raises: BacktestError: the strategy asked for the future, or for an order or weights that cannot be; rules in `config.risk`;
        impact without bars; a bound on volume without volumes.
    """
    return EventEngine(source, strategy, config, execution or ExecutionConfig()).run()


class EventEngine:
    """One run. Not thread-safe, runs once. `run_events` is the way in."""

    def __init__(
        self, source: EventSource, strategy: Strategy, config: BacktestConfig, execution: ExecutionConfig
    ) -> None:
        _refuse(source, config, execution)
        self.source = source
        self.strategy = strategy
        self.config = config
        self.execution = execution
        self._time_us: list[int] = source.prices.time_T.astype("datetime64[us]").astype(np.int64).tolist()
        self.known_us = [time + source.known_after_us for time in self._time_us]
        """When each row is known: the end of the bar, the time of the events."""
        self._books = Books(source.prices, config)
        self._market = Market(self._books, execution)
        self._working: list[Working] = []
        self._by_id: dict[str, Working] = {}
        self._arriving: deque[tuple[int, Working | Cancel | Array]] = deque()
        self._ruined = False
        self._calls: list[int] = []
        self._view = MarketView(self)

    @property
    def units_S(self) -> Array:
        """Positions."""
        return self._books.units_S

    @property
    def cash(self) -> float:
        """Money that is not in positions."""
        return self._books.cash

    def equity_at(self, t: int) -> float:
        """Cash plus positions at the last known prices of a row."""
        if not self._books.held:
            return self._books.cash
        return self._books.see(self.source.prices.close_TS[t])

    def open_orders(self) -> tuple[Working, ...]:
        """Orders on their way or waiting."""
        return tuple(w for w in self._by_id.values() if w.status is OrderStatus.OPEN)

    def fills_of(self, t: int) -> tuple[Fill, ...]:
        """Fills of the row that just ended."""
        fills = self._books.fills
        first = len(fills)
        while first and fills[first - 1].row == t:
            first -= 1
        return tuple(fills[first:])

    def run(self) -> EventResult:
        """Take every row in turn."""
        books, market, view, arriving = self._books, self._market, self._view, self._arriving
        closes_TS, time_us = self.source.prices.close_TS, self._time_us
        match = self._matcher()
        decide = self.strategy.generate_signals
        accrues, watched = books.accrues, books.watched
        manages = type(self.strategy).manage_risk is not Strategy.manage_risk
        for t, now_us in enumerate(time_us):
            if accrues and (books.held or books.cash < 0.0):
                books.accrue(t, now_us - time_us[max(t - 1, 0)])
            while arriving and arriving[0][0] <= now_us:
                self._arrive(arriving.popleft()[1])
            if market.count:
                market.expire(now_us // _DAY_US)
                match(t)
            closing = False
            if watched and (books.held or books.cash <= 0.0 or self._ruined):
                closing = self._call(t, books.see(closes_TS[t]))
            view._t = t
            decision = decide(view)
            if decision is not None:
                self._take(decision, t, closing)
            if manages:
                decision = self.strategy.manage_risk(view)
                if decision is not None:
                    self._take(decision, t, closing)
        return self._result()

    def _matcher(self) -> Callable[[int], None]:
        source, market = self.source, self._market
        if isinstance(source, BarEvents):
            return lambda t: market.match_bar(t, source)
        if isinstance(source, QuoteEvents):
            return lambda t: market.match_quotes(t, source)
        raise BacktestError(f"events of {type(source).__name__} cannot be matched; derive it from QuoteEvents.")

    def _call(self, t: int, equity: float) -> bool:
        """Close everything at the next prices where the equity is too low; returns whether that is so."""
        from quantfleet.backtest import loop

        called = self._books.called(equity)
        self._ruined = self._ruined or equity <= 0.0
        if called:
            self._calls.append(t)
        if not (called or self._ruined):
            return False
        for w in self._by_id.values():
            w.status = OrderStatus.CANCELLED if w.status is OrderStatus.OPEN else w.status
        self._by_id.clear()
        self._arriving.clear()
        self._market.cancel_all()
        loop._close_all(self._books.units_S, self._market.target_S)
        self._market.tidy()
        return True

    def _take(self, decision: Decision, t: int, closing: bool) -> None:
        """Check what a strategy answered and send it; while all is being closed it is checked and dropped."""
        arrives_us = self.known_us[t] + self.execution.latency_us
        if isinstance(decision, Order | Cancel):
            decision = (decision,)
        if isinstance(decision, np.ndarray | Mapping):
            targets_S = self._targets(decision, t)
            if not closing:
                self._arriving.append((arrives_us, targets_S))
            return
        if not isinstance(decision, Sequence):
            raise BacktestError(
                f"the strategy answered {decision!r} at row {t}; give orders, cancellations, target weights, or None.",
                row=t,
            )
        for wish in decision:
            if isinstance(wish, Cancel):
                self._arriving.append((arrives_us, wish))
            elif isinstance(wish, Order):
                w = self._accepted(wish, t, arrives_us)
                if closing:
                    w.status = OrderStatus.CANCELLED
                else:
                    self._by_id[w.id] = w
                    self._arriving.append((arrives_us, w))
            else:
                raise BacktestError(
                    f"the strategy answered {wish!r} among its orders at row {t}; give Order or Cancel. Target weights are an "
                    "array or a mapping.",
                    row=t,
                )

    def _accepted(self, order: Order, t: int, arrives_us: int) -> Working:
        """Number an order and size it with what is known at a row."""
        s = self._view.number(order.symbol)
        mark = self._view.price(s)
        if mark == 0.0:
            raise BacktestError(
                f"an order of {order.symbol} at row {t}, before its first price; wait until it has one.", row=t
            )
        units = order.units
        if units is None:
            units = float(order.weight or 0.0) * self.equity_at(t) / mark
        name = str(len(self._working) + 1) if order.id is None else order.id
        if name in self._by_id and self._by_id[name].status is OrderStatus.OPEN:
            raise BacktestError(f"there is an open order {name!r} already; give each an id of its own.", row=t)
        w = Working(order, name=name, s=s, units=units, decided_row=t, arrives_us=arrives_us)
        ticks_S = self._books.taker.tick_S
        if w.limit is not None and ticks_S.size:
            w.limit = on_the_safe_tick(units > 0.0, w.limit, float(ticks_S[s]))
        self._working.append(w)
        return w

    def _targets(self, decision: Mapping[str, float] | Array, t: int) -> Array:
        """Check target weights and turn them into units at the prices of a row; NaN where nothing is decided.

        What is decided and yet not traded, being within the band, is infinite: it only takes back what still waits.
        """
        from quantfleet.backtest import loop
        from quantfleet.backtest.vectorised import _refused

        books, prices = self._books, self.source.prices
        width = len(prices.symbols)
        if isinstance(decision, Mapping):
            weight_S = np.full(width, np.nan)
            for name, weight in decision.items():
                weight_S[self._view.number(name)] = weight
        else:
            weight_S = np.array(decision, dtype=np.float64)
        if weight_S.shape != (width,):
            raise BacktestError(
                f"the strategy answered weights of shape {weight_S.shape} at row {t}; there are {width} symbols: ({width},).",
                row=t,
            )
        equity = books.see(prices.close_TS[t])
        refusal = loop._refusal(weight_S, books.mark_S, books.taker.leverage, self.config.allow_short)
        if refusal:
            raise _refused(type(self.strategy).__name__, prices, self.config, t, weight_S, refusal)
        target_S = np.full(width, np.nan)
        loop._size(weight_S, equity, books.units_S, books.mark_S, self.config.rebalance_band, target_S)
        target_S[np.isnan(target_S) & ~np.isnan(weight_S)] = np.inf
        return target_S

    def _arrive(self, item: Working | Cancel | Array) -> None:
        market = self._market
        if isinstance(item, Working):
            if item.status is OrderStatus.OPEN:
                market.resting[item.s].append(item)
                market.count += 1
        elif isinstance(item, Cancel):
            w = self._by_id.get(item.id)
            if w is not None and w.status is OrderStatus.OPEN:
                w.status = OrderStatus.CANCELLED
        else:
            decided_S = ~np.isnan(item)
            market.target_S[decided_S] = np.where(np.isinf(item), np.nan, item)[decided_S]
            market.count += int(decided_S.sum())
        if len(self._by_id) > 64:
            self._by_id = {name: w for name, w in self._by_id.items() if w.status is OrderStatus.OPEN}

    def _result(self) -> EventResult:
        books, prices = self._books, self.source.prices
        rows = len(self._time_us)
        changes = np.array([row for row, _ in books.cash_changes])
        cash_T = np.array([cash for _, cash in books.cash_changes])[
            np.searchsorted(changes, np.arange(rows), side="right") - 1
        ]
        charged = np.zeros((3, rows))
        for row, *paid in books.charges:
            charged[:, row] = paid
        called_T = np.zeros(rows, dtype=np.bool_)
        called_T[np.array(self._calls, dtype=np.int64)] = True
        fills = books.fills
        orders = OrderLog(
            fills_T=np.bincount(np.array([fill.row for fill in fills], dtype=np.int64), minlength=rows),
            symbol_N=np.array(books.columns, dtype=np.int32),
            units_N=np.array([fill.units for fill in fills], dtype=np.float64),
        )
        units_TS = np.zeros(prices.close_TS.shape)
        np.add.at(units_TS, (orders.bar_N, orders.symbol_N), orders.units_N)
        units_TS = np.cumsum(units_TS, axis=0, out=units_TS)
        return EventResult(
            prices=prices,
            terms=books.taker,
            initial_capital=self.config.initial_capital,
            equity_T=cash_T + np.einsum("ts,ts->t", units_TS, prices.marks_TS),
            cash_T=cash_T,
            borrow_T=charged[0],
            interest_T=charged[1],
            funding_T=charged[2],
            margin_call_T=called_T,
            stops_T=np.zeros(rows, dtype=np.int64),
            halted_T=np.zeros(rows, dtype=np.int64),
            orders=orders,
            log=FillLog(
                order_N=tuple(fill.order for fill in fills),
                market_N=np.array(books.markets, dtype=np.float64),
                price_N=np.array([fill.price for fill in fills], dtype=np.float64),
                commission_N=np.array([fill.commission for fill in fills], dtype=np.float64),
                maker_N=np.array([fill.maker for fill in fills], dtype=np.bool_),
            ),
            working=tuple(self._working),
        )


def _refuse(source: EventSource, config: BacktestConfig, execution: ExecutionConfig) -> None:
    if config.risk.any:
        raise BacktestError(
            "backtest.risk has rules, and the event engine leaves them to the strategy: write them into manage_risk, or give "
            "target weights to run_backtest."
        )
    if isinstance(source, BarEvents):
        if execution.max_volume_share is not None:
            source.require_volume()
    elif config.costs.impact_bps:
        raise BacktestError(
            f"costs.impact_bps={config.costs.impact_bps} is measured by the volume of bars, and there are none; set it to 0 with "
            "trades and books."
        )
