"""Rows of any raw table out of files: Parquet, CSV, ZIP archives of both, or Delta; local or on S3; columns mapped to ours.

Memory holds one group of symbols at a time (about a million rows, or one symbol when it is longer), never a folder. A
first pass reads nothing but the symbol column, to know which file holds whom; the second reads each group from its own
files, where Parquet's row-group statistics and partitions skip the rest. Slow only for one huge CSV of many symbols,
which is parsed once per group. Members of archives are unpacked into TMPDIR, at most 16 at a time.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import polars as pl
import pyarrow as pa

from quantfleet.contracts import (
    FetchRequest,
    RawRows,
    Source,
    SourceConfig,
    register_source,
)
from quantfleet.errors import ConfigError, EmptyTableError, SchemaError, SourceError, nearest
from quantfleet.storage import StorageConfig
from quantfleet_data.sources.clock import closed_bars
from quantfleet_data.sources.columns import NOUNS, REQUIRED_COLUMNS, VALIDATE, ColumnMap, TimeUnit
from quantfleet_data.sources.layout import Format, find_files
from quantfleet_data.sources.tables import VendorTable

__all__ = ["FilesConfig"]

_GROUP_ROWS = 1_000_000
_BATCH_ROWS = 250_000
_STEM = "{stem}"
_TIES = {"trades": (pl.col("trade_id").str.len_chars(), pl.col("trade_id")), "book": (pl.col("sequence"),)}
"""How rows of one time follow each other where files have no order; numbers in text count by their value."""
_Group = dict[str, tuple[str, ...]]
"""Symbols, each with its files."""


@register_source("files")
@dataclass(frozen=True, kw_only=True, slots=True)
class FilesConfig(SourceConfig):
    """Parquet, CSV, ZIP or Delta files, local or on S3, with the vendor's columns mapped to ours."""

    rows: RawRows = "bars"
    """What the files hold; decides the table that is filled and the columns that are needed."""
    path: str
    """A file, folder, glob, .zip or Delta table: local, s3://bucket/..., or relative to `storage.root` when that is set."""
    format: Literal["auto"] | Format = "auto"
    columns: dict[str, str] = field(default_factory=dict)
    """Theirs to ours, e.g. {"Date": "timestamp", "Ticker": "symbol"}. `volume` may be missing: it becomes null. Of
    trades, a `side` may be."""
    symbols: tuple[str, ...] = ()
    """Only these; all when empty. One that is nowhere in the files is an error."""
    symbol: str | None = None
    """The symbol of files that have no such column; {stem} in it stands for the file's name without its suffix."""
    time_zone: str | None = None
    """Zone of timestamps that carry none, e.g. UTC; calendar dates need none."""
    time_unit: TimeUnit | None = None
    """Unit of timestamps that are numbers since 1970."""
    time_format: str | None = None
    """strftime format of timestamps that are text."""
    storage: StorageConfig | None = None
    """Where `path` lies, with endpoint and credentials; without it s3:// uses AWS_* of the environment."""
    name: str | None = None
    """Name in the table's `source` column, to tell two vendors apart; "files" when absent."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("path is empty; name a file, a folder, a glob or a Delta table.")
        mapped = self.column_map.theirs("symbol") != "symbol"  # making the map checks it
        if self.symbol is not None and mapped:
            raise ConfigError("symbol and a column mapped to symbol exclude each other; keep one.")
        if len(set(self.symbols)) != len(self.symbols):
            raise ConfigError(f"symbols names one symbol twice: {', '.join(self.symbols)}.")

    @property
    def raw_table(self) -> RawRows:
        return self.rows

    @property
    def source_name(self) -> str:
        return self.name or self.kind

    @property
    def column_map(self) -> ColumnMap:
        return ColumnMap(
            rows=self.rows,
            columns=self.columns,
            time_zone=self.time_zone,
            time_unit=self.time_unit,
            time_format=self.time_format,
        )

    def build(self) -> Source:
        return _Files(self)


class _Files(Source):
    def __init__(self, config: FilesConfig) -> None:
        self.config = config
        self.map = config.column_map
        self.validate, self.noun = VALIDATE[config.rows], NOUNS[config.rows]
        place = f"{config.storage.root.rstrip('/')}/" if config.storage is not None else ""
        self.where = f"source {config.source_name!r} ({place}{config.path})"

    def fetch(self, request: FetchRequest) -> Iterator[pl.DataFrame]:
        """Yield symbol after symbol in order of name, long ones in several batches.

        Rows of a symbol keep their order in the file, and files follow each other by name: what is unsorted or doubled
        there is reported, not mended. A Delta table has no order of its own, so its rows are sorted. `last_known` is
        not used: files are read whole, so that corrections are seen.

        Raises:
            SourceError: no files, or a symbol asked for is in none.
            SchemaError: a column is missing in some file; raised before the first bar.
            DataError: the bars break the contract; names the symbol. Symbols before it were yielded.
        """
        layout = find_files(self.config.path, self.config.storage, self.config.format)
        open_table = functools.lru_cache(maxsize=16)(lambda file: VendorTable(layout, file, self.map))
        seen, delivered = 0, 0
        for group in self._groups(layout.files, open_table):
            for rows in self._read(group, open_table):
                checked = self.validate(rows, where=self.where)
                of_bars = self.config.rows == "bars"
                closed = closed_bars(checked, request.timeframe, request.now_utc) if of_bars else checked
                seen, delivered = seen + checked.height, delivered + closed.height
                yield from closed.iter_slices(_BATCH_ROWS)
        if not delivered:
            raise EmptyTableError(
                f"{self.where}: all {seen} bars are still open at {request.now_utc}. Check time_unit and time_zone.",
                rows=seen,
            )

    def _groups(self, files: Sequence[str], open_table: Callable[[str], VendorTable]) -> Iterator[_Group]:
        """Symbols to read together, each with the files that hold it."""
        rows, holders = Counter[str](), dict[str, list[str]]()
        for file in files:
            for symbol, count in self._symbols_of(open_table(file)).items():
                rows[symbol] += count
                holders.setdefault(symbol, []).append(file)
        missing = [symbol for symbol in self.config.symbols if symbol not in holders]
        if missing:
            raise SourceError(
                f"{self.where} holds no {self.noun} of {', '.join(missing)}.{nearest(missing[0], holders)}",
                symbols=missing,
            )
        group: _Group = {}
        total = 0
        for symbol in sorted(self.config.symbols or holders):
            if rows[symbol] == 0:
                raise EmptyTableError(f"{self.where} holds no {self.noun} in {', '.join(holders[symbol])}.")
            if group and total + rows[symbol] > _GROUP_ROWS:
                yield group
                group, total = {}, 0
            group[symbol] = tuple(holders[symbol])
            total += rows[symbol]
        if not group:
            raise EmptyTableError(f"{self.where} holds no {self.noun}.")
        yield group

    def _symbols_of(self, table: VendorTable) -> dict[str, int]:
        """Rows per symbol of one file, whose columns are checked on the way."""
        present = table.columns
        self.map.wanted(present, where=self.where)
        name = self.map.theirs("symbol")
        if self.config.symbol is None and name not in present:
            raise SchemaError(
                f"{self.where} has no column {name!r}.{nearest(name, present)} It has: {', '.join(present)}. Map it "
                "with `columns:`, or give `symbol:` for files of a single symbol ({stem} takes it from the file's "
                "name).",
                column="symbol",
            )
        known = {self.config.columns.get(column, column) for column in present} | {"symbol", *self.map.lacking}
        if not known.issuperset(REQUIRED_COLUMNS[self.config.rows]):
            self.validate(
                pl.DataFrame(schema=dict.fromkeys(known, pl.Float64)), where=self.where
            )  # says what is missing
        if self.config.symbol is not None:
            return {self.config.symbol.replace(_STEM, table.stem): table.count()}
        counts = table.count_values(name)
        nameless = counts[None] + counts[""]
        if nameless:
            raise SchemaError(f"{self.where}: {name!r} is empty in {nameless} rows of {table.file}.", column="symbol")
        return {str(symbol): count for symbol, count in counts.items() if count}

    def _read(self, group: _Group, open_table: Callable[[str], VendorTable]) -> Iterator[pl.DataFrame]:
        """Bars of each symbol of a group, in file order."""
        parts: dict[str, list[pl.DataFrame]] = {symbol: [] for symbol in group}
        for file in sorted({file for files in group.values() for file in files}):
            own = [symbol for symbol, files in group.items() if file in files]
            for (symbol,), rows in self._bars(open_table(file), own).group_by("symbol", maintain_order=True):
                parts[str(symbol)].append(rows)
        for symbol in group:
            try:
                yield pl.concat(parts.pop(symbol), how="diagonal_relaxed")
            except pl.exceptions.SchemaError as error:
                raise SchemaError(
                    f"{self.where}: the files of {symbol} differ in the types of their columns: {error}.", symbol=symbol
                ) from error

    def _bars(self, table: VendorTable, symbols: Sequence[str]) -> pl.DataFrame:
        wanted = self.map.wanted(table.columns, where=self.where)
        if self.config.symbol is not None:
            raw = table.read([name for name in wanted if name != "symbol"])
            raw = raw.append_column("symbol", pa.array([symbols[0]] * raw.num_rows, pa.string()))
        else:
            raw = table.read(wanted, column=self.map.theirs("symbol"), values=symbols)
        frame = pl.from_arrow(raw)
        assert isinstance(frame, pl.DataFrame)
        ours = self.map.to_ours(frame, where=self.where).with_columns(pl.col("symbol").cast(pl.String))
        return ours if table.ordered else ours.sort("timestamp", *_TIES.get(self.config.rows, ()), maintain_order=True)
