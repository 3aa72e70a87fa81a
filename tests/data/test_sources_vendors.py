"""Yahoo and Alpaca through their own clients, against servers that answer in the recorded shape of theirs."""

import datetime as dt
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from quantfleet.contracts import FetchRequest, Timeframe
from quantfleet.errors import ConfigError, PriceError, SourceError
from quantfleet.storage import Storage, StorageConfig
from quantfleet_data.ingest import IngestConfig, ingest
from quantfleet_data.instruments import Instruments, adjust_forward
from quantfleet_data.sources import AlpacaConfig, YfinanceConfig, vendors

NEW_YORK = ZoneInfo("America/New_York")
NOW = dt.datetime(2024, 7, 1, tzinfo=dt.UTC)
SINCE = dt.datetime(2024, 6, 3, tzinfo=dt.UTC)


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[misc]


def fetch(source: Any, timeframe: str = "1d", known: dt.datetime | None = None, now: dt.datetime = NOW) -> pl.DataFrame:
    items = source.fetch(FetchRequest(Timeframe(timeframe), lambda s: known, now))
    return pl.concat(item for item in items if isinstance(item, pl.DataFrame))


@pytest.mark.parametrize(("config", "package"), [(YfinanceConfig, "yfinance"), (AlpacaConfig, "alpaca")])
def test_a_missing_package_is_an_error_that_names_the_extra(config, package, monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(vendors.importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=rf"pip install 'quantfleet\[{package}\]'"):
        config(symbols=("AAPL",), since_utc=SINCE).build()


@pytest.mark.parametrize("config", [YfinanceConfig, AlpacaConfig])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"symbols": ()}, "symbols is empty"),
        ({"symbols": ("A", "A")}, "one symbol twice"),
        ({"until_utc": SINCE}, "is not after since_utc"),
        ({"timeout_s": 0.0}, "timeout_s=0.0"),
        ({"max_retries": -1}, "max_retries=-1"),
    ],
)
def test_a_wrong_setting_is_refused(config, settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**({"symbols": ("AAPL",), "since_utc": SINCE} | settings))


def test_adjustments_of_one_vendor_are_sources_of_different_names():
    names = {
        YfinanceConfig(symbols=("A",), since_utc=SINCE, adjustment=a).source_name for a in ("raw", "splits", "all")
    }
    names |= {AlpacaConfig(symbols=("A",), since_utc=SINCE, feed=f).source_name for f in ("sip", "iex")}
    assert len(names) == 5


# --- Yahoo -----------------------------------------------------------------------------------------------------------

DAYS = [dt.date(2024, 6, d) for d in (5, 6, 7, 10, 11, 12)]
RAW = [1200.0, 1210.0, 1208.0, 121.8, 120.9, 125.2]  # ten for one on 10 June, as NVIDIA
SPLIT_DAY, DIVIDEND_DAY = dt.date(2024, 6, 10), dt.date(2024, 6, 11)


def opening(day: dt.date) -> int:
    return int(dt.datetime(day.year, day.month, day.day, 9, 30, tzinfo=NEW_YORK).timestamp())


def chart(
    times: list[int], closes: list[float | None], *, interval: str, zone: str = "America/New_York", **events: Any
) -> Any:
    """An answer of Yahoo's v8/finance/chart."""
    value = {name: [None if c is None else c + shift for c in closes] for name, shift in
             (("open", -0.5), ("high", 1.0), ("low", -1.0), ("close", 0.0))}  # fmt: skip
    value["volume"] = [None if c is None else 1000.0 for c in closes]
    session = {"timezone": "EDT", "start": times[0], "end": times[-1], "gmtoffset": -14400}
    meta = {
        "currency": "USD", "symbol": "NVDA", "exchangeName": "NMS", "instrumentType": "EQUITY", "gmtoffset": -14400,
        "firstTradeDate": 917015400, "regularMarketTime": times[-1], "timezone": "EDT", "exchangeTimezoneName": zone,
        "regularMarketPrice": closes[-1], "priceHint": 2, "dataGranularity": interval, "range": "",
        "currentTradingPeriod": dict.fromkeys(("pre", "regular", "post"), session),
        "tradingPeriods": [[{**session, "start": t - 3600, "end": t + 23400}] for t in times[:1]],
        "validRanges": ["1d", "5d", "1mo", "max"],
    }  # fmt: skip
    adjusted = [None if c is None else c * 0.5 for c in closes]
    indicators = {"quote": [value]} | ({"adjclose": [{"adjclose": adjusted}]} if interval == "1d" else {})
    result = {"meta": meta, "timestamp": times, "indicators": indicators} | ({"events": events} if events else {})
    return {"chart": {"result": [result], "error": None}}


def daily_chart() -> Any:
    as_yahoo_shows = [price / 10 if day < SPLIT_DAY else price for day, price in zip(DAYS, RAW, strict=True)]
    at = opening(SPLIT_DAY)
    split = {str(at): {"date": at, "numerator": 10.0, "denominator": 1.0, "splitRatio": "10:1"}}
    before, after = opening(DAYS[1]), opening(DIVIDEND_DAY)
    paid = {str(before): {"amount": 0.004, "date": before}, str(after): {"amount": 0.01, "date": after}}
    return chart([opening(day) for day in DAYS], as_yahoo_shows, interval="1d", splits=split, dividends=paid)


@pytest.fixture
def yahoo(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Callable[..., Any]:
    """`yahoo(answers)` makes a session of requests that yfinance's own client talks to; answers go by symbol."""
    import requests
    from requests.adapters import BaseAdapter

    yfinance = pytest.importorskip("yfinance", reason="the extra quantfleet[yfinance] is not installed")

    yfinance.set_tz_cache_location(str(tmp_path))

    class Server(BaseAdapter):
        def __init__(self, answers: dict[str, Any]) -> None:
            super().__init__()
            self.answers, self.asked = answers, []

        def send(self, request: Any, **options: Any) -> Any:
            assert options["timeout"] is not None
            response = requests.Response()
            response.request, response.url = request, request.url
            found = re.search(r"/v8/finance/chart/([^?]+)", request.url)
            answer: Any = (404, {"chart": {"result": None, "error": None}})
            if found:
                self.asked.append((found[1], parse_qs(urlsplit(request.url).query)))
                answer = self.answers.get(found[1], (404, not_found("No data found, symbol may be delisted")))
                if isinstance(answer, list):
                    answer = answer.pop(0)
                if isinstance(answer, Exception):
                    raise answer
            code, body = answer if isinstance(answer, tuple) else (200, answer)
            response.status_code = code
            response._content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            return response

        def close(self) -> None:
            pass

    def make(**answers: Any) -> Any:
        from yfinance.data import YfData

        session, server = requests.Session(), Server(answers)
        session.mount("https://", server)
        YfData(session=session).cache_get.cache_clear()
        session.server = server  # type: ignore[attr-defined]
        return session

    return make


def not_found(reason: str) -> Any:
    return {"chart": {"result": None, "error": {"code": "Not Found", "description": reason}}}


def from_yahoo(session: Any, *symbols: str, **settings: Any) -> Any:
    from quantfleet_data.sources.yfinance import YfinanceSource

    config = YfinanceConfig(**({"symbols": symbols or ("NVDA",), "since_utc": SINCE} | settings))
    return YfinanceSource(config, session=session, sleep=lambda seconds: None)


def test_daily_bars_of_yahoo_are_raw_and_labelled_with_the_date_of_the_exchange(yahoo):
    bars = fetch(from_yahoo(yahoo(NVDA=daily_chart())))
    assert bars["timestamp"].to_list() == [utc(d.year, d.month, d.day) for d in DAYS]
    assert bars["close"].to_list() == pytest.approx(RAW)
    assert bars["volume"].to_list() == [100.0] * 3 + [1000.0] * 3
    assert bars["high"][0] == pytest.approx(1210.0)


@pytest.mark.parametrize(("adjustment", "factor"), [("splits", 1.0), ("all", 0.5)])
def test_adjusted_prices_are_what_yahoo_makes_of_them(yahoo, adjustment, factor):
    bars = fetch(from_yahoo(yahoo(NVDA=daily_chart()), adjustment=adjustment))
    expected = [price / 10 if day < SPLIT_DAY else price for day, price in zip(DAYS, RAW, strict=True)]
    assert bars["close"].to_list() == pytest.approx([factor * price for price in expected])


def test_corporate_actions_of_yahoo_fit_its_raw_bars(yahoo):
    session = yahoo(NVDA=daily_chart())
    actions = Instruments(actions=from_yahoo(session).actions()).actions
    rows = actions.select("kind", pl.col("effective_at").dt.date(), "ratio", "cash").rows()
    assert rows == [
        (
            "dividend",
            DAYS[1],
            None,
            pytest.approx(0.04),
        ),  # per share of that day, ten of which are one before the split
        ("split", SPLIT_DAY, 10.0, None),
        ("dividend", DIVIDEND_DAY, None, pytest.approx(0.01)),
    ]
    bars = adjust_forward(fetch(from_yahoo(session)), actions)
    assert bars["close"][3] / bars["close"][2] == pytest.approx(1218.0 / 1208.0)


def test_the_answer_reaches_to_now_and_what_is_not_wanted_is_cut_here(yahoo):
    session = yahoo(NVDA=daily_chart())
    source = from_yahoo(session, until_utc=utc(2024, 6, 10))
    bars = fetch(source, known=utc(2024, 6, 6), now=utc(2024, 6, 12))
    assert bars["timestamp"].to_list() == [utc(2024, 6, 6), utc(2024, 6, 7)]
    assert bars["close"].to_list() == pytest.approx([1210.0, 1208.0])  # by a split that lies after the last bar wanted
    _, asked = session.server.asked[-1]
    assert int(asked["period2"][0]) > dt.datetime.now(dt.UTC).timestamp()
    assert int(asked["period1"][0]) == int(utc(2024, 6, 5).timestamp())
    assert fetch(from_yahoo(session), now=utc(2024, 6, 12))["timestamp"][-1] == utc(
        2024, 6, 11
    )  # the 12th is still open


def test_intraday_bars_are_stamped_with_their_open_in_utc(yahoo):
    first = opening(dt.date(2024, 6, 5))
    hours = chart([first, first + 3600, first + 7200], [10.0, None, 12.0], interval="1h")
    bars = fetch(from_yahoo(yahoo(NVDA=hours)), "1h")
    assert bars["timestamp"].to_list() == [utc(2024, 6, 5, 13, 30), utc(2024, 6, 5, 15, 30)]
    with pytest.raises(ConfigError, match="has no timeframe 4h; it has 1m, 2m"):
        fetch(from_yahoo(yahoo()), "4h")


def test_a_date_in_tokyo_stays_that_date(yahoo):
    at = int(dt.datetime(2024, 6, 5, 9, tzinfo=ZoneInfo("Asia/Tokyo")).timestamp())
    tokyo = chart([at, at + 86400], [10.0, 11.0], interval="1d", zone="Asia/Tokyo")
    assert fetch(from_yahoo(yahoo(**{"7203.T": tokyo}), "7203.T"))["timestamp"].to_list() == [
        utc(2024, 6, 5),
        utc(2024, 6, 6),
    ]


def test_symbols_that_yahoo_lost_are_named_after_the_others_were_delivered(yahoo):
    stream = from_yahoo(yahoo(NVDA=daily_chart()), "GONE", "NVDA", "LOST").fetch(
        FetchRequest(Timeframe("1d"), lambda s: None, NOW)
    )
    assert next(stream)["symbol"][0] == "NVDA"
    with pytest.raises(SourceError, match="no bars of GONE, LOST in the time asked for"):
        list(stream)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([(429, "Too Many Requests")] * 40, "failed 5 times in a row, last YFRateLimitError"),
        ([ConnectionError("no route to host")] * 40, "failed 5 times in a row, last ConnectionError: no route"),
        ([not_found("1m data not available for startTime=1. The requested range must be within the last 30 days.")] * 40,
         "must be within the last 30 days"),
        ([{"chart": {"result": [{"meta": {}}], "error": None}}] * 40, "cannot be read, KeyError"),
    ],
    ids=["rate", "network", "range", "shape"],
)  # fmt: skip
def test_a_yahoo_that_does_not_deliver_is_one_clear_error(yahoo, answers, message):
    with pytest.raises(SourceError, match=message):
        fetch(from_yahoo(yahoo(NVDA=answers)))


def test_a_network_that_comes_back_is_waited_for(yahoo):
    whole = daily_chart()
    assert fetch(from_yahoo(yahoo(NVDA=[ConnectionError("gone"), whole, whole, whole]))).height == 6


def test_a_price_that_cannot_be_is_refused(yahoo):
    with pytest.raises(PriceError, match=r"source 'yfinance\.raw'"):
        fetch(from_yahoo(yahoo(NVDA=chart([opening(DAYS[0])], [-5.0], interval="1d"))))


# --- Alpaca ----------------------------------------------------------------------------------------------------------


class LoopbackAlpaca(ThreadingHTTPServer):
    """Answers alpaca-py's own client as data.alpaca.markets does: bars in pages of three, actions, errors."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bars: dict[str, list[dict[str, Any]]] = {}
        self.actions: dict[str, Any] = {}
        self.failures: list[tuple[int, str]] = []
        self.asked: list[dict[str, str]] = []
        self.page = 3

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: LoopbackAlpaca

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        self.server.asked.append(query | {"path": split.path})
        if self.headers["APCA-API-KEY-ID"] != "key" or self.headers["APCA-API-SECRET-KEY"] != "hidden":
            return self.answer(401, {"message": "unauthorized."})
        if self.server.failures:
            code, text = self.server.failures.pop(0)
            return self.answer(code, {"code": 42, "message": text})
        if split.path.endswith("/corporate-actions"):
            return self.answer(200, {"corporate_actions": self.server.actions, "next_page_token": None})
        start, end = (dt.datetime.fromisoformat(query[name]) for name in ("start", "end"))
        rows = [
            row
            for row in self.server.bars.get(query["symbols"], [])
            if start <= dt.datetime.fromisoformat(row["t"]) <= end
        ]
        first = int(query.get("page_token", 0))
        last = first + self.server.page
        page = {query["symbols"]: rows[first:last]} if rows[first:last] else {}
        return self.answer(200, {"bars": page, "next_page_token": str(last) if last < len(rows) else None})

    def answer(self, code: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackAlpaca]:
    pytest.importorskip("alpaca", reason="the extra quantfleet[alpaca] is not installed")
    monkeypatch.setenv("APCA_API_KEY_ID", "key")
    monkeypatch.setenv("APCA_API_SECRET_KEY", "hidden")
    with LoopbackAlpaca() as own:
        thread = threading.Thread(target=own.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield own
        own.shutdown()
        thread.join()


def bar(time: str, close: float) -> dict[str, Any]:
    return {"t": time, "o": close, "h": close + 1, "l": close - 1, "c": close, "v": 1000, "n": 12, "vw": close}


def from_alpaca(server: LoopbackAlpaca, **settings: Any) -> Any:
    from quantfleet_data.sources.alpaca import AlpacaSource

    config = AlpacaConfig(**({"symbols": ("AAPL",), "since_utc": SINCE, "url": server.url} | settings))
    return AlpacaSource(config, sleep=lambda seconds: None)


def test_daily_bars_of_alpaca_are_asked_raw_and_labelled_with_the_new_york_date(server):
    server.bars["AAPL"] = [
        bar(f"2024-0{m}-0{d}T0{h}:00:00Z", 10.0 + d) for m, h in ((3, 5), (6, 4)) for d in range(4, 9)
    ]
    bars = fetch(from_alpaca(server, since_utc=utc(2024, 3, 1)))
    assert bars["timestamp"].to_list() == [utc(2024, m, d) for m in (3, 6) for d in range(4, 9)]  # winter and summer
    assert bars["close"].to_list() == [14.0, 15.0, 16.0, 17.0, 18.0] * 2
    assert {(q["adjustment"], q["feed"], q["asof"], q["timeframe"]) for q in server.asked} == {
        ("raw", "sip", "-", "1Day")
    }
    assert len(server.asked) == 4  # pages of three


def test_a_fetch_goes_on_from_the_newest_bar_and_ends_with_the_last_closed_one(server):
    server.bars["AAPL"] = [bar(f"2024-06-0{d}T04:00:00Z", 10.0 + d) for d in range(3, 9)]
    bars = fetch(from_alpaca(server), known=utc(2024, 6, 5), now=utc(2024, 6, 7, 18))
    assert bars["timestamp"].to_list() == [utc(2024, 6, 5), utc(2024, 6, 6)]
    again = fetch(from_alpaca(server, adjustment="all"), known=utc(2024, 6, 5), now=utc(2024, 6, 7, 18))
    assert again.height == 4
    assert server.asked[-1]["adjustment"] == "all"


@pytest.mark.parametrize("vendor", ["alpaca", "yahoo"])
def test_a_start_moved_back_is_fetched_once_and_then_known_to_be_all(server, yahoo, tmp_path, vendor):
    server.bars["AAPL"] = [bar(f"2024-06-{d:02d}T04:00:00Z", 10.0 + d) for d in (5, 6, 7, 10, 11)]
    session = yahoo(NVDA=daily_chart())
    storage = Storage(StorageConfig(root=str(tmp_path / "lake")))

    def load(since: dt.datetime) -> tuple[int, int]:
        make = from_alpaca if vendor == "alpaca" else from_yahoo
        source = make(server if vendor == "alpaca" else session, since_utc=since)
        count = len(server.asked) + len(session.server.asked)
        build = pytest.MonkeyPatch()
        with build.context() as patch:
            patch.setattr(type(source.config), "build", lambda self: source)
            new = ingest(IngestConfig(sources=(source.config,)), storage, now_utc=NOW).total.new
        return new, len(server.asked) + len(session.server.asked) - count

    assert load(utc(2024, 6, 10))[0] == (2 if vendor == "alpaca" else 3)
    assert load(utc(2024, 6, 1))[0] == 3
    if vendor == "alpaca":
        assert load(utc(2024, 6, 1)) == (0, 1)  # the newest bar again, and not what lies before the first


def test_minutes_come_in_windows_that_neither_lose_nor_double_a_bar(server, monkeypatch):
    from quantfleet_data.sources import alpaca

    monkeypatch.setattr(alpaca, "_PAGE_BARS", 7)
    server.bars["AAPL"] = [bar(f"2024-06-03T13:{m:02d}:00Z", 10.0 + m) for m in range(0, 60, 2)]
    settings = {"since_utc": utc(2024, 6, 3, 13), "until_utc": utc(2024, 6, 3, 13, 50)}
    bars = fetch(from_alpaca(server, **settings), "1m")
    assert bars["timestamp"].to_list() == [utc(2024, 6, 3, 13, m) for m in range(0, 50, 2)]
    with pytest.raises(ConfigError, match="has no timeframe 90m"):
        fetch(from_alpaca(server), "90m")
    with pytest.raises(ConfigError, match="has no timeframe 1w; it has 1m to 59m"):
        fetch(from_alpaca(server), "1w")


def test_corporate_actions_of_alpaca_become_ours(server):
    day, base = "2024-06-10", {"process_date": "2024-06-10"}
    server.actions = {
        "forward_splits": [{"symbol": "NVDA", "new_rate": 10, "old_rate": 1, "ex_date": day, **base}],
        "reverse_splits": [{"symbol": "XYZ", "new_rate": 1, "old_rate": 8, "ex_date": day, **base}],
        "stock_dividends": [{"symbol": "TEN", "rate": 0.05, "ex_date": day, **base}],
        "cash_dividends": [
            {"symbol": "AAPL", "rate": 0.25, "special": special, "foreign": False, "ex_date": day, **base}
            for special in (False, True)
        ],
        "name_changes": [{"old_symbol": "FB", "new_symbol": "META", **base}],
        "cash_mergers": [{"acquiree_symbol": "TWTR", "rate": 54.2, "effective_date": day, **base}],
        "stock_and_cash_mergers": [
            {"acquiree_symbol": "A", "acquiree_rate": 2, "acquirer_symbol": "B", "acquirer_rate": 1, "cash_rate": 3.0,
             "effective_date": day, **base}
        ],
    }  # fmt: skip
    found = Instruments(actions=from_alpaca(server).actions()).actions
    assert found["effective_at"].unique().to_list() == [utc(2024, 6, 10)]
    assert found.select("symbol", "kind", "ratio", "cash", "new_symbol").rows() == [
        ("A", "merger", 0.5, 1.5, "B"),
        ("AAPL", "dividend", None, 0.5, None),
        ("FB", "rename", None, None, "META"),
        ("NVDA", "split", 10.0, None, None),
        ("TEN", "split", 1.05, None, None),
        ("TWTR", "merger", None, 54.2, None),
        ("XYZ", "split", 0.125, None, None),
    ]
    assert "spin_off" not in server.asked[-1]["types"]


def test_servers_in_trouble_are_waited_for_and_refusals_are_not(server, monkeypatch):
    server.bars["AAPL"] = [bar("2024-06-03T04:00:00Z", 10.0)]
    server.failures = [(429, "too many requests."), (500, "internal"), (504, "timeout")]
    assert fetch(from_alpaca(server)).height == 1
    server.failures = [(503, "down")] * 9
    with pytest.raises(SourceError, match="failed 5 times in a row, last APIError"):
        fetch(from_alpaca(server))
    server.failures = [(403, "subscription does not permit querying recent SIP data")]
    with pytest.raises(SourceError, match=r"was refused \(403\): .*recent SIP data"):
        fetch(from_alpaca(server))
    monkeypatch.setenv("APCA_API_SECRET_KEY", "wrong")
    with pytest.raises(SourceError, match=r"was refused \(401\).* Check the keys in APCA_API_KEY_ID") as caught:
        fetch(from_alpaca(server))
    assert "wrong" not in str(caught.value)
    monkeypatch.delenv("APCA_API_SECRET_KEY")
    with pytest.raises(ConfigError, match="APCA_API_SECRET_KEY is not set"):
        from_alpaca(server)
