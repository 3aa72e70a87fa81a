"""Parts of a source as tasks on a real Ray: one rate limit for all, one stream back, a lost worker's part begun anew."""

import datetime as dt
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pytest
import ray.cloudpickle
from services.exchange import LoopbackExchange

from quantfleet.contracts import FetchRequest, Source, SourceConfig
from quantfleet.errors import ClusterError, SourceError
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.ingest import IngestConfig, RowCounts, bars_path, ingest
from quantfleet_data.sources import CcxtConfig

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HOUR_MS = 3_600_000
START_MS = 1_609_459_200_000
START = dt.datetime(2021, 1, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test


@dataclass(frozen=True, kw_only=True, slots=True)
class Fragile(SourceConfig):
    """Pages of ten hours; the part that holds `breaks` ends its worker, or raises, after some pages, so many times."""

    symbols: tuple[str, ...]
    breaks: str = ""
    after: int = 2
    times: int = 1
    raises: bool = False
    marks: str = ""

    @property
    def source_name(self) -> str:
        return "fragile"

    def split(self) -> tuple[SourceConfig, ...]:
        return tuple(replace(self, symbols=(symbol,)) for symbol in self.symbols)

    def build(self) -> Source:
        return _Fragile(self)


class _Fragile(Source):
    def __init__(self, config: Fragile) -> None:
        self.config = config

    def fetch(self, request: FetchRequest) -> Iterator[pl.DataFrame]:
        for symbol in self.config.symbols:
            [(start, end)] = request.missing(symbol, START, START + 60 * HOUR)
            first, last = (round((t - START) / HOUR) for t in (start, end))
            for number, page in enumerate(range(first, last, 10)):
                if number == self.config.after and symbol == self.config.breaks:
                    self._break(symbol)
                hours = range(page, min(page + 10, last))
                stamps = pl.Series("timestamp", [START + h * HOUR for h in hours], dtype=pl.Datetime("us", "UTC"))
                values = (pl.lit(1.0).alias(n) for n in ("open", "high", "low", "close", "volume"))
                yield pl.DataFrame({"timestamp": stamps}).select(pl.lit(symbol).alias("symbol"), "timestamp", *values)

    def _break(self, symbol: str) -> None:
        if self.config.raises:
            raise SourceError(f"{symbol} broke", symbol=symbol)
        broken = len(list(Path(self.config.marks).iterdir()))
        if broken < self.config.times:
            (Path(self.config.marks) / str(broken)).touch()
            os._exit(1)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path / "lake")))


def run(storage: Storage, source: SourceConfig) -> RowCounts:
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return ingest(IngestConfig(timeframe="1h", sources=(source,), commit_rows=50), storage, now_utc=now).total


@pytest.mark.usefixtures("local_ray")
def test_many_symbols_are_fetched_by_tasks_that_keep_one_rate_limit(
    storage: Storage, loopback_exchange: Callable[..., LoopbackExchange]
):
    symbols = tuple(f"{name}/USDT" for name in ("BTC", "ETH", "XRP", "ADA", "DOT", "SOL"))
    rows = [(START_MS + h * HOUR_MS, 1.0, 2.0, 0.5, 1.5, 9.0) for h in range(50)]
    exchange = loopback_exchange(dict.fromkeys(symbols, rows), "1h")
    source = CcxtConfig(
        exchange="binance",
        symbols=symbols,
        since_utc=START,
        until_utc=START + 50 * HOUR,
        page_limit=10,
        parallel=2,
        rate_limit_ms=100.0,
        urls={"api": exchange.url_overrides},
        options=exchange.ccxt_config["options"],
    )
    assert run(storage, source) == RowCounts(new=300)
    assert run(storage, source) == RowCounts(unchanged=6)
    asked = exchange.kline_requests[:30]
    paid_s = 0.4 * 0.1 * (len(asked) - 1)  # ccxt counts a klines request of Binance as 0.4 of its unit
    assert asked[-1].time_s - asked[0].time_s >= 0.95 * paid_s
    assert len({entry.params["symbol"] for entry in asked[:12]}) >= 2, "the tasks take turns"
    assert sum(entry.path.endswith("exchangeInfo") for entry in exchange.requests) == 4, "one client a task, two runs"


@pytest.mark.usefixtures("local_ray")
def test_a_part_whose_worker_dies_begins_anew_where_the_table_ends(storage: Storage, tmp_path: Path):
    (tmp_path / "marks").mkdir()
    source = Fragile(symbols=("AAA", "BBB", "CCC"), breaks="BBB", marks=str(tmp_path / "marks"))
    assert run(storage, source).new == 180
    table = LakeTable(storage, bars_path("1h")).read()
    assert table.unique(["source", "symbol", "timestamp"]).height == table.height == 180


@pytest.mark.usefixtures("local_ray")
def test_a_part_that_dies_again_and_again_is_one_error_and_what_came_is_kept(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("quantfleet_data.ingest.parts._TASK_LOSSES", 1)
    (tmp_path / "marks").mkdir()
    source = Fragile(symbols=("AAA", "BBB"), breaks="BBB", after=0, times=9, marks=str(tmp_path / "marks"))
    with pytest.raises(ClusterError, match=r"fetches part 2 of 2 of fragile was lost 2 times"):
        run(storage, source)
    assert LakeTable(storage, bars_path("1h")).read()["symbol"].unique().to_list() == ["AAA"]


@pytest.mark.usefixtures("local_ray")
def test_a_tasks_own_error_reaches_the_user_as_itself(storage: Storage):
    with pytest.raises(SourceError, match=r"^BBB broke$") as caught:
        run(storage, Fragile(symbols=("AAA", "BBB"), breaks="BBB", raises=True))
    assert type(caught.value) is SourceError
    assert caught.value.fields == {"symbol": "BBB"}
