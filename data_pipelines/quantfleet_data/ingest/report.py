"""What an ingest did, in numbers: per source and symbol, how many rows were new, corrected or there already."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from quantfleet.storage import TableVersion

__all__ = ["IngestProgress", "IngestReport", "RowCounts"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowCounts:
    """Rows by what became of them, against the table as this ingest found it."""

    new: int = 0
    corrected: int = 0
    """Known before with other values; the values of before stay readable in older versions of the table."""
    unchanged: int = 0

    def __add__(self, other: RowCounts) -> RowCounts:
        return RowCounts(
            new=self.new + other.new,
            corrected=self.corrected + other.corrected,
            unchanged=self.unchanged + other.unchanged,
        )

    @classmethod
    def total(cls, counts: Iterable[RowCounts]) -> RowCounts:
        return sum(counts, cls())


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestProgress:
    """Where an ingest is; handed over after every batch."""

    source: str
    symbol: str
    """Of the batch's last row."""
    reached_utc: dt.datetime
    """Its time; a bar's open."""
    received: int
    """Rows this source delivered so far."""
    committed: int
    """Those of them that are in the table by now, new or found there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestReport:
    """The outcome of one ingest."""

    timeframe: str
    """Of bars; for other tables it says nothing."""
    before: TableVersion | None
    """The table as it was; None when this ingest made it."""
    after: TableVersion
    """The table as it is; what the next stage reads."""
    commits: int
    """Commits of rows by this ingest; making the table is not counted."""
    counts: Mapping[str, Mapping[str, RowCounts]]
    """Source, then symbol."""
    noun: str = "bars"
    """What the rows are."""

    @property
    def changed(self) -> bool:
        """Whether this ingest wrote any row."""
        return self.commits > 0

    @property
    def total(self) -> RowCounts:
        return RowCounts.total(count for symbols in self.counts.values() for count in symbols.values())

    def of_source(self, source: str) -> RowCounts:
        return RowCounts.total(self.counts.get(source, {}).values())

    @property
    def summary(self) -> str:
        """One line for people."""
        total = self.total
        if not self.changed:
            return f"unchanged: {total.unchanged} {self.noun} already there ({self.after})"
        parts = [f"{total.new} new", f"{total.corrected} corrected", f"{total.unchanged} already there"]
        return f"{', '.join(parts)}, in {self.commits} commits ({self.after})"
