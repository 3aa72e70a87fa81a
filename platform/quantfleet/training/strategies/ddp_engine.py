"""The engine of `ddp`: torch's DistributedDataParallel."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from quantfleet.training.strategies.base import EngineSettings
from quantfleet.training.strategies.ddp import DDPConfig
from quantfleet.training.strategies.engine import TorchEngine

__all__ = ["DDPEngine"]

_FILE = "state.pt"


class DDPEngine(TorchEngine):
    """Every worker holds everything; rank 0 writes it. A single worker needs no wrapper."""

    def __init__(self, config: DDPConfig, settings: EngineSettings) -> None:
        super().__init__(settings)
        self._bucket_mb = config.bucket_mb

    def _wrap(self, module: nn.Module) -> nn.Module:
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return module
        # forward_sync_buffers would send every buffer before every step; ours are constants of the data
        return DistributedDataParallel(
            module, device_ids=[self.device] if self.device.type == "cuda" else None, bucket_cap_mb=self._bucket_mb,
            gradient_as_bucket_view=True, forward_sync_buffers=False,
        )  # fmt: skip

    def _unsynchronised(self) -> AbstractContextManager[None]:
        no_sync: AbstractContextManager[None] = (
            self.module.no_sync() if isinstance(self.module, DistributedDataParallel) else nullcontext()
        )
        return no_sync

    def save(self, folder: Path, extra: dict[str, Tensor]) -> None:
        if self.rank == 0:
            state: dict[str, Any] = {
                "module": self._plain.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "precision": self._precision_state(),
                "extra": extra,
            }
            torch.save(state, folder / _FILE)

    def load(self, folder: Path, extra: dict[str, Tensor], *, workers: int) -> None:
        state = torch.load(folder / _FILE, map_location=self.device, weights_only=True)
        self._plain.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._load_precision_state(state["precision"])
        for name, tensor in extra.items():
            tensor.copy_(state["extra"][name])

    def weights(self) -> dict[str, Tensor] | None:
        if self.rank:
            return None
        return {k: v.detach().cpu().contiguous() for k, v in self._plain.state_dict().items()}
