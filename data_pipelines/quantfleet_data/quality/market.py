"""When a market had bars: the times of many symbols added up, in memory that does not grow with their number.

A symbol is summed up as runs: a start and how many bars follow each other at the timeframe's distance. The market keeps
only the times at which the number of symbols with a bar changes, so a year of minutes of a thousand symbols that trade
without a break takes a few kilobytes, and the worst table no more than 40 bytes per time at which anything traded.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.contracts import Timeframe
from quantfleet.errors import EmptyTableError
from quantfleet_data.quality.finding import MARKET, Finding

__all__ = ["MarketTimes", "SymbolTimes", "sum_up_times"]

# Shapes: R runs, E changes. Times are microseconds since 1970, UTC.
Times: TypeAlias = npt.NDArray[np.int64]

_USUALLY_SILENT_SHARE = 0.05
"""A symbol without volume in more of its bars is often silent; its silence says nothing about the exchange."""
_SILENT_BARS = 3
"""Bars without volume, and none missing, that make a halt."""
_COMPACT_AT = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class SymbolTimes:
    """One symbol's bar times, short enough to be sent around."""

    symbol: str
    first: int
    last: int
    bars: int
    present_R2: Times
    """(start, bars) of every unbroken run of bars, in order of time."""
    silent_R2: Times
    """The same of bars without volume; empty where the symbol is often without."""


def sum_up_times(bars: pl.DataFrame, timeframe: Timeframe) -> SymbolTimes:
    """Sum up one symbol's bars (`symbol`, `timestamp`, `volume`), sorted by time; times may repeat.

    Raises: EmptyTableError: no bars.
    """
    if bars.is_empty():
        raise EmptyTableError("there are no bars whose times could be summed up.")
    step = _step(timeframe)
    stamps: Times = bars["timestamp"].dt.epoch("us").to_numpy()
    silent = stamps[(bars["volume"] == 0.0).fill_null(False).to_numpy()]
    times = np.unique(stamps)
    quiet = np.unique(silent) if silent.size <= _USUALLY_SILENT_SHARE * times.size else silent[:0]
    return SymbolTimes(
        symbol=bars["symbol"][0],
        first=int(times[0]),
        last=int(times[-1]),
        bars=times.size,
        present_R2=_to_runs(times, step),
        silent_R2=_to_runs(quiet, step),
    )


class MarketTimes:
    """The times of all symbols of a table. Not thread-safe."""

    def __init__(self, timeframe: Timeframe) -> None:
        self.timeframe = timeframe
        self.symbols = 0
        self.bars = 0
        self._step = _step(timeframe)
        self._changes_E4: Times = np.empty((0, 4), np.int64)
        """time, and by how much the numbers of symbols present, silent and listed change there."""
        self._waiting: list[Times] = []
        self._waiting_rows = 0
        self._first, self._last = np.iinfo(np.int64).max, np.iinfo(np.int64).min

    def add(self, times: SymbolTimes) -> None:
        """Add one symbol; any order gives the same."""
        whole = np.array([[times.first, (times.last - times.first) // self._step + 1]])
        for kind, runs_R2 in enumerate((times.present_R2, times.silent_R2, whole), start=1):
            changes = np.zeros((2 * len(runs_R2), 4), np.int64)
            changes[:, 0] = np.concatenate([runs_R2[:, 0], runs_R2[:, 0] + runs_R2[:, 1] * self._step])
            changes[:, kind] = np.repeat([1, -1], len(runs_R2))
            self._waiting.append(changes)
            self._waiting_rows += len(changes)
        self._first, self._last = min(self._first, times.first), max(self._last, times.last)
        self.symbols += 1
        self.bars += times.bars
        if self._waiting_rows > max(_COMPACT_AT, len(self._changes_E4)):
            self._compact()

    @property
    def first(self) -> dt.datetime:
        """Open time of the first bar of all."""
        return _time(self._first)

    @property
    def last(self) -> dt.datetime:
        return _time(self._last)

    def union(self) -> pl.Series:
        """Open times (UTC, sorted) at which any symbol has a bar."""
        starts, ends, counts_E3 = self._segments()
        some = counts_E3[:, 0] > 0
        times = np.sort(_from_runs(starts[some], (ends[some] - starts[some]) // self._step, self._step))
        return pl.from_epoch(pl.Series("timestamp", times), time_unit="us").dt.replace_time_zone("UTC")

    def halts(self, *, continuous: bool, share: float, symbols: int) -> tuple[Finding, ...]:
        """Find when at least `share` of the listed symbols, and at least `symbols` are listed, had no bar or no volume.

        Args:
            continuous: bars are due every timeframe; otherwise only when any symbol has one.
        Returns: one finding per halt, for the whole market. Three bars in a row are needed when only volume is lacking.
        """
        starts, ends, counts_E3 = self._segments()
        present, silent, listed = counts_E3.T
        due = (listed > 0) if continuous else (present > 0)
        _, own_phase = np.unique(starts % self._step, return_inverse=True)
        bars = np.bincount(own_phase, weights=(ends - starts) * present, minlength=1)
        on_clock = own_phase == np.argmax(bars)  # bars off the market's clock are no yardstick
        halted = due & (listed >= symbols) & (listed - present + silent >= share * listed) & on_clock
        rows = np.flatnonzero(halted)
        breaks = np.flatnonzero((np.diff(rows) != 1) | (starts[rows[1:]] != ends[rows[:-1]])) + 1
        found = []
        for part in np.split(rows, breaks) if rows.size else []:
            length = (ends[part] - starts[part]) // self._step
            missing = present[part] * 2 < listed[part]
            if missing.any() or int(length.sum()) >= _SILENT_BARS:
                found.append(self._halt(starts[part[0]], length, missing, present[part], silent[part], listed[part]))
        return tuple(found)

    def _halt(
        self, start: int, length_P: Times, missing_P: npt.NDArray[np.bool_], present_P: Times, silent_P: Times, listed_P: Times
    ) -> Finding:  # fmt: skip
        count = int(length_P.sum())
        gone, quiet = int(length_P[missing_P].sum()), int(length_P[~missing_P].sum())
        said = []
        if gone:
            most = int((listed_P - present_P)[missing_P].max())
            between = _duration((gone + 1) * self.timeframe.delta)
            said.append(
                f"no bars of {most} of {int(listed_P.max())} symbols for {_bars(gone)} ({between} from bar to bar)"
            )
        if quiet:
            said.append(f"no volume in {int(silent_P[~missing_P].max())} of them for {_bars(quiet)}")
        return Finding(
            check="halts",
            symbol=MARKET,
            start=_time(start),
            end=_time(start + (count - 1) * self._step),
            bars=count,
            detail=", ".join(said),
            severity="warning",
            known_at=_time(start + count * self._step),
        )

    def _segments(self) -> tuple[Times, Times, Times]:
        """(start, end, counts (E, 3)) of every stretch of time within which the numbers of symbols do not change."""
        self._compact()
        times = self._changes_E4[:, 0]
        phases = times % self._step
        counts = np.cumsum(self._changes_E4[:, 1:], axis=0)  # every phase ends at zero: all that starts also stops
        same = phases[1:] == phases[:-1]
        return times[:-1][same], times[1:][same], counts[:-1][same]

    def _compact(self) -> None:
        every = np.concatenate([self._changes_E4, *self._waiting])
        self._waiting, self._waiting_rows = [], 0
        every = every[np.lexsort((every[:, 0], every[:, 0] % self._step))]
        starts = np.flatnonzero(np.diff(every[:, 0], prepend=-1 - abs(every[:1, 0])))
        summed = np.add.reduceat(every[:, 1:], starts, axis=0) if len(every) else every[:, 1:]
        kept = summed.any(axis=1)
        self._changes_E4 = np.column_stack([every[starts, 0], summed])[kept]


def _step(timeframe: Timeframe) -> int:
    return timeframe.delta // dt.timedelta(microseconds=1)


def _to_runs(times: Times, step: int) -> Times:
    starts = np.flatnonzero(np.diff(times, prepend=times[0] - 2 * step if times.size else 0) != step)
    return np.column_stack([times[starts], np.diff(starts, append=times.size)])


def _from_runs(starts: Times, counts: Times, step: int) -> Times:
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    times: Times = np.repeat(starts, counts) + offsets * step
    return times


def _time(us: int | np.int64) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=int(us))


def _bars(count: int) -> str:
    return f"{count} bar{'' if count == 1 else 's'}"


def _duration(delta: dt.timedelta) -> str:
    minutes, seconds = divmod(int(delta.total_seconds()), 60)
    days, rest = divmod(minutes, 24 * 60)
    parts = ((days, "d"), (rest // 60, "h"), (rest % 60, "min"), (seconds, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)
