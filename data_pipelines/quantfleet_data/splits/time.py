"""Split by time: the past trains, a later stretch validates, the latest tests."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import polars as pl

from quantfleet.contracts import Segment, SplitPlan, SplitterConfig, Timeframe, register_splitter
from quantfleet.errors import ConfigError, LeakageError
from quantfleet_data.splits.timeline import Block, Gap, Timeline

__all__ = ["TimeSplit"]


@register_splitter("time")
@dataclass(frozen=True, kw_only=True, slots=True)
class TimeSplit(SplitterConfig):
    """Train, validation and test in order of time, with a hole of purge and embargo before validation and before test.

    Positions are counted in the distinct timestamps of all symbols, so the intervals are the same for every symbol. The
    hole is cut out of the earlier segment: validation and test stay where they are, whatever the purge and the embargo,
    and results stay comparable.
    """

    validation_fraction: float = 0.15
    """Share of the distinct timestamps; not used when starts are given."""
    test_fraction: float = 0.15
    validation_start: dt.datetime | None = None
    """With `test_start`: split at these times (with a time zone), each moved on to the first bar at or after it."""
    test_start: dt.datetime | None = None
    purge_bars: int | None = None
    """Bars cut from the end of train and of validation. None: the longest label horizon; shorter than that is refused.
    Rows whose own label interval reaches further, over a gap in their symbol, are purged besides."""
    embargo_bars: int = 0
    """Bars cut in addition to the purge."""
    embargo_s: int = 0
    """The same in seconds; the longer of the two holds."""

    def __post_init__(self) -> None:
        for name in ("embargo_bars", "embargo_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"split.{name}={getattr(self, name)} must be zero or more.")
        if (self.validation_start is None) != (self.test_start is None):
            raise ConfigError("split.validation_start and split.test_start belong together: give both or neither.")
        for name in ("validation_start", "test_start"):
            value = getattr(self, name)
            if value is not None and value.tzinfo is None:
                raise ConfigError(
                    f"split.{name}={value} is naive; add its time zone, such as {value.isoformat()}+00:00."
                )
        if self.validation_start is not None and self.test_start is not None:
            if self.validation_start >= self.test_start:
                raise ConfigError(
                    f"split.validation_start={self.validation_start} must lie before test_start={self.test_start}."
                )
            return
        for name in ("validation_fraction", "test_fraction"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(f"split.{name}={getattr(self, name)} must lie between 0 and 1.")
        if self.validation_fraction + self.test_fraction >= 1.0:
            raise ConfigError(
                f"split.validation_fraction={self.validation_fraction} and test_fraction={self.test_fraction} leave "
                "nothing to train on; their sum must be below 1."
            )

    def plan(self, labels: pl.DataFrame, *, horizon_bars: int, timeframe: Timeframe) -> SplitPlan:
        """Decide the intervals; see `SplitterConfig.plan`.

        Raises:
            LeakageError: the purge is shorter than the horizon, or a segment would be empty.
            SchemaError, TimeError: the label table lacks a column, or its timestamps are not in UTC.
        """
        timeline = Timeline.of(labels)
        validation, test = self._starts(timeline)
        purge = horizon_bars if self.purge_bars is None else self.purge_bars
        gap = Gap(
            purge_bars=max(purge, horizon_bars),  # a purge that is too short is refused by the plan itself
            embargo_bars=self.embargo_bars,
            embargo_s=self.embargo_s,
            embargo_before=True,
        )
        blocks: dict[Segment, Block] = {
            "train": (0, gap.start(timeline, min(validation, len(timeline) - 1))),
            "validation": (validation, gap.start(timeline, min(test, len(timeline) - 1))),
            "test": (test, len(timeline)),
        }
        for segment, (start, end) in blocks.items():
            if end <= start:
                raise LeakageError(
                    f"split: no bars are left for {segment}. Of {len(timeline)} distinct timestamps validation starts at "
                    f"{validation}, test at {test}, and before each are cut {gap.purge_bars} bars for the purge (longest label "
                    f"horizon {horizon_bars}) and {self.embargo_bars} bars or {self.embargo_s} s for the embargo. Use more "
                    "bars, shorter label horizons, a smaller embargo, or move the starts or fractions.",
                    segment=segment,
                    bars=len(timeline),
                )
        last_end = int(timeline.stamps_S[-1]) + timeframe.delta // dt.timedelta(microseconds=1)
        return SplitPlan(
            train=timeline.intervals([blocks["train"]], last_end),
            validation=timeline.intervals([blocks["validation"]], last_end),
            test=timeline.intervals([blocks["test"]], last_end),
            horizon_bars=horizon_bars,
            purge_bars=purge,
            embargo_bars=self.embargo_bars,
            timeframe=timeframe.text,
            embargo_s=self.embargo_s,
        )

    def _starts(self, timeline: Timeline) -> tuple[int, int]:
        """Positions of the first validation and the first test bar among the distinct timestamps."""
        if self.validation_start is not None and self.test_start is not None:
            return timeline.position(self.validation_start), timeline.position(self.test_start)
        test = len(timeline) - round(len(timeline) * self.test_fraction)
        return test - round(len(timeline) * self.validation_fraction), test
