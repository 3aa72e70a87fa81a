"""The label table: labels of checked bars, one Ray task per symbol, one atomic commit.

Memory of a task is bounded by the largest symbol's history; the driver sees only names, counts and file lists. Labels look
ahead, so new bars change the last ones that were there: the table is written whole, from bars that are cheap to read.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from quantfleet.config import fingerprint
from quantfleet.contracts import Timeframe
from quantfleet.storage import MadeTable, TableVersion
from quantfleet_data.labels import LabelsConfig, compute_labels
from quantfleet_data.per_symbol import per_symbol
from quantfleet_data.quality_table import CheckedBars

__all__ = ["write_labels"]


def write_labels(bars: CheckedBars, config: LabelsConfig) -> TableVersion:
    """Compute labels for every symbol into their table; nothing happens when the newest version holds them already.

    Readers see the last finished version until this one is (`MadeTable`).

    Raises: StorageError: another job wrote the same table at the same time.
    """
    from ray.data import SaveMode

    timeframe, digest = Timeframe(bars.timeframe), fingerprint("labels", config)
    content = fingerprint(bars.fingerprint, digest)
    table = MadeTable(bars.storage, f"lake/labels/{bars.timeframe}/{digest}")
    if table.content() == content:
        return table.latest()
    exists = table.exists()
    rewrite = table.begin()

    def rows(batch: pa.Table) -> pa.Table:
        labels = compute_labels(bars.read(batch.column("symbol")[0].as_py()), config, timeframe)
        return labels.to_arrow(compat_level=pl.CompatLevel.oldest())

    with rewrite.one_commit():
        per_symbol(bars.symbols).map_batches(rows, batch_size=1, batch_format="pyarrow").write_delta(
            table.uri,
            mode=SaveMode.OVERWRITE if exists else SaveMode.APPEND,
            partition_by=["symbol"],
            storage_options=table.options,
        )
    return rewrite.finish(content, {"label_digest": digest, "bars_version": str(bars.version)})
