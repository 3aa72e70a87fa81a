"""The engine of `fsdp`: PyTorch's FSDP 2, sharded checkpoints that any number of workers can read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from quantfleet.training.strategies.base import EngineSettings
from quantfleet.training.strategies.engine import TorchEngine
from quantfleet.training.strategies.fsdp import FSDPConfig

__all__ = ["FSDPEngine"]

_PRECISION = "precision.pt"


class FSDPEngine(TorchEngine):
    """Every worker writes its slices; reading slices them anew."""

    def __init__(self, config: FSDPConfig, settings: EngineSettings) -> None:
        super().__init__(settings)
        self._reshard_after_forward = config.reshard_after_forward
        if not dist.is_initialized():  # a lone worker; FSDP wants a group all the same
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            store = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=store, rank=0, world_size=1)

    def _wrap(self, module: nn.Module) -> nn.Module:
        options: dict[str, Any] = {
            "mesh": init_device_mesh(self.device.type, (dist.get_world_size(),)),
            "reshard_after_forward": self._reshard_after_forward,
        }
        for block in _blocks(module):
            fully_shard(block, **options)
        fully_shard(module, **options)
        return module

    @contextlib.contextmanager
    def _unsynchronised(self) -> Iterator[None]:
        assert isinstance(self.module, FSDPModule)
        self.module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.module.set_requires_gradient_sync(True)

    def save(self, folder: Path, extra: dict[str, Tensor]) -> None:
        model, optimizer = get_state_dict(self.module, self.optimizer)
        save({"model": model, "optimizer": optimizer, "extra": extra}, checkpoint_id=str(folder))
        if self.rank == 0:
            torch.save(self._precision_state(), folder / _PRECISION)

    def load(self, folder: Path, extra: dict[str, Tensor], *, workers: int) -> None:
        model, optimizer = get_state_dict(self.module, self.optimizer)
        state = {"model": model, "optimizer": optimizer, "extra": extra}
        load(state, checkpoint_id=str(folder))
        set_state_dict(self.module, self.optimizer, model_state_dict=model, optim_state_dict=optimizer)
        self._load_precision_state(torch.load(folder / _PRECISION, map_location=self.device, weights_only=True))

    def weights(self) -> dict[str, Tensor] | None:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: dict[str, Any] = dict(get_model_state_dict(self.module, options=options))
        if self.rank:
            return None
        return {k: v.detach().cpu().contiguous() for k, v in state.items()}


def _blocks(module: nn.Module) -> list[nn.Module]:
    """Layers that are gathered and freed one by one: the members of every list of layers that lies in no other such list."""
    found: dict[nn.Module, None] = {}
    for child in module.children():
        found.update(dict.fromkeys(child if isinstance(child, nn.ModuleList) else _blocks(child)))
    return list(found)
