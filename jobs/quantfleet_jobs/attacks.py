"""Attacks on a run's torch models, at windows of its own test period."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantfleet.contracts import TrainingData
from quantfleet.evaluation.adversarial import AttackConfig, resistance
from quantfleet.registry.artifact import read_artifact
from quantfleet.storage import Storage

if TYPE_CHECKING:
    import torch

    from quantfleet.training.torch_model import TorchModel

__all__ = ["attack_stored"]


def attack_stored(
    storage: Storage,
    artifact: str,
    digest: str,
    data: TrainingData,
    config: AttackConfig,
    *,
    horizon_bars: int,
    seed: int,
) -> dict[str, Any]:
    """Attack the sign of a stored model's expected return.

    Returns: what `resistance` found, or {"skipped": why}: the model has no gradient, or its inputs are not standardised.
    """
    from quantfleet.training.torch_model import TorchModel  # imports torch

    with tempfile.TemporaryDirectory() as folder:
        storage.download(artifact, Path(folder))
        model = read_artifact(Path(folder), digest=digest).model
    if not isinstance(model, TorchModel):
        return {"skipped": "no network: its answers have no gradient"}
    if model.config.scaler.kind == "none":
        return {"skipped": "its inputs are not standardised, so that sizes would mean nothing"}
    x_NLF = _windows(model, data, config.windows)
    place = data.spec.horizons_bars.index(horizon_bars)

    def forecast(x: torch.Tensor) -> torch.Tensor:
        return model.forecaster.answer(x)["return"][:, place]

    return asdict(resistance(forecast, x_NLF, config, seed=seed))


def _windows(model: TorchModel, data: TrainingData, most: int) -> torch.Tensor:
    """Standardised inputs of test targets, spread evenly over all that count, (N, L, F). Memory: a batch of chunks, the windows."""
    import torch

    from quantfleet.training.windows import gather_windows

    assert model.inputs is not None
    targets = data.stats.targets["test"]
    wanted = np.unique(np.linspace(0, targets - 1, min(most, targets)).round().astype(np.int64))
    found, before = [], 0
    for batch in data.read("test"):
        chunk_M, target_M = np.nonzero(batch.mask_BC)
        own = wanted[(wanted >= before) & (wanted < before + len(chunk_M))] - before
        before += len(chunk_M)
        if len(own):
            x_BTF = torch.from_numpy(model.inputs.apply(batch.x_BTF, batch.symbol_id_B))
            chunk_N, target_N = torch.from_numpy(chunk_M[own]), torch.from_numpy(target_M[own])
            found.append(gather_windows(x_BTF, chunk_N, target_N, model.inputs.spec.lookback_bars))
    return torch.nan_to_num(torch.cat(found), nan=0.0)
