"""Features, labels and a split plan to a chunk store, one Ray task per symbol, block of time after block of time.

Memory of a task does not grow with the symbol's history: some thirty times `_BLOCK_BYTES`, for blocks on their way from
doubles to records. Measured with 60 features: 0.50 GB for 0.2 million rows, 0.55 GB for 2 million in row groups of 65,536 rows,
0.80 GB in row groups of a million. Tables whose rows lie in no order of time cost a whole row group. The driver holds the
index, 30 bytes a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import polars as pl

from quantfleet.config import fingerprint
from quantfleet.contracts import SEGMENTS, ChunkIndex, DataSpec, SplitPlan, TrainingStats
from quantfleet.errors import ConfigError, EmptyTableError, SchemaError
from quantfleet.moments import Moments
from quantfleet.storage import LakeTable, Storage, TableVersion
from quantfleet_data.chunks.build import ChunkCutter, SymbolRows, symbol_rows
from quantfleet_data.chunks.reading import TimedRows, symbol_blocks
from quantfleet_data.chunks.records import INDEX_TYPE, index_file, index_records, npy_bytes, read_index, to_records
from quantfleet_data.chunks.store import ChunkStore

__all__ = ["ChunkInputs", "check_history", "chunk_store_path", "write_chunks"]

_BLOCK_BYTES = 16_000_000
"""Features of a block, in float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkInputs:
    """Everything a chunk store is made of; its fingerprint names the store."""

    features: TableVersion
    labels: TableVersion
    plan: SplitPlan
    spec: DataSpec
    weight_column: str | None = None
    """Column of the labels table with sample weights; None leaves the index without."""
    regime_column: str | None = None
    """Column of the labels table with regimes numbered from 0, null where unknown; None leaves the index without."""


def chunk_store_path(inputs: ChunkInputs) -> str:
    parts = [str(inputs.features), str(inputs.labels), inputs.plan.to_json(), inputs.spec.to_json()]
    return f"lake/chunks/{fingerprint('records', *parts, inputs.weight_column, inputs.regime_column)}"


def write_chunks(inputs: ChunkInputs, storage: Storage) -> ChunkStore:
    """Write the store, or open it when it is already there.

    Files have fixed names, so a task that is run again replaces its own; the manifest comes last and makes them valid.

    Raises: ConfigError: the look-back is longer than every symbol's history. EmptyTableError: a segment has no target whose
        look-back window is complete.
    """
    import ray.data

    path = chunk_store_path(inputs)
    if ChunkStore.exists(storage, path):
        return ChunkStore.open(storage, path)
    symbols = inputs.spec.symbols
    check_history(inputs.spec.lookback_bars, _bars_by_symbol(inputs, storage))
    tasks = ray.data.from_items([{"symbol_id": i} for i in range(len(symbols))], override_num_blocks=len(symbols))
    rows = tasks.map(_write_symbol, fn_kwargs={"inputs": inputs, "storage": storage, "path": path}).take_all()
    rows.sort(key=lambda row: row["symbol_id"])
    targets = {s: sum(int(row["targets"][s]) for row in rows) for s in SEGMENTS}
    for segment in SEGMENTS:
        intervals = inputs.plan.intervals(segment)
        if intervals and not targets[segment]:  # a fold may go without validation
            storage.delete(path)
            check_history(
                inputs.spec.lookback_bars, {symbols[row["symbol_id"]]: row["defined"] for row in rows}, defined=True
            )
            raise EmptyTableError(
                f"segment {segment} ({intervals[0].start:%Y-%m-%d} to {intervals[-1].end:%Y-%m-%d}) has no bar with a full "
                f"window of {inputs.spec.lookback_bars} bars of defined features. Give it more bars, or shorten lookback_bars."
            )
    return commit_symbols(rows, inputs, storage, path)


def check_history(lookback_bars: int, bars: Mapping[str, int], *, defined: bool = False) -> None:
    """A symbol with too short a history gives no target, and others may; where none has enough, nothing can be trained.

    Args:
        bars: how many each symbol has.
        defined: they are those whose features are all defined.
    Raises: ConfigError: names the symbol with the longest history.
    """
    symbol = max(bars, key=lambda name: bars[name], default=None)
    if symbol is None or bars[symbol] >= lookback_bars:
        return
    longest = f"{symbol}{', the longest,' if len(bars) > 1 else ''} has {bars[symbol]:,} bars"
    if defined:
        longest += " with every feature defined (the first bars are what features need as their own past)"
    raise ConfigError(
        f"windows.lookback_bars={lookback_bars:,} is longer than the history: {longest}. Set lookback_bars to "
        f"{max(bars[symbol], 1):,} or less, or ingest a longer history."
    )


def _bars_by_symbol(inputs: ChunkInputs, storage: Storage) -> dict[str, int]:
    """Rows of each symbol by the table's log; empty where the log does not say."""
    files = LakeTable(storage, inputs.features.path).files(inputs.features.version)
    if not {"num_records", "partition.symbol"} <= set(files.columns) or files["num_records"].null_count():
        return {}
    counted = files.group_by("partition.symbol").agg(pl.col("num_records").sum())
    found = {str(name): int(count) for name, count in counted.iter_rows()}
    return {name: found.get(name, 0) for name in inputs.spec.symbols}


def commit_symbols(rows: list[dict[str, Any]], inputs: ChunkInputs, storage: Storage, path: str) -> ChunkStore:
    """Join what the symbols' tasks reported, in order of symbol, into the indexes and the manifest."""
    for segment in SEGMENTS:
        indexes = [read_index(row["index"][segment]) for row in rows]
        joined = {f.name: np.concatenate([getattr(i, f.name) for i in indexes]) for f in fields(ChunkIndex)}
        storage.write_bytes(f"{path}/{index_file(segment)}", npy_bytes(index_records(ChunkIndex(**joined))))
    features, labels = (_summed([row[kind] for row in rows]) for kind in ("feature_moments", "label_moments"))
    store = ChunkStore(
        storage=storage,
        path=path,
        spec=inputs.spec,
        stats=TrainingStats(
            feature_mean_F=features.mean,
            feature_std_F=features.std,
            label_mean_K=labels.mean,
            label_std_K=labels.std,
            label_known_K=labels.count.astype(np.int64),
            label_weight_K=np.sum([row["label_weight"] for row in rows], axis=0),
            targets={str(s): sum(int(row["targets"][s]) for row in rows) for s in SEGMENTS},
        ),
        parts={s: tuple((str(f), int(n)) for row in rows for f, n in _pairs(row["parts"][s])) for s in SEGMENTS},
    )
    store.commit()
    return store


def _pairs(parts: dict[str, Any]) -> Iterator[tuple[str, int]]:
    return zip(parts["file"], parts["chunks"], strict=True)


def _summed(records: list[Any]) -> Moments:
    parts = [Moments(*(np.asarray(v) for v in record)) for record in records]
    return sum(parts[1:], parts[0])


def _write_symbol(row: dict[str, Any], *, inputs: ChunkInputs, storage: Storage, path: str) -> dict[str, Any]:
    """Runs in a Ray task: write one symbol's files, return what the manifest needs of them."""
    symbol_id, spec = int(row["symbol_id"]), inputs.spec
    cutters = {s: ChunkCutter(s, symbol_id, spec) for s in SEGMENTS}
    parts: dict[str, dict[str, list[Any]]] = {s: {"file": [], "chunks": []} for s in SEGMENTS}
    indexes: dict[str, list[Any]] = {s: [np.zeros(0, INDEX_TYPE)] for s in SEGMENTS}
    targets, defined = dict.fromkeys(SEGMENTS, 0), 0
    label_weight_K = np.zeros(len(spec.label_columns))
    features, labels = Moments.none(spec.features), Moments.none(len(spec.label_columns))
    for number, (rows, last) in enumerate(_blocks(inputs, storage, spec.symbols[symbol_id])):
        train = rows.target_R["train"]
        defined += int(np.isfinite(rows.x_RF).all(1).sum())
        features, labels = features + Moments.of(rows.x_RF[train]), labels + Moments.of(rows.y_RK[train])
        weight_R = np.nan_to_num(rows.weight_R[train], nan=1.0).astype(np.float64)
        label_weight_K += weight_R @ np.isfinite(rows.y_RK[train])
        for segment, cutter in cutters.items():
            targets[segment] += int(rows.target_R[segment].sum())
            batch, index = cutter.push(rows, last=last)
            indexes[segment].append(index_records(index))
            if len(index):
                file = f"{segment}/symbol-{symbol_id:05d}-{number:05d}.npy"
                storage.write_bytes(f"{path}/{file}", npy_bytes(to_records(batch, spec)))
                parts[segment]["file"].append(file)
                parts[segment]["chunks"].append(len(index))
    return {
        "symbol_id": symbol_id,
        "parts": parts,
        "index": {s: npy_bytes(np.concatenate(indexes[s])) for s in SEGMENTS},
        "targets": targets,
        "defined": defined,
        "feature_moments": [m.tolist() for m in (features.count, features.mean, features.squares)],
        "label_weight": label_weight_K.tolist(),
        "label_moments": [m.tolist() for m in (labels.count, labels.mean, labels.squares)],
    }


def _blocks(inputs: ChunkInputs, storage: Storage, symbol: str) -> Iterator[tuple[SymbolRows, bool]]:
    """A symbol's rows, each once, judged with the L - 1 rows before them in sight; and whether they are the last."""
    spec = inputs.spec
    block_rows = max(_BLOCK_BYTES // (4 * spec.features), 4 * spec.chunk_rows)
    extra = [c for c in (inputs.weight_column, inputs.regime_column) if c is not None]
    label_columns = ["t_end", *spec.label_columns, *extra]
    tables = {"features": (inputs.features, [*spec.feature_columns]), "labels": (inputs.labels, label_columns)}
    blocks, label_blocks = (
        symbol_blocks(LakeTable(storage, t.path), t.version, symbol, columns, block_rows=block_rows)
        for t, columns in tables.values()
    )
    labelled = TimedRows(label_blocks)
    halo: tuple[pl.DataFrame, pl.DataFrame] | None = None
    block = next(blocks, None)
    while block is not None:
        following = next(blocks, None)
        beside = labelled.until(None if following is None else block["timestamp"][-1])
        if beside is None:
            raise SchemaError(f"the labels table holds no bar of {symbol}; compute it again.")
        before = 0 if halo is None else halo[0].height
        pair = (block, beside) if halo is None else (pl.concat([halo[0], block]), pl.concat([halo[1], beside]))
        rows = symbol_rows(
            *pair, inputs.plan, spec, weight_column=inputs.weight_column, regime_column=inputs.regime_column
        )
        tail = min(spec.lookback_bars - 1, len(rows))
        halo = _last(pair[0], tail), _last(pair[1], tail)
        yield rows[before:], following is None
        block = following


def _last(frame: pl.DataFrame, rows: int) -> pl.DataFrame:
    """A copy of the last rows; a slice would keep the whole block in memory."""
    return frame[np.arange(frame.height - rows, frame.height)]
