"""How the workers of one fit share the work: data parallel, fully sharded, DeepSpeed. Configs here need no torch."""

from quantfleet.training.strategies.base import STRATEGIES, EngineSettings, StrategyConfig, register_strategy
from quantfleet.training.strategies.ddp import DDPConfig
from quantfleet.training.strategies.deepspeed import DeepSpeedConfig
from quantfleet.training.strategies.fsdp import FSDPConfig

__all__ = [
    "STRATEGIES",
    "DDPConfig",
    "DeepSpeedConfig",
    "EngineSettings",
    "FSDPConfig",
    "StrategyConfig",
    "register_strategy",
]
