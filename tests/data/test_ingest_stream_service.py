"""The real ccxt.pro client against a real WebSocket on loopback: bars live, a broken connection, SIGTERM."""

import datetime as dt
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from services.exchange import Bar, LoopbackExchange
from services.exchange_stream import LoopbackStream, start_stream

from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.ingest import StreamConfig, bars_path, stream
from quantfleet_data.sources import CcxtConfig

BTC = "BTC/USDT"
SECOND_MS = 1000


def bar(open_ms: int, part: float = 1.0) -> Bar:
    price = 100.0 + open_ms // SECOND_MS % 1000
    return (open_ms, price, price + 2 * part, price - 1, price + part, 5.0 * part)


class Market:
    """Trades in real time, in a thread: shows each second's bar half-way and whole, over REST and over the stream."""

    def __init__(self, exchange: LoopbackExchange, feed: LoopbackStream, *, break_at_s: int, end: Callable[[], None]):
        self.exchange, self.feed, self.break_at_s, self.end = exchange, feed, break_at_s, end
        self.thread = threading.Thread(target=self._trade, daemon=True)
        self.error: BaseException | None = None

    def _trade(self) -> None:
        try:
            self.feed.wait_for("btcusdt@kline_1s")
            for second in range(self.break_at_s + 5):
                now_ms = int(time.time() * 1000)
                open_ms = now_ms // SECOND_MS * SECOND_MS
                self.exchange.now_ms = now_ms
                self.feed.show("BTCUSDT", "1s", bar(open_ms, 0.5))
                time.sleep(max(0.0, (open_ms + 950) / 1000 - time.time()))
                if second == self.break_at_s:
                    self.feed.drop()  # before the whole bar was shown, so that it has to come over REST
                    self.feed.wait_for("btcusdt@kline_1s")
                else:
                    self.feed.show("BTCUSDT", "1s", bar(open_ms), closed=True)
                time.sleep(max(0.0, (open_ms + 1010) / 1000 - time.time()))
            self.exchange.now_ms = int(time.time() * 1000)
            self.end()
        except BaseException as error:
            self.error = error
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.services
def test_bars_come_live_a_broken_connection_is_repaired_and_sigterm_loses_nothing(
    tmp_path: Path, loopback_exchange: Callable[..., LoopbackExchange]
):
    now_ms = int(time.time()) * 1000
    began_ms = now_ms - 20 * SECOND_MS
    history = [bar(began_ms + n * SECOND_MS) for n in range(120)]
    # Its clock stands still until the stream begins, so the newest bar that is fetched before is a part of one.
    exchange = loopback_exchange({BTC: history}, "1s", now_ms=now_ms)
    storage = Storage(StorageConfig(root=str(tmp_path)))
    with start_stream() as feed:
        urls: dict[str, Any] = {**exchange.url_overrides, "ws": {"spot": feed.url}}
        source = CcxtConfig(
            exchange="binance",
            symbols=(BTC,),
            since_utc=dt.datetime.fromtimestamp(began_ms / 1000, dt.UTC),
            rate_limit_ms=1.0,
            backoff_base_s=0.05,
            timeout_s=5.0,
            urls={"api": urls},
            options=exchange.ccxt_config["options"],
        )
        market = Market(exchange, feed, break_at_s=2, end=lambda: os.kill(os.getpid(), signal.SIGTERM))
        market.thread.start()
        before = signal.getsignal(signal.SIGTERM)
        report = stream(StreamConfig(source=source, timeframe="1s", commit_s=1.0, grace_s=2.0, max_s=40.0), storage)
        market.thread.join()
        assert market.error is None
        assert signal.getsignal(signal.SIGTERM) is before
        assert feed.connections == 2
    table = LakeTable(storage, bars_path("1s")).read().sort("timestamp")
    times = [int(t.timestamp() * 1000) for t in table["timestamp"]]
    assert times == list(range(began_ms, times[-1] + 1, SECOND_MS)), "no bar is missing, none is there twice"
    assert len(times) >= 20 + 6
    expected = [bar(time_ms)[1:] for time_ms in times]
    assert table.select("open", "high", "low", "close", "volume").rows() == expected, "and each is whole"
    assert table["source"].unique().to_list() == ["ccxt.binance"]
    assert report.total.new == table.height
    assert report.after == LakeTable(storage, bars_path("1s")).latest()
