"""What every built-in feature shares: a column name made of its parameters, checks on them, and the warm-up mask."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.contracts import FeatureConfig, FeatureState
from quantfleet.errors import ConfigError
from quantfleet_data.features.kernels import Graph, Node, Runner, bar_columns, program_of
from quantfleet_data.features.windows import Array

__all__ = ["START_WEIGHT", "Feature", "KernelFeature", "warm_up_bars"]

START_WEIGHT = 1e-4
"""A recursive average is called defined once the bars before its warm-up weigh less than this."""


def warm_up_bars(alpha: float, *, stages: int = 1) -> int:
    """Bars until an exponential average forgets how it began.

    A cascade of `stages` averages y += alpha (x - y) gives everything older than k bars the weight
    P(Binomial(k, alpha) < stages).

    Args:
        alpha: weight of the newest bar: 2 / (n + 1) for an EMA of n bars, 1 / n for Wilder's average.
        stages: how many such averages follow each other (ADX has 2).
    Returns: the smallest k at which that weight is below START_WEIGHT.
    """
    if alpha >= 1.0:
        return stages - 1
    k = 0
    while sum(math.comb(k, j) * alpha**j * (1 - alpha) ** (k - j) for j in range(stages) if j <= k) >= START_WEIGHT:
        k += 1
    return k


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature(FeatureConfig):
    """Base of the built-in features: dimensionless, causal, NaN for `lookback_bars - 1` bars and finite after them."""

    reads: ClassVar[tuple[str, ...]] = ("close",)
    """Bar columns it reads."""
    definition: ClassVar[str] = ""
    """Where the formula comes from."""
    smallest_bars: ClassVar[int] = 1
    """Smallest sensible value of the *_bars parameters."""

    def __post_init__(self) -> None:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name, value in values.items():
            if isinstance(value, int) and value < self.smallest_bars:
                raise ConfigError(
                    f"feature {self.kind}: {name}={value} is too short; set {name} >= {self.smallest_bars}."
                )
            if isinstance(value, float) and not (math.isfinite(value) and value > 0.0):
                raise ConfigError(f"feature {self.kind}: {name}={value} must be a positive number.")
        fast, slow = values.get("fast_bars"), values.get("slow_bars")
        if fast is not None and slow is not None and fast >= slow:
            raise ConfigError(f"feature {self.kind}: fast_bars={fast} must be shorter than slow_bars={slow}.")

    @property
    def column(self) -> str:
        """The kind and the parameters in their order: `macd_histogram_12_26_9`."""
        values = (getattr(self, f.name) for f in dataclasses.fields(self))
        return "_".join([self.kind, *(f"{v:g}" if isinstance(v, float) else str(v) for v in values)])

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.reads

    @property
    def source(self) -> str:
        return self.definition

    @abstractmethod
    def values(self, bars: pl.DataFrame) -> Array:
        """Return a fresh array of shape (T,), from the first bar the formula gives a number for, warm-up included."""

    def compute(self, bars: pl.DataFrame) -> Array:
        """Return shape (T,) float64, NaN before `lookback_bars` bars are there."""
        values = self.values(bars)
        values[: self.lookback_bars - 1] = np.nan
        return values


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelFeature(Feature):
    """A feature written as a formula of nodes and run by the compiled kernels.

    Alone, in a set or in a panel it is the same formula and has the same bits; a set shares what its formulas have in
    common. Recursive ones carry in their state the averages, and of every part the bars that are looked back on, so a
    new bar costs one step, however long the history.
    """

    @abstractmethod
    def formula(self, g: Graph) -> Node:
        """Write the feature as nodes of `g`."""

    def values(self, bars: pl.DataFrame) -> Array:
        return self._run(Runner(program_of((self,), warm_up=False)), bars)

    def advance(self, bars: pl.DataFrame, new_bars: int, state: FeatureState | None) -> tuple[Array, FeatureState]:
        if not self.recursive:
            return FeatureConfig.advance(self, bars, new_bars, state)
        self.check_advance(bars, new_bars, state)
        runner = Runner(program_of((self,)))
        if state is not None:
            runner.restore(state)
        return self._run(runner, bars.tail(new_bars)), runner.state()

    def _run(self, runner: Runner, bars: pl.DataFrame) -> Array:
        out_FT: npt.NDArray[np.float64] = np.empty((1, bars.height))
        runner.feed(bar_columns(bars, runner.program.inputs), out_FT)
        values: Array = out_FT[0]
        return values
