"""OHLCV through the real ccxt client against a loopback exchange, and against exchanges that lie."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ccxt
import polars as pl
import pytest
from services.exchange import Bar, Faults, LoopbackExchange

from quantfleet.contracts import SOURCES, Asked, FetchRequest, Timeframe
from quantfleet.errors import ConfigError, PriceError, SourceError, TimeError
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.ingest import IngestConfig, bars_path, ingest, read_bars
from quantfleet_data.sources import CcxtConfig, CcxtSource
from quantfleet_data.sources.ccxt_pages import to_ms

MakeExchange = Callable[..., LoopbackExchange]
HOUR_MS = 3_600_000
START_MS = 1_609_459_200_000
START = dt.datetime(2021, 1, 1, tzinfo=dt.UTC)
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
BTC, ETH = "BTC/USDT", "ETH/USDT"


def hourly(count: int, *, price: float = 100.0, first: int = 0, step_ms: int = HOUR_MS) -> list[Bar]:
    return [
        (START_MS + i * step_ms, price + i, price + i + 2, price + i - 1, price + i + 0.1, 5.5)
        for i in range(first, first + count)
    ]


def config_for(exchange: LoopbackExchange, **settings: Any) -> CcxtConfig:
    defaults: dict[str, Any] = {
        "exchange": "binance",
        "symbols": (BTC,),
        "since_utc": START,
        "page_limit": 100,
        "max_retries": 3,
        "backoff_base_s": 0.01,
        "rate_limit_ms": 1.0,
        "timeout_s": 5.0,
        "urls": {"api": exchange.url_overrides},
        "options": exchange.ccxt_config["options"],
    }
    return CcxtConfig(**(defaults | settings))


def request(timeframe: str = "1h", *, known: dt.datetime | None = None, now_utc: dt.datetime = NOW) -> FetchRequest:
    return FetchRequest(Timeframe(timeframe), lambda symbol: known, now_utc)


def opens(items: list[pl.DataFrame | Asked]) -> list[int]:
    pages = (item for item in items if isinstance(item, pl.DataFrame))
    return [int(stamp.timestamp() * 1000) for page in pages for stamp in page["timestamp"]]


# --- The real client --------------------------------------------------------------------------------------------------


def test_an_exchange_that_fails_now_and_then_and_dies_half_way_is_complete_after_a_rerun(
    tmp_path: Path, loopback_exchange: MakeExchange
):
    bars = {BTC: hourly(450), ETH: hourly(430, price=7.0)}
    faults = Faults(every_nth_429=4, every_nth_500=6, die_after_requests=7)
    exchange = loopback_exchange(bars, "1h", faults=faults)
    storage = Storage(StorageConfig(root=str(tmp_path)))
    config = IngestConfig(
        timeframe="1h", sources=(config_for(exchange, symbols=(BTC, ETH), parallel=1),), commit_rows=150
    )

    with pytest.raises(SourceError, match=r"ccxt.binance: .* failed 4 times in a row.* run the same ingest again"):
        ingest(config, storage, now_utc=NOW)
    kept = read_bars(storage, "1h", None)
    pages = [entry for entry in exchange.kline_requests if entry.status == 200]
    assert kept.height == 100 * len(pages) > 200, "all pages that arrived before the exchange died are in the table"
    assert kept["symbol"].unique().to_list() == [BTC]

    asked_before = len(exchange.kline_requests)
    exchange.program(Faults(every_nth_429=7, every_nth_500=5))
    report = ingest(config, storage, now_utc=NOW)

    table = LakeTable(storage, bars_path("1h")).read()
    assert table.height == table.unique(["source", "symbol", "timestamp"]).height == 880
    for symbol, expected in bars.items():
        mine = read_bars(storage, "1h", None, [symbol])
        assert mine.select("open", "high", "low", "close", "volume").rows() == [bar[1:] for bar in expected]
        assert opens([mine]) == [bar[0] for bar in expected]
    assert report.total.new == 880 - kept.height
    resumed_at = int(exchange.kline_requests[asked_before].params["startTime"])
    newest_btc = kept.filter(pl.col("symbol") == BTC)["timestamp"].max()
    assert resumed_at == int(newest_btc.timestamp() * 1000), "the re-run goes on from the newest bar, that one included"

    statuses = {entry.status for entry in exchange.requests}
    assert statuses == {200, 429, 500, 0}, "the faults did happen"
    assert exchange.impatient_requests == (), "no request came before the Retry-After of a 429 was over"
    assert {entry.params["limit"] for entry in exchange.kline_requests if "startTime" in entry.params} == {"100"}
    assert ingest(config, storage, now_utc=NOW).changed is False


def test_the_own_error_of_an_exchange_is_retried_although_ccxt_does_not_call_it_a_network_error(
    loopback_exchange: MakeExchange,
):
    exchange = loopback_exchange({BTC: hourly(250)}, "1h", faults=Faults(every_nth_500=2, json_500=True))
    pages = list(config_for(exchange).build().fetch(request()))
    assert opens(pages) == [bar[0] for bar in hourly(250)]


def test_the_running_bar_is_left_out_until_it_is_closed(loopback_exchange: MakeExchange):
    exchange = loopback_exchange({BTC: hourly(5)}, "1h", now_ms=START_MS + 3 * HOUR_MS + 60_000)
    now = START + 3 * HOUR + dt.timedelta(minutes=1)
    assert opens(list(config_for(exchange).build().fetch(request(now_utc=now)))) == [b[0] for b in hourly(3)]
    exchange.now_ms = START_MS + 4 * HOUR_MS
    later = list(config_for(exchange).build().fetch(request(now_utc=START + 4 * HOUR, known=START + 2 * HOUR)))
    assert opens(later) == [b[0] for b in hourly(2, first=2)]


def test_a_closed_history_costs_no_request_more_than_its_pages(loopback_exchange: MakeExchange):
    exchange = loopback_exchange({BTC: hourly(250)}, "1h")
    list(config_for(exchange).build().fetch(request(now_utc=START + 250 * HOUR)))
    assert [entry.path for entry in exchange.requests] == ["/api/v3/exchangeInfo", *["/api/v3/klines"] * 3]


def test_a_delisted_market_keeps_its_past_and_ends(loopback_exchange: MakeExchange):
    exchange = loopback_exchange({BTC: hourly(300), ETH: hourly(30)}, "1h", delisted=[ETH])
    pages = list(config_for(exchange, symbols=(ETH,)).build().fetch(request()))
    assert opens(pages) == [bar[0] for bar in hourly(30)]
    assert len(exchange.kline_requests) == 3, "one page, one empty one, one look at the newest bar"


def test_a_gap_longer_than_a_page_is_crossed(loopback_exchange: MakeExchange):
    bars = [*hourly(50), *hourly(50, first=500)]
    exchange = loopback_exchange({BTC: bars}, "1h")
    assert opens(list(config_for(exchange).build().fetch(request()))) == [bar[0] for bar in bars]


def test_until_is_exclusive_and_since_is_inclusive(loopback_exchange: MakeExchange):
    exchange = loopback_exchange({BTC: hourly(300)}, "1h")
    config = config_for(exchange, since_utc=START + 10 * HOUR, until_utc=START + 150 * HOUR)
    assert opens(list(config.build().fetch(request()))) == [bar[0] for bar in hourly(140, first=10)]


def test_requests_keep_the_rate_limit(loopback_exchange: MakeExchange):
    exchange = loopback_exchange({BTC: hourly(20)}, "1h")
    config = config_for(exchange, page_limit=5, rate_limit_ms=100.0)
    list(config.build().fetch(request(now_utc=START + 20 * HOUR)))
    times = [entry.time_s for entry in exchange.kline_requests]
    assert len(times) == 4
    # ccxt counts a klines request of Binance as 0.4 of its unit, and time in whole milliseconds.
    # Seen from the other side: a request that was held up on its way comes closer to the next one.
    assert times[-1] - times[0] >= 3 * 0.038 - 0.02


def test_bars_off_the_grid_are_a_lie_about_the_timeframe(tmp_path: Path, loopback_exchange: MakeExchange):
    exchange = loopback_exchange({BTC: hourly(90, step_ms=HOUR_MS // 2)}, "1h")
    storage = Storage(StorageConfig(root=str(tmp_path)))
    config = IngestConfig(timeframe="1h", sources=(config_for(exchange),))
    with pytest.raises(SourceError, match="lies about its timeframe: asked for 1h bars of BTC/USDT, 45 of 90"):
        ingest(config, storage, now_utc=NOW)
    assert not LakeTable(storage, bars_path("1h")).exists()


def test_bars_four_hours_apart_are_no_hourly_bars_though_they_are_on_the_grid(
    tmp_path: Path, loopback_exchange: MakeExchange
):
    exchange = loopback_exchange({BTC: hourly(90, step_ms=4 * HOUR_MS)}, "1h")
    storage = Storage(StorageConfig(root=str(tmp_path)))
    config = IngestConfig(timeframe="1h", sources=(config_for(exchange),))
    with pytest.raises(TimeError, match=r"source 'ccxt.binance': all 89 steps of BTC/USDT are multiples of 14400 s"):
        ingest(config, storage, now_utc=NOW)
    assert not LakeTable(storage, bars_path("1h")).exists()


def test_what_the_exchange_does_not_have_is_a_config_error_before_any_bar(loopback_exchange: MakeExchange):
    exchange = loopback_exchange({BTC: hourly(3), ETH: hourly(3)}, "1h")
    with pytest.raises(ConfigError, match=r"no market 'ETHUSDT'. Did you mean 'ETH/USDT'\?"):
        next(config_for(exchange, symbols=(BTC, "ETHUSDT")).build().fetch(request()))
    with pytest.raises(ConfigError, match="no timeframe '7h'; it has 1s, 1m"):
        next(config_for(exchange).build().fetch(request("7h")))
    assert exchange.kline_requests == ()


# --- Exchanges that lie, and refuse -----------------------------------------------------------------------------------


class FakeExchange:
    """What CcxtSource uses of ccxt: `answers` gives the rows for (since, limit); since None is "the newest"."""

    timeframes = {"1h": "1h", "1d": "1d"}  # noqa: RUF012

    def __init__(self, answers: Callable[[int | None, int | None], Any], *, page: int | None = 10) -> None:
        self.answers = answers
        self.page = page
        self.session = SimpleNamespace(close=lambda: None)
        self.last_response_headers: dict[str, str] | None = {"Retry-After": "9999"}
        self.asked: list[int | None] = []

    def load_markets(self) -> dict[str, Any]:
        return {BTC: {}}

    def feature_value(self, symbol: str, method: str, name: str) -> int | None:
        return self.page

    def fetch_ohlcv(self, symbol: str, timeframe: str, since: int | None = None, limit: int | None = None) -> Any:
        self.asked.append(since)
        return self.answers(since, limit)


def source_of(exchange: FakeExchange, waits: list[float] | None = None, **settings: Any) -> CcxtSource:
    defaults = {"exchange": "binance", "symbols": (BTC,), "since_utc": START, "max_retries": 2, "backoff_base_s": 1.0}
    return CcxtSource(CcxtConfig(**(defaults | settings)), exchange, sleep=(waits if waits is not None else []).append)


def rows(*hours: float) -> list[list[float]]:
    return [[int(START_MS + h * HOUR_MS), 1.0, 2.0, 0.5, 1.5, 9.0] for h in hours]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (rows(0, 1, 1, 2), "repeats bars of BTC/USDT, first at 2021-01-01 01:00"),
        (rows(0, 2, 1, 3), r"sends bars out of order of BTC/USDT, first at 2021-01-01 01:00:00\+00:00 \(1 of 4"),
        (rows(0, 1, 1.5), "lies about its timeframe: .* first 2021-01-01 01:30"),
        (rows(-5, -4), "repeats itself: asked for bars of BTC/USDT from 2021-01-01 00:00"),
        ("<html>welcome</html>", "no list of bars but '<html>welcome"),
        ([[START_MS, 1.0]], "no list of bars"),
        ([[None, 1.0, 1.0, 1.0, 1.0, 1.0]], "no list of bars"),
        ({"error": 1}, "no list of bars"),
    ],
    ids=["repeated", "reordered", "half-hours", "older-than-asked", "page", "short-row", "no-time", "no-list"],
)
def test_an_exchange_that_lies_gets_one_clear_error_and_no_retry(answer, message):
    exchange = FakeExchange(lambda since, limit: answer)
    with pytest.raises(SourceError, match=message):
        list(source_of(exchange).fetch(request()))
    assert len(exchange.asked) == 1


LIES = {
    "repeats": (rows(10, 11, 11, 12), SourceError, "repeats bars"),
    "reorders": (rows(10, 12, 11), SourceError, "sends bars out of order"),
    "half-hours": (rows(10, 10.5, 11), SourceError, "lies about its timeframe"),
    "goes-back": (rows(2, 3), SourceError, "repeats itself"),
    "nan": ([[START_MS + 10 * HOUR_MS, 1.0, float("nan"), 0.5, 1.5, 9.0]], PriceError, "have a high that is NaN"),
    "zero": ([[START_MS + 10 * HOUR_MS, 0.0, 2.0, 0.5, 1.5, 9.0]], PriceError, "have a open that is"),
    "no-price": ([[START_MS + 10 * HOUR_MS, None, 2.0, 0.5, 1.5, 9.0]], PriceError, "have a open that is"),
    "bad-volume": ([[START_MS + 10 * HOUR_MS, 1.0, 2.0, 0.5, 1.5, -1.0]], PriceError, "have a volume that is"),
    "stops": (None, SourceError, "failed 3 times in a row"),
    "refuses": (ccxt.BadSymbol("delisted"), SourceError, "refused for good"),
    "page": ("<html>", SourceError, "is no list of bars"),
    "falls-silent": ([], SourceError, "does not move on"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("honest_pages", [0, 1])
def test_a_lie_is_one_clear_error_and_the_table_stays_at_its_last_whole_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str, honest_pages: int
):
    answer, error, message = LIES[lie]

    def exchange(since: int | None, limit: int | None) -> Any:
        if since is None:
            return rows(50)
        if since < START_MS + 10 * HOUR_MS * honest_pages:
            return rows(*range((since - START_MS) // HOUR_MS, 10))
        if answer is None:
            raise ccxt.NetworkError("connection reset")
        if isinstance(answer, Exception):
            raise answer
        moved = 0 if honest_pages else -10 * HOUR_MS
        return [[r[0] + moved, *r[1:]] for r in answer] if isinstance(answer, list) else answer

    storage = Storage(StorageConfig(root=str(tmp_path)))
    monkeypatch.setattr(CcxtConfig, "build", lambda self: source_of(FakeExchange(exchange)))
    config = IngestConfig(
        timeframe="1h", sources=(CcxtConfig(exchange="binance", symbols=(BTC,), since_utc=START),), commit_rows=1
    )
    for _ in range(2):
        with pytest.raises(error, match=message) as caught:
            ingest(config, storage, now_utc=START + 100 * HOUR)
        assert type(caught.value) is error
    table = LakeTable(storage, bars_path("1h"))
    if honest_pages:
        assert opens([table.read().sort("timestamp")]) == [bar[0] for bar in hourly(10)]
        assert table.latest().version == 1, "one commit of the whole page; the second run adds none"
    else:
        assert not table.exists()


def test_paging_that_stands_still_ends_with_an_error():
    exchange = FakeExchange(lambda since, limit: rows(0, 1, 2))
    source = source_of(exchange)
    pages = source.fetch(request())
    assert opens([next(pages)]) == [bar[0] for bar in hourly(3)]
    with pytest.raises(SourceError, match="repeats itself"):
        next(pages)


def test_an_exchange_that_has_newer_bars_but_never_sends_them_does_not_pass_for_complete():
    # ccxt drops bars older than asked for, so an exchange that ignores `since` looks empty.
    exchange = FakeExchange(lambda since, limit: {None: rows(50), START_MS: rows(0, 1)}.get(since, []))
    with pytest.raises(SourceError, match=r"does not move on: it has a bar of BTC/USDT at 2021-01-03 02:00"):
        list(source_of(exchange).fetch(request(now_utc=START + 100 * HOUR)))
    assert len(exchange.asked) == 7, "one page, the newest bar, and the five empty windows of ten bars up to there"


@pytest.mark.parametrize(("stated", "window"), [(10, 10), (None, 100)], ids=["stated", "unstated"])
def test_an_exchange_that_answers_in_windows_is_followed_over_empty_ones(stated, window):
    listed = [*range(237, 260), *range(800, 805)]

    def answer(since: int | None, limit: int | None) -> list[list[float]]:
        first = listed[-1] - 3 if since is None else (since - START_MS) // HOUR_MS
        return rows(*[h for h in listed if first <= h < first + window])

    source = source_of(FakeExchange(answer, page=stated))
    pages = list(source.fetch(request(now_utc=START + 1000 * HOUR)))
    assert opens(pages) == [START_MS + h * HOUR_MS for h in listed]


def test_a_market_without_any_bar_yields_nothing():
    exchange = FakeExchange(lambda since, limit: [])
    assert opens(list(source_of(exchange).fetch(request(now_utc=START + 30 * HOUR)))) == []


def test_a_permanent_refusal_is_not_retried():
    def refuse(since: int | None, limit: int | None) -> Any:
        raise ccxt.BadSymbol("binance does not have market symbol BTC/USDT")

    exchange = FakeExchange(refuse)
    with pytest.raises(SourceError, match="refused for good, BadSymbol"):
        list(source_of(exchange).fetch(request()))
    assert len(exchange.asked) == 1


def test_failures_are_waited_out_with_growing_waits_and_then_given_up():
    def fail(since: int | None, limit: int | None) -> Any:
        raise ccxt.RequestTimeout("binance GET timed out")

    waits: list[float] = []
    exchange = FakeExchange(fail)
    with pytest.raises(
        SourceError, match="failed 3 times in a row, last RequestTimeout: binance GET timed out"
    ) as caught:
        list(source_of(exchange, waits).fetch(request()))
    assert 0.5 <= waits[0] <= 1.0 <= waits[1] <= 2.0
    assert len(waits) == 2
    assert caught.value.fields == {"exchange": "ccxt.binance", "failures": 3}


@pytest.mark.parametrize(
    ("error", "headers", "least_s"),
    [
        (ccxt.RateLimitExceeded("slow down"), {"Retry-After": "17"}, 17.0),
        (ccxt.DDoSProtection("429, retry after 12 seconds"), {}, 12.0),
        (ccxt.ExchangeNotAvailable("maintenance"), {}, 0.5),
    ],
)
def test_the_wait_that_was_asked_for_is_kept(error, headers, least_s):
    failures = iter([error])

    def once(since: int | None, limit: int | None) -> Any:
        exchange.last_response_headers = headers
        for failure in failures:
            raise failure
        return rows(*range(10))

    waits: list[float] = []
    exchange = FakeExchange(once)
    pages = list(source_of(exchange, waits).fetch(request(now_utc=START + 10 * HOUR)))
    assert opens(pages) == [bar[0] for bar in hourly(10)]
    assert len(waits) == 1
    assert least_s <= waits[0] <= least_s + 0.5


def test_headers_of_an_earlier_answer_do_not_count_for_a_broken_connection():
    failures = iter([ccxt.NetworkError("connection closed")])

    def once(since: int | None, limit: int | None) -> Any:
        for failure in failures:
            raise failure
        return rows(*range(10))

    waits: list[float] = []
    list(source_of(FakeExchange(once), waits).fetch(request(now_utc=START + 10 * HOUR)))
    assert max(waits) <= 1.0


def test_a_ban_longer_than_patience_is_reported_at_once():
    def banned(since: int | None, limit: int | None) -> Any:
        exchange.last_response_headers = {"Retry-After": "3600"}
        raise ccxt.DDoSProtection("418 I'm a teapot")

    exchange, waits = FakeExchange(banned), list[float]()
    with pytest.raises(SourceError, match="asks to wait 3600 s, longer than max_wait_s=300"):
        list(source_of(exchange, waits).fetch(request()))
    assert waits == []


# --- Only what is missing ---------------------------------------------------------------------------------------------


def test_moving_since_back_fetches_the_older_part_and_holes_are_closed_with_few_requests(
    tmp_path: Path, loopback_exchange: MakeExchange
):
    listed = [h for h in range(20, 400) if h not in (*range(150, 160), 170, *range(300, 330))]
    bars = {BTC: hourly(400)}
    exchange = loopback_exchange({BTC: [bars[BTC][h] for h in listed]}, "1h")
    storage = Storage(StorageConfig(root=str(tmp_path)))
    now = START + 400 * HOUR

    def run(source: CcxtConfig) -> tuple[int, int]:
        before = len(exchange.kline_requests)
        report = ingest(IngestConfig(timeframe="1h", sources=(source,)), storage, now_utc=now)
        return report.total.new, len(exchange.kline_requests) - before

    assert run(config_for(exchange, since_utc=START + 200 * HOUR)) == (170, 2)
    assert run(config_for(exchange)) == (len(listed) - 170, 3), "two pages before the table, and its newest bar"

    later = now + 48 * HOUR
    exchange.now_ms = to_ms(later)
    whole = loopback_exchange(bars, "1h", now_ms=to_ms(later))
    before = LakeTable(storage, bars_path("1h")).read().height
    ingest(IngestConfig(timeframe="1h", sources=(config_for(exchange),)), storage, now_utc=later)
    asked = len(exchange.kline_requests)
    ingest(IngestConfig(timeframe="1h", sources=(config_for(exchange),)), storage, now_utc=later)
    assert len(exchange.kline_requests) - asked == 3, "the newest bar, that none follows, and no hole again"
    storage.delete("lake/asked")  # the user asks again, and this time the exchange has it all
    report = ingest(IngestConfig(timeframe="1h", sources=(config_for(whole),)), storage, now_utc=later)
    assert report.total.new == 400 - before
    assert opens([LakeTable(storage, bars_path("1h")).read().sort("timestamp")]) == [bar[0] for bar in bars[BTC]]


# --- Config -----------------------------------------------------------------------------------------------------------


def test_it_is_registered_and_named_after_its_exchange():
    assert SOURCES.get("ccxt") is CcxtConfig
    assert CcxtConfig(exchange="kraken", symbols=(BTC,), since_utc=START).source_name == "ccxt.kraken"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"symbols": ()}, "symbols is empty"),
        ({"symbols": (BTC, BTC)}, "one symbol twice"),
        ({"page_limit": 0}, "page_limit=0"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"parallel": 0}, "parallel=0"),
        ({"timeout_s": 0.0}, "timeout_s=0.0"),
        ({"until_utc": START}, "is not after since_utc"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        CcxtConfig(**({"exchange": "binance", "symbols": (BTC,), "since_utc": START} | settings))


def test_an_unknown_exchange_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no exchange 'binanse'. Did you mean 'binance'\?"):
        CcxtConfig(exchange="binanse", symbols=(BTC,), since_utc=START).build()
