"""What a picture of a table needs: how much of it is there, and the prices of the few symbols worth a look.

Both are small whatever the table's size: at most 48 rows of 120 cells, and 12 symbols of some hundred points.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.contracts import PRICE_COLUMNS, Timeframe
from quantfleet_data.quality.finding import Check, Finding

__all__ = [
    "Coverage",
    "CoverageCount",
    "CoverageRow",
    "PriceSketch",
    "count_bars",
    "sketch_prices",
    "symbols_to_sketch",
]

# Shapes: B bins of time, K points of a sketch
Counts: TypeAlias = npt.NDArray[np.int64]

MOST_ROWS, MOST_BINS, _BIN_BARS = 48, 120, 7
LEVELS = (0.5, 0.8, 0.95, 1.0)
"""Shares of the bars due from which on a cell is level 2, 3, 4 and 5; level 1 is less, level 0 nothing at all."""
_BLANK = "."
_MOST_SKETCHES, _SKETCH_POINTS, _AROUND_BARS = 12, 160, 12
_ON_PRICES: tuple[Check, ...] = (
    "token_swaps", "reused_tickers", "splits", "bad_ticks", "half_adjusted", "corrections", "thin_moves", "outliers", "ohlc",
)  # fmt: skip
"""Checks whose findings are seen in a chart of prices, the most telling first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CoverageRow:
    """One line of the heat map: a symbol, or neighbours in the alphabet where there are too many."""

    label: str
    symbols: int
    cells: str
    """One character per bin: a level from 0 (none of the bars due) to 5 (all of them), or a dot where none was due."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """Share of the bars due that are there, symbols by time."""

    start: dt.datetime
    """Open time of the table's first bar, UTC."""
    end: dt.datetime
    """Close time of its last bar."""
    rows: tuple[CoverageRow, ...]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "start": self.start.isoformat(), "end": self.end.isoformat()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Coverage:
        return cls(
            start=dt.datetime.fromisoformat(record["start"]),
            end=dt.datetime.fromisoformat(record["end"]),
            rows=tuple(CoverageRow(**row) for row in record["rows"]),
        )


def count_bars(
    times: pl.Series,
    edges_B1: Counts,
    timeframe: Timeframe,
    union: pl.Series | None,
    closed: dt.timedelta | None = None,
) -> tuple[Counts, Counts]:
    """Bars of one symbol there and due per bin of time, between its first and its last.

    Args:
        times: the symbol's bars, sorted; one or more per time.
        edges_B1: microseconds since 1970, one more than bins.
        union: open times of the market; None for a market that never closes, but for breaks of at least `closed`.
    Returns: two arrays of shape (B,).
    """
    own = np.unique(times.dt.epoch("us").to_numpy())
    if union is None:
        step, us = timeframe.delta // dt.timedelta(microseconds=1), dt.timedelta(microseconds=1)
        ends = np.flatnonzero(np.diff(own) >= closed // us) if closed is not None else np.empty(0, np.int64)
        due_before = np.zeros_like(edges_B1)
        for first, last in zip([own[0], *own[ends + 1]], [*own[ends], own[-1]], strict=True):
            due_before += np.clip(-(-(edges_B1 - first) // step), 0, (last - first) // step + 1)
    else:
        market = union.dt.epoch("us").to_numpy()
        within = market[np.searchsorted(market, own[0]) : np.searchsorted(market, own[-1], "right")]
        due_before = np.searchsorted(within, edges_B1)
    return np.diff(np.searchsorted(own, edges_B1)), np.diff(due_before)


class CoverageCount:
    """Adds up bars in cells of symbol and time. Not thread-safe."""

    def __init__(self, symbols: Sequence[str], first: dt.datetime, last: dt.datetime, timeframe: Timeframe) -> None:
        self.first, self.end = first, last + timeframe.delta
        self._names = sorted(symbols)
        self._rows = min(len(self._names), MOST_ROWS)
        self._owner = {name: i * self._rows // len(self._names) for i, name in enumerate(self._names)}
        bars = (self.end - first) // timeframe.delta
        self.bins = int(min(max(bars // _BIN_BARS, 1), MOST_BINS))
        self._counts = np.zeros((2, self._rows, self.bins), np.int64)

    @property
    def edges(self) -> Counts:
        """Microseconds since 1970 at which bins begin, and at which the last ends, shape (B + 1,)."""
        return np.linspace(_us(self.first), _us(self.end), self.bins + 1).astype(np.int64)

    def add(self, symbol: str, there_B: Counts, due_B: Counts) -> None:
        """Add what `count_bars` returned for a symbol."""
        self._counts[:, self._owner[symbol]] += np.stack([np.minimum(there_B, due_B), due_B])

    def finish(self) -> Coverage:
        rows = []
        for row in range(self._rows):
            names = [name for name in self._names if self._owner[name] == row]
            label = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
            there, due = self._counts[:, row]
            share = there / np.maximum(due, 1)
            level = np.where(there == 0, 0, 1 + np.searchsorted(np.asarray(LEVELS), share, side="right"))
            cells = "".join(_BLANK if d == 0 else str(x) for x, d in zip(level.tolist(), due.tolist(), strict=True))
            rows.append(CoverageRow(label=label, symbols=len(names), cells=cells))
        return Coverage(start=self.first, end=self.end, rows=tuple(rows))


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceSketch:
    """One symbol's prices, thin enough for a small chart."""

    symbol: str
    times: tuple[int, ...]
    """Seconds since 1970, UTC: the opens of the first bar of each bucket."""
    low: tuple[float, ...]
    """The lowest close of each bucket; wicks are left out."""
    high: tuple[float, ...]
    around: tuple[tuple[int, float, float, float, float], ...] = ()
    """(seconds, open, high, low, close) of the bars beside the finding that moves prices most."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> PriceSketch:
        fields = {name: tuple(record[name]) for name in ("times", "low", "high")}
        around: Any = tuple(tuple(bar) for bar in record["around"])
        return cls(symbol=record["symbol"], around=around, **fields)


def symbols_to_sketch(findings: Mapping[str, Sequence[Finding]]) -> list[str]:
    """The symbols whose prices are worth a chart, those with the most telling findings first; at most 12."""

    def rank(symbol: str) -> tuple[int, int, str]:
        marks = [f for f in findings[symbol] if f.check in _ON_PRICES]
        return min(_ON_PRICES.index(f.check) for f in marks), -len(marks), symbol

    flagged = [symbol for symbol, found in findings.items() if any(f.check in _ON_PRICES for f in found)]
    return sorted(flagged, key=rank)[:_MOST_SKETCHES]


def sketch_prices(bars: pl.DataFrame, findings: Sequence[Finding]) -> PriceSketch:
    """Thin one symbol's bars: the extremes of the close per bucket, and the bars beside its most telling finding."""
    bucket = pl.int_range(pl.len()) * _SKETCH_POINTS // max(bars.height, 1)
    thinned = bars.group_by(bucket.alias("bucket"), maintain_order=True).agg(
        pl.col("timestamp").first().dt.epoch("s"), low=pl.col("close").min(), high=pl.col("close").max()
    )
    sketch = PriceSketch(
        symbol=bars["symbol"][0],
        times=tuple(thinned["timestamp"].to_list()),
        low=tuple(thinned["low"].round_sig_figs(6).to_list()),
        high=tuple(thinned["high"].round_sig_figs(6).to_list()),
    )
    marks = [f for f in findings if f.check in _ON_PRICES]
    if not marks:
        return sketch
    stamps = bars["timestamp"]
    change = (bars["close"].log().diff().abs()).fill_null(0.0)
    at = {f: min(int(stamps.search_sorted(f.start)), bars.height - 1) for f in marks}
    best = min(marks, key=lambda f: (_ON_PRICES.index(f.check), -change[at[f]]))
    near = bars[max(at[best] - _AROUND_BARS, 0) : at[best] + _AROUND_BARS + 1]
    rows = near.select(pl.col("timestamp").dt.epoch("s"), *(pl.col(n).round_sig_figs(6) for n in PRICE_COLUMNS))
    return replace(sketch, around=tuple(rows.iter_rows()))


def _us(time: dt.datetime) -> int:
    return (time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
