"""The index table: a synthetic index of the checked bars, and its columns beside the bars of each constituent."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from quantfleet.config import fingerprint
from quantfleet.contracts import BAR_COLUMNS
from quantfleet.errors import DataError
from quantfleet.storage import LakeTable, MadeTable, Storage, TableVersion
from quantfleet_data.instruments import (
    IndexConfig,
    InstrumentVersions,
    bar_blocks,
    build_index,
    join_index,
    read_instruments,
)
from quantfleet_data.quality import apply_policy
from quantfleet_data.quality_table import CheckedBars

__all__ = ["IndexContext", "write_index"]

_FINGERPRINT = "fingerprint"


@dataclass(frozen=True)
class IndexContext:
    """Adds the index to a symbol's bars, by equal times (a `BarContext` of the feature store)."""

    storage: Storage
    version: TableVersion

    @property
    def fingerprint(self) -> str:
        properties = LakeTable(self.storage, self.version.path).properties(self.version.version)
        return fingerprint("index", properties[_FINGERPRINT])

    def join(self, bars: pl.DataFrame) -> pl.DataFrame:
        return join_index(bars, _index_bars(self.storage, self.version))


@functools.lru_cache(maxsize=2)
def _index_bars(storage: Storage, version: TableVersion) -> pl.DataFrame:
    return LakeTable(storage, version.path).read(version.version, columns=BAR_COLUMNS).sort("timestamp")


def write_index(bars: CheckedBars, config: IndexConfig, instruments: InstrumentVersions | None = None) -> TableVersion:
    """Build the index from the bars into its table; nothing happens when the newest version holds it already.

    The table is read in blocks of time, every symbol's rows of a month together; the index itself is held in memory. Its
    past never changes with later bars, so it is cheap to write whole.

    Raises: DataError: no constituent had a bar, or several sources deliver bars (an index is never mixed of them).
        StorageError: another job wrote the same table at the same time.
    """
    table = MadeTable(bars.storage, f"lake/index/{bars.timeframe}/{fingerprint('index', config)}")
    listed = (
        () if instruments is None else map(str, (instruments.listings, instruments.memberships, instruments.actions))
    )
    content = fingerprint(bars.fingerprint, config, *listed)
    if table.content() == content:
        return table.latest()
    known = None if instruments is None else read_instruments(bars.storage, instruments)
    built = list(build_index(_checked_blocks(bars), config, known))
    if not built:
        raise DataError(
            f"index {config.symbol} has no bar: no constituent had one. Check index.members against the memberships."
        )
    rows = pl.concat(built).to_arrow(compat_level=pl.CompatLevel.oldest())
    rewrite = table.begin()
    with rewrite.one_commit():
        table.overwrite(rows.set_column(0, "symbol", rows.column("symbol").cast(pa.string())))
    return rewrite.finish(content, {"bars_version": str(bars.version)})


def _checked_blocks(bars: CheckedBars) -> Iterator[pl.DataFrame]:
    """All symbols, month by month, as quality left them."""
    source = bars.source_priority[0] if len(bars.source_priority) == 1 else None
    for block in bar_blocks(bars.storage, bars.timeframe, bars.version, source=source):
        findings = [finding for symbol in block["symbol"].unique().sort() for finding in bars.findings(symbol)]
        kept = apply_policy(block, findings, bars.policy).bars
        if not kept.is_empty():
            yield kept
