"""Trades, order books and funding through ccxt: each in its own table, once, and lies refused."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from services.exchange import Faults, LoopbackExchange, Trade

from quantfleet.contracts import SOURCES, TRADES_SCHEMA, FetchRequest, Timeframe, validate_book, validate_trades
from quantfleet.errors import ConfigError, DataError, EmptyTableError, OutputExistsError, PriceError, SourceError
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.ingest import IngestConfig, RowCounts, ingest, read_events
from quantfleet_data.sources import CcxtBookConfig, CcxtConfig, CcxtFundingConfig, CcxtTradesConfig
from quantfleet_data.sources.ccxt_funding import CcxtFundingSource
from quantfleet_data.sources.ccxt_trades import CcxtTradesSource, trade_rows

MakeExchange = Callable[..., LoopbackExchange]
HOUR_MS = 3_600_000
START_MS = 1_609_459_200_000
START = dt.datetime(2021, 1, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
NOW = START + 10 * HOUR
BTC, ETH, PERP = "BTC/USDT", "ETH/USDT", "BTC/USDT:USDT"
BAR = (START_MS, 1.0, 2.0, 0.5, 1.5, 9.0)


def settings_of(exchange: LoopbackExchange, **settings: Any) -> dict[str, Any]:
    return {
        "exchange": "binance",
        "symbols": (BTC,),
        "max_retries": 1,
        "backoff_base_s": 0.01,
        "rate_limit_ms": 0.1,
        "timeout_s": 5.0,
        "urls": {"api": exchange.url_overrides},
        "options": exchange.ccxt_config["options"],
    } | settings


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path)))


def run(storage: Storage, source: Any, now_utc: dt.datetime = NOW) -> RowCounts:
    return ingest(IngestConfig(sources=(source,)), storage, now_utc=now_utc).total


# --- Trades -----------------------------------------------------------------------------------------------------------


def busy(count: int, *, first_id: int = 1) -> list[Trade]:
    """First three trades a millisecond, then one a second; two hours without any in between."""
    trades: list[Trade] = []
    for n in range(count):
        second = n // 3 if n < count // 3 else n
        pause_ms = 2 * HOUR_MS if n > count // 2 else 0
        side = "buy" if n % 2 else "sell"
        trades.append((first_id + n, START_MS + second * 1000 + pause_ms, 100.0 + n, 0.25, side))
    return trades


def test_trades_are_paged_across_busy_milliseconds_and_quiet_hours_and_each_is_there_once(
    storage: Storage, loopback_exchange: MakeExchange
):
    trades = {BTC: busy(400), ETH: busy(150, first_id=9000)}
    exchange = loopback_exchange({BTC: [BAR], ETH: [BAR]}, "1h", trades=trades, now_ms=START_MS + 10 * HOUR_MS)
    source = CcxtTradesConfig(**settings_of(exchange, symbols=(BTC, ETH)), since_utc=START, page_limit=50)
    assert run(storage, source) == RowCounts(new=550)
    for symbol, expected in trades.items():
        mine = validate_trades(read_events(storage, "trades", None, [symbol]), where="table")
        columns = (pl.col("trade_id").cast(pl.Int64), pl.col("timestamp").dt.epoch("ms"), "price", "amount", "side")
        assert mine.select(columns).rows() == expected, "in the order in which they were traded"
    assert LakeTable(storage, "lake/trades").read()["source"].unique().to_list() == ["ccxt.binance"]

    version = LakeTable(storage, "lake/trades").latest()
    again = ingest(IngestConfig(sources=(source,)), storage, now_utc=NOW)
    assert not again.changed
    assert "trades already there" in again.summary
    assert LakeTable(storage, "lake/trades").latest() == version


def test_trades_older_than_the_table_and_newer_come_when_asked_and_no_others(
    storage: Storage, loopback_exchange: MakeExchange
):
    trades = [(n, START_MS + n * 60_000, 100.0, 1.0, "buy") for n in range(1, 300)]
    exchange = loopback_exchange({BTC: [BAR]}, "1h", trades={BTC: trades}, now_ms=START_MS + 10 * HOUR_MS)
    source = CcxtTradesConfig(**settings_of(exchange), since_utc=START + 2 * HOUR, until_utc=START + 3 * HOUR)
    assert run(storage, source).new == 60
    older = CcxtTradesConfig(**settings_of(exchange), since_utc=START + HOUR, until_utc=START + 3 * HOUR)
    assert run(storage, older) == RowCounts(new=60, unchanged=1)
    newer = CcxtTradesConfig(**settings_of(exchange), since_utc=START + HOUR)
    assert run(storage, newer) == RowCounts(new=120, unchanged=1)


def test_a_backfill_of_trades_that_dies_half_way_is_complete_after_a_rerun(
    storage: Storage, loopback_exchange: MakeExchange
):
    trades = [(n, START_MS + n * 60_000, 100.0, 1.0, "buy") for n in range(1, 300)]
    exchange = loopback_exchange({BTC: [BAR]}, "1h", trades={BTC: trades}, now_ms=START_MS + 10 * HOUR_MS)

    def since(hours: int) -> CcxtTradesConfig:
        return CcxtTradesConfig(**settings_of(exchange), since_utc=START + hours * HOUR, page_limit=20)

    run(storage, since(4))
    exchange.program(Faults(die_after_requests=5))
    with pytest.raises(SourceError, match="run the same ingest again"):
        run(storage, since(0))
    kept = LakeTable(storage, "lake/trades").read().height
    assert 60 < kept < 200, "some of the older trades are there, and a hole after them that no grid shows"
    exchange.revive()
    run(storage, since(0))
    assert read_events(storage, "trades", None)["trade_id"].to_list() == [str(n) for n in range(1, 300)]
    asked = len(exchange.requests)
    assert run(storage, since(0)).new == 0
    assert len(exchange.requests) - asked <= 5, (
        "markets, the first minute (not a day old), the newest, that none follows"
    )


def trade(ms: int, id_: str | None, price: float | None = 1.0, amount: float | None = 2.0, side: str = "buy") -> Any:
    return {"timestamp": START_MS + ms, "id": id_, "price": price, "amount": amount, "side": side}


class FakeExchange:
    """Answers every method with `answers(since, limit)`."""

    def __init__(self, answers: Callable[[int | None, int | None], Any], *, page: int | None = None) -> None:
        self.answers, self.page = answers, page
        self.session = SimpleNamespace(close=lambda: None)
        self.last_response_headers: dict[str, str] | None = None
        self.asked: list[int | None] = []

    def load_markets(self) -> dict[str, Any]:
        return {BTC: {}, PERP: {}}

    def feature_value(self, symbol: str, method: str, name: str) -> int | None:
        return self.page

    def fetch_trades(self, symbol: str, since: int | None = None, limit: int | None = None) -> Any:
        self.asked.append(since)
        return self.answers(since, limit)

    fetch_funding_rate_history = fetch_trades


def request(last: dt.datetime | None = None) -> FetchRequest:
    return FetchRequest(Timeframe("1d"), lambda symbol: last, NOW)


def pages(source: Any, request_: FetchRequest | None = None) -> list[pl.DataFrame]:
    return [item for item in source.fetch(request_ or request()) if isinstance(item, pl.DataFrame)]


def trades_of(answer: Any, **settings: Any) -> CcxtTradesSource:
    config = CcxtTradesConfig(exchange="binance", symbols=(BTC,), since_utc=START, **settings)
    return CcxtTradesSource(config, FakeExchange(lambda since, limit: answer), sleep=lambda s: None)


def honest(trades: list[Any]) -> CcxtTradesSource:
    config = CcxtTradesConfig(exchange="binance", symbols=(BTC,), since_utc=START)
    exchange = FakeExchange(lambda since, limit: [t for t in trades if t["timestamp"] >= (since or 0)])
    return CcxtTradesSource(config, exchange, sleep=lambda s: None)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("<html>", "is no list of trades but '<html>"),
        ([{"price": 1.0}], "is no list of trades"),
        ([trade(5, "1"), trade(4, "2")], "sends trades out of order of BTC/USDT"),
        ([trade(5, "1"), trade(5, "1")], "repeats trades of BTC/USDT, first 1"),
        ([trade(-9, "1"), trade(5, "2")], "repeats itself"),
        ([trade(5, str(n)) for n in range(1000)], "1000 trades of BTC/USDT at .* fill a whole page"),
    ],
    ids=["page", "no-time", "reordered", "repeated", "older-than-asked", "a-page-of-one-millisecond"],
)
def test_an_exchange_that_lies_about_trades_gets_one_clear_error(answer, message):
    with pytest.raises(SourceError, match=message):
        pages(trades_of(answer))


def test_trades_that_cannot_be_are_refused_by_ingest_and_make_no_table(storage: Storage, monkeypatch):
    monkeypatch.setattr(CcxtTradesConfig, "build", lambda self: honest([trade(1, "1"), trade(2, "2", float("nan"))]))
    config = CcxtTradesConfig(exchange="binance", symbols=(BTC,), since_utc=START)
    with pytest.raises(PriceError, match=r"source 'ccxt.binance': 1 rows have price not positive, NaN or infinite"):
        run(storage, config)
    kept = LakeTable(storage, "lake/trades").read()
    assert kept["trade_id"].to_list() == ["1"], "the page before the bad one was whole"


def test_trades_without_an_id_get_the_same_one_however_they_are_fetched():
    twins = [trade(1, None), trade(2, None), trade(2, None), trade(2, None, 1.5), trade(3, None)]
    whole = trade_rows(twins, symbol=BTC, where="x")
    part = trade_rows(twins[1:], symbol=BTC, where="x")
    assert whole["trade_id"].n_unique() == 5
    assert whole.tail(4).equals(part)


# --- Order books ------------------------------------------------------------------------------------------------------

BIDS, ASKS = [(99.0 - n, 1.0 + n) for n in range(20)], [(101.0 + n, 2.0 + n) for n in range(20)]


def test_snapshots_of_the_book_are_taken_in_rounds(storage: Storage, loopback_exchange: MakeExchange):
    books = {BTC: (BIDS, ASKS), ETH: (BIDS, ASKS)}
    exchange = loopback_exchange({BTC: [BAR], ETH: [BAR]}, "1h", books=books)
    source = CcxtBookConfig(**settings_of(exchange, symbols=(BTC, ETH), parallel=1), depth=5, snapshots=3, every_s=0.01)
    assert run(storage, source) == RowCounts(new=2 * 3 * 10)
    table = validate_book(read_events(storage, "book", None), where="table")
    assert table["kind"].unique().to_list() == ["snapshot"]
    first = table.filter((pl.col("symbol") == BTC) & (pl.col("sequence") == table["sequence"].min()))
    asks = first.filter(pl.col("side") == "ask").sort("price")
    assert asks.select("price", "amount").rows() == ASKS[:5]
    depths = [entry for entry in exchange.requests if entry.path.endswith("/depth")]
    assert [entry.params["symbol"] for entry in depths] == ["BTCUSDT", "ETHUSDT"] * 3


@pytest.mark.parametrize(
    ("book", "message"),
    [
        ((BIDS, [(98.5, 1.0)]), "sends a crossed order book of BTC/USDT: best bid 99.0, best ask 98.5"),
        ((BIDS[:1] * 2, ASKS), "sends bids of BTC/USDT out of order or twice"),
        (((), ()), "sends an empty order book for BTC/USDT"),
    ],
    ids=["crossed", "doubled", "empty"],
)
def test_a_book_that_cannot_be_is_refused(storage: Storage, loopback_exchange: MakeExchange, book, message):
    exchange = loopback_exchange({BTC: [BAR]}, "1h", books={BTC: book})
    with pytest.raises(SourceError, match=message):
        run(storage, CcxtBookConfig(**settings_of(exchange)))
    assert not LakeTable(storage, "lake/book").exists()


# --- Funding ----------------------------------------------------------------------------------------------------------


def funding_source(rates: list[tuple[float, float]], seen: list[int | None], **settings: Any) -> Any:
    def answer(since: int | None, limit: int | None) -> Any:
        rows = [{"timestamp": START_MS + round(h * HOUR_MS), "fundingRate": rate} for h, rate in rates]
        seen.append(since)
        return rows[-3:] if since is None else [row for row in rows if row["timestamp"] >= since][:limit]

    config = CcxtFundingConfig(exchange="binance", symbols=(PERP,), **({"since_utc": START} | settings))
    return config, CcxtFundingSource(config, FakeExchange(answer, page=3), sleep=lambda s: None)


def test_funding_is_paged_and_says_the_hours_since_the_settlement_before(storage: Storage, monkeypatch):
    rates, seen = [(0, 1e-4), (8, -2e-4), (16, 0.0), (20, 3e-4), (24, 1e-4)], list[int | None]()
    now = START + 25 * HOUR
    for known, since_h in ((4, 8), (5, 0)):  # first without the newest, from 8:00; then further back, and with it
        config, source = funding_source(rates[:known], seen, since_utc=START + since_h * HOUR)
        monkeypatch.setattr(CcxtFundingConfig, "build", lambda self, source=source: source)
        run(storage, config, now)
    table = LakeTable(storage, "lake/funding").read().sort("timestamp")
    assert table["rate"].to_list() == [rate for _, rate in rates]
    assert table["interval_h"].to_list() == [None, None, 8.0, 4.0, 4.0]
    assert not ingest(IngestConfig(sources=(config,)), storage, now_utc=now).changed


@pytest.mark.parametrize(
    ("rates", "error", "message"),
    [
        ([(0, 1e-4), (8, float("nan"))], PriceError, "1 rows have a rate that is NaN"),
        ([(0, 1e-4), (8, 12.5)], PriceError, "no fraction, first BTC/USDT:USDT .* rate=12.5"),
        ([(8, 1e-4), (0, 1e-4)], SourceError, "sends funding rates out of order"),
        ([(8, 1e-4), (8, 1e-4)], SourceError, "repeats funding rates"),
    ],
    ids=["nan", "per-cent", "reordered", "repeated"],
)
def test_funding_that_cannot_be_is_refused(storage: Storage, monkeypatch, rates, error, message):
    config, source = funding_source(rates, [])
    monkeypatch.setattr(CcxtFundingConfig, "build", lambda self: source)
    with pytest.raises(error, match=message):
        run(storage, config, START + 25 * HOUR)
    assert not LakeTable(storage, "lake/funding").exists()


# --- One table at a time ----------------------------------------------------------------------------------------------


def test_all_are_registered_and_say_which_table_they_fill():
    kinds = {"ccxt": "bars", "ccxt_trades": "trades", "ccxt_book": "book", "ccxt_funding": "funding"}
    assert {kind: SOURCES.get(kind).delivers for kind in kinds} == kinds
    paths = [IngestConfig(timeframe="1h", sources=(SOURCES.get(kind)(**_least(kind)),)).path for kind in kinds]
    assert paths == ["lake/bars/1h", "lake/trades", "lake/book", "lake/funding"]


def _least(kind: str) -> dict[str, Any]:
    since = {} if kind == "ccxt_book" else {"since_utc": START}
    return {"exchange": "binance", "symbols": (BTC,), **since}


def test_sources_of_different_tables_are_not_mixed():
    kraken = CcxtTradesConfig(exchange="kraken", symbols=(BTC,), since_utc=START)
    binance = CcxtConfig(exchange="binance", symbols=(BTC,), since_utc=START)
    with pytest.raises(ConfigError, match="deliver bars and trades, which are different tables"):
        IngestConfig(sources=(kraken, binance))


def test_events_of_several_sources_are_never_mixed(storage: Storage, loopback_exchange: MakeExchange):
    exchange = loopback_exchange({BTC: [BAR]}, "1h", trades={BTC: busy(5)}, now_ms=START_MS + 10 * HOUR_MS)
    run(storage, CcxtTradesConfig(**settings_of(exchange), since_utc=START))
    table = LakeTable(storage, "lake/trades")
    other = table.read().with_columns(source=pl.lit("ccxt.kraken"))
    table.append(other.cast({"source": pl.String}).to_arrow().cast(TRADES_SCHEMA), partition_by=("symbol",))
    with pytest.raises(DataError, match=r"trades of ccxt.binance and ccxt.kraken; name one: source='ccxt.binance'"):
        read_events(storage, "trades", None)
    assert read_events(storage, "trades", None, source="ccxt.kraken").height == 5
    with pytest.raises(EmptyTableError, match="has no trades of ETH/USDT"):
        read_events(storage, "trades", None, [ETH])


def test_bars_where_trades_belong_are_refused(storage: Storage, loopback_exchange: MakeExchange):
    exchange = loopback_exchange({BTC: [BAR]}, "1h", trades={BTC: busy(5)})
    run(storage, CcxtTradesConfig(**settings_of(exchange), since_utc=START))
    rows = LakeTable(storage, "lake/trades").read()
    LakeTable(storage, "lake/book").append(rows.to_arrow())
    with pytest.raises(OutputExistsError, match=r"is a table of symbol, .* not of book levels"):
        run(storage, CcxtBookConfig(**settings_of(exchange)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CcxtTradesConfig(**_least("ccxt_trades"), window_s=0.0), "window_s=0.0"),
        (lambda: CcxtBookConfig(**_least("ccxt_book"), depth=0), "depth=0"),
        (lambda: CcxtBookConfig(**_least("ccxt_book"), snapshots=0), "snapshots=0"),
        (lambda: CcxtBookConfig(**_least("ccxt_book"), every_s=-1.0), "every_s=-1"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_an_exchange_without_that_kind_of_data_is_refused():
    with pytest.raises(ConfigError, match="serves no FundingRateHistory"):
        CcxtFundingConfig(exchange="coinbase", symbols=(PERP,), since_utc=START).build()
    assert issubclass(PriceError, DataError)
