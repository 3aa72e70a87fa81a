"""D: a zstd Parquet table of 61 columns to torch tensors through Ray Data on two cores, against a plain pyarrow loop.

Both read the same files, laid out as the lake writes them, into tensors of 65,536 rows. QUANTFLEET_BENCH_D_ROWS makes it smaller
for development; the row counts with 10 million or more. Temporary data: 220 MB a million rows, removed afterwards.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from deltalake import convert_to_deltalake

from bench.harness import BenchRow, Prepared
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.chunks.tensors import read_row_groups, table_row_groups

ROWS = int(os.environ.get("QUANTFLEET_BENCH_D_ROWS", "10_000_000"))
COLUMNS, GROUP, FILES = [f"f{i}" for i in range(61)], 65_536, 8


def write(folder: str, rows: int) -> int:
    """Write a Delta table of random float32 columns; gives the number of rows, whole row groups of them."""
    rng = np.random.default_rng(0)
    groups = -(-rows // GROUP)
    schema = pa.schema([(name, pa.float32()) for name in COLUMNS])
    blocks = [pa.table({c: rng.standard_normal(GROUP, np.float32) for c in COLUMNS}, schema=schema) for _ in range(4)]
    for number, part in enumerate(np.array_split(np.arange(groups), FILES)):
        with pq.ParquetWriter(
            f"{folder}/part-{number}.parquet", schema, compression="zstd", use_dictionary=False
        ) as file:
            for group in part:
                file.write_table(blocks[group % 4], row_group_size=GROUP)
    convert_to_deltalake(folder)
    return groups * GROUP


def prepare() -> Prepared:
    import ray

    pa.set_cpu_count(2)
    torch.set_num_threads(1)
    folder = tempfile.TemporaryDirectory(prefix="quantfleet-bench-d-")
    storage = Storage(StorageConfig(root=folder.name))
    Path(folder.name, "table").mkdir()
    rows = write(f"{folder.name}/table", ROWS)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    table = LakeTable(storage, "table")

    def ours() -> tuple[int, float]:
        groups = table_row_groups(table, 0).iter_rows()
        return total(read_row_groups(storage, groups, COLUMNS))

    def peer() -> tuple[int, float]:
        def batches():
            for number in range(FILES):
                for batch in pq.ParquetFile(f"{folder.name}/table/part-{number}.parquet").iter_batches(GROUP):
                    values = np.empty((len(COLUMNS), batch.num_rows), np.float32)
                    for place, column in enumerate(batch.columns):
                        values[place] = column.to_numpy()
                    yield torch.from_numpy(values.T)

        return total(batches())

    def check(mine: tuple[int, float], other: tuple[int, float]) -> None:
        assert mine[0] == other[0] == rows
        assert abs(mine[1] - other[1]) < 1e-6 * rows
        first = next(read_row_groups(storage, table_row_groups(table, 0).iter_rows(), COLUMNS))
        whole = pl.read_parquet(f"{folder.name}/table/part-0.parquet", n_rows=GROUP).to_numpy()
        np.testing.assert_array_equal(first.numpy(), whole)

    def close() -> None:
        ray.shutdown()
        folder.cleanup()

    return Prepared(ours=ours, peer=peer, check=check, ours_units=rows, peer_units=rows, close=close)


def total(batches: object) -> tuple[int, float]:
    """Rows, and the sum of the first row of each batch: nothing is skipped, and hardly anything is added to the work."""
    rows, value = 0, 0.0
    for batch in batches:  # type: ignore[attr-defined]
        rows += len(batch)
        value += float(batch[0].double().sum())
    return rows, value


ROW = BenchRow(
    id="D",
    work="one row of 61 float32 columns, zstd Parquet to a torch tensor, through Ray Data",
    peer="plain pyarrow loop over the same files",
    target=1.6,
    prepare=prepare,
    versions=("ray", "pyarrow", "torch"),
    cores=2,
)
