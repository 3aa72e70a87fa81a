"""How wide prices will swing: realised volatility over the coming bars."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from quantfleet.contracts import LabelConfig, Timeframe, register_label
from quantfleet_data.features.windows import column, log_change, rolling_rms
from quantfleet_data.labels.future import ahead, check_horizons, known_after, label_pair

__all__ = ["RealisedVolatility"]


@register_label("realised_volatility")
@dataclass(frozen=True, kw_only=True, slots=True)
class RealisedVolatility(LabelConfig):
    """Root mean square of the close-to-close log returns of bars t+1..t+h: volatility_1, volatility_5, ...

    A fraction per bar, not annualised; the first of these returns starts at close[t]. With h = 1 it is the absolute
    return.
    Source: Andersen, Bollerslev, Diebold & Labys (2003), Econometrica 71.
    """

    horizons_bars: tuple[int, ...] = (1, 5, 21)

    def __post_init__(self) -> None:
        check_horizons(self.kind, self.horizons_bars)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"volatility_{h}" for h in self.horizons_bars)

    @property
    def horizon_bars(self) -> int:
        return max(self.horizons_bars)

    def compute(self, bars: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
        """Return volatility_{h} and its t_end: the close of bar t+h."""
        change = log_change(column(bars, "close"))
        pairs: list[pl.Series] = []
        for name, h in zip(self.columns, self.horizons_bars, strict=True):
            pairs += label_pair(name, ahead(rolling_rms(change, h), h), known_after(bars, h, timeframe))
        return pl.DataFrame(pairs)
