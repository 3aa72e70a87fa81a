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
    """Cash and units by symbol. `slippage`, `commission` and `impact` are fractions; steps of 0 are none."""

    cash: float
    commission: float
    slippage: float
    impact: float = 0.0
    leverage: float = 1.0
    lot: float = 0.0
    tick: float = 0.0
    units: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)

    def mark(self, prices: Mapping[str, float]) -> None:
        self.last.update(prices)

    def equity(self) -> float:
        return self.cash + sum(units * self.last[symbol] for symbol, units in self.units.items() if units != 0.0)

    def gross(self) -> float:
        return sum(abs(units) * self.last[symbol] for symbol, units in self.units.items() if units != 0.0)

    def fill(
        self,
        orders: Mapping[str, float],
        prices: Mapping[str, float],
        volumes: Mapping[str, float] | None = None,
    ) -> list[ReferenceFill]:
        """Fill orders (signed units) of symbols that have a price: first what reduces positions, then what opens.

        Room for openings is reckoned at the prices of the whole orders; what is traded in the end pays its own impact.
        """
        self.mark(prices)
        noise = DUST * max(self.equity(), 0.0)
        volume = volumes or {}
        planned = ReferenceAccount(self.cash, self.commission, self.slippage, units=dict(self.units), last=self.last)
        price: dict[str, float] = {}
        reducing: dict[str, float] = {}
        opening: dict[str, float] = {}
        for symbol, order in orders.items():
            held = self.units.get(symbol, 0.0)
            closes = order == -held
            if symbol not in prices or order == 0.0 or (abs(order) * prices[symbol] < noise and not closes):
                continue
            against = held * order < 0.0
            reduced = math.copysign(min(abs(order), abs(held)), order) if against else 0.0
            opening[symbol] = order - reduced
            reducing[symbol] = reduced if reduced == -held else self._lots(reduced)
            price[symbol] = self._price(order, prices[symbol], volume.get(symbol))
            planned._book(symbol, reducing[symbol], price[symbol])
        value = sum(abs(units) * prices[symbol] for symbol, units in opening.items())
        lost = sum(
            abs(units) * (abs(price[symbol] - prices[symbol]) + price[symbol] * self.commission)
            for symbol, units in opening.items()
        )
        needed = value + self.leverage * lost
        room = self.leverage * planned.equity() - planned.gross()
        share = max(0.0, min(1.0, room / needed)) if value > 0.0 else 0.0
        share = share if share * needed >= noise else 0.0
        fills = []
        for symbol, reduced in reducing.items():
            traded = reduced + self._lots(share * opening[symbol])
            if traded != 0.0:
                paid = self._price(traded, prices[symbol], volume.get(symbol))
                fee, slipped = abs(traded) * paid * self.commission, abs(traded * (paid - prices[symbol]))
                self._book(symbol, traded, paid)
                fills.append(ReferenceFill(symbol, traded, paid, fee, slipped))
        return fills

    def _lots(self, units: float) -> float:
        return math.copysign(math.floor(abs(units) / self.lot + 1e-9) * self.lot, units) if self.lot else units

    def _price(self, units: float, market: float, volume: float | None) -> float:
        away = self.slippage + (self.impact * math.sqrt(abs(units) / volume) if volume else 0.0)
        price = market * (1.0 + away) if units > 0.0 else market * (1.0 - min(away, 1.0))
        if not self.tick:
            return price
        steps = math.ceil(price / self.tick - 1e-9) if units > 0.0 else math.floor(price / self.tick + 1e-9)
        return max(steps, 1) * self.tick

    def _book(self, symbol: str, units: float, price: float) -> None:
        self.cash -= units * price + abs(units) * price * self.commission
        self.units[symbol] = self.units.get(symbol, 0.0) + units


@dataclass
class ReferenceHistory:
    equity: list[float] = field(default_factory=list)
    cash: list[float] = field(default_factory=list)
    fills: list[tuple[int, ReferenceFill]] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)


def reference_backtest(
    symbols: Sequence[str],
    opens: Sequence[Sequence[float]],
    closes: Sequence[Sequence[float]],
    weights: Sequence[Sequence[float]],
    *,
    account: ReferenceAccount,
    band: float = 0.0,
    borrow_per_bar: float = 0.0,
    interest_per_bar: float = 0.0,
    maintenance: float = 0.0,
    funding: Sequence[Sequence[float]] | None = None,
    volumes: Sequence[Sequence[float]] | None = None,
) -> ReferenceHistory:
    """Decide at each close, fill at the next open; NaN prices are missing bars, NaN weights decide nothing."""
    waiting: dict[str, float] = {}
    history = ReferenceHistory()
    ruined = False
    for t in range(len(closes)):
        if t > 0:
            charges = max(-account.cash, 0.0) * interest_per_bar
            for s, symbol in enumerate(symbols):
                value = account.units.get(symbol, 0.0) * account.last.get(symbol, 0.0)
                charges += max(-value, 0.0) * borrow_per_bar + (value * funding[t][s] if funding else 0.0)
            account.cash -= charges
        open_now = {s: p for s, p in zip(symbols, opens[t], strict=True) if not math.isnan(p)}
        before = dict(zip(symbols, volumes[t - 1], strict=True)) if volumes and t else {}
        can_trade = {s: p for s, p in open_now.items() if not volumes or before.get(s, 0.0) > 0.0}
        orders = {s: target - account.units.get(s, 0.0) for s, target in waiting.items() if s in can_trade}
        if waiting:
            account.mark(open_now)
            history.fills += [(t, fill) for fill in account.fill(orders, can_trade, before)]
        for symbol in can_trade:
            waiting.pop(symbol, None)
        account.mark({s: p for s, p in zip(symbols, closes[t], strict=True) if not math.isnan(p)})
        equity = account.equity()
        history.equity.append(equity)
        history.cash.append(account.cash)
        ruined = ruined or equity <= 0.0
        called = equity <= 0.0 or equity < maintenance * account.gross()
        history.calls += [t] if called else []
        if ruined or called:
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
