"""From the table of book messages to measures of the book at every close of a bar, and these beside the bars.

Messages of a symbol are replayed in stretches of about a million rows; what is kept is one row a bar and symbol. Readers
take the version that was finished: until its fingerprint is on, nobody is told of it.
"""

from __future__ import annotations

import datetime as dt
import functools
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from quantfleet.config import fingerprint
from quantfleet.contracts import Timeframe
from quantfleet.errors import ConfigError, MissingInputError, StorageError
from quantfleet.storage import LakeTable, Storage, TableVersion
from quantfleet_data.ingest import TABLES, event_stretches, read_events
from quantfleet_data.order_book import BookFeaturesConfig, BookReplay, join_book
from quantfleet_data.per_symbol import Run, on_ray

__all__ = ["BookBeside", "BookColumns", "write_book"]

_PREFIX = "book_"
_STRETCH_ROWS = 1_000_000
_FINGERPRINT, _UNFINISHED = "fingerprint", "unfinished"


@dataclass(frozen=True, kw_only=True, slots=True)
class BookColumns:
    """The `book:` section of a recipe: measures of the order book beside bars, from the messages in `lake/book`."""

    source: str | None = None
    """Value of the messages' column `source`; needed where several sources are in the table."""
    max_age_s: float | None = None
    """A book older than this at a bar's close says nothing; any age when None."""
    sequence_step: int | None = 1
    """By how much the exchange counts from message to message, so that a lost one shows; null: its counts have gaps."""
    features: BookFeaturesConfig = field(default_factory=BookFeaturesConfig)

    def __post_init__(self) -> None:
        if self.max_age_s is not None and not self.max_age_s >= 0:
            raise ConfigError(f"book.max_age_s={self.max_age_s} must not be negative; null allows any age.")
        BookReplay(self.features, sequence_step=self.sequence_step)  # checks itself

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that bars get."""
        return tuple(f"{_PREFIX}{name}" for name in (*self.features.columns, "age_s"))


def write_book(
    storage: Storage, timeframe: str, config: BookColumns, *, run: Run = on_ray
) -> tuple[TableVersion, TableVersion]:
    """Replay the newest version of the book table into a table of measures; nothing happens when that has them already.

    Args:
        run: where the work is done, a task per symbol.
    Returns: the version of the measures, and that of the messages they were made of.
    Raises:
        MissingInputError: no messages were ingested.
        ConfigError: bars of the timeframe do not divide a day.
        BookError: a lost message, a delta before any snapshot, a book that crosses; names the symbol. Readers keep the
            last finished version.
        StorageError: another job wrote the same table at the same time.
    """
    BookReplay(config.features, timeframe=Timeframe(timeframe), sequence_step=config.sequence_step)  # checks itself
    raw = LakeTable(storage, TABLES["book"].path(timeframe))
    if not raw.exists():
        raise MissingInputError(
            f"the recipe has a section `book`, and there are no messages at {raw.uri}. Run `quantfleet ingest` on a recipe of "
            "a source of book messages, such as ccxt_book, or files with `rows: book`, under the same storage root."
        )
    messages = raw.latest()
    made_of = (messages.path, config.source, config.sequence_step, config.features)
    table = LakeTable(storage, f"lake/book_measures/{timeframe}/{fingerprint('book', *made_of)}")
    content = fingerprint(timeframe, messages.version, *made_of)
    exists = table.exists()
    if exists and table.properties().get(_FINGERPRINT) == content:
        return table.latest(), messages
    if exists:
        table.set_properties({_FINGERPRINT: _UNFINISHED})
    symbols = sorted({partition["symbol"] for partition in raw.partitions(messages.version)})
    task = _Task(storage=storage, messages=messages, timeframe=timeframe, config=config)
    rows, write = 0, table.overwrite
    for made in run(_measures_of, symbols, task):
        if not made.is_empty():
            arrow = made.to_arrow(compat_level=pl.CompatLevel.oldest())
            write(arrow.set_column(0, "symbol", arrow.column("symbol").cast(pa.string())), partition_by=("symbol",))
            rows, write = rows + made.height, table.append
    if rows != table.row_count():
        raise StorageError(
            f"{table.uri} holds {table.row_count():,} rows where {rows:,} are due: another job wrote it at the same time. Run "
            "the stage again, one job at a time.",
            rows=table.row_count(),
        )
    return table.set_properties({_FINGERPRINT: content, "book_version": str(messages.version)}), messages


@dataclass(frozen=True)
class BookBeside:
    """Adds the measures of the book at its close to each bar (a `BarContext` of the feature store)."""

    storage: Storage
    version: TableVersion
    timeframe: str
    max_age_s: float | None = None

    @property
    def fingerprint(self) -> str:
        properties = LakeTable(self.storage, self.version.path).properties(self.version.version)
        return fingerprint("book", properties[_FINGERPRINT], self.max_age_s)

    def join(self, bars: pl.DataFrame) -> pl.DataFrame:
        """Bars of one symbol with columns `book_...`; null where no book is known, and for a symbol that has none."""
        symbols = bars["symbol"].unique().to_list()
        table = LakeTable(self.storage, self.version.path)
        book = table.read(self.version.version, symbols=symbols).sort("symbol", "timestamp", "sequence")
        max_age = None if self.max_age_s is None else dt.timedelta(seconds=self.max_age_s)
        return join_book(bars, book, Timeframe(self.timeframe), max_age=max_age, prefix=_PREFIX)


@dataclass(frozen=True, kw_only=True)
class _Task:
    storage: Storage
    messages: TableVersion
    timeframe: str
    config: BookColumns


def _measures_of(symbol: str, task: _Task) -> pl.DataFrame:
    """symbol, timestamp (when the book was known), sequence and measures: of the last book before each close."""
    config, read = task.config, functools.partial(read_events, task.storage, "book", task.messages.version, (symbol,))
    replay = BookReplay(config.features, timeframe=Timeframe(task.timeframe), sequence_step=config.sequence_step)
    stretches = event_stretches(
        task.storage, "book", task.messages.version, symbol, source=config.source, rows=_STRETCH_ROWS
    )
    made = [replay.update(read(source=config.source, within=span), where=f"book of {symbol}") for span in stretches]
    return pl.concat([*made, replay.finish()]).sort("timestamp", "sequence") if made else pl.DataFrame()
