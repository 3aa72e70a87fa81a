"""The engine of `fsdp`: PyTorch's FSDP 2, sharded checkpoints that any number of workers can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from quantfleet.training.strategies.base import EngineSettings
from quantfleet.training.strategies.engine import RayDevice, TorchEngine, fabric
from quantfleet.training.strategies.fsdp import FSDPConfig

__all__ = ["FSDPEngine"]

_PRECISION = "precision.pt"


class _RayFSDP(RayDevice, ModelParallelStrategy):  # type: ignore[misc, unused-ignore]
    """Lightning's strategy for FSDP 2 on Ray's device."""


class FSDPEngine(TorchEngine):
    """Every worker writes its slices; reading slices them anew."""

    def __init__(self, config: FSDPConfig, settings: EngineSettings) -> None:
        def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
            options: dict[str, Any] = {
                "mesh": mesh["data_parallel"],
                "reshard_after_forward": config.reshard_after_forward,
            }
            for block in _blocks(module):
                fully_shard(block, **options)
            fully_shard(module, **options)
            return module

        workers = dist.get_world_size() if dist.is_initialized() else 1
        strategy = _RayFSDP(parallelize_fn=shard, data_parallel_size=workers, tensor_parallel_size=1)
        super().__init__(fabric(strategy, settings), settings)

    def setup(self, module: nn.Module, make_optimizer: Any) -> None:
        super().setup(module.to(self.device), make_optimizer)

    @property
    def _sharded(self) -> nn.Module:
        inner: nn.Module = self.module._forward_module  # type: ignore[assignment]
        return inner

    def save(self, folder: Path, extra: dict[str, Tensor]) -> None:
        model, optimizer = get_state_dict(self._sharded, self.optimizer.optimizer)
        save({"model": model, "optimizer": optimizer, "extra": extra}, checkpoint_id=str(folder))
        if self._fabric.global_rank == 0:
            torch.save(self._fabric.strategy.precision.state_dict(), folder / _PRECISION)

    def load(self, folder: Path, extra: dict[str, Tensor], *, workers: int) -> None:
        model, optimizer = get_state_dict(self._sharded, self.optimizer.optimizer)
        state = {"model": model, "optimizer": optimizer, "extra": extra}
        load(state, checkpoint_id=str(folder))
        set_state_dict(self._sharded, self.optimizer.optimizer, model_state_dict=model, optim_state_dict=optimizer)
        precision = torch.load(folder / _PRECISION, map_location=self.device, weights_only=True)
        self._fabric.strategy.precision.load_state_dict(precision)

    def weights(self) -> dict[str, Tensor] | None:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: dict[str, Any] = dict(get_model_state_dict(self._sharded, options=options))
        if self._fabric.global_rank:
            return None
        return {k: v.detach().cpu().contiguous() for k, v in state.items()}


def _blocks(module: nn.Module) -> list[nn.Module]:
    """Layers that are gathered and freed one by one: the members of every list of layers."""
    return [block for child in module.modules() if isinstance(child, nn.ModuleList) for block in child]
