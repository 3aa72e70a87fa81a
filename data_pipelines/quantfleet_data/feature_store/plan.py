"""How a set is computed: what needs one symbol's bars alone, and what is made of all symbols of a moment afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from quantfleet.contracts import FeatureSet
from quantfleet_data.feature_store.state import SymbolState, bars_digest
from quantfleet_data.features import advance_features
from quantfleet_data.features.cross_section import CrossSectionConfig

__all__ = ["FeaturePlan", "SymbolRun", "is_prefix"]


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """A set, parted by what its features are computed from."""

    features: FeatureSet

    @property
    def per_symbol(self) -> FeatureSet:
        """The set's own per-symbol features, then those that only its cross-sections read."""
        own = [f for f in self.features.features if not isinstance(f, CrossSectionConfig)]
        known = {f.column for f in own}
        for cross in self.crosses:
            if cross.of.column not in known:
                known.add(cross.of.column)
                own.append(cross.of)
        return FeatureSet(name=self.features.name, version=self.features.version, features=tuple(own))

    @property
    def crosses(self) -> tuple[CrossSectionConfig, ...]:
        return tuple(f for f in self.features.features if isinstance(f, CrossSectionConfig))


BLOCK_BARS = 131_072
"""Bars computed at a time: with 160 features some 170 MB."""


class SymbolRun:
    """A symbol's new bars, computed block after block; afterwards the state that the next run goes on from.

    Memory is bounded by the bars themselves and one block of features, whatever the history; the blocks are the rows of one
    computation, to the bit.
    """

    def __init__(
        self, bars: pl.DataFrame, features: FeatureSet, known: SymbolState | None, *, block_bars: int = BLOCK_BARS
    ) -> None:
        """Args:
        bars: the symbol's whole history with every column the features read, sorted by time.
        features: per-symbol features.
        known: where an earlier run stopped; the caller has checked that `bars` starts with exactly its bars, and has more.
            None: everything is new.
        """
        self._bars, self._features, self._known, self._block_bars = bars, features, known, block_bars
        self._state: SymbolState | None = None

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """symbol, timestamp and the features of the next bars."""
        bars, features = self._bars, self._features
        start = 0 if self._known is None else self._known.bars
        states = None if self._known is None else self._known.states
        while start < bars.height:
            stop = min(start + self._block_bars, bars.height)
            before = min(features.lookback_bars - 1, start)
            rows, states = advance_features(bars[start - before : stop], features, stop - start, states)
            yield rows
            start = stop
            if start == bars.height:
                self._state = SymbolState(
                    symbol=str(rows["symbol"][-1]),
                    bars=bars.height,
                    timestamp=rows["timestamp"][-1],
                    digest=bars_digest(bars, bars.height),
                    latest=rows.tail(1).select(features.columns).to_numpy().astype(np.float64)[0],
                    states=states,
                )

    @property
    def state(self) -> SymbolState:
        """After the last block. Raises: RuntimeError: some are not computed yet."""
        if self._state is None:
            raise RuntimeError("the run has not come to its last bar; iterate over it first.")
        return self._state


def is_prefix(known: SymbolState, bars: pl.DataFrame) -> bool:
    """Whether the bars a state stands for are, to the bit, the first of these."""
    return known.bars <= bars.height and bars_digest(bars, known.bars) == known.digest
