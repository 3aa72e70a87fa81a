"""The WebSocket side of the loopback exchange: Binance's kline streams, spoken to the REAL ccxt.pro client.

A client sends {"method": "SUBSCRIBE", "params": ["btcusdt@kline_1s"], "id": 1} and gets {"result": null, "id": 1}, then
one message per `show`. What it has to override to come here: urls.api.ws.spot = `url`.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Coroutine, Iterator

from aiohttp import WSMsgType, web

from services.exchange import Bar
from services.process import LOOPBACK

__all__ = ["LoopbackStream", "start_stream"]


class LoopbackStream:
    """The running server. Thread-safe; made by `start_stream`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._subscribers: dict[web.WebSocketResponse, set[str]] = {}
        self.port = 0
        self.connections = 0
        """How often a client has connected."""

    @property
    def url(self) -> str:
        """The value of `urls.api.ws.spot`."""
        return f"ws://{LOOPBACK}:{self.port}/ws"

    @property
    def subscriptions(self) -> frozenset[str]:
        """What is subscribed to now, e.g. btcusdt@kline_1s."""
        return frozenset(name for names in list(self._subscribers.values()) for name in names)

    def wait_for(self, name: str, *, timeout_s: float = 20.0) -> None:
        """Wait until somebody subscribes to it."""
        until_s = time.monotonic() + timeout_s
        while name not in self.subscriptions:
            if time.monotonic() > until_s:
                raise TimeoutError(f"nobody subscribed to {name}; there is {sorted(self.subscriptions)}")
            time.sleep(0.01)

    def show(self, market: str, interval: str, bar: Bar, *, closed: bool = False) -> None:
        """Send a bar as it stands to all that subscribed to its market ("BTCUSDT")."""
        texts = dict(zip("ohlcv", (repr(value) for value in bar[1:]), strict=True))
        kline = {"t": bar[0], "T": bar[0] + 1, "s": market, "i": interval, "x": closed, "n": 1, **texts}
        message = json.dumps({"e": "kline", "E": bar[0], "s": market, "k": kline})
        self._run(self._send(f"{market.lower()}@kline_{interval}", message))

    def drop(self) -> None:
        """Close every connection, as an exchange does now and then."""
        self._run(self._drop())

    def _run(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _send(self, name: str, message: str) -> None:
        for socket, names in list(self._subscribers.items()):
            if name in names:
                with contextlib.suppress(ConnectionError):
                    await socket.send_str(message)

    async def _drop(self) -> None:
        sockets = list(self._subscribers)
        self._subscribers.clear()
        for socket in sockets:
            await socket.close()

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.connections += 1
        self._subscribers[socket] = set()
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                asked = json.loads(message.data)
                if asked.get("method") == "SUBSCRIBE" and socket in self._subscribers:
                    self._subscribers[socket].update(asked["params"])
                await socket.send_str(json.dumps({"result": None, "id": asked.get("id")}))
        self._subscribers.pop(socket, None)
        return socket


@contextlib.contextmanager
def start_stream() -> Iterator[LoopbackStream]:
    """Serve on a free loopback port for as long as the block lasts."""
    loop = asyncio.new_event_loop()
    stream = LoopbackStream(loop)

    async def begin() -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/ws/{number}", stream._serve)
        runner = web.AppRunner(app, shutdown_timeout=0.5)
        await runner.setup()
        site = web.TCPSite(runner, LOOPBACK, 0)
        await site.start()
        stream.port = runner.addresses[0][1]
        return runner

    runner = loop.run_until_complete(begin())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield stream
    finally:
        stream.drop()
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
