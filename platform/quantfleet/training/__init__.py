"""The Ray Train runtime. Torch and Ray are imported by the files that use them, not by this package."""

from quantfleet.training.config import CheckpointsConfig, FaultsConfig, TrainingConfig
from quantfleet.training.loss import LossConfig
from quantfleet.training.row_config import BoostedConfig, RowModelConfig, SingleTaskConfig
from quantfleet.training.sampling import (
    SAMPLERS,
    DifficultySampling,
    RecencySampling,
    RegimeSampling,
    SamplingConfig,
    UniformSampling,
    UniquenessSampling,
    register_sampler,
)
from quantfleet.training.strategies import (
    STRATEGIES,
    DDPConfig,
    DeepSpeedConfig,
    FSDPConfig,
    StrategyConfig,
    register_strategy,
)
from quantfleet.training.torch_config import TorchModelConfig

__all__ = [
    "SAMPLERS",
    "STRATEGIES",
    "BoostedConfig",
    "CheckpointsConfig",
    "DDPConfig",
    "DeepSpeedConfig",
    "DifficultySampling",
    "FSDPConfig",
    "FaultsConfig",
    "LossConfig",
    "RecencySampling",
    "RegimeSampling",
    "RowModelConfig",
    "SamplingConfig",
    "SingleTaskConfig",
    "StrategyConfig",
    "TorchModelConfig",
    "TrainingConfig",
    "UniformSampling",
    "UniquenessSampling",
    "register_sampler",
    "register_strategy",
]
