"""What a check of raw bars finds: one record per stretch of bars, and what was done about it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

__all__ = ["ACTIONS", "CHECKS", "MARKET", "Action", "Check", "Finding", "Severity", "runs"]

Check = Literal[
    "gaps",
    "duplicates",
    "ohlc",
    "stale",
    "zero_volume",
    "flat",
    "outliers",
    "thin_moves",
    "splits",
    "token_swaps",
    "bad_ticks",
    "half_adjusted",
    "reused_tickers",
    "corrections",
    "halts",
]
CHECKS: tuple[Check, ...] = get_args(Check)
Action = Literal["keep", "repair", "quarantine", "fail"]
ACTIONS: tuple[Action, ...] = get_args(Action)
Severity = Literal["info", "warning", "error"]
"""info: worth knowing. warning: may be the market or the source. error: the market cannot have done this."""
MARKET = "*"
"""Stands for the symbol in findings about many symbols at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A stretch of one symbol's bars that a check objects to. Times are UTC; those of bars are opens."""

    check: Check
    symbol: str
    """MARKET where many symbols are concerned."""
    start: dt.datetime
    """Open time of the first bar concerned; of a gap, of the first bar missing."""
    end: dt.datetime
    """Open time of the last bar concerned, inclusive."""
    bars: int
    """How many bars are concerned; of a gap, are missing; of duplicates, are too many."""
    detail: str
    severity: Severity
    action: Action | None = None
    """What the policy did; None before it was applied."""
    known_at: dt.datetime | None = None
    """When the check could first have said so: the close of the last bar it looked at, or the time a correction came
    in. None stands for the close of the bar at `end`; `inspect_bars` fills it in."""
    hindsight: bool = False
    """Whether bars after `end` took part in the judgement: an action on it uses what was not known at the time."""

    def to_dict(self) -> dict[str, Any]:
        times = {name: time and time.isoformat() for name, time in self._times().items()}
        return {**asdict(self), **times}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Finding:
        texts = {name: record.get(name) for name in ("start", "end", "known_at")}
        return cls(**{**record, **{name: text and dt.datetime.fromisoformat(text) for name, text in texts.items()}})

    def _times(self) -> dict[str, dt.datetime | None]:
        return {"start": self.start, "end": self.end, "known_at": self.known_at}


def runs(flags: pl.Series) -> list[tuple[int, int]]:
    """Return (first row, length) of every unbroken run of true; null counts as false."""
    known = flags.fill_null(False) if flags.null_count() else flags
    steps = np.diff(known.to_numpy().astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    return list(zip(starts.tolist(), (ends - starts).tolist(), strict=True))
