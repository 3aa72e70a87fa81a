"""The forecast contract: what every model answers with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from quantfleet.errors import SchemaError

__all__ = ["Forecast"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Named heads for B chunks of C targets and H horizons, in the order of `DataSpec.horizons_bars`.

    Values where the chunk's mask is false have no meaning.
    """

    return_BCH: npt.NDArray[np.float32]
    """Expected simple return from the open after the decision, over each horizon; a fraction (0.01 is 1 %)."""
    direction_logit_BCH: npt.NDArray[np.float32]
    """Log-odds of a positive return."""
    volatility_BCH: npt.NDArray[np.float32]
    """Expected realised volatility per bar over each horizon; a fraction."""
    position_BC: npt.NDArray[np.float32] | None = None
    """Wanted position in [-1, 1] of the symbol's share of capital, for rule models that decide rather than forecast."""

    quantile_BCHQ: npt.NDArray[np.float32] | None = None
    """Quantiles of the return, rising with their level; fractions."""
    quantile_levels: tuple[float, ...] | None = None
    """Q levels of `quantile_BCHQ` between 0 and 1, rising."""
    confidence_BCH: npt.NDArray[np.float32] | None = None
    """Probability, as the model sees it, that the direction it calls (the sign of the log-odds) comes."""

    def __post_init__(self) -> None:
        shape = self.return_BCH.shape
        if len(shape) != 3:
            raise SchemaError(f"forecast.return_BCH has shape {shape}; it needs chunks x targets x horizons.")
        for name in ("direction_logit_BCH", "volatility_BCH"):
            if getattr(self, name).shape != shape:
                raise SchemaError(f"forecast.{name} has shape {getattr(self, name).shape}, return_BCH has {shape}.")
        if self.confidence_BCH is not None and self.confidence_BCH.shape != shape:
            raise SchemaError(f"forecast.confidence_BCH has shape {self.confidence_BCH.shape}, return_BCH has {shape}.")
        levels, quantiles = self.quantile_levels, self.quantile_BCHQ
        if (quantiles is None) != (levels is None):
            raise SchemaError("a forecast has quantiles together with their levels, or neither of them.")
        if quantiles is not None and levels is not None:
            if quantiles.shape != (*shape, len(levels)):
                raise SchemaError(
                    f"forecast.quantile_BCHQ has shape {quantiles.shape}; it needs {(*shape, len(levels))}."
                )
            if not levels or any(low >= high for low, high in pairwise((0.0, *levels, 1.0))):
                raise SchemaError(f"forecast.quantile_levels={levels} must rise and lie between 0 and 1.")
        if self.position_BC is not None and self.position_BC.shape != shape[:2]:
            raise SchemaError(f"forecast.position_BC has shape {self.position_BC.shape}; it needs {shape[:2]}.")
