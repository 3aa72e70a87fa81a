"""Time as the splitters see it: the distinct bars of all symbols, how far the labels of each reach, and the gaps to leave.

Shapes: S distinct timestamps of all symbols, in order. A block [a, b) holds positions a..b-1 among them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.contracts import TimeInterval
from quantfleet_data.splits.leak import require_label_columns

__all__ = ["Block", "Gap", "Mask", "Timeline", "clear", "runs"]

Block = tuple[int, int]
Mask = npt.NDArray[np.bool_]
_US_PER_S = 1_000_000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Timeline:
    """Distinct bars of all symbols, so that a split is the same for every symbol."""

    stamps_S: npt.NDArray[np.int64]
    """Open times, microseconds since 1970 UTC."""
    known_S: npt.NDArray[np.int64]
    """When the last label decided at this bar is known, over all symbols; the bar's own open where none is."""

    @classmethod
    def of(cls, labels: pl.DataFrame) -> Timeline:
        """Args: labels: columns symbol, timestamp, t_end (null where unknown), all symbols.

        Raises: SchemaError, TimeError, EmptyTableError: the table is no label table.
        """
        require_label_columns(labels)
        t, t_end = (pl.col(name).dt.epoch("us") for name in ("timestamp", "t_end"))
        reach = labels.lazy().select(t, t_end).group_by("timestamp").agg(pl.col("t_end").max()).sort("timestamp")
        found = reach.with_columns(pl.max_horizontal("timestamp", "t_end").alias("t_end")).collect()
        return cls(found["timestamp"].to_numpy(), found["t_end"].to_numpy())

    def __len__(self) -> int:
        return len(self.stamps_S)

    def position(self, at: dt.datetime) -> int:
        """Position of the first bar at or after a time; S when there is none."""
        return int(np.searchsorted(self.stamps_S, (at - _EPOCH) // dt.timedelta(microseconds=1)))

    def intervals(self, blocks: Iterable[Block], last_end_us: int) -> tuple[TimeInterval, ...]:
        """Blocks as intervals of time; what reaches to the last bar ends at `last_end_us`."""
        bounds = np.append(self.stamps_S, last_end_us)
        return tuple(TimeInterval(_time(int(bounds[a])), _time(int(bounds[b]))) for a, b in blocks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """What is left out around a stretch that must stay unseen."""

    purge_bars: int
    """Bars left out before it, whatever their labels; rows whose labels reach into it are purged besides."""
    embargo_bars: int
    embargo_s: int
    """The longer of the two embargoes holds."""
    embargo_before: bool = False
    """Keep the embargo before the stretch too: where all training lies earlier, it is the only one there is."""

    def start(self, timeline: Timeline, first: int) -> int:
        """First position left out before position `first`."""
        return max(self.quiet(timeline, first) - self.purge_bars, 0)

    def quiet(self, timeline: Timeline, first: int) -> int:
        """Position at whose open every label must be known that is used before position `first`."""
        if not self.embargo_before:
            return first
        begins = timeline.stamps_S[first] - self.embargo_s * _US_PER_S
        by_time = int(np.searchsorted(timeline.stamps_S, begins, "right")) - 1
        return max(min(first - self.embargo_bars, by_time), 0)

    def end(self, timeline: Timeline, block: Block) -> int:
        """First position after `block` at which every label decided in it is known and the embargo is over."""
        known = int(timeline.known_S[slice(*block)].max())
        settled = max(block[1], int(np.searchsorted(timeline.stamps_S, known)))
        by_time = int(np.searchsorted(timeline.stamps_S, known + self.embargo_s * _US_PER_S))
        return min(max(settled + self.embargo_bars, by_time), len(timeline))


def clear(timeline: Timeline, allowed_S: Mask, unseen: Iterable[Block], gap: Gap) -> Mask:
    """The allowed positions that stay when the unseen blocks and the gaps around them are left out."""
    kept_S = allowed_S.copy()
    for block in unseen:
        kept_S[gap.start(timeline, block[0]) : gap.end(timeline, block)] = False
    return kept_S


def runs(mask_S: Mask) -> list[Block]:
    """Runs of true positions as blocks."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask_S.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _time(us: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=us)
