"""The source contract: a market that hands over rows of one table (bars, trades, book, funding), batch after batch."""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import polars as pl

from quantfleet.contracts.timeframe import Timeframe
from quantfleet.plugins import PluginConfig, PluginRegistry

__all__ = ["SOURCES", "Asked", "FetchRequest", "RawRows", "Source", "SourceConfig", "register_source"]

RawRows = Literal["bars", "trades", "book", "funding"]
"""The lake's raw tables."""
Span = tuple[dt.datetime, dt.datetime]
"""Times [start, end), UTC."""


def _nothing_known(symbol: str) -> dt.datetime | None:
    return None


def _no_holes(symbol: str) -> Sequence[Span]:
    return ()


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """What ingest asks of a source, and what the table has of it already.

    A source that reads everything each time needs `timeframe` and `now_utc` only. One that pages asks `missing` and so
    resumes after a crash, goes back when its start is moved back, and closes holes. The functions take a symbol; their
    times are UTC, of this source alone. A request can be pickled, so it may travel to another process.
    """

    timeframe: Timeframe
    last_known: Callable[[str], dt.datetime | None]
    """Time of the newest row in the table, or None. It is asked for again, since it may have been incomplete."""
    now_utc: dt.datetime
    """Bars not closed by this time are not delivered, nor anything later."""
    first_known: Callable[[str], dt.datetime | None] = _nothing_known
    """Time of the oldest row; earlier, when the source was asked for more before and had nothing."""
    holes: Callable[[str], Sequence[Span]] = _no_holes
    """Missing bars between the oldest and the newest; not those that the source was found not to have."""

    def missing(self, symbol: str, since_utc: dt.datetime, until_utc: dt.datetime) -> tuple[Span, ...]:
        """What to fetch of [since, until), oldest first: before the oldest row, the holes, from the newest row on."""
        last, first = self.last_known(symbol), self.first_known(symbol)
        if last is None:
            spans = [(since_utc, until_utc)]
        else:
            older = [] if first is None else [(since_utc, first)]
            spans = [*older, *self.holes(symbol), (last, until_utc)]
        clipped = ((max(start, since_utc), min(end, until_utc)) for start, end in spans)
        return tuple((start, end) for start, end in clipped if start < end)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A source's word that it has delivered all it has of a symbol in [start, end): what is missing there, it lacks."""

    symbol: str
    start_utc: dt.datetime
    end_utc: dt.datetime


class Source(ABC):
    """Hands over rows. One instance serves one fetch, in one thread."""

    @abstractmethod
    def fetch(self, request: FetchRequest) -> Iterator[pl.DataFrame | Asked]:
        """Yield batches with the columns of the table it `delivers`, of one or more whole symbols or a page of one.

        Each batch passes the table's validation (`validate_bars`, ...); batches of one symbol follow each other in
        time, or go over the same rows again. A source that pages may yield `Asked` after the last page of a span; then
        ingest does not ask it for the same holes at every run. Ingest gathers small batches and commits them together;
        what it had not committed when it was killed is asked for again.

        Raises: SourceError: the market did not deliver after retries; what was yielded before stays valid.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceConfig(PluginConfig):
    """Base config of every source."""

    delivers: ClassVar[RawRows] = "bars"
    """The table its rows belong to."""

    @property
    def raw_table(self) -> RawRows:
        """The table that this source fills: what it `delivers`, unless its settings say so."""
        return self.delivers

    def build(self) -> Source:
        """Make the source."""
        raise TypeError(f"{type(self).__name__} does not define build()")

    def split(self) -> tuple[SourceConfig, ...]:
        """Parts that may be fetched at the same time, in other processes; together they are this source, and each
        symbol is in one of them.
        """
        return (self,)

    @property
    def source_name(self) -> str:
        """Value of the table's `source` column, e.g. "arch" or "ccxt.binance"."""
        return self.kind


SOURCES: PluginRegistry[SourceConfig] = PluginRegistry("source", SourceConfig, command="sources")
register_source = SOURCES.register
