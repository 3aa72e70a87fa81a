"""What strategies and the event engine say to each other: events, orders, fills and the contract of a strategy.

Shapes: S symbols. Times are numpy datetime64[us] in UTC, units are signed where a side matters: positive bought, negative sold.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from quantfleet.errors import BacktestError, ConfigError

if TYPE_CHECKING:
    from quantfleet.backtest.events.view import MarketView

__all__ = [
    "BarEvent",
    "BookEvent",
    "Cancel",
    "Decision",
    "Event",
    "ExecutionConfig",
    "Fill",
    "Order",
    "Strategy",
    "TradeEvent",
]


@dataclass(frozen=True, slots=True)
class BarEvent:
    """A bar that has ended. `time` is its open; it is known when it ends."""

    symbol: str
    time: np.datetime64
    open: float
    high: float
    low: float
    close: float
    volume: float
    """NaN where it is not known."""


@dataclass(frozen=True, slots=True)
class TradeEvent:
    """A trade of the market, as the exchange printed it."""

    symbol: str
    time: np.datetime64
    price: float
    amount: float
    side: str | None
    """The taker's, "buy" or "sell"; None where the market does not say."""


@dataclass(frozen=True, slots=True)
class BookEvent:
    """The order book at a time: price and amount of each level, the best first."""

    symbol: str
    time: np.datetime64
    bids: tuple[tuple[float, float], ...]
    asks: tuple[tuple[float, float], ...]

    @property
    def mid(self) -> float:
        """Half way between the best bid and the best ask."""
        return 0.5 * (self.bids[0][0] + self.asks[0][0])


Event = BarEvent | TradeEvent | BookEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What a strategy asks for. Without prices a market order; with `limit`, with `stop`, or with both a stop-limit order.

    A stop waits until the market touches its price. From then on it is a market order, or with a limit a limit order.

    Raises: BacktestError: neither or both of `units` and `weight`, a size of 0, a price that is not positive, a stop that is to be
        filled at once or cancelled.
    """

    symbol: str
    units: float | None = None
    """Signed."""
    weight: float | None = None
    """In place of `units`: signed share of the equity, turned into units with what is known when the order is given."""
    limit: float | None = None
    """A buy pays no more, a sale brings no less."""
    stop: float | None = None
    time_in_force: Literal["gtc", "day", "ioc"] = "gtc"
    """gtc waits until it is cancelled, day until the UTC day on which it arrived is over; ioc takes what the first price offers."""
    reduce_only: bool = False
    """Only ever makes a position smaller, and waits while there is none. On a long-only account no sale does more."""
    group: str | None = None
    """As soon as one order of a group trades, the others of that name are cancelled: a stop and a target of one position."""
    id: str | None = None
    """To cancel it by; the engine numbers those without: "1", "2", ..."""

    def __post_init__(self) -> None:
        size = self.units if self.weight is None else self.weight
        if (self.units is None) == (self.weight is None) or size is None or not math.isfinite(size) or size == 0.0:
            raise BacktestError(
                f"an order of {self.symbol} with units={self.units} and weight={self.weight} has no size; give one of them, finite "
                "and not 0."
            )
        for name in ("limit", "stop"):
            price = getattr(self, name)
            if price is not None and not (math.isfinite(price) and price > 0.0):
                raise BacktestError(f"an order of {self.symbol} with {name}={price}: prices are positive and finite.")
        if self.time_in_force not in ("gtc", "day", "ioc"):
            raise BacktestError(
                f"an order of {self.symbol} with time_in_force={self.time_in_force!r}; give 'gtc', 'day' or 'ioc'."
            )
        if self.stop is not None and self.time_in_force == "ioc":
            raise BacktestError(
                f"a stop of {self.symbol} at {self.stop} cannot be 'ioc': a stop waits for its price. Use 'gtc' or 'day'."
            )


@dataclass(frozen=True, slots=True)
class Cancel:
    """Takes an order back, as far as it is not filled when this arrives. One that is no longer there is left alone."""

    id: str


@dataclass(frozen=True, slots=True)
class Fill:
    """One trade of ours."""

    order: str | None
    """Its id; None where target weights asked for it, or a margin call."""
    symbol: str
    row: int
    """Number of the bar or time in which it was filled."""
    units: float
    price: float
    commission: float
    maker: bool
    """Whether the order was waiting in the book."""


Decision = Order | Cancel | Sequence[Order | Cancel] | Mapping[str, float] | npt.NDArray[np.float64] | None
"""What a strategy answers: orders, cancellations, or target weights (by symbol, or an array of shape (S,) in which NaN decides
nothing), as in `run_backtest`. None decides nothing."""


class Strategy(ABC):
    """A user's own strategy, called once after each bar (or each time at which trades or book events happened).

    It may keep what it likes between calls; everything it knows of the market and of its account comes from the view.
    """

    @abstractmethod
    def generate_signals(self, view: MarketView) -> Decision:
        """What to trade, with what is known now."""

    def manage_risk(self, view: MarketView) -> Decision:
        """What else to order or to cancel, asked right after `generate_signals`; its weights replace those of the same symbols."""
        return None

    def state(self) -> dict[str, Any]:
        """What it remembers from call to call, as JSON values (numbers, texts, lists, mappings with texts as keys).

        Paper trading keeps it after every bar, and gives it to `restore` when it goes on. By default every attribute; override both
        methods where one is none of these, or is no memory.
        """
        return dict(vars(self))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        vars(self).update(state)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionConfig:
    """How orders reach the market and how much of it they get."""

    latency_us: int = 0
    """Microseconds from the moment a decision is made until it arrives. With bars an order arrives in time for the first open that
    is not earlier; finer than a bar nothing can be said."""
    max_volume_share: float | None = None
    """Most that may be filled in a bar, from a trade or from a level of the book, as a share of its volume; the rest waits. None is
    no bound, and the whole level with books."""
    limits_need: Literal["touch", "through"] = "touch"
    """Whether a waiting limit order is filled when the market touches its price, or only when it trades beyond."""

    def __post_init__(self) -> None:
        if self.latency_us < 0:
            raise ConfigError(
                f"execution.latency_us={self.latency_us} is negative; an order cannot arrive before it was given.",
                field="latency_us",
            )
        share = self.max_volume_share
        if share is not None and not 0.0 < share <= 1.0:
            raise ConfigError(
                f"execution.max_volume_share={share} must be above 0 and at most 1, the whole volume; None is no bound.",
                field="max_volume_share",
            )
        if self.limits_need not in ("touch", "through"):
            raise ConfigError(
                f"execution.limits_need={self.limits_need!r}; give 'touch' or 'through'.", field="limits_need"
            )
