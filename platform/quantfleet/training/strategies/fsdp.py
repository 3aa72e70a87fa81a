"""Fully sharded data parallel: parameters, gradients and optimizer state are parted over the workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from quantfleet.training.strategies.base import EngineSettings, StrategyConfig, register_strategy

if TYPE_CHECKING:
    from quantfleet.training.strategies.engine import Engine

__all__ = ["FSDPConfig"]


@register_strategy("fsdp")
@dataclass(frozen=True, kw_only=True, slots=True)
class FSDPConfig(StrategyConfig):
    """PyTorch's FSDP 2 (`fully_shard`): each worker keeps a slice of every parameter and gathers layers as they are used.

    Source: Zhao et al. 2023, arXiv:2304.11277; the per-parameter sharding of PyTorch 2.4.
    """

    shards_parameters: ClassVar[bool] = True

    reshard_after_forward: bool = True
    """Free gathered parameters after the forward pass and gather them again for the backward one: less memory, more traffic."""

    def build(self, settings: EngineSettings) -> Engine:
        from quantfleet.training.strategies.fsdp_engine import FSDPEngine

        return FSDPEngine(self, settings)
