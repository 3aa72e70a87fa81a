"""What a worker trains with: the model wrapped by a strategy, its optimizer, and their state on disk.

DDP and FSDP are torch's own wrappers; DeepSpeed stands on Lightning Fabric (ADR 0015). The loop around them is ours (ADR 0012).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from quantfleet.training.strategies.base import EngineSettings, Precision

__all__ = ["Engine", "OptimizerMaker", "TorchEngine"]

OptimizerMaker = Callable[[nn.Module], torch.optim.Optimizer]
_AUTOCAST: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Engine(ABC):
    """One worker's part of a strategy. All workers make the same calls in the same order. Not thread-safe."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self.device: torch.device = ray.train.torch.get_device()
        """The one that Ray gave this worker."""
        self.module: nn.Module
        self.optimizer: Any

    @property
    def rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else 0

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
    """What DDP and FSDP share: torch's own optimizer on wrapped parameters, autocast, and a loss scale for fp16.

    Weights stay in 32 bits in every precision; autocast (Micikevicius et al. 2018, arXiv:1710.03740) computes in 16 where that is
    safe.
    """

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self._plain: nn.Module
        self._scaler = torch.amp.GradScaler(self.device.type) if settings.precision == "fp16" else None

    @abstractmethod
    def _wrap(self, module: nn.Module) -> nn.Module:
        """Share a module, which lies on the device, with the other workers."""

    @abstractmethod
    def _unsynchronised(self) -> AbstractContextManager[None]:
        """While inside, gradients stay with this worker."""

    def setup(self, module: nn.Module, make_optimizer: OptimizerMaker) -> None:
        self._plain = module.to(self.device)
        self.module = self._wrap(self._plain)
        self.optimizer = make_optimizer(self.module)

    def forward(self, *inputs: Any) -> Tensor:
        reduced = _AUTOCAST.get(self._settings.precision)
        with nullcontext() if reduced is None else torch.autocast(self.device.type, reduced):
            made: Tensor = self.module(*inputs)
        return made.float() if made.dtype == reduced else made

    def backward(self, loss: Tensor, *, last: bool) -> None:
        with nullcontext() if last else self._unsynchronised():
            scaled = loss if self._scaler is None else self._scaler.scale(loss)
            scaled.backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        norm: Any = nn.utils.clip_grad_norm_(self.module.parameters(), self._settings.gradient_clip)
        size = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if self._scaler is not None:  # skips the step itself, and lowers its scale
            self._scaler.step(self.optimizer)
            self._scaler.update()
        elif _finite(size):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return size

    @property
    def loss_scale(self) -> float:
        return 1.0 if self._scaler is None else float(self._scaler.get_scale())

    def _precision_state(self) -> dict[str, Any]:
        return {} if self._scaler is None else self._scaler.state_dict()

    def _load_precision_state(self, state: dict[str, Any]) -> None:
        if self._scaler is not None:
            self._scaler.load_state_dict(state)


def _finite(number: float) -> bool:
    return number - number == 0.0
