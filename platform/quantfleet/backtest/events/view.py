"""What a strategy may know: the market up to now, and its own account.

Shapes: T rows (bars, or times of events), S symbols.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from quantfleet.compiled import read_only
from quantfleet.errors import BacktestError, nearest

if TYPE_CHECKING:
    from quantfleet.backtest.events.base import Event, Fill
    from quantfleet.backtest.events.engine import EventEngine
    from quantfleet.backtest.events.orders import Working
    from quantfleet.backtest.events.sources import EventSource

__all__ = ["Known", "MarketView"]

Array = npt.NDArray[np.float64]


class Known:
    """A column of the market of which the future is closed: `close[-1]` is the row that just ended, `close[0]` the first.

    Indices count as in a list of what is known now: numbers from 0 to `view.t`, or negative ones from the end; slices, and a
    symbol's number after a comma. Arrays that come back cannot be written to.
    """

    __slots__ = ("_name", "_values_TS", "_view")

    def __init__(self, name: str, values_TS: Array, view: MarketView) -> None:
        self._name = name
        self._values_TS = read_only(values_TS)
        self._view = view

    def __len__(self) -> int:
        return self._view._t + 1

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self._values_TS[: self._view._t + 1], dtype=dtype)

    def __getitem__(self, key: Any) -> Any:
        """Raises: BacktestError: a row after now, before the first, or an index that is neither a number nor a slice."""
        row, *columns = key if isinstance(key, tuple) else (key,)
        length = self._view._t + 1
        if isinstance(row, slice):
            for bound in (row.start, row.stop):
                if bound is not None and bound > length:
                    raise self._future(bound)
            if row.step is not None and row.step < 1:
                raise BacktestError(f"{self._name}[{row}] runs backwards; take what is known and turn it around.")
            return self._values_TS[(slice(*row.indices(length)), *columns)]
        if not isinstance(row, int | np.integer):
            raise BacktestError(f"{self._name}[{row!r}] is no row; use a number or a slice.")
        if row >= length:
            raise self._future(int(row))
        if row < -length:
            raise BacktestError(f"{self._name}[{row}] is before the first row; {length} are known.")
        return self._values_TS[(row + length if row < 0 else row, *columns)]

    def _future(self, row: int) -> BacktestError:
        t = self._view._t
        return BacktestError(
            f"the strategy asked for {self._name}[{row}] at row {t}, which is not known yet. The last known row is {t}, also as "
            f"{self._name}[-1].",
            row=t,
        )


class MarketView:
    """The market up to now and the account, read-only. Valid during the call that it is given to."""

    __slots__ = ("_engine", "_marks", "_row_S", "_t", "_width", "close", "high", "low", "open", "symbols", "volume")

    def __init__(self, engine: EventEngine) -> None:
        self._engine = engine
        self._t = -1
        self.symbols = engine.source.prices.symbols
        self._width = len(self.symbols)
        self._row_S = {name: s for s, name in enumerate(self.symbols)}
        self.look_at(engine.source)

    def look_at(self, source: EventSource) -> None:
        """Take the columns as they are now: the engine's, after rows were added."""
        prices = source.prices
        self._marks = np.ascontiguousarray(prices.marks_TS).reshape(-1).data
        self.open = Known("open", prices.open_TS, self)
        self.high = Known("high", source.high_TS, self)
        self.low = Known("low", source.low_TS, self)
        self.close = Known("close", prices.close_TS, self)
        no_volume = np.broadcast_to(np.nan, prices.close_TS.shape)
        self.volume = Known("volume", no_volume if prices.volume_TS is None else prices.volume_TS, self)

    @property
    def t(self) -> int:
        """Number of the row that just ended."""
        return self._t

    @property
    def now(self) -> np.datetime64:
        """The moment of the decision: the end of the bar, or the time of the events. UTC."""
        now: np.datetime64 = np.datetime64(self._engine.known_us[self._t], "us")
        return now

    @property
    def times(self) -> npt.NDArray[np.datetime64]:
        """Open of every bar so far (or time of the events), UTC, shape (t + 1,); cannot be written to."""
        return read_only(self._engine.source.prices.time_T[: self._t + 1])

    def price(self, symbol: int = 0) -> float:
        """Last known price of a symbol, by number; 0 before its first. The fast way to one number.

        Raises: BacktestError: there is no such symbol.
        """
        if not 0 <= symbol < self._width:
            raise BacktestError(f"there is no symbol {symbol}; there are {self._width}, from 0 on.")
        return self._marks[self._t * self._width + symbol]

    def number(self, symbol: str) -> int:
        """Column of a symbol. Raises: BacktestError: there is none of that name."""
        s = self._row_S.get(symbol)
        if s is None:
            raise BacktestError(
                f"there is no symbol {symbol!r}.{nearest(symbol, self.symbols)} There are {', '.join(self.symbols)}."
            )
        return s

    def events(self) -> tuple[Event, ...]:
        """What happened in this row: bars that ended, trades, or books."""
        return self._engine.source.events(self._t)

    @property
    def units(self) -> Array:
        """Positions, signed, shape (S,); a copy."""
        units_S: Array = self._engine.units_S.copy()
        return units_S

    def position(self, symbol: int = 0) -> float:
        """Signed units held of a symbol, by number."""
        return float(self._engine.units_S[symbol])

    @property
    def cash(self) -> float:
        """Money that is not in positions."""
        return self._engine.cash

    @property
    def equity(self) -> float:
        """Cash plus positions at the last known prices."""
        return self._engine.equity_at(self._t)

    @property
    def orders(self) -> tuple[Working, ...]:
        """Orders that are on their way or waiting, in the order in which they were given."""
        return self._engine.open_orders()

    @property
    def fills(self) -> tuple[Fill, ...]:
        """Our own trades in this row."""
        return self._engine.fills_of(self._t)
