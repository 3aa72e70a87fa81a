"""Bars that are added one row at a time, as they end: what paper trading runs the event engine on.

Shapes: T rows so far, S symbols.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from quantfleet.backtest.events.base import BarEvent
from quantfleet.backtest.events.sources import BarEvents
from quantfleet.backtest.panel import BarPanel

__all__ = ["GrowingBars", "GrowingPanel"]

Array = npt.NDArray[np.float64]

_OPEN, _HIGH, _LOW, _CLOSE, _VOLUME, _MARK = range(6)
_ROOM = 256


class GrowingPanel:
    """The rows of a `BarPanel` so far, as views that stay right until the next row is added. No funding, no steps of its own."""

    funding_TS: Array | None = None
    lot_S: Array | None = None
    tick_S: Array | None = None

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self.rows = 0
        self.needs_volume = False
        """Whether every bar must have a volume."""
        self._values_KTS = np.full((6, _ROOM, len(self.symbols)), np.nan)
        self._time_T = np.zeros(_ROOM, dtype="datetime64[us]")

    def require_volume(self) -> None:
        """From now on; the one who adds rows sees to it."""
        self.needs_volume = True

    def append(self, time: np.datetime64, bars: Mapping[str, BarEvent]) -> None:
        """Add a row of checked bars, later than all before; a symbol without a bar is left out."""
        t = self.rows
        if t == len(self._time_T):  # twice the room, so that a row costs the same however many there are
            self._values_KTS = np.concatenate([self._values_KTS, np.full_like(self._values_KTS, np.nan)], axis=1)
            self._time_T = np.concatenate([self._time_T, np.zeros_like(self._time_T)])
        self._time_T[t] = time
        row_KS = self._values_KTS[:, t]
        row_KS[_MARK] = self._values_KTS[_MARK, t - 1] if t else 0.0
        for s, symbol in enumerate(self.symbols):
            if (bar := bars.get(symbol)) is not None:
                row_KS[:, s] = bar.open, bar.high, bar.low, bar.close, bar.volume, bar.close
        self.rows = t + 1

    def _rows(self, k: int) -> Array:
        values_TS: Array = self._values_KTS[k, : self.rows]
        return values_TS

    @property
    def time_T(self) -> npt.NDArray[np.datetime64]:
        return self._time_T[: self.rows]

    @property
    def open_TS(self) -> Array:
        return self._rows(_OPEN)

    @property
    def high_TS(self) -> Array:
        return self._rows(_HIGH)

    @property
    def low_TS(self) -> Array:
        return self._rows(_LOW)

    @property
    def close_TS(self) -> Array:
        return self._rows(_CLOSE)

    @property
    def volume_TS(self) -> Array | None:
        return self._rows(_VOLUME)

    @property
    def marks_TS(self) -> Array:
        return self._rows(_MARK)

    def whole(self) -> BarPanel:
        """A copy of the rows so far. Raises: BacktestError: fewer than two, or a symbol had no bar yet."""
        return BarPanel(
            open_TS=self.open_TS.copy(),
            close_TS=self.close_TS.copy(),
            time_T=self.time_T.copy(),
            symbols=self.symbols,
            volume_TS=self._rows(_VOLUME).copy(),
        )


class GrowingBars(BarEvents):
    """Bars with their range, row by row. After `append` the engine is told by `see_rows`."""

    prices: GrowingPanel

    def __init__(self, symbols: Sequence[str], *, bar_us: int) -> None:
        self.prices = GrowingPanel(symbols)
        self.known_after_us = bar_us
        self.high_TS, self.low_TS = self.prices.high_TS, self.prices.low_TS

    def append(self, time: np.datetime64, bars: Mapping[str, BarEvent]) -> None:
        """Add a row, see `GrowingPanel.append`."""
        self.prices.append(time, bars)
        self.high_TS, self.low_TS = self.prices.high_TS, self.prices.low_TS

    def require_volume(self) -> None:
        self.prices.require_volume()

    def panel(self) -> BarPanel:
        return self.prices.whole()
