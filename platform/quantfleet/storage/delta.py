"""Delta tables: versioned reads, atomic commits that carry their provenance, retries when writers collide."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from deltalake import CommitProperties, DeltaTable, Schema, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError, TableNotFoundError

from quantfleet.errors import DataError, MissingInputError, SchemaError, StorageError, nearest
from quantfleet.storage.store import Storage, one_line, translated_errors

__all__ = ["LakeTable", "TableVersion"]

_PROPERTY_PREFIX = "quantfleet."
_COMMIT_KEY = "quantfleet.commit"
_COMMIT_ATTEMPTS = 12


@dataclass(frozen=True, slots=True)
class TableVersion:
    """A table at one version: what a stage reads and what a run records."""

    path: str
    """Relative to the storage root, e.g. lake/bars/1d."""
    version: int

    def __str__(self) -> str:
        return f"{self.path}@{self.version}"


class LakeTable:
    """One Delta table under the storage root. Safe for several writers at once: commits are atomic and collisions
    retried.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self.storage = storage
        self.path = path

    @property
    def uri(self) -> str:
        return self.storage.uri(self.path)

    @property
    def options(self) -> dict[str, str]:
        """Storage options for delta-rs and for `ray.data.read_delta` and `write_delta`."""
        return self.storage.s3_options()

    def _open(self, version: int | None = None) -> DeltaTable:
        with translated_errors(self.uri):
            try:
                return DeltaTable(self.uri, version=version, storage_options=self.options)
            except TableNotFoundError as error:
                raise MissingInputError(f"there is no table at {self.uri}.", uri=self.uri) from error
            except (DeltaError, OverflowError) as error:
                problem: Exception = error
        if version is None:
            raise StorageError(f"{self.uri} cannot be read: {one_line(str(problem))}", uri=self.uri) from problem
        newest = self._open().version()
        reason = f"the newest is {newest}" if not 0 <= version <= newest else one_line(str(problem))
        raise MissingInputError(
            f"{self.uri} has no readable version {version}: {reason}.", uri=self.uri, version=version
        ) from problem

    def exists(self) -> bool:
        with translated_errors(self.uri):
            return bool(DeltaTable.is_deltatable(self.uri, storage_options=self.options))

    def latest(self) -> TableVersion:
        """Raises: MissingInputError: the table was never written."""
        return TableVersion(self.path, self._open().version())

    def properties(self, version: int | None = None) -> dict[str, str]:
        """Provenance recorded by `set_properties`, without its prefix."""
        configuration = self._open(version).metadata().configuration
        return {
            k.removeprefix(_PROPERTY_PREFIX): v
            for k, v in configuration.items()
            if k.startswith(_PROPERTY_PREFIX) and v is not None
        }

    def dataset(self, version: int | None = None, *, symbols: Sequence[str] | None = None) -> pads.Dataset:
        """The rows of one version (the newest when None) as an Arrow dataset, unread.

        Args:
            symbols: leave out the files that hold none of these, by the log alone: else every file of the table becomes an
                object in memory, for each symbol of thousands again. What is left may hold others; filter the rows.
        """
        table = self._open(version)
        pruned = None if symbols is None else [("symbol", "in", list(symbols))]
        with translated_errors(self.uri):
            return table.to_pyarrow_dataset(filesystem=self._rooted(), file_pruning_predicate=pruned)

    def schema(self, version: int | None = None) -> dict[str, str]:
        """Column names and types of one version."""
        schema = pa.schema(self._open(version).schema().to_arrow())
        return {field.name: str(field.type) for field in schema}

    def partition_columns(self, version: int | None = None) -> tuple[str, ...]:
        return tuple(self._open(version).metadata().partition_columns)

    def partitions(self, version: int | None = None) -> list[dict[str, str]]:
        """Values of the partition columns that have rows. The log names them: a billion rows need not be read."""
        table = self._open(version)
        with translated_errors(self.uri):
            return list(table.partitions())

    def files(self, version: int | None = None) -> pl.DataFrame:
        """One row a data file: path, size_bytes, num_records, and `partition.X`, `min.X`, `max.X` where the log has them."""
        table = self._open(version)
        with translated_errors(self.uri):
            frame = pl.from_arrow(pa.table(table.get_add_actions(flatten=True)))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def read(
        self,
        version: int | None = None,
        *,
        columns: Sequence[str] | None = None,
        symbols: Sequence[str] | None = None,
        where: pc.Expression | None = None,
    ) -> pl.DataFrame:
        """Read rows of one version (the newest when None).

        Args:
            symbols: rows of these only; other symbols' files are not looked at.
            where: rows for which this holds only.
        Raises: MissingInputError: no such table or version, or its files were deleted. SchemaError: no such column.
        """
        dataset = self.dataset(version, symbols=symbols)
        if symbols is not None:
            own = pc.field("symbol").isin(list(symbols))
            where = own if where is None else own & where
        with translated_errors(self.uri):
            names = dataset.schema.names
            for name in columns or ():
                if name not in names:
                    raise SchemaError(
                        f"{self.uri} has no column {name!r}.{nearest(name, names)} It has: {', '.join(names)}.",
                        column=name,
                    )
            try:
                rows = dataset.to_table(columns=None if columns is None else list(columns), filter=where)
            except pa.ArrowInvalid as error:
                raise SchemaError(
                    f"{self.uri} cannot be filtered: {one_line(str(error))} It has: {', '.join(names)}."
                ) from error
            except FileNotFoundError as error:
                raise MissingInputError(
                    f"{self.uri}: a file of version {self._open(version).version()} is gone, deleted or vacuumed. "
                    "Make the table again: "
                    f"{one_line(str(error))}",
                    uri=self.uri,
                ) from error
        frame = pl.from_arrow(rows)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def holds(self, where: pc.Expression, version: int | None = None) -> bool:
        """Whether any row of a version is like this; reads no further than the first."""
        with translated_errors(self.uri):
            return bool(self.dataset(version).head(1, columns=[], filter=where).num_rows)

    def _rooted(self) -> Any:
        import pyarrow.fs as pafs

        return pafs.SubTreeFileSystem(self.storage.path(self.path), self.storage.filesystem)

    def append(
        self, rows: pa.Table, *, partition_by: Sequence[str] = (), metadata: Mapping[str, str] | None = None
    ) -> TableVersion:
        """Add rows in one commit, creating the table when needed. Returns: the version this commit made."""
        return self._write(rows, partition_by, metadata, mode="append")

    def overwrite(
        self, rows: pa.Table, *, partition_by: Sequence[str] = (), metadata: Mapping[str, str] | None = None
    ) -> TableVersion:
        """Replace all rows, in one commit; older versions stay readable. Returns: the version this commit made."""
        return self._write(rows, partition_by, metadata, mode="overwrite", schema_mode="overwrite")

    def _write(
        self, rows: pa.Table, partition_by: Sequence[str], metadata: Mapping[str, str] | None, **mode: Any
    ) -> TableVersion:
        own = uuid.uuid4().hex
        properties = CommitProperties(custom_metadata={**(metadata or {}), _COMMIT_KEY: own})

        def commit() -> int:
            arguments = {"partition_by": list(partition_by) or None, "commit_properties": properties, **mode}
            try:
                table = self._open()
            except MissingInputError:
                write_deltalake(self.uri, rows, storage_options=self.options, **arguments)
                # another writer may have made the table a moment earlier: ours is then not the first commit
                return next(int(h["version"]) for h in self.history() if h.get(_COMMIT_KEY) == own)
            write_deltalake(table, rows, **arguments)
            return table.version()

        return self._retried(commit)

    def upsert(self, rows: pa.Table, keys: Sequence[str], *, metadata: Mapping[str, str] | None = None) -> TableVersion:
        """Insert rows whose keys are new and replace those whose keys exist, in one commit.

        Returns: the version this commit made.
        Raises: DataError: two of the rows have the same keys. MissingInputError: there is no table to merge into.
        """
        doubled = rows.num_rows - rows.group_by(list(keys)).aggregate([]).num_rows
        if doubled:
            raise DataError(
                f"{doubled} of {rows.num_rows} rows for {self.uri} repeat the {', '.join(keys)} of another; keep one of each.",
                rows=doubled,
            )
        condition = " AND ".join(f'target."{key}" = source."{key}"' for key in keys)

        def commit() -> int:
            table = self._open()
            (
                table.merge(
                    rows,
                    predicate=condition,
                    source_alias="source",
                    target_alias="target",
                    streamed_exec=False,  # a streamed source has no statistics, so every file of the table would be read
                    commit_properties=CommitProperties(custom_metadata=dict(metadata or {})),
                )
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .execute()
            )
            return table.version()

        return self._retried(commit)

    def remove(self, predicate: str) -> TableVersion:
        """Delete the rows that an SQL predicate holds for, in one commit; older versions keep them.

        Args:
            predicate: e.g. `symbol IN ('A', 'B')`; what comes from outside must be quoted by the caller.
        """

        def commit() -> int:
            table = self._open()
            table.delete(predicate)
            return table.version()

        return self._retried(commit)

    def add_columns(self, columns: pa.Schema) -> TableVersion:
        """Add columns that are null in the rows there are, in one commit; nothing happens where all are there."""

        def commit() -> int:
            table = self._open()
            there = {field.name for field in table.schema().fields}
            news = [field for field in columns if field.name not in there]
            if news:
                table.alter.add_columns(list(Schema.from_arrow(pa.schema(news)).fields))
            return table.version()

        return self._retried(commit)

    def compact(self) -> TableVersion:
        """Join the small files that many appends left, partition by partition; rows stay the same, readers are not disturbed."""

        def commit() -> int:
            table = self._open()
            table.optimize.compact()
            return table.version()

        return self._retried(commit)

    def row_count(self, version: int | None = None) -> int:
        """Rows of one version, from the log, or from the files' footers where a writer left no statistics in the log."""
        files = self.files(version)
        if not files.height:
            return 0
        if "num_records" in files.columns and not files["num_records"].null_count():
            return int(files["num_records"].sum())
        return int(self.dataset(version).count_rows())

    def set_properties(self, properties: Mapping[str, str]) -> TableVersion:
        """Record provenance on the table, as a commit of its own. Returns: the version this commit made."""

        def commit() -> int:
            table = self._open()
            table.alter.set_table_properties(
                {_PROPERTY_PREFIX + k: v for k, v in properties.items()}, raise_if_not_exists=False
            )
            return table.version()

        return self._retried(commit)

    def history(self) -> list[dict[str, Any]]:
        """Commits with their `version`, newest first."""
        for _ in range(_COMMIT_ATTEMPTS):
            table = self._open()
            commits = table.history()
            # delta-rs counts back from the version it opened, yet lists what was committed since: then ask again
            if self._open().version() == table.version():
                return commits
        raise StorageError(f"{self.uri}: other writers commit faster than its history can be read.", uri=self.uri)

    def _retried(self, commit: Callable[[], int]) -> TableVersion:
        """Run a commit again when another writer was faster; back off at random, doubling up to 4 s."""
        for attempt in range(_COMMIT_ATTEMPTS):
            with translated_errors(self.uri):
                try:
                    return TableVersion(self.path, commit())
                except CommitFailedError as error:
                    if attempt == _COMMIT_ATTEMPTS - 1:
                        raise StorageError(
                            f"{self.uri}: {_COMMIT_ATTEMPTS} commits in a row lost to other writers: {one_line(str(error))}",
                            uri=self.uri,
                        ) from error
                except SchemaMismatchError as error:
                    raise SchemaError(f"{self.uri} has other columns than the rows: {one_line(str(error))}") from error
                except DeltaError as error:
                    raise StorageError(f"{self.uri} cannot be written: {one_line(str(error))}", uri=self.uri) from error
            time.sleep(random.uniform(0.05, min(4.0, 0.1 * 2**attempt)))  # noqa: S311 - jitter, not a secret
        raise AssertionError("unreachable: the last attempt returns or raises")
