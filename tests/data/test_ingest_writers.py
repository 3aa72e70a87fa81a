"""Ingests that collide, and ingests that are killed: every bar once, whole commits only, a re-run completes."""

import datetime as dt
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from quantfleet.contracts import validate_bars
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.ingest import TABLES, IngestConfig, bars_path, ingest
from quantfleet_data.ingest.writer import RowsWriter
from quantfleet_data.sources import ArchDailyConfig

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
KEYS = ["source", "symbol", "timestamp"]
SOURCE_ROOTS = os.pathsep.join(
    str(Path(__file__).resolve().parents[2] / name) for name in ("platform", "models", "data_pipelines", "jobs")
)


def bars_of(symbol: str, count: int, *, first: int = 0, price: float = 10.0) -> pl.DataFrame:
    frame = pl.DataFrame({"timestamp": [START + dt.timedelta(days=i) for i in range(first, first + count)]})
    prices = (pl.lit(price).alias(name) for name in ("open", "high", "low", "close"))
    return validate_bars(
        frame.with_columns(pl.lit(symbol).alias("symbol"), *prices, pl.lit(1.0).alias("volume")), where="test"
    )


def writer_on(storage: Storage) -> RowsWriter:
    table = LakeTable(storage, bars_path("1d"))
    return RowsWriter(table, TABLES["bars"], source="feed", now_utc=START, commit_rows=1_000)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path)))


def together(*work: Callable[[], None]) -> None:
    """Run each in its own thread; the first error is raised."""
    errors: list[BaseException] = []

    def guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(task,)) for task in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("prepared", [False, True], ids=["first-ingest", "table-exists"])
def test_writers_that_both_saw_the_bars_missing_leave_one_copy(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, prepared: bool
):
    if prepared:
        writer = writer_on(storage)
        writer.add(bars_of("A/A", 5))
        writer.flush()
    # All have compared with the table before any of them commits: the worst moment.
    meet, commit = threading.Barrier(3), RowsWriter._commit

    def commit_together(self: RowsWriter, news: pl.DataFrame) -> None:
        meet.wait(timeout=60)
        commit(self, news)

    monkeypatch.setattr(RowsWriter, "_commit", commit_together)
    writers = [writer_on(storage) for _ in range(3)]
    for writer, symbols in zip(writers, (["A/A"], ["A/A", "BBB"], ["BBB", "CCC"]), strict=True):
        for symbol in symbols:
            writer.add(bars_of(symbol, 20))
    together(*(writer.flush for writer in writers))

    table = LakeTable(storage, bars_path("1d")).read()
    assert table.height == table.unique(KEYS).height == 60
    assert sorted(table["symbol"].unique()) == ["A/A", "BBB", "CCC"]


def test_writers_of_different_symbols_lose_nothing(storage: Storage):
    def write(symbol: str) -> Callable[[], None]:
        def task() -> None:
            writer = writer_on(storage)
            for page in range(4):
                writer.add(bars_of(symbol, 10, first=10 * page))
                writer.flush()

        return task

    together(*(write(symbol) for symbol in ("AAA", "BBB", "C/C")))
    table = LakeTable(storage, bars_path("1d")).read()
    assert table.group_by("symbol").len().sort("symbol").rows() == [("AAA", 40), ("BBB", 40), ("C/C", 40)]
    assert table.unique(KEYS).height == 120


def test_a_correction_and_news_at_once_are_both_kept(storage: Storage, monkeypatch: pytest.MonkeyPatch):
    first = writer_on(storage)
    first.add(bars_of("AAA", 5))
    first.flush()
    meet, commit = threading.Barrier(2), RowsWriter._commit

    def commit_together(self: RowsWriter, news: pl.DataFrame) -> None:
        meet.wait(timeout=60)
        commit(self, news)

    monkeypatch.setattr(RowsWriter, "_commit", commit_together)
    correcting, growing = writer_on(storage), writer_on(storage)
    correcting.add(bars_of("AAA", 5, price=11.0))
    growing.add(bars_of("AAA", 5, first=5))
    together(correcting.flush, growing.flush)
    table = LakeTable(storage, bars_path("1d")).read().sort("timestamp")
    assert table["close"].to_list() == [11.0] * 5 + [10.0] * 5


def test_a_commit_reads_the_files_of_its_own_bars_only(storage: Storage):
    writer = writer_on(storage)
    for symbol in ("AAA", "BBB", "C/C"):
        for page in range(3):
            writer.add(bars_of(symbol, 10, first=10 * page))
            writer.flush()
    writer.add(bars_of("C/C", 5, first=10, price=11.0))
    writer.flush()
    metrics = LakeTable(storage, bars_path("1d")).history()[0]["operationMetrics"]
    assert metrics["num_target_files_scanned"] == 1
    assert metrics["num_target_files_skipped_during_scan"] == 8
    assert metrics["num_target_rows_updated"] == 5


@pytest.mark.parametrize("symbols", [2, 100])
def test_symbols_years_apart_are_compared_each_in_its_own_time(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, symbols: int
):
    names = [f"S{n}" for n in range(symbols)]
    writer = writer_on(storage)
    for name in names:
        writer.add(bars_of(name, 1_000 // symbols))
    writer.flush()
    again, read, seen = writer_on(storage), LakeTable.read, list[int]()

    def noted(self: LakeTable, *args: object, **options: object) -> pl.DataFrame:
        rows = read(self, *args, **options)  # type: ignore[arg-type]
        seen.append(rows.height)
        return rows

    monkeypatch.setattr(LakeTable, "read", noted)
    for place, name in enumerate(names):
        again.add(bars_of(name, 1, first=place * (1_000 // symbols - 1) // symbols))
    again.flush()
    assert sum(counts.unchanged for counts in again.counts.values()) == symbols
    assert again.commits == 0
    assert seen == [2] if symbols == 2 else seen[0] <= 1_000


INGEST_ARCH = """
import sys
from quantfleet.storage import Storage, StorageConfig
from quantfleet_data.ingest import IngestConfig, ingest
from quantfleet_data.sources import ArchDailyConfig
print("ready", flush=True)
sys.stdin.readline()
ingest(IngestConfig(sources=(ArchDailyConfig(),), commit_rows=1), Storage(StorageConfig(root=sys.argv[1])))
"""


def start(script: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCE_ROOTS},
    )


def test_two_processes_that_ingest_the_same_at_once_leave_one_copy(storage: Storage):
    processes = [start(INGEST_ARCH, storage.config.root) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    table = LakeTable(storage, bars_path("1d")).read()
    assert table.height == table.unique(KEYS).height == 10_062
    assert not ingest(IngestConfig(sources=(ArchDailyConfig(),)), storage).changed


KILLED_HALF_WAY = """
import os, signal, sys
from dataclasses import dataclass
from quantfleet.contracts import Source, SourceConfig
from quantfleet.storage import Storage, StorageConfig
from quantfleet_data.ingest import IngestConfig, ingest
from quantfleet_data.sources import ArchDailyConfig

class Killed(Source):
    def fetch(self, request):
        for number, bars in enumerate(ArchDailyConfig(symbols=("^GSPC",)).build().fetch(request)):
            for page, part in enumerate(bars.iter_slices(500)):
                if page == 7:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield part

@dataclass(frozen=True, kw_only=True, slots=True)
class KilledConfig(SourceConfig):
    @property
    def source_name(self):
        return "arch_daily"
    def build(self):
        return Killed()

ingest(IngestConfig(sources=(KilledConfig(),), commit_rows=1000), Storage(StorageConfig(root=sys.argv[1])))
"""


def test_a_killed_ingest_keeps_whole_commits_and_a_rerun_completes(storage: Storage):
    process = start(KILLED_HALF_WAY, storage.config.root)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    table = LakeTable(storage, bars_path("1d"))
    assert table.read().height == 3_000, "six pages of 500 in three commits; the page that waited is fetched again"

    report = ingest(IngestConfig(sources=(ArchDailyConfig(),)), storage)
    assert report.of_source("arch_daily").unchanged == 3_000
    everything = table.read()
    assert everything.height == everything.unique(KEYS).height == 10_062


def test_a_table_gets_an_optional_column_with_the_first_rows_that_have_it(storage: Storage):
    plain, adjusted = bars_of("AAA", 3), bars_of("BBB", 2).with_columns(prev_adj_close=pl.Series([None, 9.5]))
    for rows in (plain, validate_bars(adjusted, where="test"), bars_of("CCC", 1)):
        writer = writer_on(storage)
        writer.add(rows)
        writer.flush()
    table = LakeTable(storage, bars_path("1d"))
    assert table.read().sort("symbol", "timestamp")["prev_adj_close"].to_list() == [None] * 3 + [None, 9.5] + [None]
    assert "prev_adj_close" not in table.read(1).columns
    writer = writer_on(storage)
    writer.add(plain)
    writer.flush()
    assert writer.commits == 0
