"""The engine of `ddp`: torch's DistributedDataParallel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from quantfleet.training.strategies.base import EngineSettings
from quantfleet.training.strategies.ddp import DDPConfig
from quantfleet.training.strategies.engine import RayDevice, TorchEngine, fabric

__all__ = ["DDPEngine"]

_FILE = "state.pt"


class _RayDDP(RayDevice, DDPStrategy):  # type: ignore[misc, unused-ignore]
    """Lightning's strategy on Ray's device; a single worker needs no wrapper."""

    def setup_module(self, module: nn.Module) -> Any:
        return super().setup_module(module) if self.world_size > 1 else module


class DDPEngine(TorchEngine):
    """Every worker holds everything; rank 0 writes it."""

    def __init__(self, config: DDPConfig, settings: EngineSettings) -> None:
        strategy = _RayDDP(gradient_as_bucket_view=True, forward_sync_buffers=False, bucket_cap_mb=config.bucket_mb)
        super().__init__(fabric(strategy, settings), settings)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        if last or not isinstance(self._wrapped, DistributedDataParallel):
            self._fabric.backward(loss)
        else:
            super().backward(loss, last=last)

    @property
    def _wrapped(self) -> nn.Module:
        inner: nn.Module = self.module._forward_module  # type: ignore[assignment]
        return inner

    def save(self, folder: Path, extra: dict[str, Tensor]) -> None:
        if self._fabric.global_rank == 0:
            state = {
                "module": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "precision": self._fabric.strategy.precision.state_dict(),
                "extra": extra,
            }
            torch.save(state, folder / _FILE)

    def load(self, folder: Path, extra: dict[str, Tensor], *, workers: int) -> None:
        state = torch.load(folder / _FILE, map_location=self.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._fabric.strategy.precision.load_state_dict(state["precision"])
        for name, tensor in extra.items():
            tensor.copy_(state["extra"][name])

    def weights(self) -> dict[str, Tensor] | None:
        if self._fabric.global_rank:
            return None
        return {k: v.detach().cpu().contiguous() for k, v in self.module.state_dict().items()}
