"""Training steps of a small network under the multi-task loss, by any number of gloo processes, without Ray.

Shapes: N windows of the joint batch, H horizons.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from quantfleet.contracts import DataSpec
from quantfleet.testing.training_data import plain_stats
from quantfleet.training import LossConfig
from quantfleet.training.objective import MultiTaskLoss

SPEC = DataSpec(
    symbols=("A",), feature_columns=("f", "g"), feature_digest="d", horizons_bars=(1, 5), timeframe="1d", lookback_bars=3,
    chunk_bars=4,
)  # fmt: skip
HEADS = ("return", "direction", "volatility")
N, H, STEPS = 48, 2, 4


class Trained(nn.Module):
    """Network and loss in one module, as Lightning trains them."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.body = nn.Linear(3, 6)
        self.heads = nn.ModuleDict({h: nn.Linear(6, H) for h in HEADS})
        self.objective = MultiTaskLoss(config, plain_stats(SPEC, slots=N), N)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = torch.tanh(self.body(batch["x"]))
        heads = {name: head(hidden) for name, head in self.heads.items()}
        shared = tuple(self.body.parameters()) if self.objective.config.balance == "gradnorm" else ()
        loss: torch.Tensor = self.objective(heads, batch, batch["mask"], batch["weight"], shared)
        return loss


def batches() -> list[dict[str, torch.Tensor]]:
    """Joint batches with unknown labels, and masks and weights that differ between the halves."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(STEPS):
        batch = {name: torch.randn(N, H, generator=generator, dtype=torch.float64) for name in HEADS}
        for target in batch.values():
            target[torch.rand(N, H, generator=generator) < 0.2] = torch.nan
        batch["direction"] = torch.where(batch["direction"].isnan(), torch.nan, (batch["direction"] > 0).double())
        batch["x"] = torch.randn(N, 3, generator=generator, dtype=torch.float64)
        batch["mask"] = torch.rand(N, generator=generator) < torch.linspace(0.2, 1.0, N)
        batch["weight"] = torch.rand(N, generator=generator, dtype=torch.float64) * torch.linspace(0.1, 3.0, N)
        made.append(batch)
    return made


def steps(config: LossConfig, rank: int = 0, workers: int = 1) -> dict[str, Any]:
    """Losses of a few steps, and what was learned by them."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    trained = Trained(config).double()
    model = trained if workers == 1 else DistributedDataParallel(trained)
    optimizer = torch.optim.SGD(trained.parameters(), 0.1)
    share = slice(rank * N // workers, (rank + 1) * N // workers)
    losses = []
    for batch in batches():
        loss = model({name: value[share] for name, value in batch.items()})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return {"losses": torch.stack(losses), "state": trained.state_dict()}


def worker(rank: int, workers: int, configs: list[LossConfig], folder: str) -> None:
    """Runs in a process of its own."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    rendezvous = Path(folder, "rendezvous").as_uri()
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=workers)
    try:
        torch.save([steps(config, rank, workers) for config in configs], Path(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()
