"""Training rows out of a chunk store, streamed or as a sample of bounded size; only `segment_rows` reads validation and test.

A training row is a target of the training segment that counts (its mask is true): its own features, not its window's, and
its labels.

Shapes: R rows, F features, K label columns, C targets of a chunk, L look-back bars.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantfleet.chance import random_keys
from quantfleet.contracts import Scaler, Segment, TrainingData
from quantfleet.errors import ConfigError, EmptyTableError

__all__ = [
    "RowSample",
    "TrainingRows",
    "sample_training_rows",
    "segment_rows",
    "training_rows",
    "training_rows_by_symbol",
]

_BATCH_CHUNKS = 64


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Rows of the training segment."""

    symbol_id_R: npt.NDArray[np.int32]
    time_R: npt.NDArray[np.int64]
    """Bar open times, microseconds since 1970 UTC."""
    x_RF: npt.NDArray[np.float32]
    y_RK: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.time_R)

    def take(self, picked: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> TrainingRows:
        return TrainingRows(self.symbol_id_R[picked], self.time_R[picked], self.x_RF[picked], self.y_RK[picked])


def training_rows(data: TrainingData, *, scaler: Scaler | None = None) -> Iterator[TrainingRows]:
    """Stream the training rows in order of symbol and time, scaled if a scaler is given. Memory: one batch of 64 chunks."""
    yield from segment_rows(data, "train", scaler=scaler)


def segment_rows(data: TrainingData, segment: Segment, *, scaler: Scaler | None = None) -> Iterator[TrainingRows]:
    """The same of another segment: to judge by, never to fit anything on."""
    C, L = data.spec.chunk_bars, data.spec.lookback_bars
    for batch in data.read(segment, batch_chunks=_BATCH_CHUNKS):
        mask_BC = batch.mask_BC
        x_BTF = batch.x_BTF if scaler is None else scaler.apply_batch(batch.x_BTF, batch.symbol_id_B)
        yield TrainingRows(
            symbol_id_R=np.repeat(batch.symbol_id_B, C)[mask_BC.reshape(-1)],
            time_R=batch.time_BC[mask_BC],
            x_RF=x_BTF[:, L - 1 :][mask_BC],
            y_RK=batch.y_BCK[mask_BC],
        )


def training_rows_by_symbol(data: TrainingData) -> Iterator[tuple[int, TrainingRows]]:
    """Stream the training rows, those of one symbol at a time. Raises: EmptyTableError: there are none."""
    found = False
    for rows in training_rows(data):
        edges = np.flatnonzero(np.diff(rows.symbol_id_R)) + 1
        for part in np.split(np.arange(len(rows)), edges):
            if len(part):
                found = True
                yield int(rows.symbol_id_R[part[0]]), rows.take(part)
    if not found:
        raise EmptyTableError("there are no training rows to fit a scaler on. Widen the training segment.")


class RowSample:
    """A uniform sample of at most `rows` rows that depends on the seed and on which rows there are, on nothing else.

    Each row draws a number from (seed, symbol, time); the rows with the smallest numbers stay ("bottom-k" sampling). So
    batches, their order and the number of workers do not matter, and samples of parts can be merged.
    Memory: at most twice `rows`, and one batch.
    Source: Cohen and Kaplan (2007), "Summarizing data using bottom-k sketches".
    """

    def __init__(self, rows: int, seed: int) -> None:
        if rows < 1:
            raise ConfigError(f"a sample of {rows} rows is none; ask for at least 1.")
        self.rows = rows
        self._seed = seed
        self._kept: list[TrainingRows] = []
        self._keys: list[npt.NDArray[np.uint64]] = []
        self._held = 0
        self._limit: np.uint64 | None = None

    def offer(self, batch: TrainingRows) -> None:
        """Let a batch take part. Each row may be offered once."""
        keys = random_keys(self._seed, batch.symbol_id_R, batch.time_R)
        if self._limit is not None:
            below = keys < self._limit
            batch, keys = batch.take(below), keys[below]
        if len(batch):
            self._kept.append(batch)
            self._keys.append(keys)
            self._held += len(batch)
        if self._held > 2 * self.rows:
            self._shrink()

    def result(self) -> TrainingRows:
        """The sample, in order of time, then symbol. No rows were offered: arrays without rows and columns."""
        if not self._kept:
            return TrainingRows(
                np.empty(0, np.int32), np.empty(0, np.int64), np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)
            )
        self._shrink()
        kept = self._kept[0]
        return kept.take(np.lexsort((kept.symbol_id_R, kept.time_R)))

    def _shrink(self) -> None:
        keys = np.concatenate(self._keys)
        rows = TrainingRows(
            np.concatenate([k.symbol_id_R for k in self._kept]),
            np.concatenate([k.time_R for k in self._kept]),
            np.concatenate([k.x_RF for k in self._kept]),
            np.concatenate([k.y_RK for k in self._kept]),
        )
        if len(keys) > self.rows:
            picked = np.argpartition(keys, self.rows)[: self.rows]
            self._limit = keys[np.argpartition(keys, self.rows)[self.rows]]
            rows, keys = rows.take(picked), keys[picked]
        self._kept, self._keys, self._held = [rows], [keys], len(keys)


def sample_training_rows(data: TrainingData, *, rows: int, seed: int, scaler: Scaler | None = None) -> TrainingRows:
    """A uniform sample of at most `rows` training rows of all symbols, in order of time, then symbol; see `training_rows`.

    Memory: at most 2 x rows x (4 (F + K) + 20) bytes and one batch of 64 chunks, whatever the size of the store.
    """
    sample = RowSample(rows, seed)
    for batch in training_rows(data, scaler=scaler):
        sample.offer(batch)
    return sample.result()
