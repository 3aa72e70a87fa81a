"""What is remembered of each symbol between two runs of the feature job: how far it got, of which bars, in which state."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from quantfleet.contracts import FeatureState

__all__ = ["SymbolState", "bars_digest", "states_from_bytes", "states_to_bytes"]

_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "bars": pl.Int64(),
    "timestamp": pl.Datetime("us", "UTC"),
    "digest": pl.String(),
    "latest": pl.List(pl.Float64),
    "state": pl.List(pl.Float64),
    "state_names": pl.List(pl.String),
    "state_sizes": pl.List(pl.Int32),
}


@dataclass(frozen=True, slots=True)
class SymbolState:
    """One symbol after its last computed bar."""

    symbol: str
    bars: int
    """How many bars its features are of."""
    timestamp: dt.datetime
    """Open (UTC) of the last of them; its features are known at timestamp + timeframe."""
    digest: str
    """`bars_digest` of exactly those bars."""
    latest: npt.NDArray[np.float64]
    """Shape (F,): the features of the last bar, in the order of the set."""
    states: Mapping[str, FeatureState]
    """What the per-symbol features carry on, as `advance_features` names it."""


def bars_digest(bars: pl.DataFrame, rows: int) -> str:
    """Digest of the first `rows` bars, every column of them: another value, time or column gives another digest."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(bars.columns):
        series = bars[name].head(rows)
        digest.update(f"{name}:{series.dtype}:".encode())
        if series.dtype == pl.String:
            digest.update("\x00".join(series.unique(maintain_order=True).fill_null("\x01").to_list()).encode())
            continue
        nulls = series.is_null().to_numpy()
        digest.update(np.packbits(nulls).tobytes())
        digest.update(np.ascontiguousarray(series.to_physical().fill_null(0).to_numpy()).tobytes())
    return digest.hexdigest()


def states_to_bytes(states: Iterable[SymbolState]) -> bytes:
    """Arrow IPC, uncompressed, one row a symbol: it can be mapped into memory."""
    rows = [
        {
            "symbol": state.symbol,
            "bars": state.bars,
            "timestamp": state.timestamp,
            "digest": state.digest,
            "latest": state.latest.tolist(),
            "state": np.concatenate([np.empty(0), *state.states.values()]).tolist(),
            "state_names": list(state.states),
            "state_sizes": [len(one) for one in state.states.values()],
        }
        for state in states
    ]
    frame = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    buffer = io.BytesIO()
    frame.write_ipc(buffer, compression="uncompressed", compat_level=pl.CompatLevel.oldest())
    return buffer.getvalue()


def states_from_bytes(content: bytes) -> Mapping[str, SymbolState]:
    """By symbol. Raises: pyarrow.ArrowInvalid: the content is not what `states_to_bytes` wrote."""
    frame = pl.from_arrow(pa.ipc.open_file(pa.BufferReader(content)).read_all())
    assert isinstance(frame, pl.DataFrame)
    found: dict[str, SymbolState] = {}
    for row in frame.iter_rows(named=True):
        flat, sizes = np.asarray(row["state"], np.float64), row["state_sizes"]
        ends = np.cumsum([0, *sizes])
        found[row["symbol"]] = SymbolState(
            symbol=row["symbol"],
            bars=row["bars"],
            timestamp=row["timestamp"],
            digest=row["digest"],
            latest=np.asarray(row["latest"], np.float64),
            states={
                name: flat[start:end]
                for name, (start, end) in zip(row["state_names"], itertools.pairwise(ends), strict=True)
            },
        )
    return found
