"""Regime-stratified folds: every fold tests its share of every regime, in contiguous stretches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.contracts import register_splitter
from quantfleet.errors import ConfigError, SchemaError
from quantfleet_data.splits.folds import FoldBlocks, FoldSplitter, cut_evenly
from quantfleet_data.splits.timeline import Block, Timeline

__all__ = ["RegimeStratified"]


@register_splitter("regime_stratified")
@dataclass(frozen=True, kw_only=True, slots=True)
class RegimeStratified(FoldSplitter):
    """K folds of several stretches of time each, chosen so that every fold tests about the same share of every regime.

    Time is cut into n_splits * blocks_per_fold stretches of equal length; each fold tests blocks_per_fold of them, purged and
    embargoed around each. The blocks with the most lopsided mixture are dealt first, each to the fold that lacks it most: so the
    deal depends on regimes alone, never on labels or returns. Like every k-fold it trains on the future of what it tests.
    Source of the idea: Kohavi (1995), A study of cross-validation, IJCAI 14 (stratification), on blocks of time.
    """

    n_splits: int = 5
    blocks_per_fold: int = 4
    """More blocks balance better and lose more rows to purging."""
    regime_column: str = "regime"
    """Column of the label table, known at the close of its bar, such as `VolatilityRegime` makes; null is a regime of its own."""

    def __post_init__(self) -> None:
        if self.n_splits < 2:
            raise ConfigError(f"split.n_splits={self.n_splits} must be at least 2.")
        if self.blocks_per_fold < 1:
            raise ConfigError(f"split.blocks_per_fold={self.blocks_per_fold} must be at least 1.")
        FoldSplitter.__post_init__(self)

    @property
    def n_folds(self) -> int:
        return self.n_splits

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.regime_column,)

    def blocks(self, timeline: Timeline, labels: pl.DataFrame) -> list[FoldBlocks]:
        """blocks_per_fold test blocks a fold, together every bar once.

        Raises: SchemaError: the label table lacks the regime column.
        """
        blocks = cut_evenly(timeline, self.n_splits * self.blocks_per_fold, "blocks")
        fold_B = _deal(self._mixture(timeline, labels, blocks), self.n_splits)
        everything = (0, len(timeline))
        return [
            FoldBlocks(test=tuple(b for b, own in zip(blocks, fold_B, strict=True) if own == f), train=everything)
            for f in range(self.n_splits)
        ]

    def _mixture(self, timeline: Timeline, labels: pl.DataFrame, blocks: list[Block]) -> npt.NDArray[np.float64]:
        """Rows of each regime in each block, shape (blocks, regimes)."""
        if self.regime_column not in labels.columns:
            raise SchemaError(
                f"the label table has no column {self.regime_column!r} to stratify by; it has {', '.join(labels.columns)}. Set "
                "`labels.regime`, or name the column in split.regime_column.",
                column=self.regime_column,
            )
        place_n = np.searchsorted(timeline.stamps_S, labels["timestamp"].dt.epoch("us").to_numpy())
        block_n = np.searchsorted([a for a, _ in blocks], place_n, side="right") - 1
        regime_n = labels[self.regime_column].rank("dense").fill_null(0).cast(pl.Int64).to_numpy()
        counts = np.zeros((len(blocks), int(regime_n.max()) + 1))
        np.add.at(counts, (block_n, regime_n), 1.0)
        return counts


def _deal(counts_BR: npt.NDArray[np.float64], folds: int) -> npt.NDArray[np.int64]:
    """Fold of each block: equally many blocks each, the regimes' counts as equal as a greedy deal makes them."""
    blocks = len(counts_BR)
    want_R = counts_BR.sum(0) / folds
    scale_R = np.where(want_R > 0, want_R, 1.0)  # a rare regime weighs as much as a common one
    lopsided_B = np.abs(counts_BR / scale_R - (counts_BR.sum(1, keepdims=True) / counts_BR.sum()) * folds).sum(1)
    have_FR, size_F = np.zeros((folds, counts_BR.shape[1])), np.zeros(folds, np.int64)
    fold_B = np.empty(blocks, np.int64)
    for block in np.argsort(-lopsided_B, kind="stable"):
        short_F = (((have_FR + counts_BR[block] - want_R) / scale_R) ** 2 - ((have_FR - want_R) / scale_R) ** 2).sum(1)
        short_F[size_F == blocks // folds] = np.inf
        fold = int(np.argmin(short_F))
        fold_B[block] = fold
        have_FR[fold] += counts_BR[block]
        size_F[fold] += 1
    return fold_B
