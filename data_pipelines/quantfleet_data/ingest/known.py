"""What a table has of one source already, and what the source was found not to have.

Times come from the statistics in the table's log where those suffice: then no row is read. Holes are read from the bars
themselves, and only when a source asks for them.
"""

from __future__ import annotations

import datetime as dt
import json
import urllib.parse
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import polars as pl
import pyarrow.compute as pc
from deltalake import DeltaTable

from quantfleet.contracts import Asked
from quantfleet.storage import LakeTable
from quantfleet.storage.store import translated_errors

__all__ = ["Known", "Span", "SpanNotes", "cut_out", "merged"]

Span = tuple[dt.datetime, dt.datetime]
"""Times [start, end), UTC."""

_LATE = dt.timedelta(days=1)
"""How long an exchange may take to fill in bars that it did not have at first; holes younger than that are asked for
again at every run.
"""


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same times as few spans, ascending: those that touch or overlap become one."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return tuple(joined)


def cut_out(spans: Iterable[Span], within: Span) -> tuple[Span, ...]:
    """The parts of spans that lie within another."""
    cut = ((max(start, within[0]), min(end, within[1])) for start, end in spans)
    return tuple((start, end) for start, end in cut if start < end)


class Known:
    """Answers a FetchRequest about one source. Reads the table when first asked about a symbol, and then remembers;
    make a new one to see what was committed since. Can be pickled.
    """

    def __init__(
        self,
        table: LakeTable,
        source: str,
        *,
        step: dt.timedelta | None,
        vacant: Mapping[str, tuple[Span, ...]] = MappingProxyType({}),
        unfinished: Mapping[str, tuple[Span, ...]] = MappingProxyType({}),
    ) -> None:
        """`step`: time between rows of a table on a grid, else None. `vacant`, `unfinished`: see `SpanNotes`."""
        self.table = table
        self.source = source
        self.step = step
        self.vacant = dict(vacant)
        self.unfinished = dict(unfinished)
        self._bounds: dict[str, Span | None] = {}
        self._files: pl.DataFrame | None = None

    def last(self, symbol: str) -> dt.datetime | None:
        """Time of the newest row."""
        bounds = self._oldest_and_newest(symbol)
        return None if bounds is None else bounds[1]

    def oldest(self, symbol: str) -> dt.datetime | None:
        """Time of the oldest row."""
        bounds = self._oldest_and_newest(symbol)
        return None if bounds is None else bounds[0]

    def first(self, symbol: str) -> dt.datetime | None:
        """Time of the oldest row, or the start of the vacancy that ends there."""
        oldest = self.oldest(symbol)
        if oldest is None:
            return None
        return next((start for start, end in self.vacant.get(symbol, ()) if start < oldest <= end), oldest)

    def holes(self, symbol: str) -> tuple[Span, ...]:
        """What is missing between the oldest and the newest row, without what is known to be vacant."""
        if self.step is None:
            return self.unfinished.get(symbol, ())
        vacant = self.vacant.get(symbol, ())
        return tuple(
            (start, end)
            for start, end in self.all_holes(symbol)
            if not any(empty[0] <= start and end <= empty[1] for empty in vacant)
        )

    def all_holes(self, symbol: str) -> tuple[Span, ...]:
        """Missing bars between the oldest and the newest row."""
        if self.step is None or self._oldest_and_newest(symbol) is None:
            return ()
        times = pl.DataFrame({"end": self._times(symbol).sort()}).with_columns(start=pl.col("end").shift(1) + self.step)
        return tuple(times.filter(pl.col("start") < pl.col("end")).select("start", "end").iter_rows())

    def _times(self, symbol: str) -> pl.Series:
        own = pc.field("source") == self.source
        return self.table.read(columns=["timestamp"], symbols=(symbol,), where=own)["timestamp"]

    def _oldest_and_newest(self, symbol: str) -> Span | None:
        if symbol not in self._bounds:
            self._bounds[symbol] = self._look_up(symbol)
        return self._bounds[symbol]

    def _look_up(self, symbol: str) -> Span | None:
        if self._files is None:
            self._files = _file_statistics(self.table) if self.table.exists() else pl.DataFrame()
        if self._files.is_empty():
            return None
        files = self._files.filter((pl.col("symbol") == symbol) & (pl.col("rows") > 0))
        pure = (pl.col("first_source") == self.source) & (pl.col("last_source") == self.source)
        if files.select((pure & pl.col("oldest").is_not_null()).all()).item():
            # the log keeps whole milliseconds, rounded down: a microsecond's row is asked for again, none is missed
            oldest, newest = files["oldest"].min(), files["newest"].max()
        else:
            times = self._times(symbol)
            oldest, newest = times.min(), times.max()
        return (oldest, newest) if isinstance(oldest, dt.datetime) and isinstance(newest, dt.datetime) else None


def _file_statistics(table: LakeTable) -> pl.DataFrame:
    with translated_errors(table.uri):
        actions = DeltaTable(table.uri, storage_options=table.options).get_add_actions(flatten=True)
    files = pl.DataFrame(actions)
    names = {
        "symbol": "partition.symbol",
        "rows": "num_records",
        "first_source": "min.source",
        "last_source": "max.source",
        "oldest": "min.timestamp",
        "newest": "max.timestamp",
    }
    return files.select(
        (pl.col(theirs) if theirs in files.columns else pl.lit(None)).alias(ours) for ours, theirs in names.items()
    )


class SpanNotes:
    """What ingest notes about one source beside a table; one small file each, whole or not at all.

    `vacant`: the source was asked for everything there and the table has still nothing: it has nothing. A hole is passed
    over only when it lies within such a stretch, so a table that loses rows later (an older version restored) gets them
    back. Deleting the file makes ingest ask again.

    `unfinished`: older rows were on their way in when something ended it. Bars show such a hole by themselves; trades and
    funding rates do not, so it is written down before the first of the rows is.
    """

    def __init__(self, table: LakeTable, source: str) -> None:
        self.storage = table.storage
        name = urllib.parse.quote(source, safe="")
        self.path = f"{table.path.replace('lake/', 'lake/asked/', 1)}/{name}.json"
        stored = json.loads(self.storage.read_text(self.path)) if self.storage.exists(self.path) else {}
        self.vacant = _spans(stored.get("vacant", {}))
        self.unfinished = _spans(stored.get("unfinished", {}))

    def begin(self, symbol: str, span: Span) -> None:
        """Note that rows of a span before the table's oldest begin to come in."""
        open_spans = self.unfinished.get(symbol, ())
        if not any(start <= span[0] and span[1] <= end for start, end in open_spans):
            self.unfinished[symbol] = merged([*open_spans, span])
            self._save()

    def finish(self, known: Known, asked: Iterable[Asked], now_utc: dt.datetime) -> None:
        """Take a source's words, once all that it delivered is in the table, as `known` sees it."""
        before = (dict(self.vacant), dict(self.unfinished))
        for word in asked:
            spans = self.unfinished.pop(word.symbol, ())
            if left := tuple(s for s in spans if not word.start_utc <= s[0] <= s[1] <= word.end_utc):
                self.unfinished[word.symbol] = left
            oldest, end = known.oldest(word.symbol), min(word.end_utc, now_utc - _LATE)
            if oldest is None or end <= word.start_utc:
                continue
            front = [(word.start_utc, oldest)] if word.start_utc < oldest else []
            if empty := cut_out([*front, *known.all_holes(word.symbol)], (word.start_utc, end)):
                self.vacant[word.symbol] = merged([*self.vacant.get(word.symbol, ()), *empty])
        if (self.vacant, self.unfinished) != before:
            self._save()

    def _save(self) -> None:
        plain = {"vacant": _plain(self.vacant), "unfinished": _plain(self.unfinished)}
        self.storage.write_text(self.path, json.dumps(plain))


def _plain(spans: Mapping[str, tuple[Span, ...]]) -> dict[str, list[list[str]]]:
    return {symbol: [[a.isoformat(), b.isoformat()] for a, b in spans[symbol]] for symbol in sorted(spans)}


def _spans(plain: Mapping[str, list[list[str]]]) -> dict[str, tuple[Span, ...]]:
    at = dt.datetime.fromisoformat
    return {symbol: tuple((at(start), at(end)) for start, end in spans) for symbol, spans in plain.items()}
