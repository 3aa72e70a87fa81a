"""DeepSpeed ZeRO: optimizer state, gradients and parameters are parted over the workers, stage by stage."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from quantfleet.errors import ConfigError
from quantfleet.training.strategies.base import EngineSettings, StrategyConfig, register_strategy

if TYPE_CHECKING:
    from quantfleet.training.strategies.engine import Engine

__all__ = ["DeepSpeedConfig"]


@register_strategy("deepspeed")
@dataclass(frozen=True, kw_only=True, slots=True)
class DeepSpeedConfig(StrategyConfig):
    """DeepSpeed ZeRO. Needs the extra `deepspeed`. Another number of workers goes on through a universal checkpoint.

    Source: Rajbhandari et al. 2020, arXiv:1910.02054; offload: Ren et al. 2021, arXiv:2101.06840.
    """

    zero_stage: Literal[1, 2, 3] = 2
    """1 parts the optimizer state, 2 gradients as well, 3 parameters as well."""
    offload: bool = False
    """Keep optimizer state (and, in stage 3, parameters) in the memory of the host; for GPU workers."""

    def build(self, settings: EngineSettings) -> Engine:
        if not settings.use_gpu:
            os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is first imported
        try:
            from quantfleet.training.strategies.deepspeed_engine import DeepSpeedEngine
        except ImportError as error:
            missing = (error.name or "").partition(".")[0]
            if missing not in ("deepspeed", "lightning"):
                raise
            raise ConfigError(
                f"strategy deepspeed needs the package {missing}: pip install 'quantfleet[deepspeed]' on every worker."
            ) from error
        return DeepSpeedEngine(self, settings)
