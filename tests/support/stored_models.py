"""A small naive model, fitted without Ray, and what it takes to store and feed it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from quantfleet.contracts import ChunkBatch, DataSpec, FeatureSet, Model, ModelConfig
from quantfleet.registry.artifact import write_artifact
from quantfleet.registry.config import RegistryConfig
from quantfleet.registry.store import ModelRegistry
from quantfleet.storage import Storage, StorageConfig
from quantfleet_data.features.returns import LogReturn
from quantfleet_data.features.trend import SmaRatio
from quantfleet_models.naive import MovingAverageConfig

__all__ = ["FEATURES", "LABEL_MEANS", "PROVENANCE", "SPEC", "fitted", "open_registry", "store", "windows"]

FEATURES = FeatureSet(name="small", version=3, features=(LogReturn(bars=2), SmaRatio(fast_bars=2, slow_bars=5)))
SPEC = DataSpec(
    symbols=("AAA", "BBB"),
    feature_columns=FEATURES.columns,
    feature_digest=FEATURES.digest,
    horizons_bars=(1, 5),
    timeframe="1d",
    lookback_bars=4,
    chunk_bars=3,
)
PROVENANCE = {"run": "a-run", "bars": "lake/bars/1d@4", "seed": 7, "split": {"test": ["2020-01-01", "2021-01-01"]}}
LABEL_MEANS = (0.001, 0.005, 0.52, 0.55, 0.01, 0.02)
"""Mean of return_1, return_5, direction_1, direction_5, volatility_1, volatility_5 over the training segment."""


def fitted(config: ModelConfig | None = None, spec: DataSpec = SPEC) -> Model:
    """A model fitted on training moments, which is all that a naive model looks at."""
    model = (config or MovingAverageConfig(fast_bars=2, slow_bars=5)).build(spec)
    data: Any = SimpleNamespace(spec=spec, stats=SimpleNamespace(label_mean_K=np.array(LABEL_MEANS)))
    model.fit(data, context=None)  # type: ignore[arg-type]
    return model


def store(folder: Path, model: Model | None = None) -> tuple[Path, str]:
    """Write the model into `folder`; return the folder and its digest."""
    return folder, write_artifact(model or fitted(), FEATURES, PROVENANCE, folder)


def windows(count: int = 6, *, seed: int = 0, spec: DataSpec = SPEC) -> ChunkBatch:
    """Chunks of random features, both symbols."""
    rng, C, K = np.random.default_rng(seed), spec.chunk_bars, len(spec.label_columns)
    return ChunkBatch(
        chunk_id_B=np.arange(count, dtype=np.int64),
        symbol_id_B=np.arange(count, dtype=np.int32) % 2,
        time_BC=np.arange(count * C, dtype=np.int64).reshape(count, C),
        x_BTF=rng.normal(size=(count, spec.chunk_rows, spec.features)).astype(np.float32),
        y_BCK=np.full((count, C, K), np.nan, np.float32),
        mask_BC=np.ones((count, C), np.bool_),
        weight_BC=np.ones((count, C), np.float32),
    )


def open_registry(root: Path, **config: Any) -> ModelRegistry:
    """The registry of a storage root, as the jobs open it."""
    storage = Storage(StorageConfig(root=str(root)))
    return ModelRegistry(RegistryConfig(**config), storage, loader_module="quantfleet_jobs.pyfunc")
