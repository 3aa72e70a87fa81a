"""The promotion log: every decision is appended, and an alias moves only because a line of the log says so."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from quantfleet.storage import LakeTable, Storage

__all__ = ["PROMOTIONS_PATH", "PromotionLog", "PromotionRow"]

PROMOTIONS_PATH = "registry/promotions"

_SCHEMA = pa.schema(
    [
        pa.field("decided_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("model_name", pa.string(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
        pa.field("candidate", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("reasons", pa.string(), nullable=False),
        pa.field("alias", pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotionRow:
    """One decision on one model version."""

    decided_at: dt.datetime
    model_name: str
    version: int
    candidate: str
    verdict: str
    """PROMOTE or HOLD."""
    reasons: tuple[str, ...]
    alias: str
    run: str
    fingerprint: str
    """Of the evaluation that was judged; decisions on it are appended once."""


class PromotionLog:
    """Append-only Delta table under the storage root."""

    def __init__(self, storage: Storage) -> None:
        self._table = LakeTable(storage, PROMOTIONS_PATH)

    def append(self, rows: Sequence[PromotionRow]) -> bool:
        """Append the decisions of one evaluation in one commit; False when they are already there."""
        if not rows:
            return False
        if self._table.exists() and not self.of_evaluation(rows[0].fingerprint).is_empty():
            return False
        records = [
            {name: getattr(r, name) for name in _SCHEMA.names} | {"reasons": json.dumps(r.reasons)} for r in rows
        ]
        self._table.append(pa.Table.from_pylist(records, schema=_SCHEMA))
        return True

    def of_evaluation(self, fingerprint: str) -> pl.DataFrame:
        return self._table.read(where=pc.field("fingerprint") == fingerprint)

    def rows(self) -> pl.DataFrame:
        """The whole log, oldest first; empty when nothing was ever decided."""
        if not self._table.exists():
            empty = pl.from_arrow(_SCHEMA.empty_table())
            assert isinstance(empty, pl.DataFrame)
            return empty
        return self._table.read().sort("decided_at", "version")

    def champion(self, model_name: str, alias: str) -> int | None:
        """Version that the alias must point at by the log: that of the last PROMOTE; None before the first."""
        rows = self.rows().filter(
            (pl.col("model_name") == model_name) & (pl.col("alias") == alias) & (pl.col("verdict") == "PROMOTE")
        )
        return None if rows.is_empty() else int(rows["version"][-1])
