"""One page of an exchange's OHLCV, checked: an exchange that lies is refused here, with one clear error."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import polars as pl

from quantfleet.contracts import BAR_COLUMNS, VALUE_COLUMNS, Timeframe
from quantfleet.errors import SourceError
from quantfleet_data.sources.clock import grid_seconds

__all__ = ["checked_page", "refuse_disorder", "to_ms", "to_utc", "utc_from_ms"]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SCHEMA = {"timestamp": pl.Int64, **dict.fromkeys(VALUE_COLUMNS, pl.Float64)}


def to_ms(moment: dt.datetime) -> int:
    """Whole milliseconds since 1970, rounded down: a bar that closes at `moment` or before does so by that number."""
    return (moment - _EPOCH) // dt.timedelta(milliseconds=1)


def to_utc(ms: int) -> dt.datetime:
    """The moment that many milliseconds after 1970, UTC."""
    return _EPOCH + dt.timedelta(milliseconds=ms)


def utc_from_ms(rows: pl.DataFrame) -> pl.DataFrame:
    """Turn the column `timestamp`, milliseconds since 1970, into the UTC microseconds of every contract."""
    return rows.with_columns(
        pl.from_epoch("timestamp", time_unit="ms").dt.cast_time_unit("us").dt.replace_time_zone("UTC")
    )


def checked_page(rows: Any, *, symbol: str, since_ms: int, timeframe: Timeframe, where: str) -> pl.DataFrame:
    """Turn what `fetch_ohlcv` answered into bars.

    Args:
        rows: lists of [open time in ms, open, high, low, close, volume]; prices are checked later, by `validate_bars`.
        since_ms: what was asked for: no bar may open earlier.
        where: what to call the exchange in messages.
    Returns: BAR_COLUMNS, ascending; empty when the exchange has nothing to say.
    Raises: SourceError: no list of bars; bars repeated or out of order; bars off the timeframe's grid; a page that lies
        wholly before what was asked for, so that paging would never end.
    """
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not all(_is_bar(row) for row in rows):
        raise SourceError(
            f"{where}: the answer for {symbol} is no list of bars but {str(rows)[:120]!r}.", symbol=symbol
        )
    page = pl.DataFrame([row[:6] for row in rows], schema=_SCHEMA, orient="row", strict=False)
    times = page["timestamp"]
    if not page.is_empty():
        refuse_disorder(times, symbol, where)
        first, last = int(times[0]), int(times[-1])
        if first < since_ms:
            raise SourceError(
                f"{where} repeats itself: asked for bars of {symbol} from {to_utc(since_ms)} on, it sent bars from "
                f"{to_utc(first)} to {to_utc(last)}. Its paging cannot be trusted, so nothing of this page is kept.",
                symbol=symbol,
            )
        _refuse_other_timeframe(times, symbol, timeframe, where)
    return utc_from_ms(page).with_columns(symbol=pl.lit(symbol)).select(BAR_COLUMNS)


def _is_bar(row: Any) -> bool:
    return isinstance(row, Sequence) and len(row) >= 6 and isinstance(row[0], int) and not isinstance(row[0], bool)


def refuse_disorder(times: pl.Series, symbol: str, where: str, *, noun: str = "bars", equal: bool = False) -> None:
    """Check that the times (ms) of a page ascend; where `equal`, the same time may come again.

    Raises: SourceError: they do not.
    """
    steps = times.diff()
    wrong = times.filter(((steps < 0) if equal else (steps <= 0)).fill_null(False))
    if not wrong.is_empty():
        repeated = times.filter((steps == 0).fill_null(False))
        fault = f"repeats {noun}" if repeated.len() == wrong.len() else f"sends {noun} out of order"
        raise SourceError(
            f"{where} {fault} of {symbol}, first at {to_utc(int(wrong[0]))} ({wrong.len()} of {times.len()} in this "
            "page). Nothing of this page is kept.",
            symbol=symbol,
        )


def _refuse_other_timeframe(times: pl.Series, symbol: str, timeframe: Timeframe, where: str) -> None:
    grid_s = grid_seconds(timeframe)
    if grid_s is None:
        return
    off = times.filter(times % (grid_s * 1000) != 0)
    if not off.is_empty():
        raise SourceError(
            f"{where} lies about its timeframe: asked for {timeframe} bars of {symbol}, {off.len()} of {times.len()} "
            f"do not open on that grid, first {to_utc(int(off[0]))}. Nothing of this page is kept.",
            symbol=symbol,
            timeframe=str(timeframe),
        )
