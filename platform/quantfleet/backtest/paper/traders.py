"""Strategies by name, for recipes: a frozen config builds the strategy that paper trading runs."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from quantfleet.backtest.events.base import Decision, Strategy
from quantfleet.backtest.events.view import MarketView
from quantfleet.errors import ConfigError
from quantfleet.plugins import PluginConfig, PluginRegistry

__all__ = ["TRADERS", "MovingAverageTrader", "TraderConfig", "register_trader"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TraderConfig(PluginConfig):
    """Base of every trader's settings; they say who a session belongs to."""

    @abstractmethod
    def build(self) -> Strategy:
        """A new strategy, which remembers nothing yet."""


TRADERS: PluginRegistry[TraderConfig] = PluginRegistry("trader", TraderConfig, command="traders")
register_trader = TRADERS.register


@register_trader("moving_average")
@dataclass(frozen=True, kw_only=True, slots=True)
class MovingAverageTrader(TraderConfig):
    """Equal shares, each long while the mean of the newest closes is above that of more of them, and flat otherwise."""

    fast_bars: int = 20
    slow_bars: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.fast_bars < self.slow_bars:
            raise ConfigError(f"fast_bars={self.fast_bars} must be above 0 and below slow_bars={self.slow_bars}.")

    def build(self) -> Strategy:
        return _Crossing(self)


class _Crossing(Strategy):
    def __init__(self, config: MovingAverageTrader) -> None:
        self._config = config

    def generate_signals(self, view: MarketView) -> Decision:
        fast, slow = self._config.fast_bars, self._config.slow_bars
        if view.t + 1 < slow:
            return None
        closes = view.close[-slow:]
        share = 1.0 / len(view.symbols)
        known = [s for s in range(len(view.symbols)) if not (closes[:, s] != closes[:, s]).any()]
        return {
            view.symbols[s]: share if closes[-fast:, s].mean() > closes[:, s].mean() else 0.0 for s in known
        } or None

    def state(self) -> dict[str, object]:
        return {}  # it reads all it needs from the view
