"""What tests of torch networks share: a data spec, and training one batch by heart."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from quantfleet.contracts import DataSpec
from quantfleet.testing.training_data import plain_stats
from quantfleet.training import TorchModelConfig
from quantfleet.training.step import TrainingModule


def spec_of(**changes: Any) -> DataSpec:
    values: dict[str, Any] = {
        "symbols": ("A",), "feature_columns": ("f0", "f1", "f2"), "feature_digest": "0" * 16, "horizons_bars": (1, 5),
        "timeframe": "1d", "lookback_bars": 12, "chunk_bars": 4,
    }  # fmt: skip
    return DataSpec(**{**values, **changes})


def learn_by_heart(config: TorchModelConfig, spec: DataSpec, *, steps: int, rate: float = 1e-2) -> list[float]:
    """Losses of steps on one batch of noise. Asserts that the first step gives every parameter a gradient that is not 0."""
    torch.manual_seed(2)
    N, H = 32, len(spec.horizons_bars)
    x_NLF = torch.randn(N, spec.lookback_bars, spec.features)
    y_NK = torch.cat([torch.randn(N, H), torch.randint(0, 2, (N, H)).float(), torch.randn(N, H)], dim=1)
    module = TrainingModule(config.build_forecaster(spec), plain_stats(spec, slots=N), slots=N).train()
    optimizer, mask_N, weight_N = (
        torch.optim.Adam(module.parameters(), rate),
        torch.ones(N, dtype=torch.bool),
        torch.ones(N),
    )
    losses = []
    for step in range(steps):
        loss = module(x_NLF, y_NK, mask_N, weight_N)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert silent(module) == []
        optimizer.step()
        losses.append(loss.item())
    return losses


def silent(module: nn.Module) -> list[str]:
    """Parameters without a gradient, which DistributedDataParallel would refuse or that would never learn."""
    return [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def assert_causal(network: Any, spec: DataSpec) -> None:
    """Hidden rows do not change when later rows do."""
    x_NLF = torch.randn(2, spec.lookback_bars, spec.features)
    before = network.hidden(x_NLF)
    for t in range(spec.lookback_bars - 1):
        changed = x_NLF.clone()
        changed[:, t + 1 :] += 100.0
        torch.testing.assert_close(network.hidden(changed)[:, : t + 1], before[:, : t + 1])
