"""A feature of longer bars, made of the symbol's own bars and joined as of the last CLOSED longer bar.

A longer bar opens on the calendar's grid (`Timeframe.opens_us`) and closes at its end: first open, highest high, lowest
low, last close, sum of volume. It is seen by a base bar that closes at or after that end, never earlier: while a longer
bar runs, the value stands still. When the base bars stop before the end (a weekend, a halt), the longer bar is seen by
the first bar after it. The history's first longer bar counts only if the history begins with its open. A longer bar with
a null volume anywhere has none; a longer bar without any base bar does not exist.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl
from numba import njit

from quantfleet.contracts import FeatureConfig, FeatureSet, Timeframe, register_feature
from quantfleet.contracts.feature import FeatureState, Scaling
from quantfleet.errors import ConfigError, DataError, TimeError
from quantfleet_data.features.cross_section import CrossSectionConfig
from quantfleet_data.features.returns import LogReturn
from quantfleet_data.features.windows import Array, column

__all__ = ["OnTimeframe", "check_base"]

Integers = npt.NDArray[np.int64]
_WAYS = {"open": 0, "high": 1, "low": 2, "close": 3, "volume": 4}
"""How a column of longer bars is made; columns with such an ending (`index_close`) are made alike."""
_ROWS, _LAST, _OPEN_US, _WHOLE, _INNER, _KEPT, _HEAD = range(7)
"""Fields of the state: base bars seen, last value, open of the running longer bar (NaN: none runs), whether it is whole,
length of the inner feature's state, longer bars kept for it; then the running bar, the inner state, the kept bars."""


@register_feature("on_timeframe")
@dataclass(frozen=True, kw_only=True, slots=True)
class OnTimeframe(FeatureConfig):
    """The feature `of` on bars of `timeframe` ("5m" ... "1d", "1w", "1M"), as of the last closed one.

    Weeks run from Monday 00:00 UTC, months from the first. Daily bars of stocks leave Saturday and Sunday open, so a week
    is seen closed on Monday, by the first bar of the next.
    """

    of: FeatureConfig = field(default_factory=lambda: LogReturn(bars=1))
    """What is computed on the longer bars."""
    timeframe: str = "1h"
    """Length of the longer bars; a multiple of `base`."""
    base: str = "1m"
    """Length of the symbol's own bars: what a bar is known after. A shorter one than theirs is safe and late by one bar;
    a longer one would look ahead and is refused."""
    recursive = True

    def __post_init__(self) -> None:
        longer, base = Timeframe(self.timeframe), Timeframe(self.base)
        if isinstance(self.of, CrossSectionConfig | OnTimeframe):
            raise ConfigError(
                f"feature {self.kind}: `of` is {self.of.column!r}; only a feature of one symbol's own bars can be put on "
                "another timeframe. Turn it round: a cross-sectional feature may have `of: {kind: on_timeframe, ...}`."
            )
        unit_s = 86_400 if longer.months else longer.seconds
        if base.months or unit_s % base.seconds or (unit_s == base.seconds and not longer.months):
            raise ConfigError(
                f"feature {self.kind}: timeframe={self.timeframe!r} is not made of whole bars of base={self.base!r}. Set "
                "`base` to the timeframe of the bars table, and `timeframe` to a longer multiple of it."
            )
        for name in self.of.inputs:
            if name != "timestamp" and _way(name) is None:
                raise ConfigError(
                    f"feature {self.kind}: {self.of.column!r} reads {name!r}, and there is no rule to make longer bars of "
                    f"that column. There are rules for columns that end in {', '.join(_WAYS)}."
                )

    @property
    def scaling(self) -> Scaling:  # type: ignore[override]
        return self.of.scaling

    @property
    def column(self) -> str:
        return f"{self.of.column}_on_{self.timeframe}"

    @property
    def lookback_bars(self) -> int:
        """Base bars in the look-back of `of` and one longer bar more, for a history that begins in the middle of one."""
        ratio = -(-Timeframe(self.timeframe).longest_seconds // Timeframe(self.base).seconds)
        return (self.of.lookback_bars + 1) * ratio

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("timestamp", *self._columns)

    @property
    def source(self) -> str:
        return f"{self.of.source}; on bars of {self.timeframe}, as of the last closed one"

    @property
    def _columns(self) -> tuple[str, ...]:
        return tuple(name for name in self.of.inputs if name != "timestamp")

    def compute(self, bars: pl.DataFrame) -> Array:
        """Return shape (T,) float64, NaN before the look-back.

        Raises: TimeError: two bars stand closer than `base`, so they would be used before they are known.
        """
        longer, closed_T, _ = self._lengthen(bars, first=True, running=self._nothing_runs())
        inner = self.of.compute(longer) if longer.height else np.empty(0)
        return self._joined(inner, closed_T, before=np.nan, seen=0)

    def advance(self, bars: pl.DataFrame, new_bars: int, state: FeatureState | None) -> tuple[Array, FeatureState]:
        """As the contract says; the state carries the running longer bar and those that `of` looks back to."""
        self.check_advance(bars, new_bars, state)
        width, keep = len(self._columns), self.of.lookback_bars - 1
        seen, last, running, inner_state = 0, np.nan, self._nothing_runs(), None
        kept = self._frame(np.empty(0, dtype=np.int64), np.empty((width, 0)))
        if state is not None:
            if state.size < _HEAD + width:
                raise DataError(f"feature {self.column!r} was given the state of another feature.", feature=self.column)
            seen, last = int(state[_ROWS]), float(state[_LAST])
            running = np.concatenate([state[[_OPEN_US, _WHOLE]], state[_HEAD : _HEAD + width]])
            inner_at = _HEAD + width
            table_at = inner_at + int(state[_INNER])
            inner_state = state[inner_at:table_at] if state[_KEPT] >= 0 else None
            table = state[table_at:].reshape(width + 1, -1)
            kept = self._frame(table[0].astype(np.int64), table[1:])
        fresh = bars.tail(new_bars + 1) if state is not None else bars
        self._check_steps(fresh)
        longer, closed_T, running = self._lengthen(fresh.tail(new_bars), first=seen == 0, running=running, checked=True)
        inner = np.empty(0)
        if longer.height:
            kept = pl.concat([kept, longer])
            inner, inner_state = self.of.advance(kept, longer.height, inner_state)
            kept = kept.tail(keep)
        values = self._joined(inner, closed_T, before=last, seen=seen)
        last = float(inner[-1]) if inner.size else last
        carried = np.empty(0) if inner_state is None else inner_state
        head = np.array([seen + new_bars, last, 0, 0, carried.size, -1 if inner_state is None else kept.height])
        head[[_OPEN_US, _WHOLE]] = running[:2]
        table = np.vstack([kept["timestamp"].cast(pl.Int64).cast(pl.Float64).to_numpy()[None], *self._rows(kept)])
        return values, np.concatenate([head, running[2:], carried, table.ravel()])

    def _rows(self, longer: pl.DataFrame) -> list[Array]:
        return [column(longer, name)[None] for name in self._columns]

    def _nothing_runs(self) -> Array:
        return np.array([np.nan, 0.0, *([np.nan] * len(self._columns))])

    def _joined(self, inner: Array, closed_T: Integers, *, before: float, seen: int) -> Array:
        """The inner values by how many longer bars had closed; rows of the look-back are NaN."""
        values = np.append(before, inner)[closed_T]
        values[: max(self.lookback_bars - 1 - seen, 0)] = np.nan
        return values

    def _check_steps(self, bars: pl.DataFrame) -> None:
        base = Timeframe(self.base)
        close = (bars["timestamp"].diff() < base.delta).fill_null(False).arg_true()
        if len(close):
            raise TimeError(
                f"feature {self.column!r} takes bars for {base}, but they stand closer, first at "
                f"{bars['timestamp'][int(close[0])]}: it would use them before they are known. Set `base` to the "
                "timeframe of the bars table.",
                feature=self.column,
            )

    def _lengthen(
        self, bars: pl.DataFrame, *, first: bool, running: Array, checked: bool = False
    ) -> tuple[pl.DataFrame, Integers, Array]:
        """Make longer bars. Returns those that closed, how many had closed by each base bar, and the running one."""
        if not checked:
            self._check_steps(bars)
        longer, base = Timeframe(self.timeframe), Timeframe(self.base)
        times_us = bars["timestamp"].dt.epoch("us").cast(pl.Int64).to_numpy()
        opens_us = longer.opens_us(times_us)
        ends = times_us + base.seconds * 1_000_000 >= longer.ends_us(opens_us)
        values = np.vstack([np.empty((0, bars.height)), *(column(bars, name)[None] for name in self._columns)])
        ways = np.array([_way(name) for name in self._columns], dtype=np.int64)
        closed_T, made_us = np.empty(bars.height, dtype=np.int64), np.empty(bars.height + 1, dtype=np.int64)
        made, after = np.empty((values.shape[0], bars.height + 1)), running.copy()
        count = _make_longer(times_us, opens_us, ends, values, ways, first, after, closed_T, made_us, made)
        return self._frame(made_us[:count], made[:, :count]), closed_T, after

    def _frame(self, opens_us: Integers, values: Array) -> pl.DataFrame:
        stamps = pl.Series("timestamp", opens_us, dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))
        return pl.DataFrame([stamps, *(pl.Series(n, v.copy()) for n, v in zip(self._columns, values, strict=True))])


def check_base(features: FeatureSet, timeframe: str) -> None:
    """Check that every feature on longer bars was told the timeframe of the bars table it is computed from.

    Raises: ConfigError: a `base` is longer (it would look ahead) or shorter (it would be late) than `timeframe`.
    """
    for feature in features.features:
        inner = feature
        while isinstance(inner, CrossSectionConfig):
            inner = inner.of
        base = getattr(inner, "base", None)
        if base is not None and Timeframe(base).seconds != Timeframe(timeframe).seconds:
            fault = "look ahead" if Timeframe(base).seconds > Timeframe(timeframe).seconds else "be a bar late"
            raise ConfigError(
                f"feature {feature.column!r} has base={base!r}, but the bars table holds bars of {timeframe}: it would "
                f"{fault}. Set `base: {timeframe}`, or take the feature set made for it (multi_timeframe_{timeframe})."
            )


def _way(name: str) -> int | None:
    return _WAYS.get(name.rsplit("_", 1)[-1])


@njit(cache=True, nogil=True)
def _make_longer(
    times_us: Integers,
    opens_us: Integers,
    ends_T: npt.NDArray[np.bool_],
    values_CT: Array,
    ways_C: Integers,
    first: bool,
    running: Array,
    closed_T: Integers,
    made_us: Integers,
    made_CN: Array,
) -> int:
    """Walk the base bars; `running` holds the open of the running longer bar, whether it is whole, and its values."""
    count = 0
    for t in range(times_us.size):
        if not math.isnan(running[0]) and running[0] != opens_us[t]:
            if running[1] > 0.0:
                made_us[count] = np.int64(running[0])
                made_CN[:, count] = running[2:]
                count += 1
            running[0] = np.nan
        begins = math.isnan(running[0])
        if begins:
            running[0] = opens_us[t]
            running[1] = 0.0 if first and t == 0 and times_us[t] != opens_us[t] else 1.0
        for c in range(ways_C.size):
            value, so_far = values_CT[c, t], running[2 + c]
            if begins or ways_C[c] == 3:
                running[2 + c] = value
            elif ways_C[c] == 4:
                running[2 + c] = so_far + value
            elif ways_C[c] != 0 and so_far == so_far:
                larger = value > so_far if ways_C[c] == 1 else value < so_far
                running[2 + c] = value if larger or value != value else so_far
        if ends_T[t]:
            if running[1] > 0.0:
                made_us[count] = np.int64(running[0])
                made_CN[:, count] = running[2:]
                count += 1
            running[0] = np.nan
        closed_T[t] = count
    return count
