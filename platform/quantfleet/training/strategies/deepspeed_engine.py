"""The engine of `deepspeed`: ZeRO stages 1 to 3; on CPU workers through a subclass, since Lightning refuses it without CUDA."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import deepspeed  # noqa: F401  # says at once when it is not installed; Lightning imports it later
import ray.train.torch
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.strategies import DeepSpeedStrategy
from ray.train.lightning import RayLightningEnvironment
from torch import Tensor, nn

from quantfleet.errors import TornCheckpointError
from quantfleet.training.strategies.base import EngineSettings, Precision
from quantfleet.training.strategies.deepspeed import DeepSpeedConfig
from quantfleet.training.strategies.engine import Engine, OptimizerMaker

__all__ = ["DeepSpeedEngine"]

_TAG = "state"
_UNIVERSAL = "universal"
_PRECISION: dict[Precision, Any] = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class _RayDeepSpeed(DeepSpeedStrategy):  # type: ignore[misc, unused-ignore]
    """Lightning's strategy on the device that Ray gave this worker."""

    @property
    def root_device(self) -> torch.device:
        device: torch.device = ray.train.torch.get_device()
        return device


class _CPUDeepSpeed(_RayDeepSpeed):
    """Skips Lightning's CUDA checks and talks gloo."""

    _config_initialized: bool

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()

    def _setup_distributed(self) -> None:
        self._set_world_ranks()
        self._init_deepspeed_distributed()
        if not self._config_initialized:
            self._format_config()
            self._config_initialized = True


class DeepSpeedEngine(Engine):
    """Each worker writes its partition; another number of workers reads them through a universal checkpoint."""

    def __init__(self, config: DeepSpeedConfig, settings: EngineSettings) -> None:
        self._stage = config.zero_stage
        super().__init__(settings)
        self._fabric = Fabric(
            accelerator="gpu" if settings.use_gpu else "cpu",
            devices=1,
            strategy=(_RayDeepSpeed if settings.use_gpu else _CPUDeepSpeed)(config=_settings_of(config, settings)),
            precision=_PRECISION[settings.precision],
            plugins=[RayLightningEnvironment()],
        )
        self._fabric.launch()  # the process group is Ray's

    def setup(self, module: nn.Module, make_optimizer: OptimizerMaker) -> None:
        # DeepSpeed asks for torch's own optimizer; without one of its own kind it wraps this one
        self.module, self.optimizer = self._fabric.setup(module, make_optimizer(module))

    @property
    def _engine(self) -> Any:
        return self._fabric.strategy.model

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        self._fabric.backward(loss, model=self.module)

    def step(self) -> float:
        self._engine.step()
        if not self._engine.was_step_applied():
            return float("nan")
        norm = self._engine.get_global_grad_norm()
        return 0.0 if norm is None else float(norm)

    def set_learning_rate(self, rate: float) -> None:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = rate

    def save(self, folder: Path, extra: dict[str, Tensor]) -> None:
        self._engine.save_checkpoint(str(folder), tag=_TAG, client_state={"extra": extra})

    def load(self, folder: Path, extra: dict[str, Tensor], *, workers: int) -> None:
        now = dist.get_world_size() if dist.is_initialized() else 1
        tag = _TAG
        if workers != now:
            tag = _UNIVERSAL
            _to_universal(folder)
        self._engine._config.load_universal_checkpoint = tag == _UNIVERSAL
        path, client = self._engine.load_checkpoint(str(folder), tag=tag, load_lr_scheduler_states=False)
        if path is None:
            raise TornCheckpointError(f"DeepSpeed cannot read the checkpoint {folder / tag}.", folder=str(folder))
        for name, tensor in extra.items():
            tensor.copy_(client["extra"][name])

    def weights(self) -> dict[str, Tensor] | None:
        engine = self._engine
        gathered = engine._zero3_consolidated_16bit_state_dict() if self._stage == 3 else engine.module.state_dict()
        if self.rank:
            return None
        return {k: v.detach().cpu().float().contiguous() if v.is_floating_point() else v for k, v in gathered.items()}


def _settings_of(config: DeepSpeedConfig, settings: EngineSettings) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if config.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    if config.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "train_micro_batch_size_per_gpu": settings.micro_windows,
        "gradient_clipping": settings.gradient_clip,
    }


def _to_universal(folder: Path) -> None:
    """Turn the partitions of so many workers into whole parameters, beside them. Each worker does it in its own folder.

    Source: Lian et al. 2024, arXiv:2406.18820 (universal checkpointing).
    """
    from deepspeed.checkpoint import ds_to_universal

    made = folder / _UNIVERSAL
    shutil.rmtree(made, ignore_errors=True)
    ds_to_universal.main(
        argparse.Namespace(
            input_folder=str(folder / _TAG),
            output_folder=str(made),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=False,
            inject_missing_state=True,
        )
    )
    (folder / "latest_universal").write_text(_UNIVERSAL)
