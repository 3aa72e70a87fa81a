"""The label contract: what a model learns to foretell, each value with the time at which it is fully known.

Time: a decision is taken at the close of bar t and filled at the open of bar t+1 at the earliest, so labels measure
from there. `t_end` is when the last bar a label reads is known: that bar's timestamp + timeframe. Purging uses the
interval [t, t_end].
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import polars as pl

from quantfleet.contracts.timeframe import Timeframe
from quantfleet.plugins import PluginConfig, PluginRegistry

__all__ = ["LABELS", "LabelConfig", "register_label", "t_end_column"]


def t_end_column(column: str) -> str:
    """Name of the column with the time (UTC) at which label `column` is fully known."""
    return f"{column}__t_end"


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelConfig(PluginConfig):
    """Base config of every label family."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the value columns, e.g. ("return_1", "return_5")."""

    @property
    @abstractmethod
    def horizon_bars(self) -> int:
        """The longest look into the future, in bars after t: the last bar read is t + horizon_bars."""

    @abstractmethod
    def compute(self, bars: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
        """Return one row per bar: each value column (float64, NaN where the future is not there yet) and its t_end
        column.

        Args:
            bars: BAR_COLUMNS of one symbol, sorted by time.
            timeframe: length of a bar.
        """


LABELS: PluginRegistry[LabelConfig] = PluginRegistry("label", LabelConfig, command="labels")
register_label = LABELS.register
