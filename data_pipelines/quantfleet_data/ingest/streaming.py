"""Live bars into the bars table: closed ones only, in small commits, with REST for whatever the stream did not show whole.

Two tasks per symbol: one waits for the exchange, one watches the clock. When it ends (a limit, SIGTERM, an error), what
was closed by then is committed first; what came too late for that is fetched when the stream is begun again.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import polars as pl

from quantfleet.contracts import BAR_COLUMNS, VALUE_COLUMNS, FetchRequest, Timeframe
from quantfleet.errors import ConfigError, EmptyTableError, SourceError
from quantfleet.logs import get_logger
from quantfleet.storage import LakeTable, Storage
from quantfleet_data.ingest.config import IngestConfig
from quantfleet_data.ingest.known import Known
from quantfleet_data.ingest.live import Closed, LiveBars, Repair
from quantfleet_data.ingest.report import IngestReport, RowCounts
from quantfleet_data.ingest.run import ingest
from quantfleet_data.ingest.writer import RowsWriter, existing_version
from quantfleet_data.sources.backoff import GiveUp
from quantfleet_data.sources.ccxt_client import said
from quantfleet_data.sources.ccxt_live import LiveFeed, connect_live
from quantfleet_data.sources.ccxt_ohlcv import CcxtConfig, CcxtSource
from quantfleet_data.sources.ccxt_pages import to_ms, to_utc, utc_from_ms

__all__ = ["Fetch", "StreamConfig", "stream", "stream_bars"]

_log = get_logger(__name__)
_REPAIR_TRIES, _REPAIR_WAIT_S = 4, 0.5

Fetch = Callable[[str, int, int], Sequence[pl.DataFrame]]
"""Bars of a symbol that open in [start ms, end ms), over REST."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """What to stream, when to commit, when to end."""

    source: CcxtConfig
    """Exchange and symbols; `since_utc` is where the table begins: what is missing is fetched before streaming."""
    timeframe: str = "1m"
    commit_rows: int = 500
    """Closed bars are committed when there are so many of them,"""
    commit_s: float = 30.0
    """or when the first of them has waited so long."""
    grace_s: float = 5.0
    """How long after its end a bar may still be shown before it is asked for over REST."""
    max_bars: int | None = None
    """End after so many bars; None: no limit."""
    max_s: float | None = None
    """End after so long; None: no limit."""

    def __post_init__(self) -> None:
        Timeframe(self.timeframe)
        if self.commit_rows < 1:
            raise ConfigError(f"stream.commit_rows={self.commit_rows} must be at least 1.")
        for name in ("commit_s", "grace_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"stream.{name}={getattr(self, name)} must be zero or more seconds.")
        for name in ("max_bars", "max_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"stream.{name}={value} must be above zero; leave it out for no limit.")


def stream(config: StreamConfig, storage: Storage, *, committed: Callable[[], None] | None = None) -> IngestReport:
    """Stream until a limit is reached or SIGTERM or SIGINT comes; then commit what is closed and return.

    For the main thread, the only one that hears signals; elsewhere use `stream_bars`.

    Args:
        committed: see `stream_bars`.
    Raises: as `stream_bars`.
    """

    async def run() -> IngestReport:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in before:
            loop.add_signal_handler(number, stop.set)
        try:
            feed = connect_live(config.source, Timeframe(config.timeframe))
            return await stream_bars(config, storage, feed=feed, stop=stop, committed=committed)
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                if handler is not None:  # None: one that was not set by Python
                    signal.signal(number, handler)  # asyncio would leave the system's own

    return asyncio.run(run())


async def stream_bars(
    config: StreamConfig,
    storage: Storage,
    *,
    feed: LiveFeed,
    fetch: Fetch | None = None,
    stop: asyncio.Event | None = None,
    clock: Callable[[], float] = time.time,
    poll_s: float = 1.0,
    committed: Callable[[], None] | None = None,
) -> IngestReport:
    """Bring the table up to date over REST, then keep it so from a feed until a limit is reached or `stop` is set.

    Args:
        feed: closed at the end.
        fetch: REST, for repairs; None: that of the source, which then also brings the table up to date first.
        clock: seconds since 1970.
        poll_s: how often limits and quiet symbols are looked at.
        committed: called in a thread of its own, one call at a time, once the table is up to date and after every commit; what it
            raises ends the stream.
    Returns: what was written, the catching up included.
    Raises:
        ConfigError: the exchange has no such symbol or timeframe.
        SourceError: the exchange did not deliver after retries. DataError: it sent bars that cannot be. What was closed
            before is committed.
        EmptyTableError: no bar was closed, and the table has none.
    """
    stop = stop or asyncio.Event()
    own = IngestConfig(sources=(config.source,), timeframe=config.timeframe)
    table = LakeTable(storage.absolute(), own.path)
    before = existing_version(table, own.table)
    now = dt.datetime.fromtimestamp(clock(), dt.UTC)
    try:
        caught_up: IngestReport | None = None
        if fetch is None:
            caught_up = await asyncio.to_thread(_catch_up, own, storage, now, stop)
            fetch = _over_rest(config, clock)
        if committed is not None and table.exists():
            await asyncio.to_thread(committed)
        writer = RowsWriter(
            table, own.table, source=config.source.source_name, now_utc=now, commit_rows=config.commit_rows
        )
        streamer = _Streamer(config, writer, feed, fetch, clock, committed)
        await streamer.run(stop, poll_s)
    finally:
        await feed.close()
    if not table.exists():
        raise EmptyTableError(
            f"no bar of {', '.join(config.source.symbols)} was closed while streaming, and {table.uri} was never made. "
            f"Bars of {config.timeframe} take that long to close."
        )
    first = {} if caught_up is None else caught_up.counts[writer.source]
    counts = {
        s: first.get(s, RowCounts()) + writer.counts.get(s, RowCounts()) for s in sorted({*first, *writer.counts})
    }
    report = IngestReport(
        timeframe=config.timeframe,
        before=before,
        after=table.latest(),
        commits=writer.commits + (0 if caught_up is None else caught_up.commits),
        counts={writer.source: counts},
    )
    _log.info("stream.done", table=str(report.after), outcome=report.summary)
    return report


def _catch_up(config: IngestConfig, storage: Storage, now_utc: dt.datetime, stop: asyncio.Event) -> IngestReport | None:
    try:
        return ingest(config, storage, now_utc=now_utc, stop=stop.is_set)
    except EmptyTableError:
        _log.info("stream.begins_empty", source=config.sources[0].source_name)  # the stream brings the first bar
        return None


def _over_rest(config: StreamConfig, clock: Callable[[], float]) -> Fetch:
    exchange = config.source.connect()

    def fetch(symbol: str, start_ms: int, end_ms: int) -> list[pl.DataFrame]:
        span = replace(config.source, symbols=(symbol,), since_utc=to_utc(start_ms), until_utc=to_utc(end_ms))
        now = dt.datetime.fromtimestamp(clock(), dt.UTC)
        request = FetchRequest(Timeframe(config.timeframe), lambda symbol: None, now)
        source = CcxtSource(span, exchange, hold=span.limit.hold)
        return [page for page in source.fetch(request) if isinstance(page, pl.DataFrame)]

    return fetch


class _Streamer:
    """The running stream: all of its state belongs to one event loop."""

    def __init__(
        self,
        config: StreamConfig,
        writer: RowsWriter,
        feed: LiveFeed,
        fetch: Fetch,
        clock: Callable[[], float],
        committed: Callable[[], None] | None,
    ) -> None:
        self.config, self.writer, self.feed, self.fetch, self.clock = config, writer, feed, fetch, clock
        self.committed = committed
        self.timeframe = Timeframe(config.timeframe)
        step_ms = self.timeframe.seconds * 1000
        known = Known(writer.table, writer.source, step=self.timeframe.delta)
        self.bars = {
            symbol: LiveBars(
                step_ms=step_ms,
                # the table's newest bar is asked for again: it may have been fetched a moment too early
                next_ms=None if (last := known.last(symbol)) is None else to_ms(last),
                whole=feed.whole,
            )
            for symbol in config.source.symbols
        }
        self.received = 0
        self._waiting: list[pl.DataFrame] = []
        self._waiting_rows = 0
        self._waiting_since_s = 0.0
        self._rest, self._commit = asyncio.Lock(), asyncio.Lock()
        self._in_order = {symbol: asyncio.Lock() for symbol in config.source.symbols}
        self._flushes: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event, poll_s: float) -> None:
        began_s = self.clock()
        tasks = [asyncio.create_task(self._watch(symbol)) for symbol in self.bars]
        tasks += [asyncio.create_task(self._mind(symbol, poll_s)) for symbol in self.bars]
        try:
            while not stop.is_set() and not self._at_limit(began_s):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), poll_s)
                for task in tasks:
                    if task.done():
                        task.result()  # raises what ended it
                if self._waiting and self.clock() - self._waiting_since_s >= self.config.commit_s:
                    await self._flush()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._flush()
            await asyncio.gather(*self._flushes)

    def _at_limit(self, began_s: float) -> bool:
        enough = self.config.max_bars is not None and self.received >= self.config.max_bars
        return enough or (self.config.max_s is not None and self.clock() - began_s >= self.config.max_s)

    async def _mind(self, symbol: str, poll_s: float) -> None:
        """Ask over REST for bars that are over by the clock and were not shown."""
        while True:
            await asyncio.sleep(poll_s)
            late_ms = int((self.clock() - self.config.grace_s) * 1000)
            await self._settle(symbol, self.bars[symbol].overdue(late_ms))

    async def _watch(self, symbol: str) -> None:
        """Take what the feed shows of one symbol; sit out broken connections."""
        import ccxt

        failures, bars = 0, self.bars[symbol]
        while True:
            try:
                rows = await self.feed.bars(symbol)
            except ccxt.OperationFailed as error:
                failures += 1
                bars.lost()
                self.feed.lost(symbol)
                decision = self.config.source.backoff.decide(failures=failures, asked_s=None, jitter=random.random())  # noqa: S311
                if isinstance(decision, GiveUp):
                    raise SourceError(
                        f"{self.writer.source}: the stream of {symbol} {decision.why}, last {said(error)}. What was closed "
                        "is kept: stream again, and the gap is filled over REST.",
                        symbol=symbol,
                    ) from error
                _log.warning("stream.broken", source=self.writer.source, symbol=symbol, error=said(error))
                await asyncio.sleep(decision.seconds)
            except ccxt.BaseError as error:
                raise SourceError(
                    f"{self.writer.source}: the stream of {symbol} was refused for good, {said(error)}. What was closed is "
                    "kept.",
                    symbol=symbol,
                ) from error
            else:
                failures = 0
                try:
                    items = bars.update(rows, now_ms=int(self.clock() * 1000))
                except SourceError as error:
                    raise SourceError(f"{self.writer.source}, {symbol}: {error}", symbol=symbol) from error
                await self._settle(symbol, items)

    async def _settle(self, symbol: str, items: Sequence[Closed | Repair]) -> None:
        async with self._in_order[symbol]:
            for item in items:
                if isinstance(item, Closed):
                    await self._hand_on([_bar(symbol, item)])
                else:
                    await self._hand_on(await self._repaired(symbol, item))

    async def _repaired(self, symbol: str, repair: Repair) -> Sequence[pl.DataFrame]:
        """Fetch bars over REST. Those that the stream has shown may be a moment late there, so they are waited for."""
        span = {"symbol": symbol, "start": str(to_utc(repair.start_ms)), "end": str(to_utc(repair.end_ms))}
        _log.info("stream.repair", source=self.writer.source, **span)
        for attempt in itertools.count(1):
            async with self._rest:  # ccxt's clients serve one caller at a time
                frames = await asyncio.to_thread(self.fetch, symbol, repair.start_ms, repair.end_ms)
            if sum(frame.height for frame in frames) >= repair.shown:
                return frames
            if attempt == _REPAIR_TRIES:
                break
            await asyncio.sleep(_REPAIR_WAIT_S * 2 ** (attempt - 1))
        # The hole is seen by the next ingest or stream, which asks again.
        _log.warning("stream.repair_incomplete", source=self.writer.source, **span)
        return frames

    async def _hand_on(self, frames: Sequence[pl.DataFrame]) -> None:
        now = dt.datetime.fromtimestamp(self.clock(), dt.UTC)
        for frame in frames:
            # The next bar was shown, so this one is closed, even where this machine's clock is a little behind.
            over = max(now, frame["timestamp"][-1] + self.timeframe.delta)
            request = FetchRequest(self.timeframe, lambda symbol: None, over)
            bars = self.writer.kind.checked(frame, request, self.writer.source)
            if not self._waiting:
                self._waiting_since_s = self.clock()
            self._waiting.append(bars)
            self._waiting_rows += bars.height
            self.received += bars.height
        if self._waiting_rows >= self.config.commit_rows:
            await self._flush()

    async def _flush(self) -> None:
        """Commit what waits. A commit under way is not torn when the one who waits for it is cancelled."""
        task = asyncio.create_task(self._committed())
        self._flushes.add(task)
        await asyncio.shield(task)
        self._flushes.discard(task)

    async def _committed(self) -> None:
        async with self._commit:
            frames, self._waiting, self._waiting_rows = self._waiting, [], 0
            if frames:
                self.writer.now_utc = dt.datetime.fromtimestamp(self.clock(), dt.UTC)
                await asyncio.to_thread(self._write, frames)

    def _write(self, frames: Sequence[pl.DataFrame]) -> None:
        for frame in frames:
            self.writer.add(frame)
        self.writer.flush()
        if self.committed is not None:
            self.committed()


def _bar(symbol: str, closed: Closed) -> pl.DataFrame:
    row = pl.DataFrame([closed.row], schema=("timestamp", *VALUE_COLUMNS), orient="row")
    return utc_from_ms(row).with_columns(symbol=pl.lit(symbol)).select(BAR_COLUMNS)
