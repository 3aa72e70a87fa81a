"""A synthetic index out of the bars of its constituents, using only what was known when each bar opened.

Bars come as blocks of time, each with all symbols, and leave as bars of one symbol: memory holds one block (41 bytes per
bar time and symbol) and a few numbers per symbol, whatever the length of the history.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.contracts import BAR_COLUMNS, VALUE_COLUMNS, Timeframe, validate_bars
from quantfleet.errors import ConfigError, DataError, EmptyTableError, SchemaError, TimeError
from quantfleet_data.instruments import index_kernel as kernel
from quantfleet_data.instruments.base import Instruments

__all__ = ["INDEX_COLUMNS", "IndexConfig", "aggregate_index", "build_index", "join_index"]

Weighting = Literal["equal", "price", "cap", "given"]
_SCHEMES: dict[Weighting, int] = {
    "equal": kernel.EQUAL, "price": kernel.PRICE, "cap": kernel.CAP, "given": kernel.GIVEN,
}  # fmt: skip
Rebalance = Literal["bar", "day", "week", "month", "quarter", "never"]
_PERIODS: dict[Rebalance, str] = {"day": "1d", "week": "1w", "month": "1mo", "quarter": "1q"}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_WEEK_S = 604_800
INDEX_COLUMNS = tuple(f"index_{name}" for name in VALUE_COLUMNS)
"""What `join_index` adds to bars."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """How an index is made."""

    symbol: str
    """Name of the index in its bars, e.g. "^EW500"."""
    members: str | None = None
    """Index of the membership table whose members count; None: everything listed (or every symbol, without listings)."""
    weighting: Weighting = "equal"
    """equal: the same value of each. price: one unit of each, as the Dow Jones. cap: `weights` holds share counts. given:
    `weights` holds weights, and a symbol without one, or with 0, is out."""
    rebalance: Rebalance = "day"
    """When equal and given weights are set again: at the first bar of each period (UTC). Between, they drift with prices.
    A change of constituents, or a newly known weight, sets all of them anew as well."""
    base: float = 1000.0
    """Level at the close before the first bar."""
    max_missing_bars: int = 5
    """A constituent without bars keeps its last price for so many bars of the index, then it is out until it trades."""
    delisting_return: float = 0.0
    """What a constituent loses or gains on top of its last price when it is delisted; -1.0 is everything. Shumway (1997),
    "The Delisting Bias in CRSP Data", finds about -0.3 for delistings for cause."""
    reinvest_dividends: bool = False
    """Total return: cash dividends of `instruments.actions` count as price on the bar where they take effect."""

    def __post_init__(self) -> None:
        if not self.symbol:
            raise ConfigError("symbol is empty; name the index.")
        if not (np.isfinite(self.base) and self.base > 0):
            raise ConfigError(f"base={self.base} must be above zero.")
        if self.max_missing_bars < 1:
            raise ConfigError(
                f"max_missing_bars={self.max_missing_bars} must be at least 1: that a bar is missing is known only after it."
            )
        if not (np.isfinite(self.delisting_return) and self.delisting_return >= -1.0):
            raise ConfigError(f"delisting_return={self.delisting_return} must be -1 or more.")


def build_index(
    bars: Iterable[pl.DataFrame],
    config: IndexConfig,
    instruments: Instruments | None = None,
    *,
    weights: pl.DataFrame | None = None,
) -> Iterator[pl.DataFrame]:
    """Build an index from raw constituent bars.

    A symbol counts in the bar of t when it is a member at t and had a price before t, at most `max_missing_bars` bars old;
    a new listing counts from its second bar on. Weights come from the closes before t and from what `weights` held at t.
    Splits and swaps of `instruments.actions` divide the price before them, from their announcement on. On the first bar
    at or after its delisting, a constituent is worth its last price and `delisting_return`, and then it is gone.

    Open and close are exact for constituents that traded at those moments. High and low are bounds: constituents need not
    reach theirs together, so the true high is at or below ours and the true low at or above. Build from finer bars and
    use `aggregate_index` for narrower ones. Volume is the sum of close * volume over constituents with a bar; null when
    none has a volume.

    Args:
        bars: blocks of BAR_COLUMNS sorted by symbol and time; each block follows the one before in time.
        instruments: memberships, listings and actions; without, every symbol of the bars counts.
        weights: symbol, known_at (UTC), value: share counts for `cap`, weights for `given`; each counts from the first bar
            that opens at or after known_at until the next one of its symbol.
    Returns: an iterator over BAR_COLUMNS of `config.symbol`, one frame per block that has any. Bars without a constituent
        are left out.
    Raises:
        ConfigError: weights and weighting do not fit together.
        TimeError: blocks are not in order of time.
        DataError: a constituent of a `cap` index has no share count yet; bars or weights break their contract.
        EmptyTableError: not one bar came out.
    """
    builder = _Builder(config, instruments or Instruments(), _weights(config, weights))
    made = 0
    for block in bars:
        index = builder.add(block)
        made += index.height
        if not index.is_empty():
            yield index
    if not made:
        raise EmptyTableError(
            f"index {config.symbol!r} has not one bar: no member had two bars in a row. Check members, weights and times."
        )


class _Builder:
    def __init__(self, config: IndexConfig, instruments: Instruments, weights: pl.DataFrame) -> None:
        self.config = config
        self.spans: pl.DataFrame | None = None
        if config.members is not None or not instruments.listings.is_empty():
            self.spans = instruments.intervals(config.members)
        self.facts = _facts(config, instruments, weights)
        self.symbols: list[str] = []
        self.state: kernel.State | None = None
        self.done_us: int | None = None

    def add(self, block: pl.DataFrame) -> pl.DataFrame:
        config = self.config
        bars = validate_bars(block, where=f"bars of index {config.symbol!r}")
        times = bars["timestamp"].unique().sort()
        time_us = times.dt.epoch("us").to_numpy()
        if self.done_us is not None and time_us[0] <= self.done_us:
            raise TimeError(f"bars of index {config.symbol!r}: block from {times[0]} begins before the last one ended.")
        self._lay_out(bars)
        assert self.state is not None
        facts = self.facts.filter(pl.col("symbol").is_in(self.symbols))
        due = facts.filter(pl.col("at_us") <= int(time_us[-1]))
        # What concerns symbols that come later waits for them: their first state is made of it.
        self.facts = self.facts.join(due.select("id"), on="id", how="anti")
        out_5T, bad_t, bad_i = kernel.walk(
            self._dense(bars, times),
            time_us,
            self._members(time_us),
            self._rebalances(times),
            self._events(due, time_us),
            self.state,
            scheme=_SCHEMES[config.weighting],
            max_missing=config.max_missing_bars,
            delisting_return=config.delisting_return,
            reinvest=config.reinvest_dividends,
        )
        if bad_t >= 0:
            raise DataError(
                f"index {config.symbol!r}: no share count of {self.symbols[bad_i]} is known at {times[bad_t]}. Add one to "
                "`weights`, or take it out of the members until then.",
                symbol=self.symbols[bad_i],
            )
        self.done_us = int(time_us[-1])
        made = pl.DataFrame(
            {
                "symbol": [config.symbol] * len(times),
                "timestamp": times,
                **{name: out_5T[k] for k, name in enumerate(VALUE_COLUMNS)},
            }
        )
        return (
            made.filter(pl.col("close").is_not_nan()).with_columns(pl.col("volume").fill_nan(None)).select(BAR_COLUMNS)
        )

    def _lay_out(self, bars: pl.DataFrame) -> None:
        wider = sorted({*self.symbols, *bars["symbol"].unique().to_list()})
        if self.state is None or wider != self.symbols:
            self.state = kernel.grown(self.state, self.symbols, wider, self.config.base)
            self.symbols = wider

    def _dense(self, bars: pl.DataFrame, times: pl.Series) -> kernel.Array:
        place = pl.DataFrame({"symbol": self.symbols, "column": np.arange(len(self.symbols))})
        column = bars.join(place, on="symbol", how="left", maintain_order="left")["column"].to_numpy()
        row = np.asarray(times.search_sorted(bars["timestamp"]))
        dense = np.full((5, len(times), len(self.symbols)), np.nan)
        for k, name in enumerate(VALUE_COLUMNS):
            dense[k, row, column] = bars[name].fill_null(float("nan")).to_numpy()
        return dense

    def _members(self, time_us: kernel.Ints) -> npt.NDArray[np.bool_]:
        if self.spans is None:
            return np.ones((len(time_us), len(self.symbols)), np.bool_)
        member = np.zeros((len(time_us), len(self.symbols)), np.bool_)
        column = {symbol: i for i, symbol in enumerate(self.symbols)}
        for symbol, start, end in self.spans.iter_rows():
            if symbol in column:
                first = 0 if start is None else np.searchsorted(time_us, _us(start))
                after = len(time_us) if end is None else np.searchsorted(time_us, _us(end))
                member[first:after, column[symbol]] = True
        return member

    def _rebalances(self, times: pl.Series) -> npt.NDArray[np.bool_]:
        rebalance = self.config.rebalance
        if rebalance == "never" or self.config.weighting in ("price", "cap"):
            return np.zeros(len(times), np.bool_)
        if rebalance == "bar":
            return np.ones(len(times), np.bool_)
        before = times[0] if self.done_us is None else _EPOCH + dt.timedelta(microseconds=self.done_us)
        extended = pl.concat([pl.Series([before], dtype=times.dtype), times]).dt.truncate(_PERIODS[rebalance])
        return (extended[1:] != extended[:-1]).to_numpy()

    def _events(self, due: pl.DataFrame, time_us: kernel.Ints) -> kernel.Events:
        column = {symbol: i for i, symbol in enumerate(self.symbols)}
        bar = np.searchsorted(time_us, due["at_us"].to_numpy())
        return kernel.Events(
            bar_E=bar.astype(np.int64),
            symbol_E=np.array([column[symbol] for symbol in due["symbol"]], np.int64),
            kind_E=due["kind"].to_numpy().astype(np.int64),
            value_E=due["value"].to_numpy().astype(np.float64),
            effective_us_E=due["effective_us"].to_numpy().astype(np.int64),
        )


def _facts(config: IndexConfig, instruments: Instruments, weights: pl.DataFrame) -> pl.DataFrame:
    """Everything that becomes known at some time, in that order: symbol, at_us, kind, value, effective_us, id."""
    effective, known = pl.col("effective_at"), pl.max_horizontal("effective_at", "announced_at")
    own = instruments.actions.filter(pl.col("new_symbol").is_null())
    splits = own.filter(pl.col("kind").is_in(["split", "swap"])).select(
        "symbol", at=known, kind=pl.lit(kernel.SPLIT), value="ratio", effective=effective
    )
    cash = own.filter(pl.col("kind") == "dividend").select(
        "symbol", at=known, kind=pl.lit(kernel.CASH), value="cash", effective=effective
    )
    known_weights = weights.select(
        "symbol", at="known_at", kind=pl.lit(kernel.WEIGHT), value="value", effective="known_at"
    )
    ends = instruments.listings.filter(pl.col("delisted_at").is_not_null()).select(
        "symbol", at="delisted_at", kind=pl.lit(kernel.DELISTED), value=pl.lit(0.0), effective="delisted_at"
    )
    return (
        pl.concat([splits, cash, known_weights, ends])
        .sort("at", "kind", "symbol")
        .select("symbol", pl.col("at").dt.epoch("us").alias("at_us"), "kind", "value",
                pl.col("effective").dt.epoch("us").alias("effective_us"))
        .with_row_index("id")
    )  # fmt: skip


def _weights(config: IndexConfig, weights: pl.DataFrame | None) -> pl.DataFrame:
    needed = config.weighting in ("cap", "given")
    if needed != (weights is not None):
        what = "share counts" if config.weighting == "cap" else "weights"
        raise ConfigError(
            f"index {config.symbol!r} with weighting={config.weighting!r} "
            f"{f'needs {what} in `weights`' if needed else 'takes no `weights`'}."
        )
    if weights is None:
        stamp = pl.Datetime("us", "UTC")
        return pl.DataFrame(schema={"symbol": pl.String, "known_at": stamp, "value": pl.Float64})
    where = f"weights of index {config.symbol!r}"
    for name in ("symbol", "known_at", "value"):
        if name not in weights.columns:
            raise SchemaError(f"{where} have no column {name!r}. They have: {', '.join(weights.columns)}.", column=name)
    stamp_type = weights.schema["known_at"]
    if not isinstance(stamp_type, pl.Datetime) or stamp_type.time_zone is None:
        raise TimeError(f"{where}: known_at is {stamp_type}, not a date and time with a zone.")
    table = weights.select(
        "symbol",
        pl.col("known_at").dt.convert_time_zone("UTC").dt.cast_time_unit("us"),
        pl.col("value").cast(pl.Float64),
    )
    bad = table.filter(
        ~(pl.col("value").is_finite() & (pl.col("value") >= 0)).fill_null(False) | pl.col("known_at").is_null()
    )
    if not bad.is_empty():
        raise DataError(
            f"{where}: {bad['symbol'][0]} {bad['known_at'][0]} has value={bad['value'][0]}; 0 or more is needed."
        )
    if table.select("symbol", "known_at").is_duplicated().any():
        raise DataError(f"{where}: two values of one symbol become known at one time; keep one.")
    return table


def aggregate_index(
    bars: pl.DataFrame, timeframe: Timeframe, *, high_low: Literal["bounds", "sampled"] = "bounds"
) -> pl.DataFrame:
    """Coarser bars of an index from finer ones: first open, last close, sum of volume.

    Args:
        bars: of one index, sorted by time; a coarse bar needs no complete set of finer ones.
        high_low: bounds: the extremes of the finer bounds, which are narrower than bounds from coarse bars. sampled: the
            extremes of the finer opens and closes, values the index really had, so the true high is at or above.
    """
    weeks, rest = divmod(timeframe.seconds, _WEEK_S)
    every = f"{weeks}w" if not rest else f"{timeframe.seconds}s"  # weeks begin on Mondays, not where 1970 did
    grouped = bars.group_by("symbol", pl.col("timestamp").dt.truncate(every), maintain_order=True)
    if high_low == "bounds":
        high, low = pl.col("high").max(), pl.col("low").min()
    else:
        ends = ("open", "close")
        high, low = pl.max_horizontal(pl.col(ends).max()), pl.min_horizontal(pl.col(ends).min())
    volume = pl.when(pl.col("volume").count() > 0).then(pl.col("volume").sum())
    return grouped.agg(
        open=pl.col("open").first(), high=high, low=low, close=pl.col("close").last(), volume=volume
    ).select(BAR_COLUMNS)


def join_index(bars: pl.DataFrame, index_bars: pl.DataFrame) -> pl.DataFrame:
    """Add the index to the bars of its constituents: index_open, index_high, index_low, index_close, index_volume.

    Joined by equal timestamps only, so nothing comes from another time; where the index has no bar there is null. Rows and
    their order stay.

    Raises: DataError: the index has several symbols, or breaks the bars contract; or the columns are there already.
    """
    taken = [name for name in INDEX_COLUMNS if name in bars.columns]
    if taken:
        raise SchemaError(f"the bars have {', '.join(taken)} already; join one index.")
    index = validate_bars(index_bars, where="index bars")
    if index["symbol"].n_unique() > 1:
        raise DataError(f"index bars hold several symbols: {', '.join(index['symbol'].unique().sort()[:5])}; pick one.")
    renamed = index.select("timestamp", *(pl.col(name).alias(f"index_{name}") for name in VALUE_COLUMNS))
    return bars.join(renamed, on="timestamp", how="left", maintain_order="left")


def _us(moment: dt.datetime) -> int:
    return (moment - _EPOCH) // dt.timedelta(microseconds=1)
