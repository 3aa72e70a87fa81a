"""Risk rules: what an account may hold, whatever its strategy asks for.

All rules look at what is known at a close and act at the next open, as decisions do; nobody is promised a stop's own price.

Positions. A position whose price moved against its average entry by `stop_loss`, in its favour by `take_profit`, or back from its
best close by `trailing_stop`, is closed. Its symbol then stays shut to that side until the strategy itself asks for nothing or for
the other side.

Weights. A row of target weights is scaled as a whole (volatility target, Kelly fraction), then cut: symbols to `max_position`,
groups of correlated symbols to the same, the row to `max_gross` and `max_net`. Symbols that the row does not decide count with what
they hold, and are left alone.

Account. A day that lost `max_daily_loss` closes everything until the next day begins (UTC); a fall of `max_drawdown` from the
highest close closes everything for good.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

from quantfleet.errors import ConfigError

__all__ = ["Limits", "RiskRules"]

_OPEN_SHARES = ("stop_loss", "trailing_stop", "max_daily_loss", "max_drawdown", "max_correlation")


class Limits(NamedTuple):
    """`RiskRules` as plain numbers for the compiled loops; infinite where there is no rule."""

    stop_loss: float
    take_profit: float
    trailing_stop: float
    max_position: float
    max_gross: float
    max_net: float
    max_correlation: float
    target_volatility: float
    """Per bar."""
    kelly_fraction: float
    max_daily_loss: float
    max_drawdown: float
    window_bars: int
    needs_window: bool
    """Whether weights depend on past returns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RiskRules:
    """Limits on positions, weights and the account; None is no limit. Shares are fractions: 0.05 is 5 %."""

    stop_loss: float | None = None
    """Close a position that lost this share of its average entry price."""
    take_profit: float | None = None
    """Close a position that gained this share of its average entry price."""
    trailing_stop: float | None = None
    """Close a position whose price came back by this share from its best close since the entry."""
    max_position: float | None = None
    """Most weight of one symbol, long or short, as a share of the equity."""
    max_gross: float | None = None
    """Most longs plus shorts, as a share of the equity."""
    max_net: float | None = None
    """Most longs less shorts, and shorts less longs, as a share of the equity."""
    max_correlation: float | None = None
    """Symbols that move together more than this over the window count as one position: together at most `max_position`."""
    target_volatility: float | None = None
    """Scale weights so that over the window the portfolio would have had this volatility a year."""
    kelly_fraction: float | None = None
    """Scale weights to this share of what would have grown fastest over the window (mean over variance); 0 where they lost. With
    `target_volatility` the smaller of the two counts. Source: Thorp (2006), "The Kelly Criterion"."""
    max_daily_loss: float | None = None
    """Close everything until the next day, UTC, when the equity lost this share since the last close of the day before."""
    max_drawdown: float | None = None
    """Close everything for good when the equity lost this share of its highest close."""
    window_bars: int = 60
    """Returns that correlation, volatility and Kelly fraction are taken from; before there are as many, scaled weights are 0."""
    bars_per_year: float = 252.0
    """Turns `target_volatility` into that of a bar: 252 for daily equities, 8760 for hourly crypto."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if not (math.isfinite(value) and value > 0.0):
                raise ConfigError(
                    f"backtest.risk.{field.name}={value} limits nothing; give a finite number above 0, or leave it out.",
                    field=field.name,
                )
            if field.name in _OPEN_SHARES and value >= 1.0:
                raise ConfigError(
                    f"backtest.risk.{field.name}={value} can never be reached; it is a share, and 0.05 means 5 %.",
                    field=field.name,
                )
        if self.window_bars < 2:
            raise ConfigError(
                f"backtest.risk.window_bars={self.window_bars} is too short to tell a spread; give at least 2.",
                field="window_bars",
            )
        if self.max_correlation is not None and self.max_position is None:
            raise ConfigError(
                f"backtest.risk.max_correlation={self.max_correlation} says which symbols count as one position, but not how large "
                "it may be. Set backtest.risk.max_position.",
                field="max_correlation",
            )

    def limits(self) -> Limits | None:
        """The same for the compiled loops; None where there is no rule."""
        if not self.any:
            return None

        def most(value: float | None) -> float:
            return math.inf if value is None else value

        volatility = most(self.target_volatility) / math.sqrt(self.bars_per_year)
        needs_window = any(v is not None for v in (self.target_volatility, self.kelly_fraction, self.max_correlation))
        return Limits(
            stop_loss=most(self.stop_loss),
            take_profit=most(self.take_profit),
            trailing_stop=most(self.trailing_stop),
            max_position=most(self.max_position),
            max_gross=most(self.max_gross),
            max_net=most(self.max_net),
            max_correlation=most(self.max_correlation),
            target_volatility=volatility,
            kelly_fraction=most(self.kelly_fraction),
            max_daily_loss=most(self.max_daily_loss),
            max_drawdown=most(self.max_drawdown),
            window_bars=self.window_bars,
            needs_window=needs_window,
        )

    @property
    def any(self) -> bool:
        """Whether there is any rule."""
        return any(getattr(self, field.name) is not None for field in fields(self) if field.default is None)
