"""Every registered torch model, so small that it is fitted in a moment; a new one is small by the names of its settings."""

from __future__ import annotations

import dataclasses
from typing import Any

from quantfleet.contracts import MODELS, DataSpec
from quantfleet.plugins import load_plugins
from quantfleet.training import TorchModelConfig
from quantfleet_models.gru import GRUConfig

load_plugins(("quantfleet_models",))

SMALL: dict[str, Any] = {
    "width": 8, "layers": 1, "attention_heads": 2, "attention_layers": 1, "feedforward_width": 16, "kernel_bars": 3,
    "patch_bars": 4, "stride_bars": 2, "average_bars": 5, "dropout": 0.0, "epochs": 2, "batch_windows": 32, "buffer_chunks": 4,
    "network": GRUConfig(width=8, dropout=0.0),
}  # fmt: skip
"""By the name of the setting; a model takes those that it has."""

PRETRAINED = ("foundation",)
"""Its network comes from a folder, and answers by one feature: `test_foundation.py` says what it keeps."""
DEEP = tuple(
    name for name in MODELS.names() if issubclass(MODELS.get(name), TorchModelConfig) and name not in PRETRAINED
)


def tiny(name: str, **changes: Any) -> TorchModelConfig:
    """The model with small settings; `changes` go over them."""
    kind = MODELS.get(name)
    assert issubclass(kind, TorchModelConfig)
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{**{k: v for k, v in SMALL.items() if k in known}, **changes})


def window_spec(*, lookback_bars: int = 12, features: int = 3, horizons_bars: tuple[int, ...] = (1, 5)) -> DataSpec:
    """A DataSpec of such windows."""
    return DataSpec(
        symbols=("A",),
        feature_columns=tuple(f"f{i}" for i in range(features)),
        feature_digest="0" * 16,
        horizons_bars=horizons_bars,
        timeframe="1d",
        lookback_bars=lookback_bars,
        chunk_bars=4,
    )
