"""The chunk contract: C consecutive targets of one symbol plus the L-1 bars before them. Windows are views, never
stored.

Shapes: P chunks of a segment, B chunks in a batch, C targets of a chunk, L look-back bars, F features, K label columns,
N = B x C targets, T = C + L - 1 rows. The window of target i is `x[i : i + L]`. A chunk's place is its number in its
segment, 0 to P - 1, in order of chunk_id: places are what plans deal out and what readers are asked for.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from quantfleet.errors import SchemaError

__all__ = ["ChunkBatch", "ChunkIndex", "ChunkReader", "DataSpec", "chunk_schema"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """What a model needs to know of its data; stored with the model and checked again when it answers."""

    symbols: tuple[str, ...]
    """`symbol_id` is the place in this list."""
    feature_columns: tuple[str, ...]
    feature_digest: str
    """Digest of the feature set that computed them."""
    horizons_bars: tuple[int, ...]
    """H horizons; label columns are return_h, direction_h, volatility_h for each."""
    timeframe: str
    lookback_bars: int
    """L."""
    chunk_bars: int
    """C."""
    max_gap_bars: int | None = None
    """A window is a symbol's L consecutive rows. Where more than so many bars are missing between two of them, the target
    is masked; nothing is invented for the hole. None lets every hole pass, as markets that close at night need it."""

    @property
    def features(self) -> int:
        return len(self.feature_columns)

    @property
    def chunk_rows(self) -> int:
        """T = C + L - 1."""
        return self.chunk_bars + self.lookback_bars - 1

    @property
    def label_columns(self) -> tuple[str, ...]:
        """K = 3 H columns: returns, then directions (1 up, 0 not), then realised volatilities."""
        return tuple(f"{head}_{h}" for head in ("return", "direction", "volatility") for h in self.horizons_bars)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> DataSpec:
        """Raises: SchemaError: the record is not what `to_dict` made."""
        names = {f.name for f in fields(cls)}
        needed = {f.name for f in fields(cls) if f.default is MISSING}
        if not needed <= set(record) <= names:
            odd = ", ".join(sorted((set(record) - names) | (needed - set(record))))
            raise SchemaError(f"this is no stored data spec: {odd} should not be, or should be there. Write it again.")
        tuples = {"symbols", "feature_columns", "horizons_bars"}
        values: dict[str, Any] = {k: tuple(v) if k in tuples else v for k, v in record.items()}
        return cls(**values)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)


@dataclass(frozen=True, slots=True)
class ChunkIndex:
    """What is known of every chunk of a segment without reading it: some 30 bytes a chunk, in order of place.

    Samplers weigh chunks by it. All of it describes the counted targets of the chunk.
    """

    chunk_id_P: npt.NDArray[np.int64]
    time_P: npt.NDArray[np.int64]
    """Mean bar open time, microseconds since 1970 UTC."""
    targets_P: npt.NDArray[np.int32]
    """How many targets count."""
    weight_P: npt.NDArray[np.float32]
    """Sum of the sample weights; NaN where the chunks were written without weights."""
    volatility_P: npt.NDArray[np.float32]
    """Mean realised volatility of the shortest horizon; NaN where no target knows it."""
    regime_P: npt.NDArray[np.int16]
    """The most frequent regime; -1 where none is known."""

    def __len__(self) -> int:
        return len(self.chunk_id_P)


class ChunkReader(Protocol):
    """One segment's chunks, read by place. Cheap to pickle: workers get the reader, not the chunks. Thread-safe."""

    @property
    def spec(self) -> DataSpec: ...

    @property
    def content(self) -> str:
        """Names what the chunks hold: equal only where place means the same chunk."""
        ...

    @property
    def local(self) -> bool:
        """True when the chunks lie in memory or in mapped files, so that reading them again costs no transfer."""
        ...

    def __len__(self) -> int:
        """P."""
        ...

    def index(self) -> ChunkIndex: ...

    def take(self, place_B: npt.NDArray[np.int64]) -> ChunkBatch:
        """Read the chunks at these places, in this order. The arrays are the caller's own and may be written.

        Raises: StorageError: the chunks cannot be read, or are not as they were written.
        """
        ...


def chunk_schema(spec: DataSpec) -> pa.Schema:
    """Arrow schema of a chunk table: one row per chunk, tensors flattened row-major into fixed-size lists."""
    rows, width = spec.chunk_rows, spec.features
    return pa.schema(
        [
            ("chunk_id", pa.int64()),
            ("symbol_id", pa.int32()),
            ("time", pa.list_(pa.int64(), spec.chunk_bars)),
            ("x", pa.list_(pa.float32(), rows * width)),
            ("y", pa.list_(pa.float32(), spec.chunk_bars * len(spec.label_columns))),
            ("mask", pa.list_(pa.bool_(), spec.chunk_bars)),
            ("weight", pa.list_(pa.float32(), spec.chunk_bars)),
        ],
        metadata={b"quantfleet.spec": spec.to_json().encode()},
    )


@dataclass(frozen=True, slots=True)
class ChunkBatch:
    """B chunks as arrays.

    x holds unscaled features; rows before a symbol's first bar and undefined features are NaN only where no valid
    window reads them. y is NaN where a label is not known. A target counts only where mask is true: its whole window
    is defined and the row belongs to the segment. A padding chunk has chunk_id -1 and an all-false mask.
    """

    chunk_id_B: npt.NDArray[np.int64]
    symbol_id_B: npt.NDArray[np.int32]
    time_BC: npt.NDArray[np.int64]
    """Bar open times, microseconds since 1970 UTC; -1 in padding."""
    x_BTF: npt.NDArray[np.float32]
    y_BCK: npt.NDArray[np.float32]
    mask_BC: npt.NDArray[np.bool_]
    weight_BC: npt.NDArray[np.float32]
    """Sample weight, 0 or more, for training only: it was made with the future in sight. Only ratios mean anything. 1 everywhere
    where the chunks were written without weights; 0 where a weighted table knows none."""

    @classmethod
    def from_arrow(cls, table: pa.Table, spec: DataSpec) -> ChunkBatch:
        """Decode a table with `chunk_schema` columns; arrays are views of Arrow memory where Arrow allows.

        Raises: SchemaError: a column is missing, of another type, or not as long per row as the spec says.
        """
        wanted = chunk_schema(spec)
        missing = [name for name in wanted.names if name not in table.column_names]
        if missing:
            raise SchemaError(f"chunk table lacks {', '.join(missing)}; it has {', '.join(table.column_names)}.")

        def flat(name: str, *shape: int) -> npt.NDArray[Any]:
            column = table.column(name).combine_chunks()
            if isinstance(column, pa.ChunkedArray):
                column = pa.concat_arrays(column.chunks)
            values = column.flatten() if shape else column
            kind = wanted.field(name).type
            if values.type != (kind.value_type if shape else kind):
                raise SchemaError(
                    f"chunk column {name!r} is of type {column.type}, not {kind}. Write the chunks again."
                )
            array: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
            if array.size != table.num_rows * int(np.prod(shape, dtype=np.int64)):
                raise SchemaError(
                    f"chunk column {name!r} holds {array.size} values in {table.num_rows} rows, not {shape} a row as the "
                    "data spec says. These chunks were written for another spec: write them again."
                )
            return array.reshape(table.num_rows, *shape)

        return cls(
            chunk_id_B=flat("chunk_id"),
            symbol_id_B=flat("symbol_id"),
            time_BC=flat("time", spec.chunk_bars),
            x_BTF=flat("x", spec.chunk_rows, spec.features),
            y_BCK=flat("y", spec.chunk_bars, len(spec.label_columns)),
            mask_BC=flat("mask", spec.chunk_bars),
            weight_BC=flat("weight", spec.chunk_bars),
        )

    def to_arrow(self, spec: DataSpec) -> pa.Table:
        """Encode with `chunk_schema`."""
        schema = chunk_schema(spec)

        def listed(name: str, array: npt.NDArray[Any]) -> pa.Array:
            kind = schema.field(name).type
            return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1), kind.value_type), kind.list_size)

        return pa.Table.from_arrays(
            [
                pa.array(self.chunk_id_B, pa.int64()),
                pa.array(self.symbol_id_B, pa.int32()),
                listed("time", self.time_BC),
                listed("x", self.x_BTF),
                listed("y", self.y_BCK),
                listed("mask", self.mask_BC),
                listed("weight", self.weight_BC),
            ],
            schema=schema,
        )
