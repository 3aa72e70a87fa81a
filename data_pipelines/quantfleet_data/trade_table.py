"""From the table of trades to the table of bars: time bars of every symbol, made again only where trades are news.

Trades of a symbol are read in stretches of about a million; what is handed to the writer is the bars
of one symbol. A table that has the bars already is left as it is, a late trade makes a corrected bar.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from quantfleet.contracts import BAR_COLUMNS, FetchRequest, Timeframe
from quantfleet.errors import ConfigError, EmptyTableError
from quantfleet.storage import LakeTable, Storage, TableVersion
from quantfleet_data.ingest import TABLES, RowCounts, event_stretches, read_events
from quantfleet_data.ingest.writer import RowsWriter, existing_version
from quantfleet_data.per_symbol import Run, on_ray
from quantfleet_data.sources.clock import grid_seconds
from quantfleet_data.trade_bars import TimeBars, TradeBarBuilder

__all__ = ["BarsFromTrades", "TradeBarsReport", "bars_source", "write_trade_bars"]

_STRETCH_TRADES = 1_000_000
_COMMIT_ROWS = 500_000


@dataclass(frozen=True, kw_only=True, slots=True)
class BarsFromTrades:
    """The `trade_bars:` section of a recipe that ingests trades: bars of `ingest.timeframe`, by the clock.

    Bars of other rules (ticks, volume, dollars, imbalance) have no timeframe, by which every later stage knows when a bar
    is closed; make those with `quantfleet_data.trade_bars` in Python.
    """

    complete_until_utc: dt.datetime | None = None
    """No trade before this is missing, so a bar that ends by then is over; when None, a symbol's last bar is over once a
    later trade shows it."""

    def __post_init__(self) -> None:
        if self.complete_until_utc is not None and self.complete_until_utc.tzinfo is None:
            raise ConfigError(
                f"trade_bars.complete_until_utc={self.complete_until_utc} is naive; write it with Z for UTC."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TradeBarsReport:
    """What was made of which trades."""

    trades: TableVersion
    bars: TableVersion
    counts: RowCounts
    commits: int


def bars_source(trades_source: str) -> str:
    """What bars made of a source's trades have in their column `source`: told from bars that the source itself published."""
    return f"{trades_source}.trades"


def write_trade_bars(
    storage: Storage,
    trades: TableVersion,
    sources: Sequence[str],
    timeframe: str,
    config: BarsFromTrades,
    *,
    now_utc: dt.datetime,
    run: Run = on_ray,
) -> TradeBarsReport:
    """Make the bars of every symbol of one version of the trades table and bring the bars table up to date with them.

    Args:
        sources: values of the trades' column `source`; each gives bars of its own, since events are never mixed.
        now_utc: recorded as `ingested_at`; bars that are not over by then are left out.
        run: where the work is done, a task per source and symbol.
    Returns: versions of both tables. Nothing is written where every bar is there already.
    Raises:
        ConfigError: bars of the timeframe open at no agreed moment.
        EmptyTableError: the sources have no trades, or too few for a single bar that is over.
        DataError: trades break their contract; names the symbol. The bars of symbols before it may be there.
        OutputExistsError: the place of the bars table holds something else.
    """
    TimeBars(timeframe=timeframe)  # checks itself
    if grid_seconds(Timeframe(timeframe)) is None:
        raise ConfigError(f"trade_bars: bars of {timeframe} do not divide a day, and the bars table has no such grid.")
    kind, table = TABLES["bars"], LakeTable(storage, TABLES["bars"].path(timeframe))
    existing_version(table, kind)
    raw = LakeTable(storage, trades.path)
    symbols = sorted({partition["symbol"] for partition in raw.partitions(trades.version)})
    total, commits = RowCounts(), 0
    for source in sources:
        task = _Task(storage=storage, trades=trades, source=source, timeframe=timeframe, config=config, now_utc=now_utc)
        writer = RowsWriter(
            table,
            kind,
            source=bars_source(source),
            now_utc=now_utc,
            commit_rows=_COMMIT_ROWS,
            made_from={"trades": str(trades)},
        )
        request = FetchRequest(Timeframe(timeframe), lambda symbol: None, now_utc)
        for bars in run(_bars_of, symbols, task):
            if not bars.is_empty():
                writer.add(kind.checked(bars, request, writer.source))
        writer.flush()
        total, commits = total + RowCounts.total(writer.counts.values()), commits + writer.commits
    if total == RowCounts():
        raise EmptyTableError(
            f"{raw.uri}: no bar of {timeframe} is over with the trades of {', '.join(sources)}. Set "
            "trade_bars.complete_until_utc to the time up to which no trade is missing, or ingest more trades."
        )
    return TradeBarsReport(trades=trades, bars=table.latest(), counts=total, commits=commits)


@dataclass(frozen=True, kw_only=True)
class _Task:
    storage: Storage
    trades: TableVersion
    source: str
    timeframe: str
    config: BarsFromTrades
    now_utc: dt.datetime


def _bars_of(symbol: str, task: _Task) -> pl.DataFrame:
    """BAR_COLUMNS of one symbol, sorted; none where the source has no trades of it, or no bar is over."""
    builder = TradeBarBuilder(TimeBars(timeframe=task.timeframe))
    made = []
    version, source = task.trades.version, task.source
    for span in event_stretches(task.storage, "trades", version, symbol, source=source, rows=_STRETCH_TRADES):
        batch = read_events(task.storage, "trades", version, (symbol,), source=source, within=span)
        made.append(builder.update(batch, where=f"trades of {symbol}"))
    if task.config.complete_until_utc is not None:
        made.append(builder.finish(task.config.complete_until_utc))
    if not made:
        return pl.DataFrame()
    over = pl.col("known_at") <= task.now_utc
    return pl.concat(made).filter(over).sort("timestamp").select(BAR_COLUMNS)
