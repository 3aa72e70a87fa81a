"""The split contract: time intervals for training, validation and test, as data that is stored with the run."""

from __future__ import annotations

import datetime as dt
import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import polars as pl

from quantfleet.contracts.timeframe import Timeframe
from quantfleet.errors import ConfigError, LeakageError, SchemaError
from quantfleet.plugins import PluginConfig, PluginRegistry

__all__ = [
    "SEGMENTS",
    "SPLITTERS",
    "Segment",
    "SplitPlan",
    "SplitterConfig",
    "TimeInterval",
    "interval_mask",
    "register_splitter",
]

Segment = Literal["train", "validation", "test"]
SEGMENTS: tuple[Segment, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class TimeInterval:
    """Decision times [start, end): open time of the first bar, and the open time no bar reaches; kept in UTC."""

    start: dt.datetime
    end: dt.datetime

    def __post_init__(self) -> None:
        for value in (self.start, self.end):
            if value.tzinfo is None:
                raise LeakageError(f"split interval bound {value} is naive; give it with its time zone, UTC at best.")
        if not self.start < self.end:
            raise LeakageError(
                f"split interval [{self.start}, {self.end}) is empty; move its start before its end, or use more bars."
            )
        object.__setattr__(self, "start", self.start.astimezone(dt.UTC))
        object.__setattr__(self, "end", self.end.astimezone(dt.UTC))


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitPlan:
    """Which rows belong to which segment: intervals of decision times, as data that is stored with the run.

    One fold of a cross-validation may train on both sides of its test, so a segment is a tuple of intervals, in order of time;
    no two intervals of a plan overlap. A fold without validation has an empty tuple there.

    A row (symbol, t) belongs to a segment when t lies in one of its intervals and, for train and validation, when its label
    interval [t, t_end] ends before the next interval it must not see starts (validation and test for train; test for
    validation): that is purging, by label interval and across symbols. What follows a test interval starts only when every label
    of its rows is known and the embargo is over; the intervals themselves say so.
    """

    train: tuple[TimeInterval, ...]
    validation: tuple[TimeInterval, ...]
    test: tuple[TimeInterval, ...]
    horizon_bars: int
    """The longest label horizon."""
    purge_bars: int
    """Bars left out before validation and test."""
    embargo_bars: int
    """Bars left out besides: before validation and test where all training lies earlier, after them where some lies later."""
    timeframe: str
    embargo_s: int = 0
    """The same as `embargo_bars` in seconds; the longer of the two holds."""

    def __post_init__(self) -> None:
        if self.horizon_bars < 1 or self.embargo_bars < 0 or self.embargo_s < 0:
            raise LeakageError(
                f"split: horizon_bars={self.horizon_bars} must be 1 or more, embargo_bars={self.embargo_bars} and "
                f"embargo_s={self.embargo_s} 0 or more."
            )
        if self.purge_bars < self.horizon_bars:
            raise LeakageError(
                f"split.purge_bars={self.purge_bars} is shorter than the longest label horizon, {self.horizon_bars} bars; "
                f"labels of one segment would be known only inside the next. Set purge_bars >= {self.horizon_bars}.",
                purge_bars=self.purge_bars,
                horizon_bars=self.horizon_bars,
            )
        for segment in ("train", "test"):
            if not self.intervals(segment):
                raise LeakageError(f"split: {segment} has no interval; a plan needs something to train on and to test.")
        placed = sorted(((own, s) for s in SEGMENTS for own in self.intervals(s)), key=lambda item: item[0].start)
        for (first, before), (second, after) in pairwise(placed):
            if first.end > second.start:
                raise LeakageError(
                    f"split: {before} ends {first.end}, after {after} starts {second.start}; move the end of {before} back."
                )
        for segment in SEGMENTS:
            object.__setattr__(self, segment, tuple(own for own, s in placed if s == segment))

    def intervals(self, segment: Segment) -> tuple[TimeInterval, ...]:
        """All intervals of a segment, in order of time."""
        owned: dict[Segment, tuple[TimeInterval, ...]] = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        return owned[segment]

    def interval(self, segment: Segment) -> TimeInterval:
        """The one interval of a segment, for work that needs one stretch of time, such as a backtest.

        Raises: ConfigError: the segment has no interval, or several.
        """
        own = self.intervals(segment)
        if len(own) != 1:
            parts = "; ".join(f"[{i.start}, {i.end})" for i in own) or "none"
            raise ConfigError(
                f"split: {segment} has {len(own)} intervals ({parts}), and one stretch of time is needed here. Use the split "
                "`time` or `walk_forward`, or work interval by interval.",
                segment=segment,
                intervals=len(own),
            )
        return own[0]

    def inside(self, segment: Segment, t: pl.Expr) -> pl.Expr:
        """Polars expression that is true where t, a bar's open time, lies in an interval of the segment."""
        return interval_mask(self.intervals(segment), None, t, t)

    def mask(self, segment: Segment, t: pl.Expr, t_end: pl.Expr) -> pl.Expr:
        """Polars expression that is true for the segment's rows.

        Args:
            t: bar open time.
            t_end: when the row's last label is known; null when the future is not there yet: such rows stay in the test
                segment only, where they are predicted but not scored.
        """
        hidden = {"train": (*self.validation, *self.test), "validation": self.test, "test": None}[segment]
        return interval_mask(self.intervals(segment), hidden, t, t_end)

    def to_json(self) -> str:
        """A segment of one interval is [start, end], one of several a list of those."""
        bounds = {str(s): [[own.start.isoformat(), own.end.isoformat()] for own in self.intervals(s)] for s in SEGMENTS}
        record: dict[str, object] = {
            **{s: own[0] if len(own) == 1 else own for s, own in bounds.items()},
            "horizon_bars": self.horizon_bars,
            "purge_bars": self.purge_bars,
            "embargo_bars": self.embargo_bars,
            "timeframe": self.timeframe,
        }
        if self.embargo_s:
            record["embargo_s"] = self.embargo_s
        return json.dumps(record, indent=2)

    @classmethod
    def from_json(cls, text: str) -> SplitPlan:
        """Raises: SchemaError: the text is not what `to_json` wrote. LeakageError: the plan in it leaks."""
        try:
            record = json.loads(text)
            for segment in SEGMENTS:
                own = record[segment]
                listed = [own] if own and isinstance(own[0], str) else own
                record[segment] = tuple(
                    TimeInterval(dt.datetime.fromisoformat(start), dt.datetime.fromisoformat(end))
                    for start, end in listed
                )
            return cls(**record)
        except (ValueError, TypeError, KeyError) as error:
            raise SchemaError(
                f"this is no stored split plan ({type(error).__name__}: {error}); plan it again."
            ) from error


def interval_mask(
    own: Sequence[TimeInterval], hidden: Sequence[TimeInterval] | None, t: pl.Expr, t_end: pl.Expr
) -> pl.Expr:
    """Rows with t in one of `own` whose label is known before the next of `hidden` starts.

    Args:
        own: disjoint intervals.
        hidden: what these rows must not see, disjoint from `own`; None: labels do not matter, not even unknown ones.
    """
    parts = [pl.lit(False)]
    for interval in own:
        inside = (t >= interval.start) & (t < interval.end)
        if hidden is not None:
            later = [other.start for other in hidden if other.start >= interval.end]
            inside &= ((t_end <= min(later)) if later else t_end.is_not_null()).fill_null(False)
        parts.append(inside)
    return pl.any_horizontal(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitterConfig(PluginConfig):
    """Base config of every splitter."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the label table it reads besides symbol, timestamp and t_end."""
        return ()

    @property
    def for_a_run(self) -> bool:
        """Whether `plan` gives one stretch of time each for train, validation and test, which a run trades one by one."""
        return True

    @abstractmethod
    def plan(self, labels: pl.DataFrame, *, horizon_bars: int, timeframe: Timeframe) -> SplitPlan:
        """Decide the intervals of one run.

        Args:
            labels: columns symbol, timestamp, t_end (the row's latest label end; null when unknown), all symbols,
                sorted.
            horizon_bars: longest label horizon in bars.
        Raises: LeakageError: the purge is shorter than the horizon, or a segment would be empty.
        """

    def folds(self, labels: pl.DataFrame, *, horizon_bars: int, timeframe: Timeframe) -> tuple[SplitPlan, ...]:
        """Every fold, each a plan of its own; a splitter that makes one plan has one fold. Arguments as for `plan`."""
        return (self.plan(labels, horizon_bars=horizon_bars, timeframe=timeframe),)


SPLITTERS: PluginRegistry[SplitterConfig] = PluginRegistry("splitter", SplitterConfig, command="splitters")
register_splitter = SPLITTERS.register
