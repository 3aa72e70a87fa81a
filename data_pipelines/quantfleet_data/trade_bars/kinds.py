"""The kinds of bars: by the clock, by a sum, by imbalance.

Source: Lopez de Prado (2018), Advances in Financial Machine Learning, chapter 2.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from quantfleet.contracts import Timeframe
from quantfleet.errors import ConfigError
from quantfleet_data.sources.clock import grid_seconds
from quantfleet_data.trade_bars.base import BarRule, Measure, TradeBarsConfig, positive, register_trade_bars

__all__ = [
    "DollarBars",
    "DollarImbalanceBars",
    "TickBars",
    "TickImbalanceBars",
    "TimeBars",
    "VolumeBars",
    "VolumeImbalanceBars",
]

_MONDAY_US = 4 * 86_400 * 1_000_000  # 1970-01-05, the first Monday


@register_trade_bars("time")
@dataclass(frozen=True, kw_only=True, slots=True)
class TimeBars(TradeBarsConfig):
    """Bars of the clock, as exchanges publish them; a stretch without trades has no bar, none is invented.

    `timestamp` is the open of the interval [t, t + timeframe), `known_at` its end. Weeks begin on Monday, all other
    lengths divide a day and count from 00:00 UTC.
    """

    timeframe: str = "1m"

    def __post_init__(self) -> None:
        timeframe = Timeframe(self.timeframe)
        if grid_seconds(timeframe) is None and self.timeframe != "1w":
            raise ConfigError(
                f"trade bars time: timeframe={self.timeframe!r} neither divides a day nor is '1w', so there is no agreed moment at "
                "which such bars open. Choose one that does."
            )

    def bar_rule(self) -> BarRule:
        return BarRule(
            rule="time",
            step_us=Timeframe(self.timeframe).seconds * 1_000_000,
            origin_us=_MONDAY_US if self.timeframe == "1w" else 0,
        )


@register_trade_bars("tick")
@dataclass(frozen=True, kw_only=True, slots=True)
class TickBars(TradeBarsConfig):
    """A bar every so many trades."""

    trades: int = 1000

    def __post_init__(self) -> None:
        positive(self.kind, trades=self.trades)

    def bar_rule(self) -> BarRule:
        return BarRule(rule="sum", measure="trades", threshold=float(self.trades))


@register_trade_bars("volume")
@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeBars(TradeBarsConfig):
    """A bar whenever the amount traded reaches a threshold. The trade that reaches it belongs to the bar, whole."""

    amount: float
    """In the base asset."""

    def __post_init__(self) -> None:
        positive(self.kind, amount=self.amount)

    def bar_rule(self) -> BarRule:
        return BarRule(rule="sum", measure="amount", threshold=self.amount)


@register_trade_bars("dollar")
@dataclass(frozen=True, kw_only=True, slots=True)
class DollarBars(TradeBarsConfig):
    """A bar whenever the value traded (price times amount) reaches a threshold."""

    value: float
    """In the quote asset."""

    def __post_init__(self) -> None:
        positive(self.kind, value=self.value)

    def bar_rule(self) -> BarRule:
        return BarRule(rule="sum", measure="value", threshold=self.value)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImbalanceBars(TradeBarsConfig):
    """A bar whenever signed trading leans to one side by more than is expected.

    With b_t = +1 or -1 and v_t what a trade measures (1, amount or value), the bar ends with the first trade at which
    |sum of b_t v_t| >= E[T] |E[b v]|. Both expectations come from before the bar and stand still while it is open: E[T]
    is the exponential average of the lengths of earlier bars, E[b v] of the signed trades up to the bar's first. The
    first bar has `expected_trades` trades and serves to learn.

    Left to itself this rule is known to run away: short bars lower E[T], which makes shorter bars, and when buying and
    selling balance, E[b v] nears 0 and every trade becomes a bar. Three guards, all can be opened: the threshold is never
    below sqrt(E[T]) times the root mean square of v, the lean that E[T] trades of random sign show; E[T] stays in
    `expected_trades_range`, at whose lower end it comes to rest where signs come in long runs, as they do in most
    markets; and `bars_span: null` keeps E[T] where it began.
    Source: Lopez de Prado (2018), 2.3.2.1 (tick) and 2.3.2.2 (volume, dollar); the guards are ours.
    """

    measure: ClassVar[Measure]

    signs: Literal["tick_rule", "side"] = "tick_rule"
    """tick_rule: the sign of the last price change, carried on through equal prices (and 0 before the first change).
    side: the taker's side as the market reports it; every trade must have one."""
    expected_trades: int = 1000
    """E[T] before the first bar."""
    bars_span: int | None = 20
    """Span of the average of bar lengths, in bars: the newest weighs 2 / (span + 1). None: E[T] is `expected_trades`."""
    trades_span: int = 10_000
    """Span of the average of signed trades, in trades."""
    expected_trades_range: tuple[float, float] | None = None
    """Bounds on E[T]; None: a tenth of `expected_trades` to ten times it."""
    chance_floor: bool = True
    """False: the book's threshold alone."""

    def __post_init__(self) -> None:
        positive(
            self.kind,
            expected_trades=self.expected_trades,
            bars_span=1 if self.bars_span is None else self.bars_span,
            trades_span=self.trades_span,
        )
        if self.expected_trades_range is not None:
            low, high = self.expected_trades_range
            if not (0 < low <= self.expected_trades <= high) or math.isnan(high):
                raise ConfigError(
                    f"trade bars {self.kind}: expected_trades_range={low, high} must enclose expected_trades="
                    f"{self.expected_trades} and begin above 0."
                )

    def bar_rule(self) -> BarRule:
        return BarRule(
            rule="imbalance",
            measure=self.measure,
            by_side=self.signs == "side",
            expected_trades=float(self.expected_trades),
            expected_trades_range=self.expected_trades_range
            or (self.expected_trades / 10, self.expected_trades * 10.0),
            bars_alpha=0.0 if self.bars_span is None else 2.0 / (self.bars_span + 1),
            trades_alpha=2.0 / (self.trades_span + 1),
            chance_floor=self.chance_floor,
        )


@register_trade_bars("tick_imbalance")
@dataclass(frozen=True, kw_only=True, slots=True)
class TickImbalanceBars(ImbalanceBars):
    """A bar when more trades than expected have one sign."""

    measure: ClassVar[Measure] = "trades"


@register_trade_bars("volume_imbalance")
@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeImbalanceBars(ImbalanceBars):
    """A bar when the signed amount leans more than expected."""

    measure: ClassVar[Measure] = "amount"


@register_trade_bars("dollar_imbalance")
@dataclass(frozen=True, kw_only=True, slots=True)
class DollarImbalanceBars(ImbalanceBars):
    """A bar when the signed value leans more than expected."""

    measure: ClassVar[Measure] = "value"
