"""The section `bench` of a recipe: what the models of a bench have in common, and what they are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from quantfleet.errors import ConfigError

__all__ = ["BenchConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    """The budget is epochs: the same for every torch model, or fewer where time is short. Trees and lines take what the recipe
    gives them (rounds, patience), for their fits have no epochs.
    """

    epochs: Annotated[int, Field(ge=1)] | None = None
    """Of every torch model; None: what the recipe says of each. Patience may end a fit before."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Most minutes of a torch fit: its epochs are cut to what `quantfleet train --plan` expects of them, at least one. The plan is
    made once and kept with the run, so that the same command goes on with the same epochs."""
    seeds: tuple[int, ...] = ()
    """Fit every model with each of these, a run of its own each; empty: with run.seed."""
    reference: str | None = None
    """A model that each of the others is compared with, for ablations."""
    latency_calls: Annotated[int, Field(ge=5)] = 200
    """How often a model is asked for one answer, at most; slow ones are asked less often."""

    def __post_init__(self) -> None:
        doubled = sorted({s for s in self.seeds if self.seeds.count(s) > 1})
        if doubled:
            raise ConfigError(f"bench.seeds holds {doubled[0]} twice; a seed that is used again tells nothing new.")
