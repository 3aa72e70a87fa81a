"""Training data in memory: random chunks of every segment, for what is fitted on training rows and must see no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quantfleet.contracts import ChunkBatch, ChunkIndex, DataSpec, Segment, TrainingStats

HOUR_US = 3_600_000_000


@dataclass
class MemoryData:
    """Stands in for a chunk store. `segments_read` says which segments were asked for."""

    spec: DataSpec
    batches: Mapping[Segment, ChunkBatch]
    segments_read: list[Segment] = field(default_factory=list)

    def read(self, segment: Segment, *, batch_chunks: int = 64, **_: Any) -> Iterator[ChunkBatch]:
        self.segments_read.append(segment)
        batch = self.batches[segment]
        for first in range(0, len(batch.chunk_id_B), batch_chunks):
            yield take(batch, slice(first, first + batch_chunks))

    def chunks(self, segment: Segment) -> int:
        return len(self.batches[segment].chunk_id_B)

    def reader(self, segment: Segment) -> MemoryReader:
        return MemoryReader(self.spec, self.batches[segment])

    @property
    def stats(self) -> TrainingStats:
        x_RF, y_RK = self.rows("train")
        return TrainingStats(
            feature_mean_F=np.nanmean(x_RF.astype(np.float64), 0),
            feature_std_F=np.nanstd(x_RF.astype(np.float64), 0),
            label_mean_K=np.nanmean(y_RK.astype(np.float64), 0),
            label_std_K=np.nanstd(y_RK.astype(np.float64), 0),
            label_known_K=np.isfinite(y_RK).sum(0),
            label_weight_K=self.weights("train") @ np.isfinite(y_RK),
            targets={s: int(b.mask_BC.sum()) for s, b in self.batches.items()},
        )

    def rows(self, segment: Segment, symbol_id: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Features and labels of a segment's targets that count, in order of symbol and time."""
        batch = self.batches[segment]
        own = batch.mask_BC if symbol_id is None else batch.mask_BC & (batch.symbol_id_B == symbol_id)[:, None]
        return batch.x_BTF[:, self.spec.lookback_bars - 1 :][own], batch.y_BCK[own]

    def weights(self, segment: Segment) -> np.ndarray:
        """Sample weights of the targets that count, in the order of `rows`."""
        batch = self.batches[segment]
        return batch.weight_BC[batch.mask_BC].astype(np.float64)


def plain_stats(spec: DataSpec, *, slots: int, **changes: Any) -> TrainingStats:
    """Labels of mean 0 and spread 1 that are known everywhere, half of the moves up, without weights."""
    H, K = len(spec.horizons_bars), len(spec.label_columns)
    mean_K = np.zeros(K)
    mean_K[H : 2 * H] = 0.5
    values = {
        "feature_mean_F": np.zeros(spec.features), "feature_std_F": np.ones(spec.features), "label_mean_K": mean_K,
        "label_std_K": np.ones(K), "label_known_K": np.full(K, slots), "targets": {"train": slots}, **changes,
    }  # fmt: skip
    return TrainingStats(**{"label_weight_K": values["label_known_K"].astype(np.float64), **values})


class MemoryReader:
    """A segment of a MemoryData, by place, as training workers read it."""

    local, content = True, "memory"

    def __init__(self, spec: DataSpec, batch: ChunkBatch) -> None:
        self.spec, self.batch = spec, batch

    def __len__(self) -> int:
        return len(self.batch.chunk_id_B)

    def index(self) -> ChunkIndex:
        P = len(self)
        ones = np.ones(P, np.float32)
        return ChunkIndex(
            chunk_id_P=self.batch.chunk_id_B, time_P=self.batch.time_BC[:, 0], targets_P=self.batch.mask_BC.sum(1),
            weight_P=(self.batch.weight_BC * self.batch.mask_BC).sum(1), volatility_P=ones, regime_P=np.zeros(P, np.int16),
        )  # fmt: skip

    def take(self, place_B: np.ndarray) -> ChunkBatch:
        return take(self.batch, place_B)


def take(batch: ChunkBatch, which: Any) -> ChunkBatch:
    """Some chunks of a batch."""
    return ChunkBatch(**{name: getattr(batch, name)[which] for name in ChunkBatch.__dataclass_fields__})


def memory_data(
    seed: int = 0,
    *,
    symbols: int = 3,
    features: int = 4,
    chunks: int = 5,
    chunk_bars: int = 16,
    lookback_bars: int = 6,
) -> MemoryData:
    """Features of different size per column and symbol; a fifth of the targets masked; labels with NaN. Each segment follows
    the other in time, and validation and test are shifted, so that a row of theirs shows in any statistic.
    """
    rng = np.random.default_rng(seed)
    spec = DataSpec(
        symbols=tuple(f"S{i}" for i in range(symbols)),
        feature_columns=tuple(f"f{i}" for i in range(features)),
        feature_digest="0" * 16,
        horizons_bars=(1,),
        timeframe="1h",
        lookback_bars=lookback_bars,
        chunk_bars=chunk_bars,
    )
    B, K = symbols * chunks, len(spec.label_columns)
    symbol_id = np.repeat(np.arange(symbols, dtype=np.int32), chunks)
    number = np.tile(np.arange(chunks, dtype=np.int64), symbols)
    batches: dict[Segment, ChunkBatch] = {}
    order: tuple[Segment, ...] = ("train", "validation", "test")
    for place, segment in enumerate(order):
        x = rng.normal(size=(B, spec.chunk_rows, features)) * 10.0 ** np.arange(features)
        x += 5.0 * (1 + symbol_id[:, None, None]) + 1000.0 * place
        y = rng.normal(size=(B, chunk_bars, K))
        y[..., 1] = y[..., 1] > 0
        y[rng.random(y.shape) < 0.05] = np.nan
        bar = (place * chunks + number)[:, None] * chunk_bars + np.arange(chunk_bars)
        batches[segment] = ChunkBatch(
            chunk_id_B=(symbol_id.astype(np.int64) << 32) + number,
            symbol_id_B=symbol_id,
            time_BC=bar * HOUR_US,
            x_BTF=x.astype(np.float32),
            y_BCK=y.astype(np.float32),
            mask_BC=rng.random((B, chunk_bars)) < 0.8,
            weight_BC=np.random.default_rng((seed, place)).uniform(0.1, 0.9, (B, chunk_bars)).astype(np.float32),
        )
    return MemoryData(spec, batches)
