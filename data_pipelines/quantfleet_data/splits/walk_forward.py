"""Walk-forward: train on the past, test the stretch that follows, move on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl

from quantfleet.contracts import register_splitter
from quantfleet.errors import ConfigError, LeakageError
from quantfleet_data.splits.folds import FoldBlocks, FoldSplitter
from quantfleet_data.splits.timeline import Timeline

__all__ = ["WalkForward"]


@register_splitter("walk_forward")
@dataclass(frozen=True, kw_only=True, slots=True)
class WalkForward(FoldSplitter):
    """Stretches of time tested one after the other up to the last bar, each by what was trained on the past alone.

    The embargo lies before each test stretch (and before validation), in addition to the purge: all training is earlier.
    Source: Pardo (2008), The Evaluation and Optimization of Trading Strategies, ch. 11.
    """

    n_splits: int = 5
    """Test stretches."""
    test_bars: int | None = None
    """Length of a test stretch. None: as many as make the first training stretch one test stretch long."""
    window: Literal["expanding", "rolling"] = "expanding"
    """expanding: train on all of the past. rolling: on the last `train_bars` before the test stretch."""
    train_bars: int | None = None
    """With `rolling`: bars before the test stretch, purge and embargo included. None: all there are before the first one."""

    def __post_init__(self) -> None:
        if self.n_splits < 1:
            raise ConfigError(f"split.n_splits={self.n_splits} must be at least 1.")
        for name in ("test_bars", "train_bars"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"split.{name}={value} must be at least 1.")
        if self.train_bars is not None and self.window == "expanding":
            raise ConfigError(f"split.train_bars={self.train_bars} belongs to a rolling window; set window: rolling.")
        FoldSplitter.__post_init__(self)

    @property
    def for_a_run(self) -> bool:
        return self.validation_fraction > 0

    @property
    def n_folds(self) -> int:
        return self.n_splits

    @property
    def _forward(self) -> bool:
        return True

    def blocks(self, timeline: Timeline, labels: pl.DataFrame) -> list[FoldBlocks]:
        """Test blocks back to back at the end of time; each trains on what lies before."""
        bars = len(timeline)
        test = bars // (self.n_splits + 1) if self.test_bars is None else self.test_bars
        first = bars - self.n_splits * test
        train = first if self.train_bars is None else self.train_bars
        if test < 1 or first < 1 or (self.window == "rolling" and train > first):
            raise LeakageError(
                f"split: {bars} distinct timestamps are too few for {self.n_splits} test stretches of {test} bars after "
                f"{train if self.window == 'rolling' else 'some'} bars of training. Use more bars, fewer n_splits, or smaller "
                "test_bars or train_bars.",
                bars=bars,
            )
        starts = range(first, bars, test)
        return [
            FoldBlocks(test=((a, a + test),), train=(a - train if self.window == "rolling" else 0, a)) for a in starts
        ]
