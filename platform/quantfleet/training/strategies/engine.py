"""What a worker trains with: the model wrapped by a strategy, its optimizer, and their state on disk.

Engines stand on Lightning Fabric, which knows devices, precision and the wrappers; the loop around them is ours (ADR 0012).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train.torch
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.strategies import Strategy
from ray.train.lightning import RayLightningEnvironment
from torch import Tensor, nn

from quantfleet.training.strategies.base import EngineSettings, Precision

__all__ = ["Engine", "OptimizerMaker", "TorchEngine", "fabric"]

OptimizerMaker = Callable[[nn.Module], torch.optim.Optimizer]
_PRECISION: dict[Precision, Any] = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def fabric(strategy: Strategy, settings: EngineSettings) -> Fabric:
    """A Fabric for this Ray Train worker; the process group is Ray's."""
    made = Fabric(
        accelerator="gpu" if settings.use_gpu else "cpu",
        devices=1,
        strategy=strategy,
        precision=_PRECISION[settings.precision],
        plugins=[RayLightningEnvironment()],
    )
    made.launch()
    return made


class RayDevice:
    """Mixed into Fabric's strategies: the device is the one that Ray gave this worker."""

    @property
    def root_device(self) -> torch.device:
        device: torch.device = ray.train.torch.get_device()
        return device


class Engine(ABC):
    """One worker's part of a strategy. All workers make the same calls in the same order. Not thread-safe."""

    def __init__(self, made: Fabric, settings: EngineSettings) -> None:
        self._fabric = made
        self._settings = settings
        self.module: nn.Module
        self.optimizer: Any

    @property
    def device(self) -> torch.device:
        device: torch.device = self._fabric.device
        return device

    @abstractmethod
    def setup(self, module: nn.Module, make_optimizer: OptimizerMaker) -> None:
        """Wrap the module, whose forward must give a loss, and make the optimizer of its parameters."""

    def forward(self, *inputs: Any) -> Tensor:
        """Forward pass, in the strategy's precision."""
        made: Tensor = self.module(*inputs)
        return made

    @abstractmethod
    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add to the gradients; they are exchanged with the other workers with the last micro-batch of a step."""

    @abstractmethod
    def step(self) -> float:
        """Clip the gradients and move the weights, unless the gradient is not finite; then nothing moves, on any worker.

        Returns: norm of the gradient of all workers together before clipping; not finite where the step was skipped.
        """

    @property
    def loss_scale(self) -> float:
        """What fp16 multiplies losses with at the moment; 1 in other precisions."""
        return 1.0

    def set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @abstractmethod
    def save(self, folder: Path, extra: dict[str, Tensor]) -> None:
        """Write this worker's part of weights, optimizer and precision state into an empty folder of its own."""

    @abstractmethod
    def load(self, folder: Path, extra: dict[str, Tensor], *, workers: int) -> None:
        """Read what all workers saved, put together in one folder; `extra` is filled in place.

        Args: workers: how many saved it; another number than now is fine.
        """

    @abstractmethod
    def weights(self) -> dict[str, Tensor] | None:
        """The whole state of the wrapped module on the CPU, on rank 0; None elsewhere. All workers call it."""

    def all_sum(self, tensor: Tensor) -> Tensor:
        """Sum over the workers, in place."""
        if dist.is_initialized() and dist.get_world_size() > 1:
            on_device = tensor.to(self.device)
            dist.all_reduce(on_device)
            tensor.copy_(on_device)
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """One row per worker, (workers, ...)."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return tensor[None]
        on_device = tensor.to(self.device)
        rows = [torch.empty_like(on_device) for _ in range(dist.get_world_size())]
        dist.all_gather(rows, on_device)
        return torch.stack(rows).cpu()


class TorchEngine(Engine):
    """What DDP and FSDP share: torch's own optimizer on wrapped parameters."""

    def setup(self, module: nn.Module, make_optimizer: OptimizerMaker) -> None:
        self.module = self._fabric.setup_module(module)
        self.optimizer = self._fabric.setup_optimizers(make_optimizer(self.module))

    def backward(self, loss: Tensor, *, last: bool) -> None:
        with self._fabric.no_backward_sync(self.module, enabled=not last):
            self._fabric.backward(loss)

    def step(self) -> float:
        norm = self._fabric.clip_gradients(
            self.module, self.optimizer, max_norm=self._settings.gradient_clip, error_if_nonfinite=False
        )
        assert norm is not None
        size = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if _finite(size) or self._scaler is not None:  # a scaler skips the step itself, and lowers its scale
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return size

    @property
    def _scaler(self) -> Any:
        return getattr(self._fabric.strategy.precision, "scaler", None)

    @property
    def loss_scale(self) -> float:
        return 1.0 if self._scaler is None else float(self._scaler.get_scale())


def _finite(number: float) -> bool:
    return number - number == 0.0
