"""A slow, readable account and backtest in plain Python: one symbol, one number at a time.

The ledger and the vectorised engine are compared with it order by order. It states the rules in its own words: the
limit on openings is written as "gross exposure after the fills is at most the equity after them", not as free cash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DUST = 1e-9


@dataclass(frozen=True)
class ReferenceFill:
    symbol: str
    units: float
    price: float
    commission: float
    slippage: float


@dataclass
class ReferenceAccount:
    """Cash and units by symbol. `slippage` and `commission` are fractions."""

    cash: float
    commission: float
    slippage: float
    units: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)

    def mark(self, prices: Mapping[str, float]) -> None:
        self.last.update(prices)

    def equity(self) -> float:
        return self.cash + sum(units * self.last[symbol] for symbol, units in self.units.items() if units != 0.0)

    def gross(self) -> float:
        return sum(abs(units) * self.last[symbol] for symbol, units in self.units.items() if units != 0.0)

    def fill(self, orders: Mapping[str, float], prices: Mapping[str, float]) -> list[ReferenceFill]:
        """Fill orders (signed units) of symbols that have a price: first what reduces positions, then what opens."""
        self.mark(prices)
        noise = DUST * max(self.equity(), 0.0)
        reducing: dict[str, float] = {}
        opening: dict[str, float] = {}
        for symbol, order in orders.items():
            held = self.units.get(symbol, 0.0)
            closes = order == -held
            if symbol not in prices or order == 0.0 or (abs(order) * prices[symbol] < noise and not closes):
                continue
            against = held * order < 0.0
            reduced = math.copysign(min(abs(order), abs(held)), order) if against else 0.0
            reducing[symbol], opening[symbol] = reduced, order - reduced
        traded = dict.fromkeys(reducing, 0.0)
        for symbol, units in reducing.items():
            self._book(symbol, units, prices[symbol])
            traded[symbol] += units
        value = sum(abs(units) * prices[symbol] for symbol, units in opening.items())
        lost = sum(sum(self._costs(units, prices[symbol])) for symbol, units in opening.items())
        room = self.equity() - self.gross()
        share = max(0.0, min(1.0, room / (value + lost))) if value > 0.0 else 0.0
        if share * (value + lost) >= noise:
            for symbol, units in opening.items():
                self._book(symbol, share * units, prices[symbol])
                traded[symbol] += share * units
        return [
            ReferenceFill(symbol, units, self._price(units, prices[symbol]), *self._costs(units, prices[symbol]))
            for symbol, units in traded.items()
            if units != 0.0
        ]

    def _price(self, units: float, market: float) -> float:
        return market * (1.0 + self.slippage) if units > 0.0 else market * (1.0 - self.slippage)

    def _costs(self, units: float, market: float) -> tuple[float, float]:
        """Commission and slippage of a fill."""
        return abs(units) * self._price(units, market) * self.commission, abs(units) * market * self.slippage

    def _book(self, symbol: str, units: float, market: float) -> None:
        self.cash -= units * self._price(units, market)
        self.cash -= self._costs(units, market)[0]
        self.units[symbol] = self.units.get(symbol, 0.0) + units


@dataclass
class ReferenceHistory:
    equity: list[float] = field(default_factory=list)
    cash: list[float] = field(default_factory=list)
    fills: list[tuple[int, ReferenceFill]] = field(default_factory=list)


def reference_backtest(
    symbols: Sequence[str],
    opens: Sequence[Sequence[float]],
    closes: Sequence[Sequence[float]],
    weights: Sequence[Sequence[float]],
    *,
    capital: float,
    commission: float,
    slippage: float,
    band: float = 0.0,
    borrow_per_bar: float = 0.0,
) -> ReferenceHistory:
    """Decide at each close, fill at the next open; NaN prices are missing bars, NaN weights decide nothing."""
    account = ReferenceAccount(capital, commission, slippage)
    waiting: dict[str, float] = {}
    history = ReferenceHistory()
    ruined = False
    for t in range(len(closes)):
        for symbol, units in account.units.items():
            if units < 0.0:
                account.cash -= -units * account.last[symbol] * borrow_per_bar
        open_now = {s: p for s, p in zip(symbols, opens[t], strict=True) if not math.isnan(p)}
        orders = {s: target - account.units.get(s, 0.0) for s, target in waiting.items() if s in open_now}
        if orders:
            history.fills += [(t, fill) for fill in account.fill(orders, open_now)]
        for symbol in open_now:
            waiting.pop(symbol, None)
        account.mark({s: p for s, p in zip(symbols, closes[t], strict=True) if not math.isnan(p)})
        equity = account.equity()
        history.equity.append(equity)
        history.cash.append(account.cash)
        ruined = ruined or equity <= 0.0
        if ruined:
            waiting = {s: 0.0 for s, units in account.units.items() if units != 0.0}
            continue
        for symbol, weight in zip(symbols, weights[t], strict=True):
            if math.isnan(weight):
                continue
            if symbol not in account.last:
                continue  # a weight of 0 for a symbol without a price: nothing to do
            now = account.units.get(symbol, 0.0) * account.last[symbol] / equity
            if weight != 0.0 and abs(weight - now) < band:
                waiting.pop(symbol, None)
            else:
                waiting[symbol] = weight * equity / account.last[symbol]
    return history
