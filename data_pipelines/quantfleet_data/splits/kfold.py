"""Purged k-fold and combinatorial purged cross-validation: every stretch of time is tested, the rest trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.contracts import SplitPlan, TimeInterval, register_splitter
from quantfleet.errors import ConfigError
from quantfleet_data.splits.folds import FoldBlocks, FoldSplitter, Rows, cut_evenly, label_table
from quantfleet_data.splits.timeline import Timeline

__all__ = ["CombinatorialPurged", "PurgedKFold"]


@register_splitter("purged_kfold")
@dataclass(frozen=True, kw_only=True, slots=True)
class PurgedKFold(FoldSplitter):
    """K contiguous stretches of time, each tested once while the others train; purged by label interval, embargoed.

    It trains on the future of what it tests: fit to compare models, not to tell what trading one would have earned.
    Source: Lopez de Prado (2018), Advances in Financial Machine Learning, 7.4.
    """

    n_splits: int = 5

    def __post_init__(self) -> None:
        if self.n_splits < 2:
            raise ConfigError(f"split.n_splits={self.n_splits} must be at least 2.")
        FoldSplitter.__post_init__(self)

    @property
    def for_a_run(self) -> bool:
        """The first and the last fold, which train on one side of their test."""
        return self.validation_fraction > 0 and self.fold % self.n_splits in (0, self.n_splits - 1)

    @property
    def n_folds(self) -> int:
        return self.n_splits

    def blocks(self, timeline: Timeline, labels: pl.DataFrame) -> list[FoldBlocks]:
        """One test block a fold."""
        everything = (0, len(timeline))
        return [FoldBlocks(test=(block,), train=everything) for block in cut_evenly(timeline, self.n_splits, "folds")]


@register_splitter("combinatorial_purged")
@dataclass(frozen=True, kw_only=True, slots=True)
class CombinatorialPurged(FoldSplitter):
    """N contiguous groups of time; every choice of k of them is tested once while the others train.

    There are C(N, k) folds, and their tests make up C(N, k) * k / N paths, each of which tests every row once: so many back
    tests of the whole history, where walk-forward has one.
    Source: Lopez de Prado (2018), Advances in Financial Machine Learning, 12.3 and 12.4.
    """

    n_groups: int = 6
    n_test_groups: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.n_test_groups < self.n_groups:
            raise ConfigError(
                f"split.n_test_groups={self.n_test_groups} must be 1 or more and less than n_groups={self.n_groups}, so that "
                "something is left to train on."
            )
        FoldSplitter.__post_init__(self)

    @property
    def n_folds(self) -> int:
        """C(N, k)."""
        return math.comb(self.n_groups, self.n_test_groups)

    @property
    def n_paths(self) -> int:
        """C(N, k) * k / N."""
        return math.comb(self.n_groups - 1, self.n_test_groups - 1)

    @property
    def tested_groups(self) -> tuple[tuple[int, ...], ...]:
        """The groups that each fold tests, in the order of the folds."""
        return tuple(combinations(range(self.n_groups), self.n_test_groups))

    @property
    def path_folds(self) -> npt.NDArray[np.int64]:
        """Shape (paths, groups): on path p, group g is tested by fold `path_folds[p, g]`."""
        tested = self.tested_groups
        return np.array([[f for f, own in enumerate(tested) if g in own] for g in range(self.n_groups)]).T

    def blocks(self, timeline: Timeline, labels: pl.DataFrame) -> list[FoldBlocks]:
        """k test blocks a fold; neighbouring groups stay apart, so that the i-th is the i-th group tested."""
        groups = cut_evenly(timeline, self.n_groups, "groups")
        everything = (0, len(timeline))
        return [FoldBlocks(test=tuple(groups[g] for g in own), train=everything) for own in self.tested_groups]

    def test_paths(self, plans: Sequence[SplitPlan]) -> list[list[tuple[int, TimeInterval]]]:
        """Every path tests all groups once; see `FoldSplitter.test_paths`."""
        tested = self.tested_groups
        return [
            [(int(fold), plans[fold].test[tested[fold].index(group)]) for group, fold in enumerate(path)]
            for path in self.path_folds
        ]

    def paths(self, X: Any, y: Any = None, groups: Any = None) -> list[list[tuple[int, Rows]]]:
        """How the folds' answers make up each path: per group in order of time, the fold that tested it and its rows.

        Args: as for `split`. Row numbers are those of the whole table; all of a path together are every row before the final
        period once.
        """
        labels = label_table(X, groups)
        timeline = Timeline.of(self._before_final(labels))
        place_n = np.searchsorted(timeline.stamps_S, labels["timestamp"].dt.epoch("us").to_numpy())
        rows = [
            np.flatnonzero((place_n >= a) & (place_n < b)).astype(np.int64, copy=False)
            for a, b in cut_evenly(timeline, self.n_groups, "groups")
        ]
        return [[(int(fold), rows[g]) for g, fold in enumerate(path)] for path in self.path_folds]
