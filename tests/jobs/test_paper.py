"""Paper trading on a bars table: complete rows once each, models as the backtest trades them, bars that come too late are told."""

import asyncio
import datetime as dt
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from support.stored_models import store

from quantfleet.backtest import BacktestConfig, BarPanel, PositionPolicy
from quantfleet.backtest.events import BarEvents, Decision, MarketView, Strategy, run_events
from quantfleet.backtest.paper import ForecastStrategy, MovingAverageTrader, PaperSession
from quantfleet.contracts import BARS_SCHEMA
from quantfleet.errors import ConfigError, TimeError, UnknownPluginError
from quantfleet.registry.artifact import read_artifact
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.ingest import StreamConfig, bars_path, stream_bars
from quantfleet_data.sources import CcxtConfig
from quantfleet_jobs.paper import STAGE, TableFollower, model_answers
from quantfleet_jobs.recipe import load_recipe

START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
SYMBOLS = ("AAA", "BBB")


def walk(rows: int, *, symbols: tuple[str, ...] = SYMBOLS, seed: int = 3) -> pl.DataFrame:
    """Daily random walks."""
    frames = []
    for k, symbol in enumerate(symbols):
        rng = np.random.default_rng([seed, k])
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, rows)))
        opened = close * np.exp(rng.normal(0, 0.005, rows))
        frames.append(
            pl.DataFrame(
                {
                    "symbol": symbol,
                    "timestamp": pl.Series(
                        [START + dt.timedelta(days=n) for n in range(rows)], dtype=pl.Datetime("us", "UTC")
                    ),
                    "open": opened,
                    "high": np.maximum(opened, close) * 1.01,
                    "low": np.minimum(opened, close) * 0.99,
                    "close": close,
                    "volume": 1.0,
                }
            )
        )
    return pl.concat(frames)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path)))


def ingested(storage: Storage, bars: pl.DataFrame, source: str = "x") -> None:
    rows = bars.with_columns(source=pl.lit(source), ingested_at=pl.lit(START, dtype=pl.Datetime("us", "UTC")))
    LakeTable(storage, bars_path("1d")).append(
        rows.select(BARS_SCHEMA.names).to_arrow().cast(BARS_SCHEMA), partition_by=("symbol",)
    )


def follower(storage: Storage, strategy: Any = None, **options: Any) -> TableFollower:
    session = PaperSession(
        storage,
        "runs/r/paper",
        strategy or MovingAverageTrader(fast_bars=2, slow_bars=5).build(),
        BacktestConfig(),
        symbols=SYMBOLS,
        timeframe="1d",
    )
    return TableFollower(session, storage, **{"sources": ["x"], "since": day(0), "wait_bars": 2, **options})


def day(number: int) -> np.datetime64:
    return np.datetime64("2020-01-01", "us") + np.timedelta64(number, "D")


def some(bars: pl.DataFrame, first: int, end: int, symbol: str | None = None) -> pl.DataFrame:
    inside = (pl.col("timestamp") >= START + dt.timedelta(days=first)) & (
        pl.col("timestamp") < START + dt.timedelta(days=end)
    )
    return bars.filter(inside if symbol is None else inside & (pl.col("symbol") == symbol))


def test_bars_are_booked_as_the_table_gets_them_across_restarts_and_equal_the_backtest(storage):
    bars = walk(30)
    for first, end in ((0, 9), (9, 10), (10, 30)):
        ingested(storage, some(bars, first, end))
        assert follower(storage).catch_up() == end - first
        assert follower(storage).catch_up() == 0
    made = follower(storage).session.result()
    backtest = run_events(
        BarEvents.from_bars(bars), MovingAverageTrader(fast_bars=2, slow_bars=5).build(), BacktestConfig()
    )
    assert len(backtest.orders) > 4
    np.testing.assert_array_equal(made.equity_T, backtest.equity_T)
    np.testing.assert_array_equal(made.price_N, backtest.price_N)


def test_a_symbol_that_lags_is_waited_for_and_then_goes_without_and_what_comes_later_is_told(storage):
    bars = walk(6)
    ingested(storage, some(bars, 0, 2))
    ingested(storage, some(bars, 2, 4, "AAA"))
    here = follower(storage)
    assert here.catch_up() == 2
    ingested(storage, some(bars, 4, 5, "AAA"))
    assert here.catch_up() == 1
    ingested(storage, some(bars, 2, 5, "BBB"))
    assert here.catch_up() == 2
    assert list(here.late) == [("BBB", day(2))]
    assert "booked without that bar" in here.late["BBB", day(2)]


def test_of_two_sources_the_first_is_believed_others_are_not_read_and_a_session_begins_where_it_is_told(storage):
    bars = walk(4)
    for source in ("y", "x", "z"):
        ingested(
            storage,
            some(bars, 0, 3).with_columns(close=pl.col("close") * {"y": 1.0, "x": 1.001, "z": 1.002}[source]),
            source,
        )
    here = follower(storage, sources=["x", "y"], since=day(1))
    assert here.catch_up() == 2
    closes = some(bars, 1, 3).sort("symbol", "timestamp")["close"].to_numpy().reshape(2, 2).T * 1.001
    np.testing.assert_array_equal(here.session.result().prices.close_TS, closes)


class Feed:
    """Shows one bar after the other, and then nothing more."""

    whole = True

    def __init__(self, rows: list[list[float]]) -> None:
        self.rows = iter(rows)

    async def bars(self, symbol: str) -> list[list[float]]:
        for row in self.rows:
            return [row]
        return await asyncio.get_running_loop().create_future()

    def lost(self, symbol: str) -> None:
        raise AssertionError

    async def close(self) -> None:
        pass


def test_behind_a_stream_every_commit_is_booked_at_once(storage):
    rows = [[60_000.0 * n, *(100.0 + n, 102.0 + n, 99.0 + n, 101.0 + n), 5.0] for n in range(8)]
    strategy = MovingAverageTrader(fast_bars=1, slow_bars=2).build()
    session = PaperSession(storage, "p", strategy, BacktestConfig(), symbols=["BTC/USDT"], timeframe="1m")
    here = TableFollower(session, storage, sources=["ccxt.binance"], since=np.datetime64(0, "us"), wait_bars=2)
    booked: list[int] = []
    source = CcxtConfig(exchange="binance", symbols=("BTC/USDT",), since_utc=dt.datetime(1970, 1, 1, tzinfo=dt.UTC))
    config = StreamConfig(source=source, commit_rows=2, max_bars=6, grace_s=10_000.0)
    asyncio.run(
        stream_bars(
            config,
            storage,
            feed=Feed(rows),
            fetch=lambda *asked: [],
            clock=lambda: 420.0,
            poll_s=0.01,
            committed=lambda: booked.append(here.catch_up()),
        )
    )
    assert sum(booked) == session.rows >= 6
    assert max(booked) <= 3
    assert session.positions.keys() == {"BTC/USDT"}


def test_too_large_a_gap_stops_the_session_until_the_bars_are_there(storage):
    bars = walk(9)
    ingested(storage, pl.concat([some(bars, 0, 3), some(bars, 7, 9)]))
    here = follower(storage)
    here.session.max_gap_bars = 2
    with pytest.raises(TimeError, match="4 bars of 1d are missing"):
        here.catch_up()
    ingested(storage, some(bars, 3, 7))
    again = follower(storage)
    assert (again.session.rows, again.catch_up()) == (3, 6)


class Told(Strategy):
    """Weights by row."""

    def __init__(self, weights_TS: np.ndarray) -> None:
        self.weights_TS = weights_TS

    def generate_signals(self, view: MarketView) -> Decision:
        return self.weights_TS[view.t]


@pytest.mark.parametrize("mode", ["long_flat", "long_short"])
@pytest.mark.parametrize("rebalance", ["on_change", "every_bar"])
def test_forecasts_bar_by_bar_trade_as_the_whole_table_of_them(mode, rebalance):
    bars = walk(60, symbols=("A", "B", "C")).filter(
        (pl.col("symbol") != "C") | (pl.col("timestamp") > START + dt.timedelta(days=20))
    )
    rng = np.random.default_rng(1)
    answers = bars.select("symbol", "timestamp").with_columns(
        expected_return=pl.Series(rng.normal(0, 0.002, bars.height)),
        position=pl.Series(np.where(rng.random(bars.height) < 0.2, rng.uniform(-1, 1, bars.height), np.nan)),
    )
    answers = answers.filter(pl.Series(rng.random(bars.height) < 0.8))
    table: dict[Any, dict[str, tuple[float, float]]] = {}
    for symbol, time, expected, position in answers.with_columns(
        pl.col("timestamp").dt.replace_time_zone(None)
    ).iter_rows():
        table.setdefault(np.datetime64(time, "us"), {})[symbol] = (expected, position)
    policy = PositionPolicy(mode=mode, rebalance=rebalance, horizon_bars=3, threshold_bps=5.0)
    account = BacktestConfig(allow_short=True)
    panel = BarPanel.from_bars(bars)
    weights_TS = policy.target_weights(answers, panel)
    whole = run_events(BarEvents.from_bars(bars), Told(weights_TS), account)
    strategy = ForecastStrategy(policy, lambda view: table.get(view.times[-1], {}))
    by_bar = run_events(BarEvents.from_bars(bars), strategy, account)
    assert len(whole.orders) > 50
    np.testing.assert_array_equal(by_bar.orders.units_N, whole.orders.units_N)
    np.testing.assert_array_equal(by_bar.equity_T, whole.equity_T)


def test_a_stored_model_trades_on_paper_as_one_that_sees_the_whole_history_and_a_restart_changes_nothing(
    storage, tmp_path
):
    folder, digest = store(tmp_path / "model")
    stored = read_artifact(folder, digest=digest, chunk_bars=1)
    bars = walk(40)
    history = some(bars, 0, 20)
    policy = PositionPolicy()

    def traded(days: tuple[int, ...], name: str) -> PaperSession:
        for first, end in itertools.pairwise(days):
            session = PaperSession(
                storage,
                name,
                ForecastStrategy(policy, model_answers(stored, history, 1)),
                BacktestConfig(),
                symbols=SYMBOLS,
                timeframe="1d",
            )
            ingested(storage, some(bars, first, end), name)
            TableFollower(session, storage, sources=[name], since=day(20), wait_bars=2).catch_up()
        return session

    once, often = traded((20, 40), "once"), traded((20, 26, 27, 40), "often")
    assert once.rows == often.rows == 20
    assert len(once.fills) > 3
    assert once.fills == often.fills
    np.testing.assert_array_equal(once.result().equity_T, often.result().equity_T)
    averages = {  # the model is long while the mean of 2 closes is above that of 5
        symbol: bars.filter(pl.col("symbol") == symbol)["close"].rolling_mean(2)
        > bars.filter(pl.col("symbol") == symbol)["close"].rolling_mean(5)
        for symbol in SYMBOLS
    }
    held = once.result().positions_TS
    for s, symbol in enumerate(SYMBOLS):
        assert (held[1:, s] > 0).tolist() == averages[symbol].to_list()[20:-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no section `paper`"),
        (["paper.trader=moving_avrage"], "Did you mean 'moving_average'"),
        (["paper.trader.kind=moving_average", "paper.trader.fast_bars=200"], "below slow_bars=100"),
        (["paper.since_utc=2026-01-01T00:00:00"], "names no time zone"),
        (["paper.max_gap_bars=-1"], "max_gap_bars"),
    ],
)
def test_a_recipe_that_cannot_trade_on_paper_is_refused(options, message):
    with pytest.raises((ConfigError, UnknownPluginError), match=message):
        STAGE.check(load_recipe("quickstart", options, environ={}).value)  # type: ignore[misc]
