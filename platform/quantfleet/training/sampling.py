"""Which chunks an epoch takes, and in which order: drawn without replacement, so that no chunk comes twice.

Every sampler gives each chunk a weight. An epoch is a weighted random permutation (Efraimidis and Spirakis 2006, "Weighted
random sampling with a reservoir"): chunk after chunk is drawn in proportion to the weights of those that are left. With
`fraction` below 1 the epoch ends early, and heavier chunks are in more epochs than lighter ones; with `fraction` 1 every chunk is
in every epoch, and the weights only decide which come first.

Shapes: P chunks of the segment, Q chunks of the epoch.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from quantfleet.contracts import ChunkIndex
from quantfleet.errors import ConfigError
from quantfleet.plugins import PluginConfig, PluginRegistry

__all__ = [
    "SAMPLERS",
    "DifficultySampling",
    "RecencySampling",
    "RegimeSampling",
    "SamplingConfig",
    "UniformSampling",
    "UniquenessSampling",
    "register_sampler",
]

Weights = npt.NDArray[np.float64]
_DAY_US = 86_400_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig(PluginConfig):
    """Base config of every sampler."""

    needs_losses: ClassVar[bool] = False
    """True where weights come from the last loss of each chunk; the trainer then measures it."""

    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the segment's chunks in an epoch."""

    @abstractmethod
    def weights(self, index: ChunkIndex, losses_P: npt.NDArray[np.float32]) -> Weights:
        """Weigh every chunk; finite and not negative, in any unit. A chunk of weight 0 comes last, if at all.

        Args:
            losses_P: mean loss of each chunk when it was last trained on, NaN where it never was.
        Raises: ConfigError: the chunks lack what the sampler needs.
        """

    def order(
        self, index: ChunkIndex, losses_P: npt.NDArray[np.float32], *, seed: int, epoch: int
    ) -> npt.NDArray[np.int64]:
        """Places of an epoch's chunks in order, each at most once, (Q,). A pure function: equal on every worker.

        Raises: ConfigError: a weight is negative or not finite, or none is above 0.
        """
        weights = self.weights(index, losses_P)
        chunks = len(index)
        if not chunks:
            return np.zeros(0, np.int64)
        bad = ~np.isfinite(weights) | (weights < 0)
        if bad.any() or not weights.any():
            place = int(np.flatnonzero(bad)[0]) if bad.any() else 0
            raise ConfigError(
                f"sampling {self.kind!r} gives chunk {int(index.chunk_id_P[place])} the weight {weights[place]}; weights are "
                "finite, 0 or more, and at least one of them is above 0. Choose another sampling, or mend the column it reads."
            )
        # An exponential clock of rate w rings for each chunk; the order of ringing is the draw without replacement.
        clocks = np.random.default_rng((seed, epoch)).exponential(size=chunks)
        with np.errstate(divide="ignore", over="ignore"):
            rings = np.where(weights > 0, clocks / weights, np.inf)
        return np.argsort(rings, kind="stable")[: max(1, math.ceil(self.fraction * chunks))]


SAMPLERS: PluginRegistry[SamplingConfig] = PluginRegistry("sampler", SamplingConfig, command="samplers")
register_sampler = SAMPLERS.register


@register_sampler("uniform")
@dataclass(frozen=True, kw_only=True, slots=True)
class UniformSampling(SamplingConfig):
    """Every chunk is as likely as any other."""

    def weights(self, index: ChunkIndex, losses_P: npt.NDArray[np.float32]) -> Weights:
        return np.ones(len(index))


@register_sampler("recency")
@dataclass(frozen=True, kw_only=True, slots=True)
class RecencySampling(SamplingConfig):
    """Newer chunks first: the weight halves with every half-life of age."""

    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    half_life_days: Annotated[float, Field(gt=0)] = 365.0

    def weights(self, index: ChunkIndex, losses_P: npt.NDArray[np.float32]) -> Weights:
        if not len(index):
            return np.zeros(0)
        age_days = (index.time_P.max() - index.time_P) / _DAY_US
        halvings = np.minimum(age_days / self.half_life_days, 1000.0)  # 2**-1000 is still a number
        return np.asarray(0.5**halvings, np.float64)


@register_sampler("uniqueness")
@dataclass(frozen=True, kw_only=True, slots=True)
class UniquenessSampling(SamplingConfig):
    """By the sum of the targets' sample weights: chunks whose labels overlap less say more.

    Source: Lopez de Prado (2018), "Advances in Financial Machine Learning", ch. 4.
    """

    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5

    def weights(self, index: ChunkIndex, losses_P: npt.NDArray[np.float32]) -> Weights:
        if len(index) and np.isnan(index.weight_P).all():
            raise ConfigError(
                "sampling 'uniqueness' needs sample weights, and these chunks were written without. Name the column of the "
                "labels table that holds them (`weight_column`) and write the chunks again."
            )
        return index.weight_P.astype(np.float64)


@register_sampler("regime")
@dataclass(frozen=True, kw_only=True, slots=True)
class RegimeSampling(SamplingConfig):
    """Every regime weighs the same, however rare it is."""

    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    by: Literal["volatility", "column"] = "volatility"
    """Regimes are buckets of realised volatility, or the regime column the chunks were written with."""
    buckets: Annotated[int, Field(ge=2, le=100)] = 3
    """How many buckets, equally wide in the logarithm of volatility."""
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """1: regimes are balanced in full; 0: chunks are uniform; between them, a mixture of both."""

    def weights(self, index: ChunkIndex, losses_P: npt.NDArray[np.float32]) -> Weights:
        regime_P = index.regime_P.astype(np.int64) if self.by == "column" else self._buckets(index.volatility_P)
        if self.by == "column" and len(index) and (regime_P < 0).all():
            raise ConfigError(
                "sampling 'regime' with by=column needs chunks with regimes, and these have none. Name the column that holds "
                "them (`regime_column`) and write the chunks again, or set by=volatility."
            )
        _, which, counts = np.unique(regime_P, return_inverse=True, return_counts=True)
        balanced = 1.0 / (counts[which] * max(len(counts), 1))
        return np.asarray(self.share * balanced + (1 - self.share) / max(len(index), 1), np.float64)

    def _buckets(self, volatility_P: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """Calm, ..., wild: equal steps of log volatility between its 5th and 95th percentile; -1 where it is unknown."""
        known = np.isfinite(volatility_P) & (volatility_P > 0)
        logs = np.log(np.where(known, volatility_P, 1.0).astype(np.float64))
        if not known.any():
            return np.full(len(volatility_P), -1, np.int64)
        low, high = np.quantile(logs[known], [0.05, 0.95])
        edges = np.linspace(low, high, self.buckets + 1)[1:-1]
        return np.where(known, np.searchsorted(edges, logs, side="right"), -1)


@register_sampler("difficulty")
@dataclass(frozen=True, kw_only=True, slots=True)
class DifficultySampling(SamplingConfig):
    """Chunks with a higher loss come more often; a chunk that was never trained on counts as the hardest.

    Source: Loshchilov and Hutter (2016), arXiv:1511.06343 (online batch selection by last loss, here in proportion to it).
    """

    needs_losses: ClassVar[bool] = True

    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    power: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Weight is (loss / mean loss) to this power."""
    floor: Annotated[float, Field(gt=0)] = 0.1
    """Least weight relative to a chunk of mean loss: nothing is forgotten for good."""

    def weights(self, index: ChunkIndex, losses_P: npt.NDArray[np.float32]) -> Weights:
        losses = losses_P.astype(np.float64)
        known = np.isfinite(losses)
        mean = losses[known].mean() if known.any() else 0.0
        if not mean > 0:
            return np.ones(len(index))
        relative = np.where(known, losses / mean, 0.0)
        relative[~known] = relative.max(initial=1.0)
        return np.asarray(np.maximum(relative**self.power, self.floor))
