"""Live bars: only closed ones, each once and whole, whatever the stream drops, repeats, shuffles or breaks."""

import asyncio
import datetime as dt
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import ccxt
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from services.exchange import LoopbackExchange

from quantfleet.contracts import BAR_COLUMNS
from quantfleet.errors import ConfigError, EmptyTableError, PriceError, SourceError
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.ingest import RowCounts, StreamConfig, bars_path, stream_bars
from quantfleet_data.ingest.live import Closed, LiveBars, Repair
from quantfleet_data.sources import CcxtConfig
from quantfleet_data.sources.ccxt_live import TradeBars

STEP = 60_000
START_MS = 1_609_459_200_000
START = dt.datetime(2021, 1, 1, tzinfo=dt.UTC)
BTC, ETH = "BTC/USDT", "ETH/USDT"
Row = tuple[int, float, float, float, float, float]


def bar(number: int, part: float = 1.0) -> Row:
    """Minute `number` as it stands after a part of it: its high, close and volume grow to those of the whole."""
    price = 100.0 + number
    return (START_MS + number * STEP, price, price + 2 * part, price - 1, price + part, 5.0 * part)


def of(number: int) -> int:
    return START_MS + number * STEP


def live(next_: int | None = 0, *, whole: bool = True) -> LiveBars:
    return LiveBars(step_ms=STEP, next_ms=None if next_ is None else of(next_), whole=whole)


def update(bars: LiveBars, *rows: Row) -> list[Closed | Repair]:
    return bars.update(rows, now_ms=of(1000))


# --- The decisions ----------------------------------------------------------------------------------------------------


def test_a_bar_is_closed_when_a_later_one_is_shown_and_not_before():
    bars = live()
    assert update(bars, bar(0, 0.2)) == []
    assert update(bars, bar(0, 1.0)) == []
    assert update(bars, bar(1, 0.1)) == [Closed(bar(0))]
    assert update(bars, bar(1), bar(2, 0.5)) == [Closed(bar(1))]


def test_bars_that_were_never_shown_are_repaired():
    bars = live()
    update(bars, bar(0))
    assert update(bars, bar(4, 0.1)) == [Closed(bar(0)), Repair(of(1), of(4))]
    assert update(live(0), bar(3, 0.5)) == [Repair(of(0), of(3))]
    assert update(live(None), bar(3, 0.5)) == [], "an empty table begins with what is shown first"


def test_the_bar_that_ran_when_the_connection_broke_is_repaired_unless_it_is_shown_again():
    bars = live()
    update(bars, bar(0, 0.5))
    bars.lost()
    assert update(bars, bar(1, 0.1)) == [Repair(of(0), of(1), shown=1)]
    bars.lost()
    update(bars, bar(1, 0.7))
    assert update(bars, bar(1), bar(2, 0.1)) == [Closed(bar(1))]


def test_bars_made_of_trades_are_repaired_where_the_stream_began_or_broke():
    bars = live(None, whole=False)
    update(bars, bar(0, 0.5))
    assert update(bars, bar(1, 0.5)) == [Repair(of(0), of(1), shown=1)]
    assert update(bars, bar(2, 0.5)) == [Closed(bar(1, 0.5))]
    bars.lost()
    assert update(bars, bar(4, 0.2)) == [Repair(of(2), of(4), shown=1)]
    assert update(bars, bar(5, 0.2)) == [Repair(of(4), of(5), shown=1)]


def test_repeated_and_late_messages_change_nothing_unless_they_say_something_else():
    bars = live()
    update(bars, bar(0), bar(1))
    assert update(bars, bar(0)) == []
    assert update(bars, bar(1), bar(0)) == []
    other = (of(0), 100.0, 150.0, 99.0, 101.0, 9.0)
    assert update(bars, other) == [Repair(of(0), of(1), shown=1)]
    assert update(bars, other) == [], "once is enough"


def test_a_quiet_market_is_asked_over_rest_when_its_bars_are_overdue():
    bars = live()
    update(bars, bar(0, 0.4))
    assert bars.overdue(of(1) - 1) == []
    assert bars.overdue(of(3) + 5) == [Repair(of(0), of(3), shown=1)]
    assert bars.overdue(of(3) + 6) == []
    assert update(bars, bar(3, 0.1)) == []
    assert live(None).overdue(of(99)) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((of(0) + 1000, 1.0, 1.0, 1.0, 1.0, 1.0), "lies about its timeframe"),
        ((of(1010), 1.0, 1.0, 1.0, 1.0, 1.0), "a bar of the future"),
        ((of(0), 1.0, None, 1.0, 1.0, 1.0), "shows no bar but"),
        ((of(0), 1.0), "shows no bar but"),
    ],
    ids=["off-the-grid", "future", "null", "short"],
)
def test_a_stream_that_lies_is_refused(row: Any, message: str):
    with pytest.raises(SourceError, match=message):
        update(live(), row)


MESSAGES = st.lists(st.sampled_from([0.3, 0.7]), max_size=2).map(lambda parts: [*parts, 1.0])


@given(parts=st.lists(MESSAGES, min_size=3, max_size=25), data=st.data(), whole=st.booleans())
def test_whatever_is_lost_shuffled_or_repeated_every_bar_before_the_last_ends_up_right(parts, data, whole):
    messages = [bar(number, part) for number, of_bar in enumerate(parts) for part in of_bar]
    bars, table, cursor = live(0, whole=whole), dict[int, Row](), 0
    last_shown = -1
    while cursor < len(messages):
        take = data.draw(st.integers(1, 4))
        rows = messages[cursor : cursor + take]
        cursor += take
        fate = data.draw(st.sampled_from(["show", "show", "shuffle", "repeat", "break"]))
        if fate == "break":  # messages are lost only when the connection breaks
            bars.lost()
            continue
        if fate == "shuffle":
            rows = data.draw(st.permutations(rows))
        for group in [rows, *([rows] if fate == "repeat" else [])]:
            newest = {}
            for row in group:  # as ccxt does: the last word about a bar in one answer counts
                newest[row[0]] = row if fate != "shuffle" else max(row, newest.get(row[0], row), key=lambda r: r[5])
            for item in update(bars, *newest.values()):
                apply(item, table)
        last_shown = max(last_shown, max(r[0] for r in rows))
    closed = [number for number in range(len(parts)) if of(number) < last_shown]
    assert sorted(table) == [of(number) for number in closed]
    assert [table[of(number)] for number in closed] == [bar(number) for number in closed]


def apply(item: Closed | Repair, table: dict[int, Row]) -> None:
    if isinstance(item, Closed):
        assert item.row[0] not in table, "a bar is closed once"
        table[item.row[0]] = item.row
    else:
        for open_ms in range(item.start_ms, item.end_ms, STEP):
            table[open_ms] = bar((open_ms - START_MS) // STEP)


def test_bars_of_trades_take_each_trade_once_in_the_order_of_time():
    made = TradeBars(STEP)
    assert made.add([(of(0) + 5, "a", 10.0, 1.0), (of(0) + 9, "b", 12.0, 2.0)]) == [
        [of(0), 10.0, 12.0, 10.0, 12.0, 3.0]
    ]
    assert made.add([(of(0) + 9, "b", 12.0, 2.0), (of(0) + 7, "c", 8.0, 1.0)]) == [[of(0), 10.0, 12.0, 8.0, 12.0, 4.0]]
    assert made.add([(of(1), "d", 9.0, 1.0)]) == [[of(1), 9.0, 9.0, 9.0, 9.0, 1.0]]
    with pytest.raises(SourceError, match="no time, price or amount"):
        made.add([(of(1), "e", None, 1.0)])  # type: ignore[list-item]


# --- The stream -------------------------------------------------------------------------------------------------------


class FakeFeed:
    """Shows each symbol's steps in turn: rows, or an error to raise. When all is shown, it sets `stop` and waits."""

    def __init__(self, steps: dict[str, Iterable[list[Row] | Exception]], *, whole: bool = True) -> None:
        self.whole = whole
        self.steps = {symbol: iter(of_symbol) for symbol, of_symbol in steps.items()}
        self.left = len(steps)
        self.stop, self.closed, self.broken = asyncio.Event(), False, list[str]()

    async def bars(self, symbol: str) -> list[Row]:
        await asyncio.sleep(0)
        for step in self.steps[symbol]:
            if isinstance(step, Exception):
                raise step
            return step
        self.left -= 1
        if self.left == 0:
            self.stop.set()
        await asyncio.Event().wait()
        raise AssertionError("never")

    def lost(self, symbol: str) -> None:
        self.broken.append(symbol)

    async def close(self) -> None:
        self.closed = True


class FakeRest:
    """Has every bar up to `known`; notes what it was asked for."""

    def __init__(self, known: int = 10_000) -> None:
        self.known, self.asked = known, list[tuple[str, int, int]]()

    def __call__(self, symbol: str, start_ms: int, end_ms: int) -> list[pl.DataFrame]:
        first, last = ((ms - START_MS) // STEP for ms in (start_ms, end_ms))
        self.asked.append((symbol, first, last))
        rows = [bar(n) for n in range(first, min(last, self.known))]
        return [frame(symbol, rows)] if rows else []


def frame(symbol: str, rows: Sequence[Row]) -> pl.DataFrame:
    names = ["timestamp", "open", "high", "low", "close", "volume"]
    stamp = pl.from_epoch("timestamp", time_unit="ms").dt.cast_time_unit("us").dt.replace_time_zone("UTC")
    return (
        pl.DataFrame(list(rows), schema=names, orient="row")
        .with_columns(stamp, symbol=pl.lit(symbol))
        .select(BAR_COLUMNS)
    )


def run(
    storage: Storage,
    steps: dict[str, Iterable[list[Row] | Exception]],
    *,
    rest: FakeRest | None = None,
    now: float = 1000,
    **settings: Any,
):
    settings = {"grace_s": 1e9} | settings  # the clock stands still here, so nothing is overdue
    feed_settings = {"whole": settings.pop("whole", True)}
    source = CcxtConfig(
        exchange="binance",
        symbols=tuple(steps),
        since_utc=START,
        max_retries=2,
        backoff_base_s=0.001,
        backoff_cap_s=0.001,
    )
    config = StreamConfig(source=source, **settings)

    async def go():
        feed = FakeFeed(steps, **feed_settings)
        try:
            return await stream_bars(
                config,
                storage,
                feed=feed,
                fetch=rest or FakeRest(),
                stop=feed.stop,
                clock=lambda: of(0) / 1000 + now * 60,
                poll_s=0.01,
            )
        finally:
            assert feed.closed

    return asyncio.run(go())


def stored(storage: Storage, symbol: str = BTC) -> list[Row]:
    rows = LakeTable(storage, bars_path("1m")).read().filter(pl.col("symbol") == symbol).sort("timestamp")
    return [(int(t.timestamp() * 1000), *values) for t, *values in rows.select(BAR_COLUMNS[1:]).rows()]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path)))


def test_only_closed_bars_are_written_in_few_commits(storage: Storage):
    steps = {symbol: [[bar(n, part)] for n in range(6) for part in (0.5, 1.0)] for symbol in (BTC, ETH)}
    report = run(storage, steps, now=5.5)
    assert stored(storage, BTC) == stored(storage, ETH) == [bar(n) for n in range(5)]
    assert report.total.new == 10
    assert report.commits == 1
    assert LakeTable(storage, bars_path("1m")).read()["source"].unique().to_list() == ["ccxt.binance"]


def test_a_broken_connection_is_sat_out_and_its_gap_repaired(storage: Storage):
    broken = ccxt.NetworkError("connection closed by remote server")
    rest = FakeRest()
    steps = {BTC: [[bar(0)], [bar(1, 0.4)], broken, [bar(4, 0.3)], [bar(4)], [bar(5, 0.1)]]}
    run(storage, steps, rest=rest, now=5.5)
    assert stored(storage) == [bar(n) for n in range(5)]
    assert rest.asked == [(BTC, 1, 4)]


def test_a_repair_that_comes_too_early_for_rest_is_asked_again(storage: Storage, monkeypatch):
    monkeypatch.setattr("quantfleet_data.ingest.streaming._REPAIR_WAIT_S", 0.001)
    rest = FakeRest(known=1)
    ask = rest.__call__

    def later(symbol: str, start_ms: int, end_ms: int) -> list[pl.DataFrame]:
        answer = ask(symbol, start_ms, end_ms)
        rest.known = 2
        return answer

    steps = {BTC: [[bar(0)], [bar(1, 0.4)], ccxt.NetworkError("gone"), [bar(2, 0.3)]]}
    run(storage, steps, rest=later, now=2.5)  # type: ignore[arg-type]
    assert stored(storage) == [bar(0), bar(1)]
    assert rest.asked == [(BTC, 1, 2), (BTC, 1, 2)]


def test_out_of_order_repeated_and_corrected_bars_leave_one_right_copy(storage: Storage):
    wrong = (*bar(1)[:2], 999.0, *bar(1)[3:])
    steps = {BTC: [[bar(1), bar(0)], [bar(0)], [bar(2, 0.5)], [wrong], [bar(2), bar(3, 0.1)], [bar(2)]]}
    rest = FakeRest()
    run(storage, steps, rest=rest, now=3.5, commit_rows=1)
    assert stored(storage) == [bar(0), bar(1), bar(2)]
    assert rest.asked == [(BTC, 1, 2)]


def test_a_stream_goes_on_where_the_table_ends(storage: Storage):
    run(storage, {BTC: [[bar(n)] for n in range(4)]}, now=3.5)
    rest = FakeRest()
    report = run(storage, {BTC: [[bar(7, 0.5)], [bar(8, 0.5), bar(7)]]}, rest=rest, now=8.5)
    assert stored(storage) == [bar(n) for n in range(8)]
    assert rest.asked == [(BTC, 2, 7)], "the newest bar of the table again, since it may have been fetched too early"
    assert report.before is not None
    assert report.total == RowCounts(new=5, unchanged=1)


def test_a_market_that_falls_silent_is_asked_over_rest(storage: Storage):
    rest = FakeRest()
    source = CcxtConfig(exchange="binance", symbols=(BTC,), since_utc=START)
    now = [1.2]

    async def go():
        feed = FakeFeed({BTC: [[bar(0)], [bar(1, 0.2)]]})
        feed.left = 2  # silent, but not at its end
        config = StreamConfig(source=source, max_bars=3, grace_s=6.0)

        def clock() -> float:
            now[0] += 0.01  # 0.6 s a look
            return of(0) / 1000 + now[0] * 60

        return await stream_bars(config, storage, feed=feed, fetch=rest, clock=clock, poll_s=0.001)

    asyncio.run(go())
    assert stored(storage)[:3] == [bar(0), bar(1), bar(2)]
    assert rest.asked[0] == (BTC, 1, 2)


def test_limits_end_the_stream_with_all_that_was_closed(storage: Storage):
    report = run(storage, {BTC: ([bar(n)] for n in itertools.count())}, max_bars=20, now=10_000, commit_rows=7)
    assert report.total.new >= 20
    assert stored(storage) == [bar(n) for n in range(report.total.new)]


def test_a_stream_that_cannot_be_reached_is_one_error_and_what_was_closed_is_kept(storage: Storage):
    broken = [ccxt.RequestTimeout("ping-pong keepalive missing")] * 3
    with pytest.raises(
        SourceError, match=r"the stream of BTC/USDT failed 3 times in a row, last RequestTimeout: ping-pong"
    ):
        run(storage, {BTC: [[bar(0)], [bar(1)], [bar(2)], *broken]}, now=2.5)
    assert stored(storage) == [bar(0), bar(1)]


def test_a_refusal_is_not_retried(storage: Storage):
    with pytest.raises(SourceError, match="was refused for good, BadSymbol: no such market"):
        run(storage, {BTC: [[bar(0)], [bar(1)], ccxt.BadSymbol("no such market")]}, now=2.5)
    assert stored(storage) == [bar(0)]


def test_bad_values_are_one_error_that_names_the_source_and_the_good_bars_are_kept(storage: Storage):
    nan = (of(1), 101.0, float("nan"), 100.0, 101.0, 1.0)
    with pytest.raises(PriceError, match=r"source 'ccxt.binance': 1 rows have a high that is NaN"):
        run(storage, {BTC: [[bar(0)], [nan], [bar(2)]]}, now=2.5)
    assert stored(storage) == [bar(0)]


def test_a_stream_that_closed_nothing_says_so(storage: Storage):
    with pytest.raises(EmptyTableError, match="no bar of BTC/USDT was closed while streaming"):
        run(storage, {BTC: [[bar(0, 0.5)]]}, now=0.5)


def test_a_stop_while_the_past_is_fetched_keeps_what_came_and_does_not_begin_to_stream(
    storage: Storage, loopback_exchange: Callable[..., LoopbackExchange]
):
    exchange = loopback_exchange({BTC: [bar(n) for n in range(300)]}, "1m")
    source = CcxtConfig(
        exchange="binance",
        symbols=(BTC,),
        since_utc=START,
        page_limit=100,
        rate_limit_ms=0.1,
        urls={"api": exchange.url_overrides},
        options=exchange.ccxt_config["options"],
    )

    async def go():
        feed, stop = FakeFeed({BTC: []}), asyncio.Event()
        stop.set()
        return await stream_bars(StreamConfig(source=source), storage, feed=feed, stop=stop)

    report = asyncio.run(go())
    assert report.total.new == 100
    assert stored(storage) == [bar(n) for n in range(100)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeframe": "minute"}, "timeframe 'minute'"),
        ({"commit_rows": 0}, "stream.commit_rows=0"),
        ({"grace_s": -1.0}, "stream.grace_s=-1.0"),
        ({"max_bars": 0}, "stream.max_bars=0"),
        ({"max_s": 0.0}, "stream.max_s=0.0"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        StreamConfig(source=CcxtConfig(exchange="binance", symbols=(BTC,), since_utc=START), **settings)
