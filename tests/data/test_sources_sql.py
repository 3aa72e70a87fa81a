"""Bars out of a real PostgreSQL: partitions add up to the table, in one snapshot, whoever writes or dies meanwhile."""

import datetime as dt
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import polars as pl
import psycopg2
import pytest
from psycopg2.extras import execute_values
from services.postgres import PostgresServer

from quantfleet.cluster import ClusterConfig
from quantfleet.cluster.session import ray_session
from quantfleet.contracts import FetchRequest, Timeframe
from quantfleet.errors import ConfigError, EmptyTableError, PriceError, SchemaError, SourceError, TimeError
from quantfleet.storage import Storage, StorageConfig
from quantfleet_data.ingest import IngestConfig, ingest, read_bars, read_events
from quantfleet_data.sources import SqlConfig, sql_reads

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
SYMBOLS = ("AAA", "B B", 'C"%s')
_numbers = count()


@pytest.fixture
def database(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An autocommitting connection to an empty database, whose address is in DATABASE_URL."""
    address = postgres_server.create_database(f"bars_{next(_numbers)}")
    monkeypatch.setenv("DATABASE_URL", address)
    connection = psycopg2.connect(address)
    connection.autocommit = True
    yield connection
    connection.close()


def run(connection: Any, statement: str, *values: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else None


@pytest.fixture
def market(make_bars: Callable[..., pl.DataFrame]) -> pl.DataFrame:
    frames = [make_bars(i, 200 + 50 * i, timeframe="1h", symbol=symbol) for i, symbol in enumerate(SYMBOLS)]
    return pl.concat(frames)


def store(connection: Any, bars: pl.DataFrame, *, time_type: str = "timestamptz", times: Any = None) -> None:
    """A table as vendors have it: names of their own, decimals, rows in no order."""
    run(connection, "CREATE SCHEMA IF NOT EXISTS market")
    run(
        connection,
        f'CREATE TABLE market.bars ("Ticker" varchar(9), ts {time_type}, o double precision, h float8, l float8,'
        ' c float8, "vol%" float8, note text)',
    )
    fill(connection, bars.with_columns(times) if times is not None else bars)


def fill(connection: Any, bars: pl.DataFrame) -> None:
    with connection.cursor() as cursor:
        execute_values(
            cursor, "INSERT INTO market.bars VALUES %s", bars.sample(fraction=1.0, shuffle=True, seed=1).rows()
        )


COLUMNS = {"Ticker": "symbol", "ts": "timestamp", "o": "open", "h": "high", "l": "low", "c": "close", "vol%": "volume"}


def config(**settings: Any) -> SqlConfig:
    return SqlConfig(**({"table": "market.bars", "columns": COLUMNS, "batch_rows": 64} | settings))


def batches(
    settings: SqlConfig, known: dict[str, dt.datetime] | None = None, now: dt.datetime = NOW
) -> list[pl.DataFrame]:
    return list(settings.build().fetch(FetchRequest(Timeframe("1h"), lambda s: (known or {}).get(s), now)))


def read(settings: SqlConfig, known: dict[str, dt.datetime] | None = None) -> pl.DataFrame:
    return pl.concat(batches(settings, known))


# --- What is wrong before there is a server ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"table": None}, "either `table` or `query`"),
        ({"query": "SELECT 1"}, "either `table` or `query`"),
        ({"url_env": "postgresql://u:secret@h/db"}, "url_env takes the name of an environment variable"),
        ({"symbol": "X", "columns": {}}, "set partition_by to time"),
        ({"symbol": "X", "symbols": ("X",)}, "symbol excludes symbols"),
        ({"partitions": 0}, "partitions=0 must be at least 1"),
        ({"reread_days": -1.0}, "reread_days=-1.0"),
        ({"symbols": ("A", "A")}, "one symbol twice"),
        ({"max_retries": -1}, "max_retries=-1"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_connection(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        config(**settings)
    assert "secret" not in str(caught.value).replace("a secret", "")


def test_the_address_comes_from_the_environment_only_and_is_never_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(ConfigError, match="environment variable DATABASE_URL is not set"):
        config().build()
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter:2@nowhere:port/db")
    assert "hunter" not in repr(vars(config().build()))
    with pytest.raises(ConfigError, match="address is not postgresql://") as caught:
        batches(config())
    assert "hunter" not in str(caught.value)
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/db")
    with pytest.raises(SourceError, match="Connection refused") as refused:
        batches(config())
    assert "hunter2" not in str(refused.value)
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hun@ter2@127.0.0.1:1/db")
    with pytest.raises(ConfigError, match="written as %40") as torn:
        batches(config())
    assert "ter2" not in str(torn.value)


# --- Whatever the partitions, the table ------------------------------------------------------------------------------


@pytest.mark.services
@pytest.mark.parametrize("partition_by", ["symbol", "time"])
@pytest.mark.parametrize("partitions", [1, 2, 7])
def test_any_partitions_give_the_table_once_and_each_symbol_in_order(database, market, partition_by, partitions):
    store(database, market)
    parts = batches(config(partition_by=partition_by, partitions=partitions))
    assert all(part["symbol"].n_unique() == 1 and part.height <= 64 for part in parts)
    arrived = pl.concat(parts)
    assert arrived.sort("symbol", "timestamp").equals(market.sort("symbol", "timestamp"))
    for (_,), own in arrived.group_by("symbol", maintain_order=True):
        assert own["timestamp"].is_sorted()


@pytest.mark.services
@pytest.mark.parametrize("partition_by", ["symbol", "time"])
@pytest.mark.parametrize(
    ("time_type", "times", "settings"),
    [
        (
            "timestamp",
            pl.col("timestamp").dt.convert_time_zone("Asia/Tokyo").dt.replace_time_zone(None),
            {"time_zone": "Asia/Tokyo"},
        ),
        ("bigint", pl.col("timestamp").dt.epoch("ms"), {"time_unit": "ms"}),
        ("double precision", pl.col("timestamp").dt.epoch("s"), {"time_unit": "s"}),
        ("numeric", pl.col("timestamp").dt.epoch("us"), {"time_unit": "us"}),
    ],
    ids=["naive", "bigint", "float", "numeric"],
)
def test_times_of_every_type_arrive_as_utc_and_are_cut_alike(
    database, market, partition_by, time_type, times, settings
):
    store(database, market, time_type=time_type, times=times)
    chosen = config(partition_by=partition_by, partitions=3, **settings)
    assert read(chosen).sort("symbol", "timestamp").equals(market.sort("symbol", "timestamp"))
    since = market["timestamp"][100]
    newer = read(chosen, dict.fromkeys(SYMBOLS, since))
    assert newer.sort("symbol", "timestamp").equals(
        market.filter(pl.col("timestamp") >= since).sort("symbol", "timestamp")
    )


@pytest.mark.services
@pytest.mark.parametrize("partition_by", ["symbol", "time"])
def test_calendar_dates_label_days(database, make_bars, partition_by):
    days = make_bars(3, 50, timeframe="1d", symbol="AAA")
    store(database, days, time_type="date", times=pl.col("timestamp").dt.date())
    source = config(partition_by=partition_by, partitions=7).build()
    known = days["timestamp"][20]
    assert pl.concat(source.fetch(FetchRequest(Timeframe("1d"), lambda s: None, NOW))).equals(days)
    assert pl.concat(source.fetch(FetchRequest(Timeframe("1d"), lambda s: known, NOW))).equals(days[20:])


@pytest.mark.services
def test_a_query_with_its_own_percent_signs_and_comments_is_read_like_a_table(database, market):
    store(database, market)
    own = "SELECT *, 100 % 7 AS rest FROM market.bars WHERE \"Ticker\" LIKE 'A%' -- only one\n;"
    assert read(config(table=None, query=own, partitions=2)).equals(market.filter(pl.col("symbol") == "AAA"))


@pytest.mark.services
def test_a_query_cannot_write(database, market):
    store(database, market)
    run(database, "CREATE SEQUENCE market.n")
    with pytest.raises(SourceError, match="read-only transaction"):
        batches(config(table=None, query="SELECT nextval('market.n'), b.* FROM market.bars b"))


@pytest.mark.services
def test_a_table_of_one_symbol_and_without_volume(database, market):
    one = market.filter(pl.col("symbol") == "AAA")
    store(database, one)
    run(database, 'ALTER TABLE market.bars DROP COLUMN "Ticker", DROP COLUMN "vol%"')
    plain = {theirs: ours for theirs, ours in COLUMNS.items() if ours not in ("symbol", "volume")}
    arrived = read(config(symbol="AAA", columns=plain, partition_by="time", partitions=4))
    assert arrived.equals(one.with_columns(volume=pl.lit(None, dtype=pl.Float64)))


@pytest.mark.services
def test_only_symbols_and_times_asked_for_are_read(database, market):
    store(database, market)
    since, until = market["timestamp"][10], market["timestamp"][60]
    wanted = config(symbols=("B B",), since_utc=since, until_utc=until, partition_by="time", partitions=3)
    inside = (pl.col("symbol") == "B B") & (pl.col("timestamp") >= since) & (pl.col("timestamp") < until)
    assert read(wanted).equals(market.filter(inside))
    with pytest.raises(EmptyTableError, match=r"no bars\. Check symbols"):
        batches(config(symbols=("nobody",)))


# --- Incremental ------------------------------------------------------------------------------------------------------


@pytest.mark.services
@pytest.mark.parametrize("partition_by", ["symbol", "time"])
def test_each_symbol_goes_on_where_the_table_ends_and_a_new_one_from_its_beginning(database, market, partition_by):
    store(database, market)
    known = {"AAA": market["timestamp"][150], "B B": market.filter(pl.col("symbol") == "B B")["timestamp"][-1]}
    arrived = read(config(partition_by=partition_by, partitions=3), known)
    assert dict(arrived.group_by("symbol").len().iter_rows()) == {"AAA": 50, "B B": 1, 'C"%s': 300}
    days = (market["timestamp"][150] - market["timestamp"][0]).total_seconds() / 86_400
    again = read(config(partition_by=partition_by, reread_days=days), known)
    assert dict(again.group_by("symbol").len().iter_rows())["AAA"] == 200
    everything = read(config(partition_by=partition_by, reread_days=None), known)
    assert everything.height == market.height


@pytest.mark.services
def test_ingest_adds_what_is_new_and_replaces_what_was_corrected(database, market, tmp_path):
    store(database, market.filter(pl.col("timestamp") < market["timestamp"][150]))
    storage, source = Storage(StorageConfig(root=str(tmp_path))), config(partitions=2, reread_days=1.0)
    job = IngestConfig(sources=(source,), timeframe="1h")
    assert ingest(job, storage, now_utc=NOW).total.new == 450
    run(database, 'UPDATE market.bars SET "vol%%" = 7 WHERE ts = %s', market["timestamp"][149])
    with database.cursor() as cursor:
        execute_values(
            cursor,
            "INSERT INTO market.bars VALUES %s",
            market.filter(pl.col("timestamp") >= market["timestamp"][150]).rows(),
        )
    report = ingest(job, storage, now_utc=NOW).total
    assert (report.new, report.corrected) == (market.height - 450, 3)
    expected = market.with_columns(
        volume=pl.when(pl.col("timestamp") == market["timestamp"][149]).then(7.0).otherwise(pl.col("volume"))
    )
    assert read_bars(storage, "1h", None).equals(expected.sort("symbol", "timestamp"))


# --- One snapshot, lost connections ----------------------------------------------------------------------------------


@pytest.mark.services
@pytest.mark.parametrize("partition_by", ["symbol", "time"])
def test_all_partitions_see_one_moment_however_much_is_written_meanwhile(database, market, partition_by):
    store(database, market)
    source = config(partition_by=partition_by, partitions=5).build()
    stream = source.fetch(FetchRequest(Timeframe("1h"), lambda s: None, NOW))
    parts = [next(stream)]
    for i, part in enumerate(stream):
        run(database, "UPDATE market.bars SET c = c * 2, h = h * 2")
        run(database, 'DELETE FROM market.bars WHERE "Ticker" = %s AND ts > %s', 'C"%s', market["timestamp"][10 + i])
        run(database, "INSERT INTO market.bars SELECT 'AAB', ts, o, h, l, c FROM market.bars WHERE \"Ticker\" = 'AAA'")
        parts.append(part)
    assert pl.concat(parts).sort("symbol", "timestamp").equals(market.sort("symbol", "timestamp"))


def kill(database: Any, which: str) -> int:
    """End sessions of the source: its snapshot holder ("first") or its readers ("others"). Returns: how many."""
    test = "=" if which == "first" else ">"
    statement = (
        "WITH own AS (SELECT pid, backend_start FROM pg_stat_activity WHERE application_name = 'quantfleet' AND"
        " datname = current_database()) SELECT pg_terminate_backend(pid) FROM own"
        f" WHERE backend_start {test} (SELECT min(backend_start) FROM own)"
    )
    return len(run(database, statement))


@pytest.mark.services
@pytest.mark.parametrize("partition_by", ["symbol", "time"])
def test_a_reader_that_loses_its_connection_goes_on_behind_its_last_row(database, market, partition_by):
    store(database, market)
    source = config(partition_by=partition_by, partitions=2, batch_rows=16).build()
    parts, killed = [], 0
    for i, part in enumerate(source.fetch(FetchRequest(Timeframe("1h"), lambda s: None, NOW))):
        parts.append(part)
        if i in (2, 9, 20):
            killed += kill(database, "others")
    assert killed == 3
    assert pl.concat(parts).sort("symbol", "timestamp").equals(market.sort("symbol", "timestamp"))


@pytest.mark.services
def test_when_the_holder_of_the_snapshot_is_lost_too_there_is_one_clear_error(database, market):
    store(database, market)
    stream = config(partitions=3, batch_rows=16).build().fetch(FetchRequest(Timeframe("1h"), lambda s: None, NOW))
    next(stream)
    assert kill(database, "first") == 1
    with pytest.raises(SourceError, match="snapshot ended because its first connection was lost; run it again"):
        list(stream)


@pytest.mark.services
def test_without_retries_a_lost_connection_is_one_clear_error(database, market):
    store(database, market)
    stream = config(max_retries=0, batch_rows=16).build().fetch(FetchRequest(Timeframe("1h"), lambda s: None, NOW))
    next(stream)
    assert kill(database, "others") == 1
    with pytest.raises(SourceError, match=r"the connection failed 1 times in a row: .* What was read before is kept"):
        list(stream)


@pytest.mark.services
@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_partitions_are_tasks_and_the_bars_are_the_same(database, market):
    store(database, market)
    with ray_session(ClusterConfig()):  # not for the whole module: the other tests are of reads without Ray
        for partition_by in ("symbol", "time"):
            run(database, "TRUNCATE market.bars")
            fill(database, market)
            read_on_ray(database, market, config(partition_by=partition_by, partitions=3, parallel=2))


def read_on_ray(database: Any, market: pl.DataFrame, chosen: SqlConfig) -> None:
    stream = chosen.build().fetch(FetchRequest(Timeframe("1h"), lambda s: None, NOW))
    parts = [next(stream)]
    run(database, "UPDATE market.bars SET c = 1")
    parts.extend(stream)
    arrived = pl.concat(parts)
    assert arrived.sort("symbol", "timestamp").equals(market.sort("symbol", "timestamp"))
    for (_,), own in arrived.group_by("symbol", maintain_order=True):
        assert own["timestamp"].is_sorted()
    run(database, "UPDATE market.bars SET c = 'NaN' WHERE \"Ticker\" = 'AAA'")
    with pytest.raises(PriceError, match="rows have a close that is NaN"):
        batches(chosen)


# --- Bad tables -------------------------------------------------------------------------------------------------------


@pytest.mark.services
@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        ("DROP TABLE market.bars", SourceError, 'relation "market.bars" does not exist'),
        (
            "ALTER TABLE market.bars RENAME COLUMN c TO d",
            SchemaError,
            "has no column 'c', which `columns` maps to 'close'",
        ),
        ("ALTER TABLE market.bars ALTER ts TYPE text", SchemaError, "column 'ts' is no date, time or number"),
        ("ALTER TABLE market.bars ALTER ts TYPE timestamp", ConfigError, "say which with `time_zone`"),
        ("ALTER TABLE market.bars ALTER ts TYPE float8 USING 1", ConfigError, "set `time_unit`"),
        ("ALTER TABLE market.bars ALTER c TYPE text USING 'dear'", SchemaError, 'no number: .*"dear"'),
        ("UPDATE market.bars SET ts = NULL", SchemaError, "timestamp is null"),
        ('UPDATE market.bars SET "Ticker" = NULL', SchemaError, "the symbol is empty"),
        ("UPDATE market.bars SET h = 'Infinity'", PriceError, "infinite"),
        ("INSERT INTO market.bars SELECT * FROM market.bars", TimeError, "duplicated timestamps"),
        ("DELETE FROM market.bars", EmptyTableError, "holds no bars"),
        ("UPDATE market.bars SET ts = ts + interval '99 years'", EmptyTableError, "all 750 bars are still open"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_is_wrong_in_a_table_is_said_and_never_mended(database, market, spoil, error, message):
    store(database, market)
    run(database, spoil)
    with pytest.raises(error, match=message) as caught:
        batches(config())
    assert type(caught.value) is error
    assert "source 'sql' (market.bars)" in str(caught.value)


@pytest.mark.services
def test_a_doubled_bar_on_the_border_of_two_batches_is_found(database, market):
    store(database, market)
    run(
        database,
        "INSERT INTO market.bars SELECT * FROM market.bars WHERE \"Ticker\" = 'AAA' AND ts = %s",
        market["timestamp"][3],
    )
    with pytest.raises(TimeError, match="duplicated timestamps, first AAA 2020-01-01 03:00"):
        batches(config(batch_rows=4))


@pytest.mark.services
def test_rows_without_a_time_are_not_lost_between_ranges(database, market):
    store(database, market)
    run(database, "UPDATE market.bars SET ts = NULL WHERE ts = %s", market["timestamp"][3])
    with pytest.raises(SchemaError, match="some rows have no time"):
        batches(config(partition_by="time"))


def test_trades_of_one_moment_are_read_once_each_wherever_a_batch_or_a_connection_ends(
    database: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Five trades a second, batches of three: the border of a batch lies within a moment, and so does the break."""
    start = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    rows = [("AAA", start + dt.timedelta(seconds=i // 5), i, 100.0 + i, 1.0, "buy") for i in range(40)]
    run(database, "CREATE TABLE ticks (symbol text, ts timestamptz, id bigint, price float8, amount float8, side text)")
    with database.cursor() as cursor:
        execute_values(cursor, "INSERT INTO ticks VALUES %s", rows[::-1])
    columns = {"ts": "timestamp", "id": "trade_id"}
    source = SqlConfig(table="ticks", rows="trades", columns=columns, batch_rows=3, partitions=1)
    read, broken = sql_reads.Relation.to_bars, count()

    def breaks_once(*arguments: Any) -> pl.DataFrame:
        if next(broken) == 5:
            pids = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'quantfleet' ORDER BY "
            )
            run(database, pids + "backend_start DESC LIMIT 1")
        return read(*arguments)

    monkeypatch.setattr(sql_reads.Relation, "to_bars", breaks_once)
    storage = Storage(StorageConfig(root=str(tmp_path))).absolute()
    report = ingest(IngestConfig(sources=(source,)), storage)
    assert (report.after.path, report.total.new) == ("lake/trades", 40)
    found = read_events(storage, "trades", None)
    assert found["trade_id"].to_list() == [str(i) for i in range(40)]
    assert found["price"].to_list() == [row[3] for row in rows]
    assert "sql.reconnect" in capsys.readouterr().out
