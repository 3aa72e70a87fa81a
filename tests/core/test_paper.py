"""Paper trading: killed at any write it ends as if it had lived, and as a backtest; bars that cannot be are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from quantfleet.backtest import BacktestConfig
from quantfleet.backtest.events import (
    BarEvent,
    BarEvents,
    Cancel,
    Decision,
    EventResult,
    ExecutionConfig,
    MarketView,
    Order,
    Strategy,
    run_events,
)
from quantfleet.backtest.paper import PaperSession, bar_events
from quantfleet.errors import (
    BacktestError,
    ChecksumError,
    ConfigError,
    DataError,
    OutputExistsError,
    PriceError,
    QuantfleetError,
    TimeError,
)
from quantfleet.ledger import CostModel
from quantfleet.storage import Storage, StorageConfig

from .backtest_support import config
from .event_support import DAY_US, markets


class Scripted(Strategy):
    """Orders by row, remembers how often it was asked, and its risk rule closes what has lost."""

    def __init__(self, script: Mapping[int, list[Any]]) -> None:
        self.script = script
        self.asked = 0
        self.worst = 0.0

    def generate_signals(self, view: MarketView) -> Decision:
        self.asked += 1
        assert self.asked == view.t + 1, "a bar was skipped or booked twice"
        return self.script.get(view.t)

    def manage_risk(self, view: MarketView) -> Decision:
        self.worst = min(self.worst, view.equity - 1000.0)
        if self.worst < -150.0 and view.units.any():
            return dict.fromkeys(view.symbols, 0.0)
        return [Cancel(view.orders[0].id)] if self.asked % 4 == 0 and view.orders else None

    def state(self) -> dict[str, Any]:
        return {"asked": self.asked, "worst": self.worst}


class KilledError(Exception):
    """The process is gone."""


class Mortal(Storage):
    """A storage whose process dies right before or right after one of its writes."""

    def dies(self, at: int, *, after: bool) -> Mortal:
        object.__setattr__(self, "plan", [at, after])
        return self

    def write_bytes(self, relative: str, content: bytes) -> None:
        plan: list[Any] = self.__dict__["plan"]
        plan[0] -= 1
        if plan[0] == 0 and not plan[1]:
            raise KilledError
        super().write_bytes(relative, content)
        if plan[0] == 0:
            raise KilledError


def events_of(source: BarEvents) -> list[BarEvent]:
    rows = (source.events(t) for t in range(len(source.prices.time_T)))
    return [bar for row in rows for bar in row if isinstance(bar, BarEvent)]


def with_bars(source: BarEvents) -> BarEvents:
    """Without the times at which no symbol has a bar, which nobody would tell a session about."""
    prices = source.prices
    there_T = ~np.isnan(prices.close_TS).all(axis=1)
    assume(there_T.sum() > 1)
    kept = {name: getattr(prices, name)[there_T] for name in ("open_TS", "close_TS", "time_T", "volume_TS")}
    high_TS, low_TS = source.high_TS[there_T], source.low_TS[there_T]
    return BarEvents(replace(prices, **kept), high_TS=high_TS, low_TS=low_TS, bar_us=DAY_US)


def assert_same(one: EventResult, other: EventResult) -> None:
    """To the bit."""
    for name in (
        "equity_T",
        "cash_T",
        "borrow_T",
        "interest_T",
        "margin_call_T",
        "market_N",
        "price_N",
        "commission_N",
    ):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name in ("fills_T", "symbol_N", "units_N"):
        np.testing.assert_array_equal(getattr(one.orders, name), getattr(other.orders, name), err_msg=name)
    assert one.log.order_N == other.log.order_N
    assert one.log.maker_N.tolist() == other.log.maker_N.tolist()
    assert one.order_history().equals(other.order_history(), null_equal=True)


def lived_through(
    bars: list[BarEvent], open_at: Callable[[Storage], PaperSession], root: Path, deaths: list[tuple[int, bool]]
) -> PaperSession:
    """Give bars, die as planned, begin again with every bar that the source still has, the last booked ones included."""
    for at, after in [*deaths, (10**9, True)]:
        storage = Mortal(StorageConfig(root=str(root))).dies(at, after=after)
        try:
            session = open_at(storage)
            last = session.last_bar
            for bar in bars:
                assert session.push(bar) == (last is None or bar.time > last)
            session.settle()
        except KilledError:
            continue
        return session
    raise AssertionError


@settings(max_examples=25)
@given(
    markets(),
    st.lists(st.tuples(st.integers(1, 14), st.booleans()), max_size=3),
    st.sampled_from([0.0, 0.25]),
    st.booleans(),
)
def test_killed_at_any_write_it_ends_as_if_it_had_lived_and_as_the_backtest(
    tmp_path_factory, case, deaths, maintenance, weights
):
    source, script, account, execution = case
    exact = with_bars(source)
    prices = exact.prices
    leverage = 2.0 if maintenance else 1.0
    account = replace(account, leverage=leverage, maintenance_margin=maintenance)
    answers: dict[int, Any] = dict(script)
    if weights:  # target weights at every other row, of symbols that have a price
        for t in range(0, len(prices.time_T), 2):
            answers[t] = {name: 0.3 for s, name in enumerate(prices.symbols) if prices.listed()[t, s]}

    def open_at(storage: Storage) -> PaperSession:
        return PaperSession(
            storage,
            "runs/r/paper",
            Scripted(answers),
            account,
            symbols=prices.symbols,
            timeframe="1d",
            execution=execution,
        )

    backtest = run_events(exact, Scripted(answers), account, execution=execution)
    session = lived_through(events_of(exact), open_at, tmp_path_factory.mktemp("paper"), deaths)
    assert_same(session.result(), backtest)
    assert_same(open_at(session.storage).result(), backtest)
    lines = [json.loads(line) for line in session.storage.read_text("runs/r/paper/journal/000000.jsonl").splitlines()]
    assert [line["row"] for line in lines] == list(range(session.rows))
    assert [fill["price"] for line in lines for fill in line["fills"]] == backtest.price_N.tolist()


class Buys(Strategy):
    """A unit at every bar."""

    def generate_signals(self, view: MarketView) -> Decision:
        return Order(symbol=view.symbols[0], units=1.0)


def minute(number: int, price: float = 100.0, symbol: str = "A", volume: float = 5.0) -> BarEvent:
    time = np.datetime64("2026-01-05T00:00:00", "us") + np.timedelta64(60 * number, "s")
    return BarEvent(symbol, time, price, price + 1.0, price - 1.0, price, volume)


def open_session(
    storage: Storage, strategy: Strategy | None = None, account: BacktestConfig | None = None, **options: Any
) -> PaperSession:
    return PaperSession(
        storage,
        "paper",
        strategy or Buys(),
        account or config(),
        **{"symbols": ["A"], "timeframe": "1m", **options},
    )


def test_a_journal_of_several_files_is_read_back_and_gone_on_with(local, monkeypatch):
    monkeypatch.setattr("quantfleet.backtest.paper.journal._FILE_ROWS", 4)
    for start, end in ((0, 3), (3, 8), (8, 10)):
        session = open_session(local)
        assert session.rows == start
        for n in range(start, end):
            session.push(minute(n, 2.0 + n % 7))
    assert local.list("paper", "journal") == ["000000.jsonl", "000001.jsonl", "000002.jsonl"]
    assert len(session.fills) == 9
    assert open_session(local).fills == session.fills


def test_a_row_waits_for_all_symbols_until_a_later_bar_comes_or_no_more_will(local):
    session = open_session(local, symbols=["A", "B"])
    session.push(minute(0))
    assert session.rows == 0
    session.push(minute(0, symbol="B"))
    assert session.rows == 1
    session.push(minute(1, symbol="B"))
    session.push(minute(2))
    assert session.rows == 2
    session.settle()
    assert (session.rows, session.last_bar) == (3, minute(2).time)
    session.settle()
    assert session.rows == 3


def test_a_gap_is_written_down_and_too_large_a_one_waits_for_its_bars(local):
    session = open_session(local, max_gap_bars=2)
    for n in (0, 1, 4):
        session.push(minute(n))
    assert session.gap_bars == 2
    with pytest.raises(TimeError, match="3 bars of 1m are missing"):
        session.push(minute(8))
    session.push(minute(6))
    session.push(minute(8))
    lines = [json.loads(line) for line in local.read_text("paper/journal/000000.jsonl").splitlines()]
    assert [line["gap_bars"] for line in lines] == [0, 0, 2, 1, 1]
    assert open_session(local, max_gap_bars=2).gap_bars == 4


@pytest.mark.parametrize(
    ("bar", "error", "message"),
    [
        (minute(3, symbol="AB"), DataError, "Did you mean 'A'"),
        (minute(3, math.nan), PriceError, "finite and positive"),
        (minute(3, -5.0), PriceError, "finite and positive"),
        (replace(minute(3), high=99.0), PriceError, "must hold them"),
        (replace(minute(3), volume=-1.0), PriceError, "volume -1.0"),
        (replace(minute(3), time=minute(3).time + 1), TimeError, "grid of 1m"),
        (minute(2, 101.0), TimeError, r"is late: .* There it has \(100.0, 101.0, 99.0"),
        (minute(1), TimeError, "booked without that bar"),
        (minute(-1), TimeError, "booked without that bar"),
    ],
)
def test_a_bar_that_cannot_be_is_refused_and_the_session_goes_on(local, bar, error, message):
    session = open_session(local)
    for n in (0, 2):
        session.push(minute(n))
    before = local.read_text("paper/state.json")
    with pytest.raises(error, match=message):
        session.push(bar)
    assert local.read_text("paper/state.json") == before
    assert session.push(minute(3)) is True
    assert session.push(minute(3)) is False
    assert session.rows == 3


def test_bars_out_of_order_and_bars_that_change_are_refused(local):
    session = open_session(local, symbols=["A", "B"])
    session.push(minute(5))
    with pytest.raises(TimeError, match="out of order"):
        session.push(minute(4, symbol="B"))
    with pytest.raises(TimeError, match="came twice"):
        session.push(minute(5, 101.0))
    with pytest.raises(PriceError, match="volume nan"):
        open_session(
            Storage(StorageConfig(root=local.uri("other"))), account=config(costs=CostModel(impact_bps=10.0))
        ).push(minute(5, volume=math.nan))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"account": config(rebalance_band=0.1)}, r"differs in backtest.rebalance_band: 0.0 then, 0.1 now"),
        ({"symbols": ["B"]}, r"symbols: \['A'\] then, \['B'\] now"),
        ({"timeframe": "5m"}, "timeframe: '1m' then, '5m' now"),
        ({"execution": ExecutionConfig(latency_us=3)}, "execution.latency_us: 0 then, 3 now"),
        ({"settings": {"version": 2}}, "settings.version: 'nothing' then, 2 now"),
        ({"strategy": Scripted({})}, "strategy: '.*Buys' then, '.*Scripted' now"),
    ],
)
def test_the_state_of_another_strategy_or_other_settings_is_refused_by_name(local, options, message):
    open_session(local)
    with pytest.raises(ConfigError, match=message):
        open_session(local, **options)


@pytest.mark.parametrize(
    ("name", "old", "new", "error", "message"),
    [
        ("state.json", '"cash": 900.0', '"cash": 9000.0', ChecksumError, "digest does not fit"),
        ("state.json", '"format": 1', '"format": 2', ConfigError, "format 2"),
        ("state.json", "{", "", ChecksumError, "no state of a paper session"),
        ("journal/000000.jsonl", '"price":100.0', '"price":90.0', ChecksumError, "does not hold the 2 rows"),
    ],
)
def test_a_state_or_journal_that_was_changed_is_refused(local, name, old, new, error, message):
    session = open_session(local)
    session.push(minute(0))
    session.push(minute(1))
    text = local.read_text(f"paper/{name}")
    assert old in text
    local.write_text(f"paper/{name}", text.replace(old, new, 1))
    with pytest.raises(error, match=message):
        open_session(local)


def test_a_second_session_on_the_same_folder_is_noticed_before_it_overwrites(local):
    first, second = open_session(local), open_session(local)
    first.push(minute(0))
    with pytest.raises(OutputExistsError, match="another session"):
        second.push(minute(0))
    with pytest.raises(BacktestError, match="open it again"):
        second.push(minute(1))
    assert open_session(local).rows == 1


class Keeps(Strategy):
    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def generate_signals(self, view: MarketView) -> Decision:
        return None


@pytest.mark.parametrize("memory", [(1, 2), {1: 2}, np.zeros(2), math.inf, [{"a": {3}}]])
def test_a_memory_that_json_would_change_is_refused_when_the_session_begins(local, memory):
    with pytest.raises(BacktestError, match=r"Keeps cannot be kept between bars: state\(\)\['memory'\]"):
        open_session(local, Keeps(memory))


class Fails(Strategy):
    def generate_signals(self, view: MarketView) -> Decision:
        return Order(symbol="Z", units=1.0) if view.t == 1 else None


def test_after_an_error_of_the_strategy_the_session_stays_at_the_bar_before(local):
    session = open_session(local, Fails())
    session.push(minute(0))
    with pytest.raises(QuantfleetError, match="no symbol 'Z'"):
        session.push(minute(1))
    assert open_session(local, Fails()).rows == 1


def test_a_table_of_bars_becomes_events_in_the_order_of_time():
    times = np.array(["2026-01-01T00:01", "2026-01-01T00:00"], dtype="datetime64[us]")
    table = pl.DataFrame(
        {
            "symbol": ["A", "A"],
            "timestamp": times,
            "open": 1.0,
            "high": 2.0,
            "low": 0.5,
            "close": 1.5,
            "volume": [None, 3.0],
        }
    ).with_columns(pl.col("timestamp").dt.replace_time_zone("UTC"))
    first, second = bar_events(table)
    assert first == BarEvent("A", times[1], 1.0, 2.0, 0.5, 1.5, 3.0)
    assert second.time == times[0]
    assert math.isnan(second.volume)
