"""Base configs of models that read the decision bar: what they share, whatever library fits them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from quantfleet.contracts import ModelConfig, SelectorConfig

__all__ = ["BoostedConfig", "RowModelConfig", "SingleTaskConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowModelConfig(ModelConfig):
    """A model of the features of each target's own bar. Importing a config imports no library that fits it."""

    sample_weights: bool = True
    """Training rows count by their sample weights, scaled to mean 1; harmless where the chunks were written without."""
    selection: SelectorConfig | None = None
    """Which of the features the model reads, or what they are turned into; None: all."""
    selection_label: str | None = None
    """Label column that `selection` judges by, e.g. return_5; None: the return at the first horizon."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BoostedConfig(RowModelConfig):
    """Trees added a round at a time, on Ray Train workers; a round adds one for each head and horizon."""

    rounds: Annotated[int, Field(ge=1)] = 200
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    subsample: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Share of the rows that each round sees."""
    column_sample: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Share of the features that each tree may use."""
    min_child_weight: Annotated[float, Field(ge=0)] = 20.0
    """Least sum of sample weights in a leaf."""
    l2: Annotated[float, Field(ge=0)] = 5.0
    max_bins: Annotated[int, Field(ge=2, le=65535)] = 256
    """Into how many values a feature is rounded; up to 256 take one byte a value."""
    patience_rounds: Annotated[int, Field(ge=1)] = 30
    """Rounds without a lower validation error after which the fit stops."""
    checkpoint_every_rounds: Annotated[int, Field(ge=1)] = 50
    """A fit that goes on from a checkpoint makes the trees it would have made without the interruption: the draws of
    `subsample` and `column_sample` begin anew, from the seed and the round, at each of these rounds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleTaskConfig(RowModelConfig):
    """A model whose library fits in one process: one Ray task reads all rows."""

    memory_mb: Annotated[int, Field(ge=1)] = 4096
    """The fit is refused before it starts when its rows would take more than this, megabytes."""
