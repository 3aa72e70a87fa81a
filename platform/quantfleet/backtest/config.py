"""What an engine is told besides prices and weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from quantfleet.errors import ConfigError
from quantfleet.ledger import CostModel, RiskRules

__all__ = ["BacktestConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BacktestConfig:
    """The account a strategy trades on. By default without leverage: positions never take more than the capital."""

    initial_capital: float = 1_000_000.0
    """Cash at the start, in the quote currency of the prices."""
    costs: CostModel = field(default_factory=CostModel)
    risk: RiskRules = field(default_factory=RiskRules)
    """Stops and limits; none by default."""
    allow_short: bool = False
    """Whether negative weights are allowed; a short takes as much capital as a long of its size."""
    leverage: float = 1.0
    """Most gross exposure (longs plus shorts) as a multiple of the equity, when positions are opened."""
    maintenance_margin: float = 0.0
    """Equity below this share of the gross exposure at a close is a margin call: all is closed at the next open. 0.25 is usual."""
    lot_units: float = 0.0
    """Smallest step of units of symbols that have no `lot_S` in the panel; 0 for none, 1 for whole shares."""
    tick: float = 0.0
    """Smallest step of prices of symbols that have no `tick_S` in the panel; 0 for none, 0.01 for cents."""
    rebalance_band: float = 0.0
    """Smallest change of weight that trades (0.01 is 1 % of the equity). A target of exactly 0 always closes."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.initial_capital) and self.initial_capital > 0.0):
            raise ConfigError(
                f"backtest.initial_capital={self.initial_capital} is no capital to trade with; give an amount above 0.",
                field="initial_capital",
            )
        if not 0.0 <= self.rebalance_band < 1.0:
            raise ConfigError(
                f"backtest.rebalance_band={self.rebalance_band} must be at least 0 and below 1: it is a change of "
                "weight, and 0.01 means 1 % of the equity.",
                field="rebalance_band",
            )
        if not 1.0 <= self.leverage <= 1000.0:
            raise ConfigError(
                f"backtest.leverage={self.leverage} must be at least 1 (none) and at most 1000; to use less than the capital, give "
                "smaller weights.",
                field="leverage",
            )
        if not 0.0 <= self.maintenance_margin < 1.0 / self.leverage:
            raise ConfigError(
                f"backtest.maintenance_margin={self.maintenance_margin} must be at least 0 and below 1 / backtest.leverage "
                f"({1.0 / self.leverage:g}): a position as large as may be opened would be a margin call at once.",
                field="maintenance_margin",
            )
        for name in ("lot_units", "tick"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ConfigError(f"backtest.{name}={value} is no step; give one above 0, or 0 for none.", field=name)
