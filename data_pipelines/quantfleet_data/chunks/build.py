"""Rows of one symbol to chunks: fixed-size pieces with a look-back halo, masks instead of invented values.

Shapes: R rows of the symbol, B chunks, C targets of a chunk, L look-back bars, T = C + L - 1 rows, F features, K label columns.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.contracts import SEGMENTS, ChunkBatch, ChunkIndex, DataSpec, Segment, SplitPlan, Timeframe
from quantfleet.errors import SchemaError, TimeError

__all__ = ["ChunkCutter", "SymbolRows", "chunk_segment", "symbol_rows"]

Times = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_ID_BITS = 32
"""A chunk_id is the symbol's id above these bits, and below them the number of the chunk in its segment."""


@dataclass(frozen=True, slots=True)
class SymbolRows:
    """One symbol's features, labels and segments, row by row in time."""

    time_R: Times
    x_RF: npt.NDArray[np.float32]
    y_RK: npt.NDArray[np.float32]
    target_R: dict[Segment, Mask]
    """Rows of a segment whose whole look-back window is defined and has no hole that is too wide."""
    weight_R: npt.NDArray[np.float32]
    """Sample weight, 0 where it is unknown; NaN everywhere where the tables have no such column."""
    regime_R: npt.NDArray[np.int16]
    """Regime; -1 where the tables have none."""

    def __len__(self) -> int:
        return len(self.time_R)

    def __getitem__(self, rows: slice) -> SymbolRows:
        return SymbolRows(
            time_R=self.time_R[rows],
            x_RF=self.x_RF[rows],
            y_RK=self.y_RK[rows],
            target_R={s: t[rows] for s, t in self.target_R.items()},
            weight_R=self.weight_R[rows],
            regime_R=self.regime_R[rows],
        )

    def __add__(self, later: SymbolRows) -> SymbolRows:
        return SymbolRows(
            time_R=np.concatenate([self.time_R, later.time_R]),
            x_RF=np.concatenate([self.x_RF, later.x_RF]),
            y_RK=np.concatenate([self.y_RK, later.y_RK]),
            target_R={s: np.concatenate([self.target_R[s], later.target_R[s]]) for s in SEGMENTS},
            weight_R=np.concatenate([self.weight_R, later.weight_R]),
            regime_R=np.concatenate([self.regime_R, later.regime_R]),
        )


def symbol_rows(
    features: pl.DataFrame,
    labels: pl.DataFrame,
    plan: SplitPlan,
    spec: DataSpec,
    *,
    weight_column: str | None = None,
    regime_column: str | None = None,
) -> SymbolRows:
    """Join one symbol's features and labels, and find the targets of each segment.

    Args:
        features: timestamp and the spec's feature columns; NaN where undefined.
        labels: timestamp, the spec's label columns (NaN where not known), t_end (null where not known), and the columns of
            weights and regimes where they are named.
    Raises:
        SchemaError: a column is missing, the tables do not hold the same bars, or a weight is negative or infinite.
        TimeError: a bar comes twice.
    """
    extra = [c for c in (weight_column, regime_column) if c is not None]
    for frame, columns, name in (
        (features, ("timestamp", *spec.feature_columns), "features"),
        (labels, ("timestamp", "t_end", *spec.label_columns, *extra), "labels"),
    ):
        missing = [c for c in columns if c not in frame.columns]
        if missing:
            raise SchemaError(
                f"the {name} table lacks {', '.join(missing)}; compute it again with the recipe's settings."
            )
    features, labels = (t if t["timestamp"].is_sorted() else t.sort("timestamp") for t in (features, labels))
    if not features["timestamp"].equals(labels["timestamp"]):
        both = features.join(labels, on="timestamp", how="semi").height
        raise SchemaError(
            f"features hold {features.height} bars, labels {labels.height}, together {both}: they were computed from "
            "different versions of the bars. Compute both again."
        )
    time_R = features["timestamp"].dt.epoch("us").to_numpy()
    twice = np.flatnonzero(np.diff(time_R) == 0)
    if len(twice):
        raise TimeError(
            f"bar {features['timestamp'][int(twice[0])]} comes twice in one symbol's features; keep one of each."
        )
    x_RF = _float32(features, spec.feature_columns)
    x_RF[~np.isfinite(x_RF)] = np.nan
    window_R = _whole_windows(np.asarray(np.isnan(x_RF).any(axis=1)), time_R, spec)
    masks = labels.select(plan.mask(s, pl.col("timestamp"), pl.col("t_end")).alias(s) for s in SEGMENTS)
    R = len(time_R)
    return SymbolRows(
        time_R=time_R,
        x_RF=x_RF,
        y_RK=_float32(labels, spec.label_columns),
        target_R={s: masks[s].to_numpy() & window_R for s in SEGMENTS},
        weight_R=np.full(R, np.nan, np.float32) if weight_column is None else _weights(labels, weight_column),
        regime_R=np.full(R, -1, np.int16) if regime_column is None else _regimes(labels[regime_column]),
    )


def _float32(frame: pl.DataFrame, columns: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """Columns as one array, converted one by one: the table's doubles are never copied as a whole."""
    values = np.empty((frame.height, len(columns)), np.float32)
    with np.errstate(over="ignore"):  # what float32 cannot hold is undefined
        for i, name in enumerate(columns):
            values[:, i] = frame[name].cast(pl.Float64).to_numpy()
    return values


def _weights(labels: pl.DataFrame, column: str) -> npt.NDArray[np.float32]:
    """Weights of the rows; a row whose weight is unknown weighs nothing."""
    weight_R = np.nan_to_num(_float32(labels, (column,))[:, 0], nan=0.0, posinf=np.inf, neginf=-np.inf)
    bad = np.flatnonzero(~np.isfinite(weight_R) | (weight_R < 0))
    if len(bad):
        raise SchemaError(
            f"sample weights are finite and 0 or more, and column {column!r} holds {weight_R[bad[0]]} at "
            f"{labels['timestamp'][int(bad[0])]}; compute the labels again, or name another column."
        )
    return weight_R


def _regimes(column: pl.Series) -> npt.NDArray[np.int16]:
    if not column.dtype.is_integer():
        raise SchemaError(
            f"regimes are whole numbers, and column {column.name!r} is {column.dtype}; number them 0, 1, 2, ..."
        )
    return column.fill_null(-1).cast(pl.Int16).to_numpy()


def _whole_windows(undefined_R: Mask, time_R: Times, spec: DataSpec) -> Mask:
    """Rows whose L consecutive rows are all defined, with no more than `max_gap_bars` bars missing between any two."""
    L, R = spec.lookback_bars, len(time_R)
    bad_R = np.concatenate([[0], np.cumsum(undefined_R)])
    whole_R = np.zeros(R, np.bool_)
    whole_R[L - 1 :] = bad_R[L:] == bad_R[:-L] if R >= L else False
    if spec.max_gap_bars is not None and L > 1 and R >= L:
        bar_us = Timeframe(spec.timeframe).delta // dt.timedelta(microseconds=1)
        missing = np.diff(time_R) // bar_us - 1  # whole bars between a row and the next
        holes = np.concatenate([[0], np.cumsum(missing > spec.max_gap_bars)])
        whole_R[L - 1 :] &= holes[L - 1 :] == holes[: R - L + 1]
    return whole_R


@dataclass(slots=True)
class ChunkCutter:
    """Cuts one segment's targets into chunks while a symbol's rows come in blocks; equal to cutting the whole at once.

    A chunk begins at the first target that no chunk holds yet and covers C rows, masked where they are no targets. Its halo may
    reach back into the segment before: features are causal, labels are not copied with it.

    Memory: the last C + L - 2 rows at most, between two blocks.
    """

    segment: Segment
    symbol_id: int
    spec: DataSpec
    _cut: int = 0
    _tail: SymbolRows | None = field(default=None, repr=False)

    def push(self, block: SymbolRows, *, last: bool = False) -> tuple[ChunkBatch, ChunkIndex]:
        """Take the next rows (without those pushed before) and give the chunks that are complete; with `last`, all that is left.

        The targets among a block's first L - 1 rows must have been judged with the rows before them in sight.
        """
        C, L = self.spec.chunk_bars, self.spec.lookback_bars
        rows = self._joined(block)
        places = np.flatnonzero(rows.target_R[self.segment])
        starts: list[int] = []
        begin, at = len(rows), 0  # rows from `begin` on may be targets of a later chunk
        while at < len(places):
            start = int(places[at])
            if start + C > len(rows) and not last:
                begin = start
                break
            starts.append(start)
            at = int(np.searchsorted(places, start + C))
        chunks = self._chunks(rows, np.array(starts, np.int64))
        self._cut += len(starts)
        first = max(begin - (L - 1), 0)
        self._tail = _copied(rows[first:])
        self._tail.target_R[self.segment][: begin - first] = False  # in a chunk already, or no target
        return chunks

    def _joined(self, block: SymbolRows) -> SymbolRows:
        if self._tail is None:
            return block
        waiting = self._tail.target_R[self.segment].any() or block.target_R[self.segment].any()
        if not waiting and len(block) >= self.spec.lookback_bars - 1:
            return block  # nothing of this segment in sight: its halo will come from this block
        return self._tail + block

    def _chunks(self, rows: SymbolRows, starts: Times) -> tuple[ChunkBatch, ChunkIndex]:
        spec, B, R = self.spec, len(starts), len(rows)
        index_BT = starts[:, None] - (spec.lookback_bars - 1) + np.arange(spec.chunk_rows)
        row_BT = index_BT < R  # a window is complete, so no index is below 0
        index_BT = np.minimum(index_BT, R - 1)
        index_BC, target_BC = index_BT[:, spec.lookback_bars - 1 :], row_BT[:, spec.lookback_bars - 1 :]
        x_BTF = rows.x_RF[index_BT]
        x_BTF[~row_BT] = np.nan
        mask_BC = rows.target_R[self.segment][index_BC] & target_BC
        y_BCK = rows.y_RK[index_BC]
        y_BCK[~mask_BC] = np.nan
        weight_BC = rows.weight_R[index_BC]
        batch = ChunkBatch(
            chunk_id_B=(np.int64(self.symbol_id) << _ID_BITS) + np.arange(self._cut, self._cut + B, dtype=np.int64),
            symbol_id_B=np.full(B, self.symbol_id, np.int32),
            time_BC=np.where(target_BC, rows.time_R[index_BC], -1),
            x_BTF=x_BTF,
            y_BCK=y_BCK,
            mask_BC=mask_BC,
            weight_BC=np.where(np.isnan(weight_BC), np.float32(1.0), np.where(mask_BC, weight_BC, 0.0)),
        )
        return batch, _indexed(batch, weight_BC, rows.regime_R[index_BC], spec)


def _copied(rows: SymbolRows) -> SymbolRows:
    """A copy that does not keep the block alive which it is a part of."""
    return SymbolRows(
        time_R=rows.time_R.copy(),
        x_RF=rows.x_RF.copy(),
        y_RK=rows.y_RK.copy(),
        target_R={s: t.copy() for s, t in rows.target_R.items()},
        weight_R=rows.weight_R.copy(),
        regime_R=rows.regime_R.copy(),
    )


def _indexed(
    batch: ChunkBatch, weight_BC: npt.NDArray[np.float32], regime_BC: npt.NDArray[np.int16], spec: DataSpec
) -> ChunkIndex:
    """Sum up the counted targets of each chunk."""
    counted_BC, first_B = (
        batch.mask_BC,
        batch.time_BC[:, 0],
    )  # a chunk begins with a target, so each counts at least one
    targets_B = counted_BC.sum(1)
    late_B = np.where(counted_BC, batch.time_BC - first_B[:, None], 0).sum(1) // targets_B
    volatility_BC = batch.y_BCK[:, :, 2 * len(spec.horizons_bars)]
    known_BC = np.isfinite(volatility_BC)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: not known
        volatility_B = np.where(known_BC, volatility_BC, 0.0).sum(1) / known_BC.sum(1)
    weighted_BC = counted_BC & np.isfinite(weight_BC)
    weight_B = np.where(weighted_BC, weight_BC, 0.0).sum(1, dtype=np.float64)
    weight_B[~weighted_BC.any(1)] = np.nan
    regime_B = np.full(len(targets_B), -1, np.int16)
    in_regime_BC = counted_BC & (regime_BC >= 0)
    for b in np.flatnonzero(in_regime_BC.any(1)):
        regime_B[b] = np.bincount(regime_BC[b][in_regime_BC[b]]).argmax()
    return ChunkIndex(
        chunk_id_P=batch.chunk_id_B,
        time_P=first_B + late_B,
        targets_P=targets_B.astype(np.int32),
        weight_P=weight_B.astype(np.float32),
        volatility_P=volatility_B.astype(np.float32),
        regime_P=regime_B,
    )


def chunk_segment(rows: SymbolRows, segment: Segment, symbol_id: int, spec: DataSpec) -> ChunkBatch:
    """Cut all targets of a segment into chunks of C; the last one is filled up and masked."""
    return ChunkCutter(segment, symbol_id, spec).push(rows, last=True)[0]
