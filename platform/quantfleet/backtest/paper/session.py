"""Paper trading: the event engine on live bars, kept in storage after every row. Nothing here can place a real order.

A row is all bars of one time. It is booked once every symbol's bar has come, or a bar of a later time, or `settle` says that no
more will; symbols without a bar then have none, as in a backtest. Booked means: the engine has taken the row, the journal holds it,
and the state counts it, in this order. The state is the commit: a session that dies before it was written books the row again from
the same bars, one that dies after it goes on with the next. So its fills and its equity are those of a session that never died, and
of `run_events` on the same bars.

Bars come in the order of time. A bar that was booked already is let pass when it says the same, and refused when it says something
else. Bars missing between two rows are written into the journal (`gap_bars`) and change nothing else, as in a backtest; more than
`max_gap_bars` of them are refused, so that they can be fetched first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from quantfleet.backtest.config import BacktestConfig
from quantfleet.backtest.events.base import BarEvent, ExecutionConfig, Fill, Strategy
from quantfleet.backtest.events.engine import EventEngine
from quantfleet.backtest.events.growing import GrowingBars
from quantfleet.backtest.events.orders import Working
from quantfleet.backtest.events.result import EventResult
from quantfleet.backtest.events.snapshot import RowLog, engine_state, restore_engine
from quantfleet.backtest.paper.journal import Journal
from quantfleet.backtest.paper.state import check_memory, check_owner, sealed, unsealed
from quantfleet.config import to_plain
from quantfleet.contracts import Timeframe
from quantfleet.errors import BacktestError, ConfigError, DataError, OutputExistsError, PriceError, TimeError, nearest
from quantfleet.storage import Storage

__all__ = ["PaperSession", "bar_events", "saved_owner"]


def bar_events(bars: pl.DataFrame) -> list[BarEvent]:
    """Rows of a table of bars (see `quantfleet.contracts.BAR_COLUMNS`) in the order of time."""
    columns = ("symbol", "timestamp", "open", "high", "low", "close", "volume")
    rows = bars.sort("timestamp", "symbol").with_columns(pl.col("timestamp").dt.replace_time_zone(None))
    rows = rows.with_columns(pl.col("volume").cast(pl.Float64).fill_null(math.nan)).select(columns)
    return [BarEvent(symbol, np.datetime64(time, "us"), *values) for symbol, time, *values in rows.iter_rows()]


def saved_owner(storage: Storage, folder: str) -> dict[str, Any] | None:
    """Strategy, settings and symbols of the session that a folder holds; None where there is none. Raises: ChecksumError."""
    place = f"{folder}/state.json"
    if not storage.exists(place):
        return None
    return dict(unsealed(storage.read_text(place), storage.uri(place))["session"])


class PaperSession:
    """One account under one strategy. Not thread-safe; one session at a time may work on a folder, a second one is noticed."""

    def __init__(
        self,
        storage: Storage,
        folder: str,
        strategy: Strategy,
        config: BacktestConfig,
        *,
        symbols: Iterable[str],
        timeframe: str,
        execution: ExecutionConfig | None = None,
        max_gap_bars: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin a session, or go on with the one that the folder holds.

        Args:
            folder: under the storage's root; holds `state.json` and `journal/`.
            settings: whatever else makes the strategy what it is, as JSON values; a session goes on with the same only.
            max_gap_bars: most bars that may be missing between two rows; None for any number.
        Raises:
            ConfigError: the folder holds the session of another strategy, other settings or another format.
            ChecksumError: what it holds was changed.
            BacktestError: the engine cannot run on this, see `run_events`.
        """
        chosen = tuple(symbols)
        if not chosen or len(set(chosen)) != len(chosen):
            raise ConfigError(f"symbols={chosen} of a paper session must be distinct and at least one.")
        if max_gap_bars is not None and max_gap_bars < 0:
            raise ConfigError(f"max_gap_bars={max_gap_bars} must be at least 0; leave it out to let any gap pass.")
        self.storage, self.folder, self.strategy = storage, folder, strategy
        self.timeframe, self.max_gap_bars = Timeframe(timeframe), max_gap_bars
        self._bar_us = self.timeframe.seconds * 1_000_000
        self._source = GrowingBars(chosen, bar_us=self._bar_us)
        self._engine = EventEngine(self._source, strategy, config, execution or ExecutionConfig())
        self._journal = Journal(storage, f"{folder}/journal")
        self._waiting: dict[str, BarEvent] = {}
        self._broken = False
        self.gap_bars = 0
        """Bars that were missing between rows, all together."""
        self.owner: dict[str, Any] = {
            "strategy": f"{type(strategy).__module__}.{type(strategy).__qualname__}",
            "settings": to_plain(dict(settings or {})),
            "backtest": to_plain(config),
            "execution": to_plain(execution or ExecutionConfig()),
            "symbols": list(chosen),
            "timeframe": timeframe,
        }
        self._state = f"{folder}/state.json"
        self._counted: dict[str, Any] | None = None
        """Rows and digest of the journal, as the stored state has them."""
        if storage.exists(self._state):
            self._restore()
        self._log = RowLog(self._engine)
        if self._counted is None:
            self._save()

    @property
    def rows(self) -> int:
        """How many are booked."""
        return self._source.prices.rows

    @property
    def last_bar(self) -> np.datetime64 | None:
        """Open of the last booked bar, UTC; None before the first."""
        return self._source.prices.time_T[-1] if self.rows else None

    @property
    def equity(self) -> float:
        """Cash plus positions at the last known closes."""
        return self._engine.equity_at(self.rows - 1) if self.rows else self._engine.cash

    @property
    def cash(self) -> float:
        return self._engine.cash

    @property
    def positions(self) -> dict[str, float]:
        """Signed units by symbol, without those that hold none."""
        held = zip(self._source.prices.symbols, self._engine.units_S.tolist(), strict=True)
        return {name: units for name, units in held if units}

    @property
    def open_orders(self) -> tuple[Working, ...]:
        return self._engine.open_orders()

    @property
    def fills(self) -> tuple[Fill, ...]:
        """Every trade since the session began."""
        return tuple(self._engine.books.fills)

    def result(self) -> EventResult:
        """The books since the session began. Raises: BacktestError: fewer than two rows, or a symbol had no bar yet."""
        return self._engine.result()

    def push(self, bar: BarEvent) -> bool:
        """Take a bar that has ended.

        Returns: whether it was news; False for one that was taken before.
        Raises:
            DataError: the symbol is none of the session's. PriceError: prices or volume cannot be.
            TimeError: the bar is off the grid, late, out of order, not what was booked, or comes after too large a gap.
            BacktestError: the strategy failed, or the session has failed before. OutputExistsError: another session works here.
        After one of the first three the session is as it was.
        """
        if self._broken:
            raise BacktestError(
                f"this session of {self.folder} has failed; open it again, it goes on after its last booked bar."
            )
        self._check(bar)
        if self._known(bar):
            return False
        if self._waiting and next(iter(self._waiting.values())).time < bar.time:
            self.settle()
        self._waiting[bar.symbol] = bar
        if len(self._waiting) == len(self._source.prices.symbols):
            self.settle()
        return True

    def settle(self) -> None:
        """Book the row whose bars wait: no more of them will come. Nothing happens where none wait."""
        if not self._waiting:
            return
        bars, self._waiting = self._waiting, {}
        time = next(iter(bars.values())).time
        gap = self._missing(time)
        self._broken = True  # until all of it is done
        self._source.append(time, bars)
        self._engine.see_rows()
        self._engine.advance()
        line = {
            "row": self.rows - 1,
            "time": str(time),
            "gap_bars": gap,
            "bars": {
                name: [bar.open, bar.high, bar.low, bar.close, None if math.isnan(bar.volume) else bar.volume]
                for name, bar in bars.items()
            },
            **self._log.row(),
            "equity": self.equity,
        }
        self.gap_bars += gap
        self._journal.append(line)
        self._save()
        self._broken = False

    def _missing(self, time: np.datetime64) -> int:
        return 0 if self.last_bar is None else int((time - self.last_bar) / np.timedelta64(self._bar_us, "us")) - 1

    def _check(self, bar: BarEvent) -> None:
        name, symbols = f"the bar of {bar.symbol} at {bar.time}", self._source.prices.symbols
        if bar.symbol not in symbols:
            raise DataError(
                f"{name} is of no symbol of this session.{nearest(bar.symbol, symbols)} It trades {', '.join(symbols)}.",
                symbol=bar.symbol,
            )
        time_us = np.array([bar.time], dtype="datetime64[us]").astype(np.int64)
        if np.isnat(bar.time) or self.timeframe.opens_us(time_us)[0] != time_us[0]:
            raise TimeError(
                f"{name} does not open on the grid of {self.timeframe}; give closed bars of that timeframe."
            )
        prices = (bar.open, bar.high, bar.low, bar.close)
        if not all(math.isfinite(price) and price > 0.0 for price in prices):
            raise PriceError(
                f"{name} has open, high, low, close {prices}; prices are finite and positive. Leave the bar out."
            )
        if bar.high < max(prices) or bar.low > min(prices):
            raise PriceError(
                f"{name} has high {bar.high} and low {bar.low}, open {bar.open} and close {bar.close}; they must hold them."
            )
        if math.isinf(bar.volume) or bar.volume < 0.0 or (self._source.prices.needs_volume and math.isnan(bar.volume)):
            raise PriceError(
                f"{name} has the volume {bar.volume}; impact and bounds on volume need one that is finite, at least 0."
            )

    def _known(self, bar: BarEvent) -> bool:
        """Whether the very bar was taken before. Raises: TimeError: it cannot be taken any more, or not yet."""
        name, before = f"the bar of {bar.symbol} at {bar.time}", self._waiting.get(bar.symbol)
        if before is not None and before.time == bar.time:
            if _same(before, bar):
                return True
            raise TimeError(
                f"{name} came twice, with {_said(before)} and then {_said(bar)}; give closed bars, which do not change."
            )
        last = self.last_bar
        if last is not None and bar.time <= last:
            row = int(np.searchsorted(self._source.prices.time_T, bar.time))
            there = self._source.prices.time_T[row] == bar.time
            booked = [e for e in self._source.events(row) if e.symbol == bar.symbol] if there else []
            if booked and isinstance(booked[0], BarEvent) and _same(booked[0], bar):
                return True
            raise TimeError(
                f"{name} is late: the session is at {last}, and what is booked stays. "
                + (
                    f"There it has {_said(booked[0])}, not {_said(bar)}."
                    if booked
                    else "It was booked without that bar."
                )
            )
        latest = next((e.time for e in self._waiting.values()), last)
        if latest is None:
            return False
        if bar.time < latest:
            raise TimeError(f"{name} is out of order: bars of {latest} have come. Give bars in the order of time.")
        missing = int((bar.time - latest) / np.timedelta64(self._bar_us, "us")) - 1
        if self.max_gap_bars is not None and missing > self.max_gap_bars:
            raise TimeError(
                f"{missing} bars of {self.timeframe} are missing between {latest} and {name}, more than "
                f"max_gap_bars={self.max_gap_bars}. Fetch them and give them first, or allow for more.",
                missing=missing,
            )
        return False

    def _save(self) -> None:
        if self._counted and unsealed(self.storage.read_text(self._state), self._state)["journal"] != self._counted:
            raise OutputExistsError(
                f"another session has written {self.storage.uri(self._state)} meanwhile. End one of them, and open this again."
            )
        memory = self.strategy.state()
        check_memory(memory, type(self.strategy).__name__)
        self._counted = {"rows": self._journal.rows, "digest": self._journal.digest}
        text = sealed(
            {
                "session": self.owner,
                "last_bar": None if self.last_bar is None else str(self.last_bar),
                "equity": self.equity,
                "gap_bars": self.gap_bars,
                "journal": self._counted,
                "engine": engine_state(self._engine),
                "strategy": memory,
            }
        )
        self.storage.write_text(self._state, text)

    def _restore(self) -> None:
        text, where = self.storage.read_text(self._state), self.storage.uri(self._state)
        state = unsealed(text, where)
        check_owner(state["session"], self.owner, where)
        self._counted = state["journal"]
        lines = self._journal.read(state["journal"]["rows"], state["journal"]["digest"])
        restore_engine(self._engine, self._source, ((*_bars(line), line) for line in lines), state["engine"])
        self.strategy.restore(state["strategy"])
        self.gap_bars = state["gap_bars"]


def _bars(line: Mapping[str, Any]) -> tuple[np.datetime64, dict[str, BarEvent]]:
    time = np.datetime64(line["time"], "us")
    return time, {
        name: BarEvent(name, time, o, h, lo, c, math.nan if volume is None else volume)
        for name, (o, h, lo, c, volume) in line["bars"].items()
    }


def _same(one: BarEvent, other: BarEvent) -> bool:
    return _said(one) == _said(other)


def _said(bar: Any) -> tuple[float | None, ...]:
    return (bar.open, bar.high, bar.low, bar.close, None if math.isnan(bar.volume) else bar.volume)
