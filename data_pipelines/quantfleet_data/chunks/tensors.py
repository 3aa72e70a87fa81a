"""Rows of a lake table as torch tensors through Ray Data: the dataset carries row groups by name, their reader decodes them itself.

For models of single rows, and for passes over whole tables. Sent as data, the same rows were decoded by one process, written to the
object store and mapped by another; sent as references they are decoded where they are used, as a plain pyarrow loop would. Measured
on 1M rows of 61 columns and two busy cores: 1.35M rows a second against 0.11M as one tensor column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypedDict

import pyarrow.parquet as pq
import torch

from quantfleet.errors import SchemaError
from quantfleet.storage import LakeTable, Storage
from quantfleet.storage.store import translated_errors

if TYPE_CHECKING:
    import ray.data

__all__ = ["RowGroup", "read_row_groups", "row_groups", "table_row_groups"]


class RowGroup(TypedDict):
    """One row group of one file of a table version: what travels instead of its rows."""

    path: str
    """Relative to the storage root."""
    group: int
    rows: int


def row_groups(table: LakeTable, version: int) -> list[RowGroup]:
    """Every row group of a version, in order of file name; reads the files' footers."""
    found: list[RowGroup] = []
    with translated_errors(table.uri):
        for fragment in sorted(table.dataset(version).get_fragments(), key=lambda f: str(f.path)):
            path = f"{table.path}/{fragment.path.lstrip('/')}"
            found += [RowGroup(path=path, group=g.id, rows=g.num_rows) for g in fragment.row_groups]
    return found


def table_row_groups(table: LakeTable, version: int) -> ray.data.Dataset:
    """A Ray Dataset of `RowGroup`s: split it over workers as any other, and give each worker's rows to `read_row_groups`."""
    import ray.data

    return ray.data.from_items([dict(group) for group in row_groups(table, version)], override_num_blocks=1)


def read_row_groups(storage: Storage, groups: Iterable[Any], columns: Sequence[str]) -> Iterator[torch.Tensor]:
    """Decode row group after row group into float32 tensors (rows, F), the next one while the last is used.

    A tensor is stored column by column, so that a column is decoded in one stretch: `.contiguous()` gives rows in one stretch.
    Nulls become NaN. Memory: three row groups.

    Raises: SchemaError: a column is missing or no number. StorageError: a file cannot be read.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="row-groups") as pool:
        open_file: dict[str, pq.ParquetFile] = {}

        def read(group: RowGroup) -> torch.Tensor:
            return _decoded(storage, group, columns, open_file)

        waiting = None
        for group in groups:
            following = pool.submit(read, group)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def _decoded(
    storage: Storage, group: RowGroup, columns: Sequence[str], open_file: dict[str, pq.ParquetFile]
) -> torch.Tensor:
    uri = storage.uri(group["path"])
    with translated_errors(uri):
        if group["path"] not in open_file:
            open_file.clear()  # groups of a file come together
            open_file[group["path"]] = pq.ParquetFile(storage.path(group["path"]), filesystem=storage.filesystem)
        file = open_file[group["path"]]
        missing = [c for c in columns if c not in file.schema_arrow.names]
        if missing:
            raise SchemaError(f"{uri} lacks {', '.join(missing)}; it has {', '.join(file.schema_arrow.names)}.")
        table = file.read_row_group(int(group["group"]), columns=list(columns))
    values_FR = torch.empty(len(columns), table.num_rows)
    rows_FR = values_FR.numpy()
    for place, name in enumerate(columns):
        column, at = table.column(name), 0
        for chunk in column.chunks:
            try:
                rows_FR[place, at : at + len(chunk)] = chunk.to_numpy(zero_copy_only=False)
            except (TypeError, ValueError) as error:
                raise SchemaError(f"{uri}: column {name!r} is {column.type}, which is no number: {error}") from error
            at += len(chunk)
    return values_FR.T
