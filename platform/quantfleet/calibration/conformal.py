"""Split conformal prediction: quantiles around any forecast, from its errors on data it did not learn from.

Shapes: R rows with a known outcome, Q levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.errors import ConfigError, SchemaError

__all__ = ["ConformalQuantiles"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ConformalQuantiles:
    """Quantile of level q = forecast + spread x the q-quantile of the errors in units of their spread.

    Levels above one half round the rank up and those below round it down, by n + 1, so that for exchangeable rows an outcome lies
    at or below the upper quantile with probability q at least, and at or above the lower one with probability 1 - q at least,
    whatever the forecast and the distribution. Markets are not exchangeable: when the errors' distribution drifts, so does the
    coverage; with a spread that follows the market (the model's own volatility) it drifts less.

    Source: Vovk, Gammerman and Shafer 2005; errors in units of a spread: Lei et al. 2018, J. Amer. Stat. Assoc. 113, section
    5.2; both tails on their own: Romano, Patterson and Candes 2019, arXiv:1905.03222, eq. 12.
    """

    levels: tuple[float, ...]
    score_Q: Array
    """Rising with the level."""

    @classmethod
    def fit(cls, forecast_R: Array, outcome_R: Array, spread_R: Array, levels: tuple[float, ...]) -> ConformalQuantiles:
        """Args: spread_R: above 0. Raises: ConfigError: there are too few rows for a level."""
        score_R = np.sort((outcome_R - forecast_R) / spread_R)
        n = len(score_R)
        ranks = []
        for level in levels:
            exact = level * (n + 1)
            rank = math.ceil(exact - 1e-9) if level > 0.5 else math.floor(exact + 1e-9)
            if not 1 <= rank <= n:
                least = math.ceil(1.0 / min(level, 1.0 - level)) - 1
                raise ConfigError(
                    f"a conformal quantile of level {level} needs {least} rows or more whose outcome is known, and there are "
                    f"{n}. Widen "
                    "the validation segment, or ask for levels nearer to one half."
                )
            ranks.append(rank - 1)
        return cls(levels, score_R[ranks])

    def apply(self, forecast: npt.NDArray[np.floating], spread: npt.NDArray[np.floating]) -> Array:
        """Quantiles along a new last axis."""
        made: Array = forecast[..., None] + spread[..., None] * self.score_Q
        return made

    def to_dict(self) -> dict[str, Any]:
        return {"levels": list(self.levels), "score": self.score_Q.tolist()}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> ConformalQuantiles:
        """Raises: SchemaError: it is not what `to_dict` made."""
        try:
            made = cls(tuple(map(float, record["levels"])), np.asarray(record["score"], np.float64))
        except (KeyError, TypeError, ValueError) as error:
            raise SchemaError(f"these are no stored conformal quantiles: {error}. Fit the model again.") from error
        if (
            made.score_Q.shape != (len(made.levels),)
            or not np.isfinite(made.score_Q).all()
            or (np.diff(made.score_Q) < 0).any()
        ):
            raise SchemaError("stored conformal quantiles do not rise with their levels. Fit the model again.")
        return made
