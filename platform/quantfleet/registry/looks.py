"""The log of looks: every evaluation of a test period is appended, as each makes the best one look better than it is."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from quantfleet.contracts import TimeInterval
from quantfleet.storage import LakeTable, Storage

__all__ = ["LOOKS_PATH", "Look", "LookLog"]

LOOKS_PATH = "registry/looks"

_SCHEMA = pa.schema(
    [
        pa.field("looked_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("bars", pa.string(), nullable=False),
        pa.field("test_start", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("test_end", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("models", pa.int64(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One evaluation of a test period."""

    looked_at: dt.datetime
    bars: str
    """Path of the bars table; its version is left out, as new bars do not make old ones unseen."""
    test: TimeInterval
    run: str
    models: int
    """Models that could have been chosen."""
    fingerprint: str
    """Of what was evaluated: the same again shows nothing new and is not counted."""


class LookLog:
    """Append-only Delta table under the storage root. Appending is safe from several processes; a look may then be there twice."""

    def __init__(self, storage: Storage) -> None:
        self._table = LakeTable(storage, LOOKS_PATH)

    def append(self, look: Look) -> int:
        """Count a look, unless the same was counted before; returns how many there are now at this test period."""
        if look.fingerprint not in self._at(look.bars, look.test)["fingerprint"].to_list():
            record = {
                "looked_at": look.looked_at,
                "bars": look.bars,
                "test_start": look.test.start,
                "test_end": look.test.end,
                "run": look.run,
                "models": look.models,
                "fingerprint": look.fingerprint,
            }
            self._table.append(pa.Table.from_pylist([record], schema=_SCHEMA))
        return self.count(look.bars, look.test)

    def count(self, bars: str, test: TimeInterval) -> int:
        """Different evaluations of test periods that share time with this one, on the same bars."""
        return int(self._at(bars, test)["fingerprint"].n_unique())

    def rows(self) -> pl.DataFrame:
        """The whole log, oldest first; empty when nothing was ever evaluated."""
        if not self._table.exists():
            empty = pl.from_arrow(_SCHEMA.empty_table())
            assert isinstance(empty, pl.DataFrame)
            return empty
        return self._table.read().sort("looked_at")

    def _at(self, bars: str, test: TimeInterval) -> pl.DataFrame:
        shared = (pl.col("test_start") < test.end) & (pl.col("test_end") > test.start)
        return self.rows().filter((pl.col("bars") == bars) & shared)
