"""What every cross-validating splitter shares: folds as plans that are stored, and as row numbers for scikit-learn.

Shapes: S distinct timestamps of all symbols, n rows of the label table.
"""

from __future__ import annotations

import datetime as dt
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.contracts import Segment, SplitPlan, SplitterConfig, Timeframe, TimeInterval
from quantfleet.contracts.split import interval_mask
from quantfleet.errors import ConfigError, LeakageError, SchemaError
from quantfleet_data.splits.timeline import Block, Gap, Mask, Timeline, clear, runs

__all__ = ["FoldBlocks", "FoldSplitter", "Rows", "cut_evenly", "label_table"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldBlocks:
    """What a fold tests, and where it may train before anything is purged; positions among the distinct bars."""

    test: tuple[Block, ...]
    train: Block


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldSplitter(SplitterConfig):
    """Base of the splitters with several folds.

    `plan` and `folds` give plans to store. `split` is scikit-learn's protocol, for `cross_val_score(..., groups=labels,
    cv=splitter)`: it purges by the labels' own intervals alone, since it knows of no horizon, unless `purge_bars` is given.
    """

    purge_bars: int | None = None
    """Bars left out before each test stretch. None: the longest label horizon in a plan, none in `split`. Rows whose own label
    reaches further, over a gap in their symbol, are purged besides."""
    embargo_bars: int = 0
    """Bars left out after each test stretch, counted from when its last label is known."""
    embargo_s: int = 0
    """The same in seconds; the longer of the two holds."""
    validation_fraction: float = 0.0
    """Share of a fold's training bars, its latest, that are held out as validation, purged and embargoed likewise."""
    final_fraction: float = 0.0
    """Share of the distinct bars, the latest, that no fold trains on, tests or knows a label of: the final period, looked at
    once, by a run of the split `time` with `test_fraction` equal to this."""
    fold: int = -1
    """Which fold a single run trains and tests, from 0; -1 is the last."""

    def __post_init__(self) -> None:
        for name in ("purge_bars", "embargo_bars", "embargo_s"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"split.{name}={value} must be zero or more.")
        for name in ("validation_fraction", "final_fraction"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"split.{name}={getattr(self, name)} must be 0 or more and below 1.")
        if not -self.n_folds <= self.fold < self.n_folds:
            raise ConfigError(f"split.fold={self.fold}: there are {self.n_folds} folds, 0 to {self.n_folds - 1}.")

    @property
    def for_a_run(self) -> bool:
        """Folds have several stretches, or no validation, unless a splitter knows better."""
        return False

    @property
    @abstractmethod
    def n_folds(self) -> int:
        """How many folds there are."""

    @abstractmethod
    def blocks(self, timeline: Timeline, labels: pl.DataFrame) -> list[FoldBlocks]:
        """Decide the folds before purging. Raises: LeakageError: too few bars."""

    @property
    def _forward(self) -> bool:
        """Whether all training lies before its test."""
        return False

    def folds(self, labels: pl.DataFrame, *, horizon_bars: int, timeframe: Timeframe) -> tuple[SplitPlan, ...]:
        """Every fold as a plan of its own; see `SplitterConfig.folds`.

        Raises:
            LeakageError: the purge is shorter than the horizon, or a fold has no bars to train on or to validate with.
            SchemaError, TimeError, EmptyTableError: the table is no label table.
        """
        labels = self._before_final(labels)
        timeline = Timeline.of(labels)
        purge = horizon_bars if self.purge_bars is None else self.purge_bars
        last_end = int(timeline.stamps_S[-1]) + timeframe.delta // dt.timedelta(microseconds=1)
        return tuple(
            SplitPlan(
                train=parts["train"],
                validation=parts["validation"],
                test=parts["test"],
                horizon_bars=horizon_bars,
                purge_bars=purge,
                embargo_bars=self.embargo_bars,
                timeframe=timeframe.text,
                embargo_s=self.embargo_s,
            )
            for parts, _ in self._intervals(timeline, labels, max(purge, horizon_bars), last_end)
        )

    def plan(self, labels: pl.DataFrame, *, horizon_bars: int, timeframe: Timeframe) -> SplitPlan:
        """The fold number `fold`; see `folds`."""
        return self.folds(labels, horizon_bars=horizon_bars, timeframe=timeframe)[self.fold]

    def test_paths(self, plans: Sequence[SplitPlan]) -> list[list[tuple[int, TimeInterval]]]:
        """How the folds' tests make up back tests of all that is tested: of each, the stretches in order of time, and the fold of
        each.

        Args: plans: what `folds` made.
        """
        return [
            sorted(
                ((fold, stretch) for fold, plan in enumerate(plans) for stretch in plan.test),
                key=lambda tested: tested[1].start,
            )
        ]

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[Rows, Rows]]:
        """Yield row numbers to train on and to test, fold by fold: scikit-learn's splitter protocol.

        Each row is tested as often as its bar is; rows whose label is unknown (t_end null) are tested and never trained on.

        Args:
            X: what is split; only its length matters, unless `groups` is None.
            y: not read.
            groups: the label table, row by row as X: columns symbol, timestamp, t_end, as polars or pandas frame. None: X is it.
        Raises:
            SchemaError: no label table, or one that is not as long as X.
            TimeError, EmptyTableError, LeakageError: as for `folds`.
        """
        labels = label_table(X, groups)
        seen = self._before_final(labels)
        timeline = Timeline.of(seen)
        t, t_end = pl.col("timestamp"), pl.col("t_end")
        last_end = int(timeline.stamps_S[-1]) + 1
        for parts, hidden in self._intervals(timeline, seen, self.purge_bars or 0, last_end):
            rows = labels.select(
                interval_mask(parts["train"], hidden, t, t_end).alias("train"),
                interval_mask(parts["test"], None, t, t_end).alias("test"),
            )
            train, test = (
                np.flatnonzero(rows[name].to_numpy()).astype(np.int64, copy=False) for name in ("train", "test")
            )
            if not train.size:
                raise LeakageError(
                    f"split: fold testing from {parts['test'][0].start} has no row to train on whose label is known before "
                    "it. Use more bars, shorter label horizons or a smaller embargo."
                )
            yield train, test

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Number of folds: scikit-learn's splitter protocol. The arguments are not read."""
        return self.n_folds

    def _before_final(self, labels: pl.DataFrame) -> pl.DataFrame:
        """The rows before the final period, up to the first bar with a label that is not known when it begins."""
        if not self.final_fraction:
            return labels
        timeline = Timeline.of(labels)
        first = len(timeline) - round(len(timeline) * self.final_fraction)
        if first >= len(timeline):
            return labels
        reaching = np.flatnonzero(timeline.known_S > timeline.stamps_S[first])
        end = min(first, int(reaching[0])) if reaching.size else first
        if end == 0:
            raise LeakageError(
                f"split.final_fraction={self.final_fraction} leaves no bar whose labels are known before the final period. Use "
                "more bars, shorter label horizons or a smaller fraction."
            )
        return labels.filter(pl.col("timestamp").dt.epoch("us") < int(timeline.stamps_S[end]))

    def _intervals(
        self, timeline: Timeline, labels: pl.DataFrame, purge_bars: int, last_end_us: int
    ) -> Iterator[tuple[dict[Segment, tuple[TimeInterval, ...]], tuple[TimeInterval, ...]]]:
        """The segments of each fold, and what its training labels may not reach into: validation and test, embargo included."""
        gap = Gap(
            purge_bars=purge_bars,
            embargo_bars=self.embargo_bars,
            embargo_s=self.embargo_s,
            embargo_before=self._forward,
        )
        for number, blocks in enumerate(self.blocks(timeline, labels)):
            allowed_S = np.zeros(len(timeline), np.bool_)
            allowed_S[slice(*blocks.train)] = True
            train_S = clear(timeline, allowed_S, blocks.test, gap)
            validation_S = np.zeros_like(train_S)
            if self.validation_fraction:
                places = np.flatnonzero(train_S)
                validation_S[places[len(places) - round(len(places) * self.validation_fraction) :]] = True
                self._require("validation", validation_S, number, timeline, gap)
                train_S = clear(timeline, train_S & ~validation_S, runs(validation_S), gap)
            self._require("train", train_S, number, timeline, gap)
            unseen = [(gap.quiet(timeline, a), b) for a, b in (*runs(validation_S), *blocks.test)]
            segments: dict[Segment, tuple[TimeInterval, ...]] = {
                "train": timeline.intervals(runs(train_S), last_end_us),
                "validation": timeline.intervals(runs(validation_S), last_end_us),
                "test": timeline.intervals(blocks.test, last_end_us),
            }
            yield segments, timeline.intervals(unseen, last_end_us)

    def _require(self, segment: Segment, mask_S: Mask, number: int, timeline: Timeline, gap: Gap) -> None:
        if not mask_S.any():
            raise LeakageError(
                f"split: no bars are left for {segment} of fold {number}. Of {len(timeline)} distinct timestamps, those around "
                f"each test stretch are cut: {gap.purge_bars} for the purge before it, all until its last label is known, and "
                f"{gap.embargo_bars} bars or {gap.embargo_s} s for the embargo. Use more bars, fewer folds, shorter label "
                "horizons or a smaller embargo.",
                segment=segment,
                fold=number,
                bars=len(timeline),
            )


def cut_evenly(timeline: Timeline, parts: int, what: str) -> list[Block]:
    """Cut all bars into contiguous blocks whose lengths differ by one at most, the longer ones first.

    Raises: LeakageError: fewer bars than parts.
    """
    if len(timeline) < parts:
        raise LeakageError(
            f"split: {len(timeline)} distinct timestamps cannot be cut into {parts} {what}; use more bars or fewer {what}."
        )
    sizes = np.full(parts, len(timeline) // parts)
    sizes[: len(timeline) % parts] += 1
    edges = np.concatenate([[0], np.cumsum(sizes)])
    return [(int(a), int(b)) for a, b in pairwise(edges)]


def label_table(X: Any, groups: Any) -> pl.DataFrame:
    """The label table that scikit-learn handed over as `groups`, or as X where that is None; times in microseconds.

    Raises: SchemaError: it is no table, or not as long as X.
    """
    given, name = (X, "X") if groups is None else (groups, "groups")
    if not isinstance(given, pl.DataFrame):
        try:
            given = pl.from_pandas(given)
        except (TypeError, ValueError) as error:
            raise SchemaError(
                f"split: {name} is a {type(given).__name__}, not a label table. Pass the table with symbol, timestamp and t_end, "
                "row by row as X, as `groups=`."
            ) from error
    rows = len(X) if hasattr(X, "__len__") else X.shape[0]
    if not isinstance(given, pl.DataFrame) or given.height != rows:
        raise SchemaError(
            f"split: X has {rows} rows and the label table in `groups` {len(given)}; they must match row by row."
        )
    return given.with_columns(pl.col("timestamp", "t_end").dt.cast_time_unit("us")) if _timed(given) else given


def _timed(table: pl.DataFrame) -> bool:
    return all(isinstance(table.schema.get(name), pl.Datetime) for name in ("timestamp", "t_end"))
