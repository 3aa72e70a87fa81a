"""A crypto exchange on loopback that the REAL ccxt client trades bars with: Binance's spot REST, replayed.

It speaks `/api/v3/exchangeInfo`, `/api/v3/klines`, `/api/v3/aggTrades`, `/api/v3/depth`, `/api/v3/time` and
`/api/v3/ping`, replays the bars and trades it was given, fails exactly when told to and records every request.

What a client has to override to come here (read in ccxt 4.5.90, `binance.sign` and `binance.fetch_markets`):
    urls.api.public               the only address that market data of the spot market uses
    options.fetchMarkets.types    ["spot"]; the default also asks fapi (linear) and dapi (inverse) for their markets,
                                  so `load_markets` fails off line even though `public` is overridden
Not needed without an API key: urls.api.sapi* (currencies, margin pairs) and urls.api.private. `ccxt_config` overrides
every entry of urls.api all the same, so that no call of a client under test can reach the internet: what is not
spoken here is answered with 404 and is on the record. Nested dictionaries given to the constructor are merged, so
`{"urls": {"api": {"public": url}}}` alone is valid. The constructor ignores the proxies of the environment.

How ccxt 4.5.90 reports the faults (all are OperationFailed; only the last kind is not a NetworkError):
    429                           DDoSProtection, whatever the body says; never RateLimitExceeded, which is a sibling
    500 with a page as body       ExchangeNotAvailable
    connection closed             NetworkError itself
    500 with the exchange's own   OperationFailed itself: a policy that retries NetworkError misses it
    JSON body, code -1001
`Retry-After` is in `client.last_response_headers`; ccxt does not wait for it.
"""

import bisect
import contextlib
import itertools
import json
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import polars as pl

from services.process import LOOPBACK

__all__ = ["Bar", "BarsOfSymbol", "Book", "Faults", "LoopbackExchange", "Request", "Trade", "start_exchange"]

Bar = tuple[int, float, float, float, float, float]
"""Open time in ms since 1970 (UTC), open, high, low, close, volume."""
Trade = tuple[int, int, float, float, Literal["buy", "sell"]]
"""Id, time in ms since 1970 (UTC), price, amount, the taker's side."""
Book = tuple[Sequence[tuple[float, float]], Sequence[tuple[float, float]]]
"""Bids and asks from the best on, each a price and an amount."""
BarsOfSymbol = Sequence[Bar] | pl.DataFrame
"""Bars, or a frame with the columns timestamp (Datetime, or integer ms), open, high, low, close, volume."""
Fate = Literal["answer", "429", "500", "drop"]

_MINUTE_MS = 60_000
_DURATION_MS = {
    **{f"{n}m": n * _MINUTE_MS for n in (1, 3, 5, 15, 30)},
    **{f"{n}h": n * 60 * _MINUTE_MS for n in (1, 2, 4, 6, 8, 12)},
    **{"1s": 1_000, "1d": 1_440 * _MINUTE_MS, "3d": 4_320 * _MINUTE_MS, "1w": 10_080 * _MINUTE_MS},
}
_DEFAULT_LIMIT, _MAX_LIMIT = 500, 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """What goes wrong, and when. Requests are counted from 1 on every path, failed ones included."""

    every_nth_429: int | None = None
    """Every n-th request is answered with HTTP 429 (wins when it falls together with a 500)."""
    every_nth_500: int | None = None
    """Every n-th request is answered with HTTP 500."""
    json_500: bool = False
    """The body of a 500: the exchange's own JSON error, or (default) a page as a gateway in front of it sends."""
    die_after_requests: int | None = None
    """After this many requests the connection is closed without an answer, until `revive()`; 0 is dead at once."""
    retry_after_s: int | None = 1
    """The `Retry-After` header of a 429; None sends none."""

    def __post_init__(self) -> None:
        for name, least in (("every_nth_429", 1), ("every_nth_500", 1), ("die_after_requests", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"Faults.{name}={value} must be at least {least}")

    def fate(self, number: int) -> Fate:
        """Decide what happens to the `number`-th request."""
        if self.die_after_requests is not None and number > self.die_after_requests:
            return "drop"
        if self.every_nth_429 is not None and number % self.every_nth_429 == 0:
            return "429"
        if self.every_nth_500 is not None and number % self.every_nth_500 == 0:
            return "500"
        return "answer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request as it arrived."""

    path: str
    params: Mapping[str, str]
    time_s: float
    """Arrival, on time.monotonic()."""
    status: int
    """The HTTP status it was answered with; 0 when the connection was closed without an answer."""
    retry_after_s: int | None
    """The wait that the answer asked for."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: object
    """JSON, or a string that is sent as a page."""
    retry_after_s: int | None = None


class LoopbackExchange:
    """The running exchange. Thread safe; made by `start_exchange`."""

    def __init__(
        self,
        bars: Mapping[str, BarsOfSymbol],
        timeframe: str,
        *,
        delisted: Collection[str] = (),
        faults: Faults | None = None,
        now_ms: int | None = None,
        trades: Mapping[str, Sequence[Trade]] | None = None,
        books: Mapping[str, Book] | None = None,
    ) -> None:
        if timeframe not in _DURATION_MS:
            raise ValueError(f"timeframe={timeframe!r} is not one of {', '.join(_DURATION_MS)}")
        if unknown := set(delisted) - set(bars):
            raise ValueError(f"delisted symbols without bars: {sorted(unknown)}")
        self.timeframe = timeframe
        self.duration_ms = _DURATION_MS[timeframe]
        self._bars = {_market_id(symbol): _checked(symbol, of_symbol) for symbol, of_symbol in bars.items()}
        self._times = {market: [bar[0] for bar in of_symbol] for market, of_symbol in self._bars.items()}
        self._markets = [_market(symbol, trading=symbol not in delisted) for symbol in bars]
        self._trades = {_market_id(symbol): list(of_symbol) for symbol, of_symbol in (trades or {}).items()}
        self._books = {_market_id(symbol): book for symbol, book in (books or {}).items()}
        self._lock = threading.Lock()
        self._faults, self._count = faults or Faults(), 0
        self._requests: list[Request] = []
        self._server = _Server(self)
        self.now_ms = now_ms
        """The exchange's clock. None: every bar is closed. Else bars that open later are not known yet, and the one
        that is running shows its open only, as a real exchange shows an unfinished bar."""

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"

    @property
    def public_url(self) -> str:
        """The value of `urls.api.public`, the one override that spot market data needs."""
        return f"{self.base_url}/api/v3"

    @property
    def url_overrides(self) -> dict[str, str]:
        """All of `urls.api`, each on this server under the path that it has at Binance."""
        import ccxt

        return {name: self.base_url + urlsplit(url).path for name, url in ccxt.binance().urls["api"].items()}

    @property
    def ccxt_config(self) -> dict[str, Any]:
        """What to give to `ccxt.binance(...)`; `rateLimit` is ccxt's own (50 ms a unit of weight)."""
        return {
            "urls": {"api": self.url_overrides},
            "options": {"fetchMarkets": {"types": ["spot"]}},
            "timeout": 5_000,
        }

    @property
    def requests(self) -> tuple[Request, ...]:
        """Every request so far, in order of arrival."""
        with self._lock:
            return tuple(self._requests)

    @property
    def kline_requests(self) -> tuple[Request, ...]:
        """Those for bars."""
        return tuple(request for request in self.requests if request.path.endswith("/klines"))

    @property
    def impatient_requests(self) -> tuple[Request, ...]:
        """Those that came before the `Retry-After` of an earlier 429 had passed (Binance bans for these)."""
        impatient, not_before_s = [], float("-inf")
        for request in self.requests:
            if request.time_s < not_before_s:
                impatient.append(request)
            if request.retry_after_s is not None:
                not_before_s = max(not_before_s, request.time_s + request.retry_after_s)
        return tuple(impatient)

    def program(self, faults: Faults) -> None:
        """Replace the faults; their count of requests starts anew."""
        with self._lock:
            self._faults, self._count = faults, 0

    def revive(self) -> None:
        """Come back from the dead, free of every fault."""
        self.program(Faults())

    def _handle(self, target: str) -> _Answer | None:
        """Answer one request and record it; None closes the connection instead."""
        url = urlsplit(target)
        params = dict(parse_qsl(url.query, keep_blank_values=True))
        with self._lock:
            self._count += 1
            faults, fate, time_s = self._faults, self._faults.fate(self._count), time.monotonic()
            answer = self._answer(url.path, params, faults, fate)
            self._requests.append(
                Request(
                    path=url.path,
                    params=params,
                    time_s=time_s,
                    status=answer.status if answer else 0,
                    retry_after_s=answer.retry_after_s if answer else None,
                )
            )
        return answer

    def _answer(self, path: str, params: Mapping[str, str], faults: Faults, fate: Fate) -> _Answer | None:
        if fate == "drop":
            return None
        if fate == "429":
            return _Answer(429, {"code": -1003, "msg": "Too many requests."}, faults.retry_after_s)
        if fate == "500":
            own = {"code": -1001, "msg": "Internal error; unable to process your request. Please try again."}
            return _Answer(500, own if faults.json_500 else "<html><body>Internal Server Error</body></html>")
        if path == "/api/v3/klines":
            return self._klines(params)
        if path == "/api/v3/aggTrades":
            return self._agg_trades(params)
        if path == "/api/v3/depth":
            return self._depth(params)
        if path == "/api/v3/exchangeInfo":
            info = {"timezone": "UTC", "rateLimits": [], "exchangeFilters": [], "symbols": self._markets}
            return _Answer(200, {"serverTime": self._clock_ms(), **info})
        if path == "/api/v3/time":
            return _Answer(200, {"serverTime": self._clock_ms()})
        if path == "/api/v3/ping":
            return _Answer(200, {})
        return _Answer(404, "<html><body>Not Found</body></html>")

    def _clock_ms(self) -> int:
        if self.now_ms is not None:
            return self.now_ms
        return max((times[-1] + self.duration_ms for times in self._times.values() if times), default=0)

    def _klines(self, params: Mapping[str, str]) -> _Answer:
        """Bars by open time in [startTime, endTime]: the first `limit` of them, or the last when no start is given."""
        for name in ("symbol", "interval"):
            if not params.get(name):
                text = f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."
                return _Answer(400, {"code": -1102, "msg": text})
        numbers: dict[str, int] = {}
        for name in ("startTime", "endTime", "limit"):
            if name in params:
                if not params[name].isascii() or not params[name].isdigit():
                    text = f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'."
                    return _Answer(400, {"code": -1100, "msg": text})
                numbers[name] = int(params[name])
        if params["symbol"] not in self._bars:
            return _Answer(400, {"code": -1121, "msg": "Invalid symbol."})
        if params["interval"] != self.timeframe:
            return _Answer(400, {"code": -1120, "msg": "Invalid interval."})
        limit = min(numbers.get("limit", _DEFAULT_LIMIT), _MAX_LIMIT)
        if limit == 0:
            return _Answer(400, {"code": -1130, "msg": "Data sent for parameter 'limit' is not valid."})

        times, bars = self._times[params["symbol"]], self._bars[params["symbol"]]
        end_ms = min(numbers.get("endTime", self._clock_ms()), self._clock_ms())
        stop = bisect.bisect_right(times, end_ms)
        if "startTime" in numbers:
            start = bisect.bisect_left(times, numbers["startTime"])
            chosen = bars[start : min(stop, start + limit)]
        else:
            chosen = bars[max(0, stop - limit) : stop]
        return _Answer(200, [self._kline(bar) for bar in chosen])

    def _agg_trades(self, params: Mapping[str, str]) -> _Answer:
        """Trades in [startTime, endTime]: the first `limit` of them, or the last when no start is given."""
        start_ms, end_ms = (int(params[name]) if name in params else None for name in ("startTime", "endTime"))
        limit = min(int(params.get("limit", _DEFAULT_LIMIT)), _MAX_LIMIT)
        known = [
            trade
            for trade in self._trades.get(params.get("symbol", ""), [])
            if trade[1] <= (self._clock_ms() if end_ms is None else min(end_ms, self._clock_ms()))
        ]
        chosen = known[-limit:] if start_ms is None else [trade for trade in known if trade[1] >= start_ms][:limit]
        return _Answer(
            200,
            [
                {
                    "a": id_,
                    "p": _text(price),
                    "q": _text(amount),
                    "f": id_,
                    "l": id_,
                    "T": ms,
                    "m": side == "sell",
                    "M": True,
                }
                for id_, ms, price, amount, side in chosen
            ],
        )

    def _depth(self, params: Mapping[str, str]) -> _Answer:
        bids, asks = self._books.get(params.get("symbol", ""), ((), ()))
        levels = int(params.get("limit", 100))
        texts = [[[_text(price), _text(amount)] for price, amount in side[:levels]] for side in (bids, asks)]
        return _Answer(200, {"lastUpdateId": 1000 + len(self._requests), "bids": texts[0], "asks": texts[1]})

    def _kline(self, bar: Bar) -> list[int | str]:
        time_ms, open_, high, low, close, volume = bar
        close_ms = time_ms + self.duration_ms - 1
        if close_ms >= self._clock_ms():  # still running: nothing but its open is known
            high, low, close, volume = open_, open_, open_, 0.0
        prices = [_text(value) for value in (open_, high, low, close, volume)]
        return [time_ms, *prices, close_ms, _text(volume * close), 0, _text(0.0), _text(0.0), "0"]


@contextlib.contextmanager
def start_exchange(
    bars: Mapping[str, BarsOfSymbol],
    timeframe: str,
    *,
    delisted: Collection[str] = (),
    faults: Faults | None = None,
    now_ms: int | None = None,
    trades: Mapping[str, Sequence[Trade]] | None = None,
    books: Mapping[str, Book] | None = None,
) -> Iterator[LoopbackExchange]:
    """Replay `bars` on a free loopback port for as long as the block lasts.

    Args:
        bars: per unified symbol ("BTC/USDT"), ascending in time; gaps are replayed as gaps.
        timeframe: of the bars ("1m" to "1w"); any other interval is refused.
        delisted: symbols whose market is no longer trading; their bars are still served, as Binance does.
        now_ms: the exchange's clock, see `LoopbackExchange.now_ms`.
        trades: per unified symbol, ascending in time.
        books: per unified symbol; what every snapshot shows.
    Raises: ValueError: malformed bars, symbols or timeframe.
    """
    exchange = LoopbackExchange(
        bars, timeframe, delisted=delisted, faults=faults, now_ms=now_ms, trades=trades, books=books
    )
    server = exchange._server
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield exchange
    finally:
        server.shutdown()
        server.close_everything()
        thread.join()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, exchange: LoopbackExchange) -> None:
        self.exchange = exchange
        self.connections: set[socket.socket] = set()
        super().__init__((LOOPBACK, 0), _Handler)

    def close_everything(self) -> None:
        """Close the port and the kept-alive connections, so that a client sees the exchange go."""
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away mid-answer is no news; anything else is a bug here and is printed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave in one piece

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        answer = self.server.exchange._handle(self.path)
        if answer is None:
            self.close_connection = True
            return
        page = isinstance(answer.body, str)
        body = answer.body.encode() if isinstance(answer.body, str) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "text/html" if page else "application/json;charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        if answer.retry_after_s is not None:
            self.send_header("Retry-After", str(answer.retry_after_s))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class names it so)
        """Say nothing: requests are on record."""


def _market_id(symbol: str) -> str:
    base, separator, quote = symbol.partition("/")
    if not (separator and base.isalnum() and quote.isalnum()):
        raise ValueError(f"symbol {symbol!r} is not a spot pair like 'BTC/USDT'")
    return base + quote


def _market(symbol: str, *, trading: bool) -> dict[str, object]:
    base, _, quote = symbol.partition("/")
    return {
        "symbol": _market_id(symbol),
        "status": "TRADING" if trading else "BREAK",
        "baseAsset": base,
        "baseAssetPrecision": 8,
        "quoteAsset": quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "MARKET"],
        "isSpotTradingAllowed": trading,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.00000001", "maxPrice": "1000000", "tickSize": "0.00000001"},
            {"filterType": "LOT_SIZE", "minQty": "0.00000001", "maxQty": "9000000", "stepSize": "0.00000001"},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "maxNotional": "9000000.00000000"},
        ],
        "permissions": ["SPOT"],
    }


def _checked(symbol: str, bars: BarsOfSymbol) -> list[Bar]:
    if isinstance(bars, pl.DataFrame):
        when = pl.col("timestamp")
        in_ms = when.dt.epoch("ms") if bars.schema["timestamp"].is_temporal() else when
        bars = bars.select(in_ms, "open", "high", "low", "close", "volume").rows()
    rows: list[Bar] = [(int(bar[0]), *map(float, bar[1:])) for bar in bars]  # type: ignore[misc]
    if any(len(bar) != 6 for bar in rows):
        raise ValueError(f"{symbol}: a bar is (time in ms, open, high, low, close, volume)")
    if any(later[0] <= earlier[0] for earlier, later in itertools.pairwise(rows)):
        raise ValueError(f"{symbol}: bars are not strictly ascending in time")
    return rows


def _text(value: float) -> str:
    """Plain decimal notation, at least 8 places as Binance prints; reads back as exactly the same float."""
    exact = Decimal(repr(value))
    places = max(8, -int(exact.as_tuple().exponent))
    return f"{exact:.{places}f}"
