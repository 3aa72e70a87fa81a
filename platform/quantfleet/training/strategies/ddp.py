"""Data parallel: every worker holds the whole model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.training.strategies.base import EngineSettings, StrategyConfig, register_strategy

if TYPE_CHECKING:
    from quantfleet.training.strategies.engine import Engine

__all__ = ["DDPConfig"]


@register_strategy("ddp")
@dataclass(frozen=True, kw_only=True, slots=True)
class DDPConfig(StrategyConfig):
    """Every worker holds the whole model; gradients are averaged while they are computed (gloo on CPU, NCCL on GPU)."""

    bucket_mb: Annotated[float, Field(gt=0)] = 25.0
    """Gradients are sent in buckets of so many megabytes, each as soon as it is full."""

    def build(self, settings: EngineSettings) -> Engine:
        from quantfleet.training.strategies.ddp_engine import DDPEngine

        return DDPEngine(self, settings)
