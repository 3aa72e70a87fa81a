"""Which orders the market lets trade, in which order, and at what price.

Orders of one symbol go in the order in which they were given. Symbols go in step: the first chance of each is booked at once, then
the second of each, so that the order of symbols changes nothing, also when the money runs short.

Bars. Market orders, stops that the open has jumped over and limits that the open is better than are filled at the open. Then,
within the range, stops at their price; then limits at theirs: of a stop and a target in one bar the worse is taken. A limit that
the open is better than when it arrives crosses the spread: it pays the taker's price and fee, unless that is worse than the limit.
Trades and books. An order sees one event after the other. A taker takes what there is at the event's prices; a limit that does not
cross when it arrives waits, and is filled at its own price.

Shapes: S symbols.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from quantfleet.backtest.events.base import ExecutionConfig
from quantfleet.backtest.events.books import Books
from quantfleet.backtest.events.orders import (
    Chance,
    OrderStatus,
    Working,
    limit_allows,
    reduced,
    stop_touched,
    whole,
)
from quantfleet.backtest.events.sources import BarEvents, Quote, QuoteEvents
from quantfleet.ledger.terms import FREE_UNITS

__all__ = ["Market"]

Array = npt.NDArray[np.float64]
Chances = Iterator[Chance]

_SHORT_OF = 1.0 - 1e-9
"""Less than this share of what was allowed traded: money or lots were short, and waiting would not help."""


class Market:
    """Orders in the market, and target weights still to be reached. Not thread-safe; owned by its engine."""

    def __init__(self, books: Books, execution: ExecutionConfig) -> None:
        width = len(books.prices.symbols)
        self.books = books
        self.execution = execution
        self.resting: list[list[Working]] = [[] for _ in range(width)]
        """Orders of each symbol that have arrived, in the order given."""
        self.target_S: Array = np.full(width, np.nan)
        """Units to be reached by market orders; NaN for none."""
        self.count = 0
        """How many orders and targets there are, at most: 0 means that no price matters."""
        self.share = execution.max_volume_share
        self._beyond = execution.limits_need == "through"
        self._lot_S = books.taker.lot_S.tolist() or [0.0] * width
        self._impact = books.taker.impact > 0.0
        self._budget_S = [math.inf] * width
        self._volume_S = FREE_UNITS

    def tidy(self) -> None:
        """Forget orders that are done."""
        self.resting = [[w for w in own if w.status is OrderStatus.OPEN] for own in self.resting]
        self.count = sum(map(len, self.resting)) + int(np.count_nonzero(self.target_S == self.target_S))

    def cancel_all(self) -> None:
        """Take every order back, not the targets."""
        for own in self.resting:
            for w in own:
                w.status = OrderStatus.CANCELLED
        self.tidy()

    def expire(self, day: int) -> None:
        """Cancel orders of an earlier day, and note the day of new ones."""
        for own in self.resting:
            for w in own:
                if w.day < 0:
                    w.day = day
                elif w.order.time_in_force == "day" and w.day != day:
                    w.status = OrderStatus.CANCELLED

    def match_bar(self, t: int, source: BarEvents) -> None:
        """Let a bar trade."""
        prices, books = source.prices, self.books
        opens, targets = prices.open_TS[t].tolist(), self.target_S.tolist()
        if t > 0 and any(map(math.isnan, opens)):
            books.see(prices.marks_TS[t - 1])
        books.see(prices.open_TS[t])
        if self._impact and prices.volume_TS is not None:
            self._volume_S = prices.volume_TS[max(t - 1, 0)]
        if self.share is not None and prices.volume_TS is not None:
            self._budget_S = (self.share * prices.volume_TS[t]).tolist()
        there = [
            s for s, own in enumerate(self.resting) if not math.isnan(opens[s]) and (own or not math.isnan(targets[s]))
        ]
        self._in_step(t, [self._at_open(s, opens[s]) for s in there])
        self._drop_unfilled(there)
        waiting = {s: own for s in there if (own := [w for w in self.resting[s] if w.status is OrderStatus.OPEN])}
        if waiting:
            lows, highs = source.low_TS[t].tolist(), source.high_TS[t].tolist()
            limits = {s: [w for w in own if w.limit is not None and w.triggered] for s, own in waiting.items()}
            self._in_step(t, [self._at_stops(s, lows[s], highs[s]) for s in waiting])
            self._in_step(t, [self._at_limits(own, lows[s], highs[s]) for s, own in limits.items() if own])
        self.tidy()

    def match_quotes(self, t: int, source: QuoteEvents) -> None:
        """Let the events of a time trade, one after the other."""
        for quotes in source.rounds(t, self.share):
            for quote in quotes:
                self.books.mark_S[quote.s] = quote.mark
            self._in_step(t, [self._at_quote(quote) for quote in quotes])
            self._drop_unfilled([quote.s for quote in quotes])
        self.tidy()

    def _in_step(self, t: int, waiting: list[Chances]) -> None:
        """Book the next chance of every symbol at once, until there is none."""
        while waiting:
            drawn = [(own, chance) for own in waiting if (chance := next(own, None)) is not None]
            for maker in (False, True):
                chances = [chance for _, chance in drawn if chance.maker is maker]
                if chances:
                    self.books.book(t, chances, maker, self._volume_S)
                    for chance in chances:
                        self._settle(chance)
            waiting = [own for own, _ in drawn]

    def _settle(self, chance: Chance) -> None:
        """Write into an order what was traded of it."""
        w, traded = chance.working, chance.traded
        self._budget_S[chance.s] -= abs(traded)
        short = abs(traded) < abs(chance.units) * _SHORT_OF
        if w is None:
            missing = self.target_S[chance.s] - self.books.units_S[chance.s]
            if short or abs(missing) <= (1.0 - _SHORT_OF) * abs(chance.units):
                self.target_S[chance.s] = np.nan
            return
        w.filled += traded
        if abs(w.remaining) <= (1.0 - _SHORT_OF) * abs(w.units):
            w.status = OrderStatus.FILLED
        elif short or (self._only_reduces(w) and self.books.units_S[w.s] == 0.0):
            w.status = OrderStatus.CANCELLED
        if traded != 0.0 and w.order.group is not None:
            for own in self.resting:
                for other in own:
                    if other is not w and other.order.group == w.order.group and other.status is OrderStatus.OPEN:
                        other.status = OrderStatus.CANCELLED

    def _drop_unfilled(self, symbols: list[int]) -> None:
        """After a first price: cancel what will not wait."""
        for s in symbols:
            for w in self.resting[s]:
                w.fresh = False
                if w.order.time_in_force == "ioc" and w.status is OrderStatus.OPEN:
                    w.status = OrderStatus.CANCELLED

    def _allowed(self, s: int, units: float, most: float) -> float:
        """Units of an order that a volume lets trade, in whole lots."""
        if abs(units) <= most:
            return units
        return math.copysign(whole(max(most, 0.0), self._lot_S[s]), units)

    def _only_reduces(self, w: Working) -> bool:
        return w.order.reduce_only or (w.units < 0.0 and not self.books.config.allow_short)

    def _wanted(self, w: Working) -> float:
        """Units that an order can ask for now; one that has nothing to reduce is cancelled, unless it was told to wait for it."""
        if not self._only_reduces(w):
            return w.remaining
        part = reduced(w.remaining, float(self.books.units_S[w.s]))
        if part == 0.0 and not (w.order.reduce_only and (w.limit is not None or w.stop is not None)):
            w.status = OrderStatus.CANCELLED
        return part

    def _sets_off(self, w: Working, price: float) -> bool:
        """Whether an order may trade: it has no stop, or its stop was touched, now or before, with something to trade."""
        if (
            not w.triggered
            and w.stop is not None
            and stop_touched(w.units > 0.0, w.stop, price)
            and self._wanted(w) != 0.0
        ):
            w.triggered = w.fresh = True
        return w.triggered and w.status is OrderStatus.OPEN

    def _at_open(self, s: int, price: float) -> Chances:
        halted = self._impact and not self._volume_S[s] > 0.0
        if not halted:
            yield from self._to_target(s, price, price, self._budget_S[s])
        for w in self.resting[s]:
            if w.status is not OrderStatus.OPEN:
                continue
            buy = w.units > 0.0
            if not self._sets_off(w, price):
                continue
            maker = w.limit is not None and not w.fresh
            if w.limit is not None and not limit_allows(buy, w.limit, price, beyond=maker and self._beyond):
                continue
            if halted and not maker:
                continue
            units = self._allowed(s, self._wanted(w), self._budget_S[s])
            if units != 0.0:
                yield self._crossing(w, units, price) if not maker else Chance(w, s, units, price, True)

    def _crossing(self, w: Working, units: float, price: float) -> Chance:
        """A taker's chance; a limit that slippage would break is filled at its own price, as if it had waited."""
        if w.limit is not None:
            volume = float(self._volume_S[w.s]) if self._impact else 1.0
            paid = self.books.taker_price(w.s, units, price, volume)
            if not limit_allows(units > 0.0, w.limit, paid):
                return Chance(w, w.s, units, w.limit, True)
        return Chance(w, w.s, units, price, False)

    def _at_stops(self, s: int, low: float, high: float) -> Chances:
        halted = self._impact and not self._volume_S[s] > 0.0
        for w in self.resting[s]:
            if w.status is not OrderStatus.OPEN or w.stop is None or w.triggered:
                continue
            touched = self._sets_off(w, high if w.units > 0.0 else low)
            if touched and w.limit is None and not halted:
                units = self._allowed(s, self._wanted(w), self._budget_S[s])
                if units != 0.0:
                    yield Chance(w, s, units, w.stop, False)

    def _at_limits(self, working: list[Working], low: float, high: float) -> Chances:
        for w in working:
            buy = w.units > 0.0
            if w.status is not OrderStatus.OPEN or w.limit is None:
                continue
            if limit_allows(buy, w.limit, low if buy else high, beyond=self._beyond):
                units = self._allowed(w.s, self._wanted(w), self._budget_S[w.s])
                if units != 0.0:
                    yield Chance(w, w.s, units, w.limit, True)

    def _to_target(self, s: int, bid: float, ask: float, most: float) -> Chances:
        if math.isnan(self.target_S[s]):
            return
        order = float(self.target_S[s] - self.books.units_S[s])
        if order == 0.0:
            self.target_S[s] = np.nan
            return
        units = self._allowed(s, order, most)
        if units != 0.0:
            yield Chance(None, s, units, ask if order > 0.0 else bid, False)

    def _at_quote(self, quote: Quote) -> Chances:
        s = quote.s
        yield from self._walk(quote, lambda: float(self.target_S[s] - self.books.units_S[s]), None)
        for w in self.resting[s]:
            if w.status is not OrderStatus.OPEN:
                continue
            if self._sets_off(w, (quote.asks if w.units > 0.0 else quote.bids)[0][0]):
                yield from self._walk(quote, lambda w=w: self._wanted(w), w)  # type: ignore[misc]

    def _walk(self, quote: Quote, wanted: Callable[[], float], w: Working | None) -> Chances:
        """Take level after level for an order, or for the target."""
        first = wanted()
        if math.isnan(first) or first == 0.0:
            if w is None:
                self.target_S[quote.s] = np.nan
            return
        buy = first > 0.0
        maker = w is not None and w.limit is not None and not w.fresh
        for level in quote.asks if buy else quote.bids:
            price, left = level
            if (
                w is not None
                and w.limit is not None
                and not limit_allows(buy, w.limit, price, beyond=maker and self._beyond)
            ):
                return
            units = wanted()
            if (
                math.isnan(units)
                or units == 0.0
                or (units > 0.0) != buy
                or (w is not None and w.status is not OrderStatus.OPEN)
            ):
                return
            units = self._allowed(quote.s, units, left)
            if units == 0.0:
                continue
            if w is None:
                chance = Chance(None, quote.s, units, price, False)
            elif maker and w.limit is not None:
                chance = Chance(w, quote.s, units, w.limit, True)
            else:
                chance = self._crossing(w, units, price)
            yield chance
            level[1] -= abs(chance.traded)
