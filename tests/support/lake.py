"""A small lake on real bars: features, labels, split and chunks of the two indices that `arch` carries."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import polars as pl

from quantfleet.contracts import DataSpec, FetchRequest, Timeframe
from quantfleet.storage import LakeTable, Storage, TableVersion
from quantfleet_data.chunks import ChunkInputs, ChunkStore, write_chunks
from quantfleet_data.features import FeaturesConfig, compute_features
from quantfleet_data.labels import Direction, ForwardReturn, LabelsConfig, RealisedVolatility, compute_labels
from quantfleet_data.sources import ArchDailyConfig
from quantfleet_data.splits import TimeSplit

HORIZONS = (1, 5)


def index_bars(first: str = "1999-01-01", last: str = "2019-01-01") -> dict[str, pl.DataFrame]:
    """Real daily bars of both indices between two dates."""
    request = FetchRequest(Timeframe("1d"), lambda symbol: None, dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    bounds = [dt.datetime.fromisoformat(f"{day}T00:00:00+00:00") for day in (first, last)]
    bars = pl.concat(list(ArchDailyConfig().build().fetch(request)))
    inside = bars.filter((pl.col("timestamp") >= bounds[0]) & (pl.col("timestamp") < bounds[1]))
    return {str(key[0]): frame for key, frame in inside.partition_by("symbol", as_dict=True).items()}


def make_chunks(
    storage: Storage,
    bars: dict[str, pl.DataFrame],
    *,
    change_features: Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame] = lambda features, labels: features,
    change_labels: Callable[[pl.DataFrame], pl.DataFrame] = lambda labels: labels,
    name: str = "plain",
    lookback_bars: int = 16,
    chunk_bars: int = 32,
) -> ChunkStore:
    """Write features, labels and chunks of the bars; `change_*` may plant something first. Needs Ray."""
    feature_set, timeframe = FeaturesConfig().resolve(), Timeframe("1d")
    config = LabelsConfig(
        families=(
            ForwardReturn(horizons_bars=HORIZONS),
            Direction(horizons_bars=HORIZONS),
            RealisedVolatility(horizons_bars=HORIZONS),
        )
    )
    labels = pl.concat([compute_labels(frame, config, timeframe) for frame in bars.values()])
    features = pl.concat([compute_features(frame, feature_set) for frame in bars.values()])
    features = change_features(features, labels)
    plan = TimeSplit(validation_fraction=0.2, test_fraction=0.25).plan(
        labels.select("symbol", "timestamp", "t_end"), horizon_bars=config.horizon_bars, timeframe=timeframe
    )
    spec = DataSpec(
        symbols=tuple(sorted(bars)),
        feature_columns=tuple(c for c in features.columns if c not in ("symbol", "timestamp")),
        feature_digest=feature_set.digest,
        horizons_bars=HORIZONS,
        timeframe="1d",
        lookback_bars=lookback_bars,
        chunk_bars=chunk_bars,
    )
    inputs = ChunkInputs(
        features=_write(storage, f"lake/features/{name}", features),
        labels=_write(storage, f"lake/labels/{name}", change_labels(labels)),
        plan=plan,
        spec=spec,
    )
    return write_chunks(inputs, storage)


def _write(storage: Storage, path: str, frame: pl.DataFrame) -> TableVersion:
    rows = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    return LakeTable(storage, path).overwrite(rows, partition_by=["symbol"])
