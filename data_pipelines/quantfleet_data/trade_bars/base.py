"""The trade-bar contract: a rule that says after which trade a bar is over."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Literal

from quantfleet.contracts import BAR_COLUMNS
from quantfleet.errors import ConfigError
from quantfleet.plugins import PluginConfig, PluginRegistry

__all__ = [
    "TRADE_BARS",
    "TRADE_BAR_COLUMNS",
    "BarRule",
    "Measure",
    "TradeBarsConfig",
    "positive",
    "register_trade_bars",
]

Measure = Literal["trades", "amount", "value"]
"""What a trade adds: 1, its amount in the base asset, or price times amount in the quote asset."""

TRADE_BAR_COLUMNS = (*BAR_COLUMNS, "known_at", "trades", "value", "buy_volume", "number")
"""Bars made of trades: BAR_COLUMNS and

known_at: when the bar is over and may be used, UTC.
trades: how many trades it holds.
value: sum of price times amount, in the quote asset; value / volume is its volume-weighted average price.
buy_volume: the part of the volume that buyers took; null where a trade of the bar does not say who took.
number: running number of the symbol's bars, from 0; with the symbol the key of event bars, since two of them can open
    in the same microsecond.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class BarRule:
    """A config as the compiled loop reads it."""

    rule: Literal["time", "sum", "imbalance"]
    measure: Measure = "trades"
    step_us: int = 0
    """Time rule: length of a bar, microseconds."""
    origin_us: int = 0
    """Time rule: a moment at which a bar opens, microseconds since 1970 UTC."""
    threshold: float = 0.0
    """Sum rule: the bar ends with the trade that makes its sum reach this."""
    by_side: bool = False
    """Imbalance rule: signs are the taker's sides, not the tick rule."""
    expected_trades: float = 0.0
    expected_trades_range: tuple[float, float] = field(default=(0.0, math.inf))
    bars_alpha: float = 0.0
    trades_alpha: float = 0.0
    chance_floor: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TradeBarsConfig(PluginConfig):
    """Base config of every kind of bars made from trades."""

    @abstractmethod
    def bar_rule(self) -> BarRule:
        """What the compiled loop needs."""


def positive(kind: str, **values: float) -> None:
    """Raises: ConfigError: one of the values is not a positive finite number."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"trade bars {kind}: {name}={value} must be a positive number.")


TRADE_BARS: PluginRegistry[TradeBarsConfig] = PluginRegistry("trade bar", TradeBarsConfig, command="trade-bars")
register_trade_bars = TRADE_BARS.register
