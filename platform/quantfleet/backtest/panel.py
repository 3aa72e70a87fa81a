"""Prices as arrays: the bars of several symbols on one calendar, holes kept as holes.

Shapes: T bars of the calendar (every time at which any symbol has a bar), S symbols.
Time: `time_T` is the bar's open in UTC. open[t] can be traded at `time_T[t]`, close[t] is known at the bar's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.compiled import read_only
from quantfleet.errors import BacktestError, SchemaError, nearest

__all__ = ["BarPanel", "PriceRows"]

Array = npt.NDArray[np.float64]

_COLUMNS = ("symbol", "timestamp", "open", "close")


class PriceRows(Protocol):
    """What the event engine reads of prices: a `BarPanel`, or rows that are still being added (`events.growing`)."""

    @property
    def symbols(self) -> tuple[str, ...]: ...
    @property
    def time_T(self) -> npt.NDArray[np.datetime64]: ...
    @property
    def open_TS(self) -> Array: ...
    @property
    def close_TS(self) -> Array: ...
    @property
    def marks_TS(self) -> Array: ...
    @property
    def volume_TS(self) -> Array | None: ...
    @property
    def funding_TS(self) -> Array | None: ...
    @property
    def lot_S(self) -> Array | None: ...
    @property
    def tick_S(self) -> Array | None: ...

    def require_volume(self) -> None:
        """See `BarPanel.require_volume`."""


@dataclass(frozen=True, kw_only=True)
class BarPanel:
    """Open and close prices of S symbols over T bars. A missing bar is NaN in both; nothing is ever filled in.

    Raises: BacktestError: fewer than two bars, times that do not rise, arrays that do not fit each other, a price that
        is zero, negative or infinite, half a bar (open without close), a symbol without any bar or listed twice.
    """

    open_TS: Array
    close_TS: Array
    time_T: npt.NDArray[np.datetime64]
    """datetime64[us], UTC, strictly rising."""
    symbols: tuple[str, ...]
    volume_TS: Array | None = None
    """Units that the market traded in each bar, at least 0; NaN where the bar is missing. Read by price impact only."""
    funding_TS: Array | None = None
    """Funding of perpetual futures due from the end of the bar before to the open, on what was held until then: a fraction of the
    position's value that longs pay to shorts; NaN or 0 for none."""
    lot_S: Array | None = None
    """Smallest step of units, above 0."""
    tick_S: Array | None = None
    """Smallest step of prices, above 0."""

    def __post_init__(self) -> None:
        bars, width = len(self.time_T), len(self.symbols)
        for name in ("open_TS", "close_TS"):
            shape = getattr(self, name).shape
            if shape != (bars, width):
                raise BacktestError(
                    f"panel.{name} has shape {shape}, but there are {bars} times and {width} symbols; it needs "
                    f"({bars}, {width})."
                )
        if bars < 2:
            raise BacktestError(
                f"a backtest over {bars} bar(s) cannot trade: a decision at the close of one bar is filled at the open "
                "of the next, so it takes at least 2."
            )
        if len(set(self.symbols)) != width or not width:
            raise BacktestError(f"panel symbols must be distinct and at least one, got {self.symbols}.")
        steps = np.diff(self.time_T.astype("datetime64[us]").astype(np.int64))
        if (steps <= 0).any():
            t = int(np.argmax(steps <= 0)) + 1
            raise BacktestError(
                f"times must rise strictly: bar {t} at {self.time_T[t]} follows bar {t - 1} at {self.time_T[t - 1]}. "
                "Sort the bars by time and keep one per time.",
                bar=t,
            )
        self._check_prices()
        self._check_market()

    def _check_prices(self) -> None:
        for name, price_TS in (("open", self.open_TS), ("close", self.close_TS)):
            bad_TS = (price_TS <= 0.0) | np.isinf(price_TS)
            if bad_TS.any():
                t, s = np.argwhere(bad_TS)[0]
                raise BacktestError(
                    f"{name} price {price_TS[t, s]} of {self.symbols[s]} at {self.time_T[t]}: prices must be positive "
                    "and finite. Mend the bar, or leave it out (NaN in open and close).",
                    symbol=self.symbols[s],
                )
        half_TS = np.isnan(self.open_TS) != np.isnan(self.close_TS)
        if half_TS.any():
            t, s = np.argwhere(half_TS)[0]
            raise BacktestError(
                f"{self.symbols[s]} at {self.time_T[t]} has open {self.open_TS[t, s]} and close {self.close_TS[t, s]}: "
                "a bar has both prices, a missing bar has neither.",
                symbol=self.symbols[s],
            )
        empty_S = np.isnan(self.close_TS).all(axis=0)
        if empty_S.any():
            raise BacktestError(
                f"{self.symbols[int(np.argmax(empty_S))]} has no bar in the panel; leave the symbol out."
            )

    def listed(self) -> npt.NDArray[np.bool_]:
        """Shape (T, S), true from each symbol's first bar on. Causal: it does not say whether it will trade again."""
        listed: npt.NDArray[np.bool_] = np.logical_or.accumulate(~np.isnan(self.close_TS), axis=0)
        return listed

    def _check_market(self) -> None:
        """Funding and steps, where there are any, and the shape of volumes."""
        bars, width = self.close_TS.shape
        shapes = {"volume_TS": (bars, width), "funding_TS": (bars, width), "lot_S": (width,), "tick_S": (width,)}
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values is not None and values.shape != shape:
                raise BacktestError(f"panel.{name} has shape {values.shape}; it needs {shape}.")
        for name in ("lot_S", "tick_S"):
            steps_S = getattr(self, name)
            if steps_S is not None and not (np.isfinite(steps_S) & (steps_S > 0.0)).all():
                raise BacktestError(
                    f"panel.{name}={steps_S} must be positive and finite; leave it out where there is no step."
                )
        if self.funding_TS is not None and np.isinf(self.funding_TS).any():
            raise BacktestError("panel.funding_TS has an infinite rate; use NaN where no funding is due.")

    def require_volume(self) -> None:
        """Raises: BacktestError: there are no volumes, or one is missing, negative or infinite."""
        if self.volume_TS is None:
            raise BacktestError(
                "costs.impact_bps needs bars with volume, and the panel has none. Give volume_TS, or set it to 0."
            )
        wrong_TS = ~np.isnan(self.close_TS) & ~((self.volume_TS >= 0.0) & np.isfinite(self.volume_TS))
        if wrong_TS.any():
            t, s = np.argwhere(wrong_TS)[0]
            raise BacktestError(
                f"volume {self.volume_TS[t, s]} of {self.symbols[s]} at {self.time_T[t]}: a bar has a finite volume of at least 0. "
                "Mend it, or set costs.impact_bps to 0.",
                symbol=self.symbols[s],
            )

    @cached_property
    def first_S(self) -> npt.NDArray[np.int64]:
        """Number of each symbol's first bar."""
        first_S: npt.NDArray[np.int64] = np.argmin(np.isnan(self.close_TS), axis=0)
        return first_S

    @cached_property
    def marks_TS(self) -> Array:
        """Last known close of each symbol, shape (T, S); 0 before its first. The closes themselves where none is missing."""
        present_TS = ~np.isnan(self.close_TS)
        if present_TS.all():
            return self.close_TS
        last_TS = np.maximum.accumulate(np.where(present_TS, np.arange(len(self.time_T))[:, None], 0), axis=0)
        return np.nan_to_num(np.take_along_axis(self.close_TS, last_TS, axis=0))

    @cached_property
    def open_ST(self) -> Array:
        """Opens with the bars of a symbol side by side, for loops over one symbol; no copy where there is one symbol."""
        return read_only(self.open_TS.T)

    @cached_property
    def marks_ST(self) -> Array:
        """`marks_TS` with the bars of a symbol side by side."""
        return read_only(self.marks_TS.T)

    def only(self, s: int) -> BarPanel:
        """The panel of one symbol, column s."""
        if len(self.symbols) == 1:
            return self
        one = slice(s, s + 1)
        return BarPanel(
            open_TS=np.ascontiguousarray(self.open_TS[:, one]),
            close_TS=np.ascontiguousarray(self.close_TS[:, one]),
            time_T=self.time_T,
            symbols=self.symbols[one],
            volume_TS=None if self.volume_TS is None else np.ascontiguousarray(self.volume_TS[:, one]),
            funding_TS=None if self.funding_TS is None else np.ascontiguousarray(self.funding_TS[:, one]),
            lot_S=None if self.lot_S is None else self.lot_S[one],
            tick_S=None if self.tick_S is None else self.tick_S[one],
        )

    def with_funding(self, funding: pl.DataFrame) -> BarPanel:
        """The panel with funding settlements laid on its bars.

        A settlement is charged at the first open at or after its time, on what was held until then; those of one bar add up.

        Args:
            funding: columns symbol, timestamp (UTC), rate (see `quantfleet.contracts.FUNDING_COLUMNS`); rows of other symbols and
                times outside the panel are left out.
        Raises: SchemaError: a column is missing. BacktestError: a rate is null or not finite.
        """
        for name in ("symbol", "timestamp", "rate"):
            if name not in funding.columns:
                raise SchemaError(f"funding has no column {name!r}.{nearest(name, funding.columns)}", column=name)
        rows = funding.filter(pl.col("symbol").is_in(list(self.symbols)))
        time_N = (
            rows["timestamp"].dt.convert_time_zone("UTC").dt.replace_time_zone(None).dt.cast_time_unit("us").to_numpy()
        )
        rate_N = rows["rate"].cast(pl.Float64).fill_null(np.nan).to_numpy()
        if not np.isfinite(rate_N).all():
            n = int(np.argmin(np.isfinite(rate_N)))
            raise BacktestError(
                f"the funding rate of {rows['symbol'][n]} at {time_N[n]} is {rate_N[n]}; leave the row out."
            )
        inside = (time_N > self.time_T[0]) & (time_N <= self.time_T[-1])
        column = (
            rows["symbol"]
            .replace_strict(list(self.symbols), list(range(len(self.symbols))), return_dtype=pl.Int64)
            .to_numpy()
        )
        funding_TS = np.zeros(self.close_TS.shape)
        np.add.at(funding_TS, (np.searchsorted(self.time_T, time_N[inside]), column[inside]), rate_N[inside])
        return replace(self, funding_TS=funding_TS)

    def in_currency(self, base: str, quotes: Sequence[str], rates: BarPanel) -> BarPanel:
        """The panel with all prices in one currency, in which an account can hold all its symbols.

        Opens are converted at the rate's open, closes at its close; where a rate has no bar, at its last known close.

        Args:
            base: currency of the account.
            quotes: currency of each symbol's prices.
            rates: a panel of the same times whose symbols are currencies and whose prices are units of `base` for one of them.
        Raises: BacktestError: times differ, a currency has no rates, a symbol begins before the rate of its currency, or the panel
            has ticks, which are steps of unconverted prices.
        """
        if len(quotes) != len(self.symbols):
            raise BacktestError(f"{len(quotes)} quote currencies for {len(self.symbols)} symbols; give one for each.")
        if not np.array_equal(rates.time_T, self.time_T):
            raise BacktestError("rates and prices have different times; lay the rates on the bars of the prices first.")
        if self.tick_S is not None:
            raise BacktestError("ticks are steps of prices in their own currency; a converted panel cannot have them.")
        missing = sorted(set(quotes) - {base} - set(rates.symbols))
        if missing:
            raise BacktestError(
                f"no rates for {', '.join(missing)}; there are rates for {', '.join(rates.symbols)} in {base}."
            )
        known_TS = np.vstack([rates.marks_TS[:1] * 0.0, rates.marks_TS[:-1]])
        rate_open_TS = np.where(np.isnan(rates.open_TS), known_TS, rates.open_TS)
        opens, closes = np.ones(self.open_TS.shape), np.ones(self.close_TS.shape)
        for s, currency in enumerate(quotes):
            if currency != base:
                k = rates.symbols.index(currency)
                opens[:, s], closes[:, s] = rate_open_TS[:, k], rates.marks_TS[:, k]
        early_TS = ~np.isnan(self.close_TS) & ((opens == 0.0) | (closes == 0.0))
        if early_TS.any():
            t, s = np.argwhere(early_TS)[0]
            raise BacktestError(
                f"{self.symbols[s]} has a bar at {self.time_T[t]}, before the first rate of {quotes[s]}; begin the rates earlier."
            )
        return replace(self, open_TS=self.open_TS * opens, close_TS=self.close_TS * closes)

    @classmethod
    def from_bars(cls, bars: pl.DataFrame, *, symbols: Sequence[str] | None = None) -> BarPanel:
        """Lay bars side by side on the union of their times.

        Args:
            bars: columns symbol, timestamp (UTC), open, close, and volume where it is known; rows in any order.
            symbols: which symbols, in which order; None takes all, sorted by name.
        Raises:
            SchemaError: a column is missing.
            BacktestError: a symbol has no bars, a (symbol, timestamp) occurs twice, or the prices cannot be booked.
        """
        for name in _COLUMNS:
            if name not in bars.columns:
                raise SchemaError(f"bars have no column {name!r}.{nearest(name, bars.columns)}", column=name)
        present = bars["symbol"].unique().sort().to_list()
        chosen = tuple(present if symbols is None else symbols)
        absent = [name for name in chosen if name not in present]
        if absent:
            raise BacktestError(
                f"no bars for {', '.join(absent)}; there are bars for {', '.join(present) or 'nothing'}."
            )
        fields = ("open", "close", *(["volume"] if "volume" in bars.columns else []))
        bars = bars.filter(pl.col("symbol").is_in(chosen)).select("symbol", "timestamp", *fields)
        doubled = bars.filter(bars.select("symbol", "timestamp").is_duplicated())
        if not doubled.is_empty():
            raise BacktestError(
                f"{doubled['symbol'][0]} has two bars at {doubled['timestamp'][0]}; keep one per symbol and time."
            )
        times = bars["timestamp"].unique().sort()
        row = times.search_sorted(bars["timestamp"]).to_numpy()
        place = {name: s for s, name in enumerate(chosen)}
        column = bars["symbol"].replace_strict(place, return_dtype=pl.Int64).to_numpy()
        prices = np.full((len(fields), len(times), len(chosen)), np.nan)
        for k, name in enumerate(fields):
            prices[k, row, column] = bars[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        return cls(
            open_TS=prices[0],
            close_TS=prices[1],
            time_T=times.dt.convert_time_zone("UTC").dt.replace_time_zone(None).dt.cast_time_unit("us").to_numpy(),
            symbols=chosen,
            volume_TS=prices[2] if "volume" in fields else None,
        )
