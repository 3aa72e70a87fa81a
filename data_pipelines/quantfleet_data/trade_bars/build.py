"""Trades to bars, whole tables or a stream of batches; the cutting into batches changes nothing, to the bit.

Memory: one batch, and per symbol a few hundred bytes of state plus the ids of the trades at its last microsecond.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from quantfleet.config import fingerprint
from quantfleet.contracts import BAR_COLUMNS, validate_trades
from quantfleet.errors import DataError, SchemaError, TimeError
from quantfleet_data.trade_bars.base import TRADE_BAR_COLUMNS, TradeBarsConfig
from quantfleet_data.trade_bars.kernel import (
    FLOATS,
    INTEGERS,
    LAST_US,
    Floats,
    Integers,
    close_by_clock,
    run_trades,
    start_state,
)

__all__ = ["TradeBarBuilder", "bars_from_trades", "stream_trade_bars"]

_UTC_US = pl.Datetime("us", "UTC")
_SCHEMA = {
    "symbol": pl.String(),
    "timestamp": _UTC_US,
    **dict.fromkeys(BAR_COLUMNS[2:], pl.Float64()),
    "known_at": _UTC_US,
    "trades": pl.Int64(),
    "value": pl.Float64(),
    "buy_volume": pl.Float64(),
    "number": pl.Int64(),
}


@dataclass(slots=True)
class _SymbolState:
    floats: Floats
    integers: Integers
    last_ids: set[str] = field(default_factory=set)
    """Ids of the trades at the last time seen: what a batch sent twice would begin with."""


class TradeBarBuilder:
    """Makes bars of trades that come in batches. Not thread-safe.

    Batches of a symbol must follow each other in time; a batch may hold several symbols. After an error nothing of the
    batch counts: mend it and give it again.
    """

    def __init__(self, config: TradeBarsConfig) -> None:
        self.config = config
        self._rule = config.bar_rule()
        self._symbols: dict[str, _SymbolState] = {}
        self._until_us = -(2**63)

    def update(self, trades: pl.DataFrame, *, where: str = "the trades") -> pl.DataFrame:
        """Take a batch of TRADE_COLUMNS; return the bars that ended with it, TRADE_BAR_COLUMNS, by symbol and time.

        Raises:
            EmptyTableError, SchemaError, TimeError, PriceError, DataError: the batch breaks the trades contract.
            TimeError: it begins before the symbol's last batch ended, or before a time that was said to be complete.
            DataError: it begins with trades that the last batch held already.
            SchemaError: the rule reads sides and a trade has none.
        """
        trades = validate_trades(trades, where=where)
        parts = trades.partition_by("symbol", maintain_order=True)
        arrays = [_arrays(part) for part in parts]
        for part, (time_T, _, _, side_T) in zip(parts, arrays, strict=True):
            self._check(part, time_T, where)
            if self._rule.by_side and not side_T.all():
                raise SchemaError(
                    f"{where}: {int((side_T == 0).sum())} trades of {part['symbol'][0]} have no side, which {self.config.kind} "
                    "bars with signs='side' read. Use signs='tick_rule'.",
                    column="side",
                )
        made = []
        for part, (time_T, price_T, amount_T, side_T) in zip(parts, arrays, strict=True):
            symbol = str(part["symbol"][0])
            state = self._symbols.setdefault(symbol, _SymbolState(*start_state(self._rule)))
            newest = set(part.filter(pl.col("timestamp") == part["timestamp"][-1])["trade_id"])
            state.last_ids = newest | (state.last_ids if time_T[-1] == state.integers[LAST_US] else set())
            bars = run_trades(self._rule, state.floats, state.integers, time_T, price_T, amount_T, side_T)
            made.append(_frame(symbol, *bars))
        return pl.concat(made)

    def finish(self, until: dt.datetime) -> pl.DataFrame:
        """Say that all trades before `until` (with a time zone) were given; return the time bars that are over by then.

        A bar of an event rule is over only with the trade that ends it, so what is open stays open.
        """
        if until.tzinfo is None:
            raise TimeError(f"until={until} is naive. Give it a time zone, e.g. datetime.UTC.")
        until_us = (until - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
        self._until_us = max(self._until_us, until_us)
        made = [
            _frame(symbol, *close_by_clock(self._rule, state.floats, state.integers, until_us))
            for symbol, state in self._symbols.items()
        ]
        return pl.concat(made) if made else pl.DataFrame(schema=_SCHEMA)

    def to_dict(self) -> dict[str, Any]:
        """State as plain JSON: a builder made from it goes on as this one would, to the bit."""
        return {
            "config": _digest(self.config),
            "until_us": self._until_us,
            "symbols": {
                symbol: {
                    "floats": state.floats.tolist(),
                    "integers": state.integers.tolist(),
                    "last_ids": sorted(state.last_ids),
                }
                for symbol, state in self._symbols.items()
            },
        }

    @classmethod
    def from_dict(cls, config: TradeBarsConfig, record: dict[str, Any]) -> TradeBarBuilder:
        """Raises: SchemaError: the record is of another config, or no such record."""
        if record.get("config") != _digest(config):
            raise SchemaError(
                f"this state was not made by {config}. Go on with the config it was made by, or build the bars anew."
            )
        builder = cls(config)
        builder._until_us = int(record["until_us"])
        for symbol, kept in record["symbols"].items():
            floats, integers = np.array(kept["floats"], np.float64), np.array(kept["integers"], np.int64)
            if (len(floats), len(integers)) != (FLOATS, INTEGERS):
                raise SchemaError(f"the state of {symbol} is of another version of Quantfleet. Build the bars anew.")
            builder._symbols[symbol] = _SymbolState(floats, integers, set(kept["last_ids"]))
        return builder

    def _check(self, part: pl.DataFrame, time_T: Integers, where: str) -> None:
        symbol, first = str(part["symbol"][0]), part["timestamp"][0]
        if time_T[0] < self._until_us:
            raise TimeError(
                f"{where}: {symbol} has a trade at {first}, before the time that was said to be complete. Build the bars of "
                "that time anew.",
                symbol=symbol,
            )
        state = self._symbols.get(symbol)
        if state is None:
            return
        if time_T[0] < state.integers[LAST_US]:
            raise TimeError(
                f"{where}: {symbol} goes back to {first}, before the end of the last batch. Give batches in order of time.",
                symbol=symbol,
            )
        if time_T[0] == state.integers[LAST_US]:
            again = state.last_ids.intersection(part.filter(pl.col("timestamp") == first)["trade_id"])
            if again:
                raise DataError(
                    f"{where}: {len(again)} trades of {symbol} were in the last batch already, such as {min(again)} at {first}. "
                    "Give every trade once.",
                    symbol=symbol,
                )


def bars_from_trades(
    trades: pl.DataFrame, config: TradeBarsConfig, *, until: dt.datetime | None = None, where: str = "the trades"
) -> pl.DataFrame:
    """Make bars of a whole table of trades.

    Args:
        trades: TRADE_COLUMNS; rows of a symbol together, in the order they were traded.
        until: all trades before this time are there, so a time bar that ends by then is over; None: only what a later
            trade shows to be over. Event bars do not need it; their last, unfinished one is never given out.
    Returns: TRADE_BAR_COLUMNS, by symbol and number. Time bars keep the bars contract.
    Raises: as `TradeBarBuilder.update`.
    """
    return pl.concat(stream_trade_bars([trades], config, until=until, where=where)).sort("symbol", "number")


def stream_trade_bars(
    batches: Iterable[pl.DataFrame],
    config: TradeBarsConfig,
    *,
    until: dt.datetime | None = None,
    where: str = "the trades",
) -> Iterator[pl.DataFrame]:
    """Make bars of batches of trades, one table of bars for each batch and one more where `until` is given."""
    builder = TradeBarBuilder(config)
    for batch in batches:
        yield builder.update(batch, where=where)
    if until is not None:
        yield builder.finish(until)


def _arrays(part: pl.DataFrame) -> tuple[Integers, Floats, Floats, Any]:
    side = part.select(
        pl.when(pl.col("side") == "buy").then(1).when(pl.col("side") == "sell").then(-1).otherwise(0).cast(pl.Int8)
    ).to_series()
    return (
        part["timestamp"].dt.epoch("us").to_numpy(),
        part["price"].to_numpy(),
        part["amount"].to_numpy(),
        side.to_numpy(),
    )


def _frame(symbol: str, floats: Floats, integers: Integers) -> pl.DataFrame:
    columns = {
        "symbol": pl.Series([symbol], dtype=pl.String).new_from_index(0, len(floats)),
        "timestamp": pl.Series(integers[:, 0]).cast(_UTC_US),
        **{name: pl.Series(floats[:, i].copy()) for i, name in enumerate(BAR_COLUMNS[2:])},
        "known_at": pl.Series(integers[:, 1]).cast(_UTC_US),
        "trades": pl.Series(integers[:, 2].copy()),
        "value": pl.Series(floats[:, 5].copy()),
        "buy_volume": pl.Series(floats[:, 6].copy()).fill_nan(None),
        "number": pl.Series(integers[:, 3].copy()),
    }
    return pl.DataFrame(columns, schema=_SCHEMA).select(TRADE_BAR_COLUMNS)


def _digest(config: TradeBarsConfig) -> str:
    return fingerprint("trade-bars", config)
