"""One file of a vendor (or one Delta table) through pyarrow: its columns, its symbols, some of its rows."""

from __future__ import annotations

import contextlib
import functools
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from quantfleet.errors import SchemaError, SourceError
from quantfleet.storage.store import translated_errors
from quantfleet_data.sources.columns import ColumnMap
from quantfleet_data.sources.layout import Layout
from quantfleet_data.sources.zips import is_member, unpacked

__all__ = ["VendorTable"]

_MESSAGE_CHARS = 300


class VendorTable:
    """Reads lazily: nothing is opened before it is asked for. Cheap to make again."""

    def __init__(self, layout: Layout, file: str, columns: ColumnMap, *, texts: Sequence[str] = ()) -> None:
        """`texts` are columns of theirs, beside the symbol, that stay text in CSV whatever they look like."""
        self.layout = layout
        self.file = file
        self.map = columns
        self.texts = tuple(texts)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, partitions included."""
        return list(self._dataset.schema.names)

    @property
    def ordered(self) -> bool:
        """Whether the order of the rows is the vendor's; that of a Delta table is whatever its writers left."""
        return self.layout.format != "delta"

    @property
    def stem(self) -> str:
        """The file's name without its suffix: BRK.B of BRK.B.csv.gz."""
        name = posixpath.basename(self.file).removesuffix(".gz")
        return name if self.layout.format == "delta" else posixpath.splitext(name)[0]

    def count(self) -> int:
        """Rows; from metadata where the format has them."""
        with self._translated():
            return int(self._dataset.count_rows())

    def count_values(self, column: str) -> Counter[Any]:
        """Rows per value of a column, read batch by batch; null counts under None."""
        counts = Counter[Any]()
        with self._translated():
            for batch in self._dataset.scanner(columns=[column]).to_batches():
                for entry in pc.value_counts(batch.column(0)).to_pylist():
                    counts[entry["values"]] += entry["counts"]
        return counts

    def read(self, columns: Sequence[str], *, column: str | None = None, values: Sequence[str] = ()) -> pa.Table:
        """Rows in their order, all of them or those where `column`, as text, is one of `values`."""
        condition = None
        if column is not None:
            field, texts = pc.field(column), pa.array(list(values), pa.string())
            plain = self._dataset.schema.field(column).type in (pa.string(), pa.large_string())
            condition = (field if plain else field.cast(pa.string())).isin(texts)
        with self._translated():
            return self._dataset.to_table(columns=list(columns), filter=condition)

    @functools.cached_property
    def _dataset(self) -> ds.Dataset:
        with self._translated():
            return self._delta() if self.layout.format == "delta" else self._file()

    def _delta(self) -> ds.Dataset:
        storage = self.layout.storage
        uri = f"s3://{self.file}" if storage.config.is_s3 else self.file
        try:
            table = DeltaTable(uri, storage_options=storage.s3_options())
        except TableNotFoundError as error:
            raise SourceError(f"there is no Delta table at {uri}.", uri=uri) from error
        except DeltaError as error:
            raise SourceError(f"the Delta table at {uri} cannot be read: {error}", uri=uri) from error
        return table.to_pyarrow_dataset(filesystem=pafs.SubTreeFileSystem(self.file, storage.filesystem))

    def _file(self) -> ds.Dataset:
        own_format = self._csv() if self.layout.format == "csv" else ds.ParquetFileFormat()
        if is_member(self.file):
            # Kept with this table, whose end deletes it. Folders named column=value inside an archive are no partitions.
            self._copy = unpacked(self.layout.storage.filesystem, self.file)
            return ds.dataset([self._copy.name], filesystem=pafs.LocalFileSystem(), format=own_format)
        # Partition values are text: numbers would lose the zeros of symbols such as 000001.
        symbol = self.map.theirs("symbol")
        partitioned = f"/{symbol}=" in self.file.removeprefix(self.layout.folder)
        return ds.dataset(
            [self.file],
            filesystem=self.layout.storage.filesystem,
            format=own_format,
            partitioning=ds.partitioning(pa.schema([(symbol, pa.string())]), flavor="hive") if partitioned else None,
            partition_base_dir=self.layout.folder,
        )

    def _csv(self) -> ds.CsvFileFormat:
        """Types are set, not guessed from the first rows: symbols are text, values are floats."""
        types = self.map.csv_types() | dict.fromkeys(self.texts, pa.string())
        return ds.CsvFileFormat(convert_options=pacsv.ConvertOptions(column_types=types))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        with translated_errors(self.file):
            try:
                yield
            except pa.ArrowException as error:
                text = " ".join(str(error).split())[-_MESSAGE_CHARS:]  # pyarrow names the cause last
                raise SchemaError(
                    f"{self.file} cannot be read as {self.layout.format}: {text}", file=self.file
                ) from error
