"""Rows of one source into a raw table: gathered, compared with what is there, committed only when something is news.

Two writers at once leave one copy of a row. Every commit of rows is a MERGE on the source and the table's keys: when
another writer was faster, Delta refuses the commit, and the merge is done again on the table as it is then. A plain
append would be let through, and so would a first commit that carries rows; therefore the table is made empty first.
"""

from __future__ import annotations

import datetime as dt
import functools
import operator
from collections.abc import Mapping
from types import MappingProxyType

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from quantfleet.errors import OutputExistsError
from quantfleet.logs import get_logger
from quantfleet.storage import LakeTable, TableVersion
from quantfleet_data.ingest.report import RowCounts
from quantfleet_data.ingest.tables import RawTable

__all__ = ["RowsWriter", "existing_version"]

_log = get_logger(__name__)
_SPANS_APART = 64
"""Symbols of one commit that are looked up each in its own span of time; more are looked up in one span for all."""


def existing_version(table: LakeTable, kind: RawTable) -> TableVersion | None:
    """The newest version of a raw table, or None when there is nothing yet.

    Raises: OutputExistsError: something else lies there.
    """
    if not table.exists():
        if table.storage.list(table.path):
            raise OutputExistsError(
                f"{table.uri} is no Delta table, yet not empty. Move it away, or use another root.", uri=table.uri
            )
        return None
    columns = table.schema()
    if set(columns) - set(kind.optional.names) != set(kind.schema.names):
        raise OutputExistsError(
            f"{table.uri} is a table of {', '.join(columns)}, not of {kind.noun} ({', '.join(kind.schema.names)}). Move it "
            "away, or use another root.",
            uri=table.uri,
        )
    return table.latest()


class RowsWriter:
    """Writes one source's rows. Not thread-safe; any number of writers may work on one table."""

    def __init__(
        self,
        table: LakeTable,
        kind: RawTable,
        *,
        source: str,
        now_utc: dt.datetime,
        commit_rows: int,
        made_from: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`made_from`: tables and versions that the rows were computed from; every commit says so."""
        self.table = table
        self.kind = kind
        self.source = source
        self.now_utc = now_utc
        self.commit_rows = commit_rows
        self.made_from = dict(made_from)
        self.counts: dict[str, RowCounts] = {}
        self.commits = 0
        self.committed = 0
        """Rows that are in the table by now, written or found there."""
        self._waiting: list[pl.DataFrame] = []
        self._waiting_rows = 0
        self._exists = table.exists()
        self._optional = [name for name in kind.optional.names if self._exists and name in table.schema()]

    def holds_any(self) -> bool:
        """Whether the table has any row of this source."""
        return self._exists and self.table.holds(pc.field("source") == self.source)

    def add(self, rows: pl.DataFrame) -> None:
        """Take validated rows; commit those that wait when these would make them too many."""
        if self._waiting and self._waiting_rows + rows.height > self.commit_rows:
            self.flush()
        self._waiting.append(rows)
        self._waiting_rows += rows.height
        if self._waiting_rows >= self.commit_rows:
            self.flush()

    def flush(self) -> None:
        """Commit what waits: one version of the table, or none when all of it is there already."""
        if not self._waiting:
            return
        # Batches may overlap; what a source said last about a row counts. Rows of one time keep their order.
        rows = pl.concat(self._waiting, how="diagonal").unique(self.kind.keys, keep="last", maintain_order=True)
        rows = rows.sort("symbol", "timestamp", maintain_order=True)
        self._waiting, self._waiting_rows = [], 0
        rows = self._with_optional(rows)
        compared = self._compared(rows)
        news = compared.filter(pl.col("fate") != "unchanged")
        if not news.is_empty():
            self._commit(news)
        for symbol, new, corrected, unchanged in _tally(compared).iter_rows():
            counted = RowCounts(new=new, corrected=corrected, unchanged=unchanged)
            self.counts[symbol] = self.counts.get(symbol, RowCounts()) + counted
        self.committed += rows.height

    def _with_optional(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Bring table and rows to the same optional columns; where a source has none, they are null."""
        if news := [
            field for field in self.kind.optional if field.name in rows.columns and field.name not in self._optional
        ]:
            self._make()
            self.table.add_columns(pa.schema(news))
            self._optional = [name for name in self.kind.optional.names if name in self.table.schema()]
        absent = [name for name in self._optional if name not in rows.columns]
        return rows.with_columns(pl.lit(None, dtype=pl.Float64).alias(name) for name in absent)

    def _make(self) -> None:
        """Make the table, empty, if there is none."""
        if not self._exists:
            self.table.append(self.kind.schema.empty_table(), partition_by=("symbol",), metadata={"stage": "ingest"})
            self._exists = True

    def _compared(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add column `fate`: new, corrected or unchanged."""
        if not self._exists:
            return rows.with_columns(pl.lit("new").alias("fate"))
        keys, values = self.kind.keys, (*self.kind.values, *self._optional)
        where = (pc.field("source") == self.source) & _places(rows, self.kind.schema.field("timestamp").type)
        there = self.table.read(
            columns=[*keys, *values], symbols=rows["symbol"].unique().to_list(), where=where
        ).with_columns(pl.lit(True).alias("there"))
        joined = rows.join(there, on=keys, how="left", suffix="_there", maintain_order="left")
        same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}_there")) for name in values)
        fate = (
            pl.when(pl.col("there").is_null())
            .then(pl.lit("new"))
            .when(same)
            .then(pl.lit("unchanged"))
            .otherwise(pl.lit("corrected"))
        )
        return joined.with_columns(fate.alias("fate")).select(*rows.columns, pl.col(f"{self.kind.shown}_there"), "fate")

    def _commit(self, news: pl.DataFrame) -> None:
        corrected, schema, shown = news.filter(pl.col("fate") == "corrected"), self.kind.schema, self.kind.shown
        if not corrected.is_empty():
            first = corrected.row(0, named=True)
            _log.warning(
                "ingest.corrections",
                source=self.source,
                rows=corrected.height,
                symbols=corrected["symbol"].unique().sort().to_list()[:10],
                first=f"{first['symbol']} {first['timestamp']}",
                **{shown: f"{first[f'{shown}_there']} -> {first[shown]}"},
            )
        self._make()
        schema = pa.schema([*schema, *(self.kind.optional.field(name) for name in self._optional)])
        rows = news.with_columns(
            source=pl.lit(self.source), ingested_at=pl.lit(self.now_utc, dtype=pl.Datetime("us", "UTC"))
        )
        self.table.upsert(
            rows.select(schema.names).to_arrow().cast(schema),
            ("source", *self.kind.keys),
            metadata={
                "stage": "ingest",
                "source": self.source,
                "new": str(news.height - corrected.height),
                "corrected": str(corrected.height),
                **self.made_from,
            },
        )
        self.commits += 1


def _places(rows: pl.DataFrame, time: pa.DataType) -> pc.Expression:
    """Where the rows lie: each symbol in its own span of time, since parallel parts may be years apart."""
    spans = rows.group_by("symbol").agg(start=pl.col("timestamp").min(), end=pl.col("timestamp").max())
    if spans.height > _SPANS_APART:
        spans = spans.with_columns(pl.col("start").min(), pl.col("end").max())
    together = spans.group_by("start", "end").agg("symbol").select("symbol", "start", "end")
    return functools.reduce(
        operator.or_,
        (
            pc.field("symbol").isin(symbols)
            & (pc.field("timestamp") >= pa.scalar(start, time))
            & (pc.field("timestamp") <= pa.scalar(end, time))
            for symbols, start, end in together.iter_rows()
        ),
    )


def _tally(compared: pl.DataFrame) -> pl.DataFrame:
    fates = ("new", "corrected", "unchanged")
    return compared.group_by("symbol", maintain_order=True).agg(
        (pl.col("fate") == fate).sum().alias(fate) for fate in fates
    )
