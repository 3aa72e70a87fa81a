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
        self.rows = 0
        """How many were taken."""
        self._time_us: list[int] = []
        self.known_us: list[int] = []
        """When each row is known: the end of the bar, the time of the events."""
        self.books = Books(source.prices, config)
        self.market = Market(self.books, execution)
        self.working: list[Working] = []
        """Every order, by number."""
        self.by_id: dict[str, Working] = {}
        self.arriving: deque[tuple[int, Working | Cancel | Array]] = deque()
        self.ruined = False
        self.calls: list[int] = []
        self.view = MarketView(self)
        self.see_rows()

    @property
    def units_S(self) -> Array:
        """Positions."""
        return self.books.units_S

    @property
    def cash(self) -> float:
        """Money that is not in positions."""
        return self.books.cash

    def equity_at(self, t: int) -> float:
        """Cash plus positions at the last known prices of a row."""
        if not self.books.held:
            return self.books.cash
        return self.books.see(self.source.prices.marks_TS[t])

    def open_orders(self) -> tuple[Working, ...]:
        """Orders on their way or waiting."""
        return tuple(w for w in self.by_id.values() if w.status is OrderStatus.OPEN)

    def fills_of(self, t: int) -> tuple[Fill, ...]:
        """Fills of the row that just ended."""
        fills = self.books.fills
        first = len(fills)
        while first and fills[first - 1].row == t:
            first -= 1
        return tuple(fills[first:])

    def see_rows(self) -> None:
        """Learn of rows that the source has got since it was last asked."""
        new_T = self.source.prices.time_T[len(self._time_us) :].astype("datetime64[us]").astype(np.int64)
        self._time_us += new_T.tolist()
        self.known_us += (new_T + self.source.known_after_us).tolist()
        self.view.look_at(self.source)

    def run(self) -> EventResult:
        """Take every row in turn."""
        self.advance()
        return self.result()

    def advance(self) -> None:
        """Take every row that was not taken yet. After an error of the strategy the engine is of no use any more."""
        books, market, view, arriving = self.books, self.market, self.view, self.arriving
        marks_TS, time_us = self.source.prices.marks_TS, self._time_us
        match = self._matcher()
        decide = self.strategy.generate_signals
        accrues, watched = books.accrues, books.watched
        manages = type(self.strategy).manage_risk is not Strategy.manage_risk
        for t in range(self.rows, len(time_us)):
            now_us = time_us[t]
            if accrues and (books.held or books.cash < 0.0):
                books.accrue(t, now_us - time_us[max(t - 1, 0)])
            while arriving and arriving[0][0] <= now_us:
                self._arrive(arriving.popleft()[1])
            if market.count:
                market.expire(now_us // _DAY_US)
                match(t)
            closing = False
            if watched and (books.held or books.cash <= 0.0 or self.ruined):
                closing = self._call(t, books.see(marks_TS[t]))
            view._t = t
            decision = decide(view)
            if decision is not None:
                self._take(decision, t, closing)
            if manages:
                decision = self.strategy.manage_risk(view)
                if decision is not None:
                    self._take(decision, t, closing)
        self.rows = len(time_us)

    def _matcher(self) -> Callable[[int], None]:
        source, market = self.source, self.market
        if isinstance(source, BarEvents):
            return lambda t: market.match_bar(t, source)
        if isinstance(source, QuoteEvents):
            return lambda t: market.match_quotes(t, source)
        raise BacktestError(f"events of {type(source).__name__} cannot be matched; derive it from QuoteEvents.")

    def _call(self, t: int, equity: float) -> bool:
        """Close everything at the next prices where the equity is too low; returns whether that is so."""
        from quantfleet.backtest import targets

        called = self.books.called(equity)
        self.ruined = self.ruined or equity <= 0.0
        if called:
            self.calls.append(t)
        if not (called or self.ruined):
            return False
        for w in self.by_id.values():
            w.status = OrderStatus.CANCELLED if w.status is OrderStatus.OPEN else w.status
        self.by_id.clear()
        self.arriving.clear()
        self.market.cancel_all()
        targets.close_all(self.books.units_S, self.market.target_S)
        self.market.tidy()
        return True

    def _take(self, decision: Decision, t: int, closing: bool) -> None:
        """Check what a strategy answered and send it; while all is being closed it is checked and dropped."""
        arrives_us = self.known_us[t] + self.execution.latency_us
        if isinstance(decision, Order | Cancel):
            decision = (decision,)
        if isinstance(decision, np.ndarray | Mapping):
            targets_S = self._targets(decision, t)
            if not closing:
                self.arriving.append((arrives_us, targets_S))
            return
        if not isinstance(decision, Sequence):
            raise BacktestError(
                f"the strategy answered {decision!r} at row {t}; give orders, cancellations, target weights, or None.",
                row=t,
            )
        for wish in decision:
            if isinstance(wish, Cancel):
                self.arriving.append((arrives_us, wish))
            elif isinstance(wish, Order):
                w = self._accepted(wish, t, arrives_us)
                if closing:
                    w.status = OrderStatus.CANCELLED
                else:
                    self.by_id[w.id] = w
                    self.arriving.append((arrives_us, w))
            else:
                raise BacktestError(
                    f"the strategy answered {wish!r} among its orders at row {t}; give Order or Cancel. Target weights are an "
                    "array or a mapping.",
                    row=t,
                )

    def _accepted(self, order: Order, t: int, arrives_us: int) -> Working:
        """Number an order and size it with what is known at a row."""
        s = self.view.number(order.symbol)
        mark = self.view.price(s)
        if mark == 0.0:
            raise BacktestError(
                f"an order of {order.symbol} at row {t}, before its first price; wait until it has one.", row=t
            )
        units = order.units
        if units is None:
            units = float(order.weight or 0.0) * self.equity_at(t) / mark
        name = str(len(self.working) + 1) if order.id is None else order.id
        if name in self.by_id and self.by_id[name].status is OrderStatus.OPEN:
            raise BacktestError(f"there is an open order {name!r} already; give each an id of its own.", row=t)
        w = Working(order, number=len(self.working), name=name, s=s, units=units, decided_row=t, arrives_us=arrives_us)
        ticks_S = self.books.taker.tick_S
        if w.limit is not None and ticks_S.size:
            w.limit = on_the_safe_tick(units > 0.0, w.limit, float(ticks_S[s]))
        self.working.append(w)
        return w

    def _targets(self, decision: Mapping[str, float] | Array, t: int) -> Array:
        """Check target weights and turn them into units at the prices of a row; NaN where nothing is decided.

        What is decided and yet not traded, being within the band, is infinite: it only takes back what still waits.
        """
        from quantfleet.backtest import targets

        books, prices = self.books, self.source.prices
        width = len(prices.symbols)
        if isinstance(decision, Mapping):
            weight_S = np.full(width, np.nan)
            for name, weight in decision.items():
                weight_S[self.view.number(name)] = weight
        else:
            weight_S = np.array(decision, dtype=np.float64)
        if weight_S.shape != (width,):
            raise BacktestError(
                f"the strategy answered weights of shape {weight_S.shape} at row {t}; there are {width} symbols: ({width},).",
                row=t,
            )
        equity = books.see(prices.marks_TS[t])
        refusal = targets.find_refusal(weight_S, books.mark_S, books.taker.leverage, self.config.allow_short)
        if refusal:
            raise targets.refused_weights(type(self.strategy).__name__, prices, self.config, t, weight_S, refusal)
        target_S = np.full(width, np.nan)
        targets.size_targets(weight_S, equity, books.units_S, books.mark_S, self.config.rebalance_band, target_S)
        target_S[np.isnan(target_S) & ~np.isnan(weight_S)] = np.inf
        return target_S

    def _arrive(self, item: Working | Cancel | Array) -> None:
        market = self.market
        if isinstance(item, Working):
            if item.status is OrderStatus.OPEN:
                market.resting[item.s].append(item)
                market.count += 1
        elif isinstance(item, Cancel):
            w = self.by_id.get(item.id)
            if w is not None and w.status is OrderStatus.OPEN:
                w.status = OrderStatus.CANCELLED
        else:
            decided_S = ~np.isnan(item)
            market.target_S[decided_S] = np.where(np.isinf(item), np.nan, item)[decided_S]
            market.count += int(decided_S.sum())
        if len(self.by_id) > 64:
            self.by_id = {name: w for name, w in self.by_id.items() if w.status is OrderStatus.OPEN}

    def result(self) -> EventResult:
        """The books of all rows taken so far."""
        books, prices = self.books, self.source.panel()
        rows = self.rows
        changes = np.array([row for row, _ in books.cash_changes])
        cash_T = np.array([cash for _, cash in books.cash_changes])[
            np.searchsorted(changes, np.arange(rows), side="right") - 1
        ]
        charged = np.zeros((3, rows))
        for row, *paid in books.charges:
            charged[:, row] = paid
        called_T = np.zeros(rows, dtype=np.bool_)
        called_T[np.array(self.calls, dtype=np.int64)] = True
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
            working=tuple(self.working),
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
