"""The `labels:` section of a recipe, and the label table of one symbol."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from quantfleet.contracts import LabelConfig, Timeframe, t_end_column
from quantfleet.errors import ConfigError, LeakageError, SchemaError, nearest
from quantfleet_data.features.compute import one_symbol
from quantfleet_data.labels.future import known_after
from quantfleet_data.labels.regime import VolatilityRegime
from quantfleet_data.labels.returns import Direction, ForwardReturn
from quantfleet_data.labels.triple_barrier import TripleBarrier
from quantfleet_data.labels.volatility import RealisedVolatility
from quantfleet_data.weights.config import WeightsConfig

__all__ = ["LabelsConfig", "compute_labels"]


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Which labels to compute."""

    families: tuple[LabelConfig, ...] = (ForwardReturn(), Direction(), RealisedVolatility(), TripleBarrier())
    """By default return, direction and volatility over 1, 5 and 21 bars, and the triple barrier over 21."""
    weights: WeightsConfig | None = None
    """Adds the column `weight` for training. None: no such column, every row weighs the same."""
    regime: VolatilityRegime | None = None
    """Adds the column `regime`, known at the close of the row's bar. None: no such column."""

    def __post_init__(self) -> None:
        if not self.families:
            raise ConfigError("labels.families is empty; name at least one label, such as forward_return.")
        doubled = sorted({c for c in self.columns if self.columns.count(c) > 1})
        if doubled:
            raise ConfigError(f"labels.families computes {', '.join(doubled)} twice; give each label once.")
        taken = sorted({"symbol", "timestamp", "t_end", "weight", "regime"} & set(self.columns))
        if taken:
            raise ConfigError(
                f"labels.families names a column {taken[0]!r}, which the label table needs itself; rename it."
            )
        if self.weights is not None and self.weights.label not in self.columns:
            raise ConfigError(
                f"labels.weights.label={self.weights.label!r} is no label that is computed."
                f"{nearest(self.weights.label, self.columns)} There are {', '.join(self.columns)}."
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Value columns of all families, in order."""
        return tuple(name for family in self.families for name in family.columns)

    @property
    def horizon_bars(self) -> int:
        """The longest look into the future: the last bar any label of row t reads is t + horizon_bars."""
        return max(family.horizon_bars for family in self.families)


def compute_labels(bars: pl.DataFrame, config: LabelsConfig, timeframe: Timeframe) -> pl.DataFrame:
    """Compute every label of one symbol.

    Args:
        bars: at least BAR_COLUMNS of one symbol, sorted by time.
        config: the families to compute.
        timeframe: length of a bar.
    Returns: one row per bar: symbol, timestamp, all value columns (float64, NaN where unknown), all their t_end columns
        (UTC, null where unknown), and `t_end`: when the whole row is known, at the close of bar t + horizon_bars;
        null if that bar is not there yet or any label is unknown. No label's own t_end is later. It is the same
        whatever the labels turn out to be (a barrier touched early does not move it), so that picking or purging
        rows by it selects no outcome. Then `weight` (float64) and `regime` (int16) where the config asks for them.
    Raises:
        SchemaError: several symbols, or a family that does not deliver its columns.
        LeakageError: a family that does not deliver one row per bar, or a t_end that is not after its bar, or is beyond
            the horizon its family tells.
        EmptyTableError, TimeError, PriceError: the bars break their contract.
    """
    bars = one_symbol(bars, where="the bars to compute labels from")
    columns: dict[str, pl.Series] = {}
    for family in config.families:
        columns.update(_checked(family, bars, timeframe))
    ends = [t_end_column(name) for name in config.columns]
    table = bars.select("symbol", "timestamp").with_columns(columns[name] for name in (*config.columns, *ends))
    complete = pl.all_horizontal(pl.col(ends).is_not_null())
    settled = known_after(bars, config.horizon_bars, timeframe).alias("t_end")
    table = table.with_columns(settled).with_columns(pl.when(complete).then("t_end").alias("t_end"))
    if config.weights is not None:
        weights = config.weights.compute(bars, columns[t_end_column(config.weights.label)], timeframe)
        table = table.with_columns(pl.Series("weight", weights))
    if config.regime is not None:
        table = table.with_columns(config.regime.compute(bars).alias("regime"))
    return table


def _checked(family: LabelConfig, bars: pl.DataFrame, timeframe: Timeframe) -> dict[str, pl.Series]:
    computed = family.compute(bars, timeframe)
    for name in family.columns:
        for wanted in (name, t_end_column(name)):
            if wanted not in computed.columns:
                raise SchemaError(
                    f"label {family.kind!r} did not return its column {wanted!r}; it returned "
                    f"{', '.join(computed.columns)}.",
                    label=family.kind,
                    column=wanted,
                )
        if computed.height != bars.height:
            raise LeakageError(
                f"label {family.kind!r} returned {computed.height} rows for {bars.height} bars, so values would "
                "stand at the wrong time. Return one row per bar, NaN and null where unknown.",
                label=family.kind,
            )
        early = computed[t_end_column(name)] <= bars["timestamp"] + timeframe.delta
        if early.any():
            at = bars["timestamp"].filter(early)[0]
            raise LeakageError(
                f"label {name!r} of {at} claims to be known when its own bar closes, so it says nothing about the "
                "future, or its t_end is wrong: it must be the close of the last bar read.",
                label=name,
            )
        late = computed[t_end_column(name)] > known_after(bars, family.horizon_bars, timeframe)
        if late.any():
            at = bars["timestamp"].filter(late)[0]
            raise LeakageError(
                f"label {name!r} of {at} is known only after bar t+{family.horizon_bars}, the horizon_bars of "
                f"{family.kind!r}; purging would fall short. Let horizon_bars be the last bar it reads.",
                label=name,
            )
    return {c: computed[c] for name in family.columns for c in (name, t_end_column(name))}
