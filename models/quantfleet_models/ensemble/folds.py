"""Training data without a block of time, for predictions of rows that a model was not fitted on.

Shapes: P chunks of the training segment, C targets, B chunks of a batch, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from quantfleet.contracts import ChunkBatch, ChunkIndex, ChunkReader, DataSpec, Segment, TrainingData, TrainingStats
from quantfleet.errors import ConfigError
from quantfleet.moments import Moments

if TYPE_CHECKING:
    import ray.data

__all__ = ["FoldData", "folds_of"]

Mask = npt.NDArray[np.bool_]


def folds_of(data: TrainingData, folds: int, *, embargo_bars: int) -> list[tuple[FoldData, Mask]]:
    """Part the training segment into blocks of time, alike for all symbols, with about the same number of bars each.

    For each block: the training data without it, and which targets (P, C) are in it. Besides the block itself those targets are
    left out whose label interval and one of the block's overlap: an interval goes from the decision to the bar after the longest
    horizon, in the symbol's own bars; and those of the `embargo_bars` bars after the last of the block's intervals.

    Raises: ConfigError: there are fewer bars than folds.
    """
    spec = data.spec
    symbols, times, masks = [], [], []
    for batch in data.read("train"):
        symbols.append(batch.symbol_id_B)
        times.append(batch.time_BC)
        masks.append(batch.mask_BC)
    symbol_P, time_PC, mask_PC = np.concatenate(symbols), np.concatenate(times), np.concatenate(masks)
    every_T = np.unique(time_PC[mask_PC])
    if len(every_T) < folds:
        raise ConfigError(f"the training segment has {len(every_T)} bars, too few for {folds} folds.")
    edges = [every_T[len(every_T) * k // folds] for k in range(folds)]
    known_until_PC = _known_until(symbol_P, time_PC, bars=1 + max(spec.horizons_bars))
    made = []
    for k, first in enumerate(edges):
        last = every_T[len(every_T) * (k + 1) // folds - 1]
        held_PC = mask_PC & (time_PC >= first) & (time_PC <= last)
        known = known_until_PC[held_PC].max()
        embargoed_until = every_T[min(np.searchsorted(every_T, known, side="right") + embargo_bars, len(every_T)) - 1]
        clear_PC = (known_until_PC < first) | (time_PC > max(known, embargoed_until))
        made.append((FoldData(data, mask_PC & clear_PC, f"fold{k}of{folds}+{embargo_bars}"), held_PC))
    return made


def _known_until(
    symbol_P: npt.NDArray[np.int32], time_PC: npt.NDArray[np.int64], *, bars: int
) -> npt.NDArray[np.int64]:
    """Open time of the bar so many bars later, in the symbol's own bars; its last where there is none yet."""
    out = np.zeros_like(time_PC)
    for symbol in np.unique(symbol_P):
        own = symbol_P == symbol
        bars_T = np.unique(time_PC[own])
        place = np.searchsorted(bars_T, time_PC[own]) + bars
        inside = place < len(bars_T)
        # what ends beyond the segment reaches all of its later blocks
        out[own] = np.where(inside, bars_T[np.minimum(place, len(bars_T) - 1)], bars_T[-1])
    return out


@dataclass(frozen=True, eq=False)
class FoldData:
    """Training data as they were, with fewer targets that count in the training segment. Keeps one byte a target."""

    data: TrainingData
    keep_PC: Mask
    name: str

    @property
    def spec(self) -> DataSpec:
        return self.data.spec

    @cached_property
    def stats(self) -> TrainingStats:
        """Moments of the targets that are left."""
        F, K = self.spec.features, len(self.spec.label_columns)
        features, labels, weight_K = Moments.none(F), Moments.none(K), np.zeros(K)
        for batch in self.read("train"):
            at = batch.mask_BC
            y_RK = batch.y_BCK[at]
            features = features + Moments.of(batch.x_BTF[:, self.spec.lookback_bars - 1 :][at])
            labels = labels + Moments.of(y_RK)
            weight_K += batch.weight_BC[at].astype(np.float64) @ np.isfinite(y_RK)
        return TrainingStats(
            feature_mean_F=features.mean,
            feature_std_F=features.std,
            label_mean_K=labels.mean,
            label_std_K=labels.std,
            label_known_K=labels.count.astype(np.int64),
            label_weight_K=weight_K,
            targets={**self.data.stats.targets, "train": int(self.keep_PC.sum())},
        )

    def chunks(self, segment: Segment) -> int:
        return self.data.chunks(segment)

    def reader(self, segment: Segment) -> ChunkReader:
        reader = self.data.reader(segment)
        return _FoldReader(reader, self.keep_PC, self.name) if segment == "train" else reader

    def dataset(self, segment: Segment) -> ray.data.Dataset:
        """Of the segments that are not cut. Raises: ConfigError: the training segment was asked for."""
        if segment == "train":
            raise ConfigError(
                "a fold of the training segment is read by place, with `reader` or `read`, not as a dataset."
            )
        return self.data.dataset(segment)

    def read(self, segment: Segment, *, batch_chunks: int = 64) -> Iterator[ChunkBatch]:
        place = 0
        for batch in self.data.read(segment, batch_chunks=batch_chunks):
            if segment == "train":
                own = self.keep_PC[place : place + len(batch.chunk_id_B)]
                place += len(own)
                batch = replace(batch, mask_BC=batch.mask_BC & own)
            yield batch


@dataclass(frozen=True, eq=False)
class _FoldReader:
    reader: Any
    keep_PC: Mask
    name: str

    @property
    def spec(self) -> DataSpec:
        spec: DataSpec = self.reader.spec
        return spec

    @property
    def content(self) -> str:
        return f"{self.reader.content}-{self.name}"

    @property
    def local(self) -> bool:
        return bool(self.reader.local)

    def __len__(self) -> int:
        return len(self.reader)

    def index(self) -> ChunkIndex:
        """Weights are cut in proportion to the targets; times, volatilities and regimes are those of the whole chunk."""
        whole: ChunkIndex = self.reader.index()
        targets_P = self.keep_PC.sum(1).astype(whole.targets_P.dtype)
        share_P = targets_P / np.maximum(whole.targets_P, 1)
        return replace(whole, targets_P=targets_P, weight_P=(whole.weight_P * share_P).astype(np.float32))

    def take(self, place_B: npt.NDArray[np.int64]) -> ChunkBatch:
        batch: ChunkBatch = self.reader.take(place_B)
        return replace(batch, mask_BC=batch.mask_BC & self.keep_PC[place_B])
