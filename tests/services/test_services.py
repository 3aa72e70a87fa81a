"""The services that other tests lean on are what they claim: real, strict, on loopback only, and gone afterwards."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import ccxt
import polars as pl
import psycopg2
import pytest

from services.exchange import Bar, Faults, LoopbackExchange
from services.postgres import PostgresServer
from services.process import (
    ServiceFailed,
    ServiceUnavailable,
    background,
    free_port,
    listening_addresses,
    require_binaries,
    run_step,
    wait_until,
)
from services.s3 import S3Server

pytestmark = pytest.mark.services

MakeExchange = Callable[..., LoopbackExchange]
HOUR_MS = 3_600_000
START_MS = 1_609_459_200_000  # 2021-01-01
BTC = "BTC/USDT"


def hourly(count: int, *, price: float = 100.0) -> list[Bar]:
    return [
        (START_MS + i * HOUR_MS, price + i, price + i + 2, price + i - 1, price + i + 0.1, 5.5) for i in range(count)
    ]


def client_of(exchange: LoopbackExchange) -> ccxt.binance:
    return ccxt.binance({**exchange.ccxt_config, "rateLimit": 1})


def alive(pid: int) -> bool:
    """True while the process exists and is not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- S3 ---------------------------------------------------------------------------------------------------------------


def test_s3_returns_the_object_that_was_put(s3_server: S3Server):
    import s3fs

    bucket = s3_server.create_bucket("round-trip")
    filesystem = s3fs.S3FileSystem(
        key=s3_server.access_key, secret=s3_server.secret_key, endpoint_url=s3_server.endpoint_url
    )
    filesystem.pipe_file(f"{bucket}/folder/object", b"bytes")
    assert filesystem.cat_file(f"{bucket}/folder/object") == b"bytes"
    assert filesystem.ls(bucket) == ["round-trip/folder"]


def test_s3_refuses_a_wrong_secret(s3_server: S3Server):
    import s3fs

    bucket = s3_server.create_bucket("locked")
    stranger = s3fs.S3FileSystem(key=s3_server.access_key, secret="wrong", endpoint_url=s3_server.endpoint_url)
    with pytest.raises(PermissionError):
        stranger.pipe_file(f"{bucket}/object", b"bytes")


def test_a_delta_table_on_s3_is_read_back_at_every_version(s3_server: S3Server):
    import deltalake
    import pyarrow as pa

    uri, options = s3_server.create_bucket("tables") + "/bars", s3_server.delta_options
    deltalake.write_deltalake(uri, pa.table({"close": [1.0, 2.0]}), storage_options=options)
    deltalake.write_deltalake(uri, pa.table({"close": [3.0]}), mode="append", storage_options=options)
    latest = deltalake.DeltaTable(uri, storage_options=options)
    assert sorted(latest.to_pyarrow_table()["close"].to_pylist()) == [1.0, 2.0, 3.0]
    first = deltalake.DeltaTable(uri, version=0, storage_options=options)
    assert first.to_pyarrow_table()["close"].to_pylist() == [1.0, 2.0]


def test_pyarrow_writes_to_s3_once_checksums_are_sent_only_where_required(s3_server: S3Server):
    """In a process of its own: pyarrow reads the setting when its S3 client is first made."""
    bucket = s3_server.create_bucket("arrow")
    program = (
        "import sys; from pyarrow import fs\n"
        "s3 = fs.S3FileSystem(endpoint_override=sys.argv[1], scheme='http')\n"
        "with s3.open_output_stream('arrow/object') as out: out.write(b'bytes')\n"
        "assert s3.open_input_file('arrow/object').read() == b'bytes'\n"
    )
    host = s3_server.endpoint_url.removeprefix("http://")
    for environment, succeeds in ((s3_server.environment, True), (without_checksum_setting(s3_server), False)):
        done = subprocess.run(
            [sys.executable, "-c", program, host],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode == 0) is succeeds, (bucket, done.stderr)
    assert "411" in done.stderr


def without_checksum_setting(server: S3Server) -> dict[str, str]:
    return {**server.environment, "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported"}


def test_s3_listens_on_loopback_only(s3_server: S3Server):
    addresses = set().union(*(listening_addresses(pid) for pid in s3_server.pids))
    assert len(addresses) >= 3
    assert all(address.startswith("127.0.0.1:") for address in addresses)


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def test_postgres_answers_select_1(postgres_server: PostgresServer):
    connection = psycopg2.connect(postgres_server.create_database("select_1"))
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]
    connection.close()


@pytest.mark.parametrize("password", ["wrong", ""])
def test_postgres_refuses_a_wrong_password(postgres_server: PostgresServer, password: str):
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(
            host=postgres_server.host,
            port=postgres_server.port,
            user=postgres_server.user,
            dbname=postgres_server.database,
            password=password,
        )


def test_postgres_listens_on_loopback_only(postgres_server: PostgresServer):
    assert listening_addresses(postgres_server.pid) == {f"127.0.0.1:{postgres_server.port}"}


# --- The exchange, through the real ccxt ------------------------------------------------------------------------------


def test_ccxt_pages_through_all_bars_a_thousand_at_a_time(loopback_exchange: MakeExchange):
    bars = hourly(2_345)
    exchange = loopback_exchange({BTC: bars, "ETH/BTC": hourly(3, price=0.05)}, "1h")
    client = client_of(exchange)
    assert sorted(client.load_markets()) == [BTC, "ETH/BTC"]
    received: list[list[float]] = []
    since_ms = START_MS
    while page := client.fetch_ohlcv(BTC, "1h", since=since_ms, limit=1000):
        received += page
        since_ms = page[-1][0] + 1
    assert received == [list(bar) for bar in bars]
    assert [request.params["limit"] for request in exchange.kline_requests] == ["1000"] * 4
    assert [request.path for request in exchange.requests[:2]] == ["/api/v3/exchangeInfo", "/api/v3/klines"]


def test_one_override_is_enough_for_spot_market_data(loopback_exchange: MakeExchange):
    exchange = loopback_exchange({BTC: hourly(2)}, "1h")
    config = {"urls": {"api": {"public": exchange.public_url}}, "options": {"fetchMarkets": {"types": ["spot"]}}}
    assert len(ccxt.binance(config).fetch_ohlcv(BTC, "1h")) == 2


def test_no_call_of_a_client_under_test_leaves_the_machine(loopback_exchange: MakeExchange):
    exchange = loopback_exchange({BTC: hourly(1)}, "1h")
    client = ccxt.binance({**exchange.ccxt_config, "options": {"fetchMarkets": {"types": ["linear"]}}})
    assert all(url.startswith(exchange.base_url) for url in client.urls["api"].values())
    with pytest.raises(ccxt.ExchangeNotAvailable):
        client.load_markets()
    assert [(request.path, request.status) for request in exchange.requests] == [("/fapi/v1/exchangeInfo", 404)]


@pytest.mark.parametrize(
    ("params", "limit", "hours"),
    [
        ({}, None, range(100, 600)),  # neither end: the latest 500
        ({"endTime": START_MS + 9 * HOUR_MS}, 3, range(7, 10)),  # an end only: the last ones up to it, it included
        ({"startTime": START_MS + 1}, 2, range(1, 3)),  # a start only: the first ones from it
        ({"startTime": START_MS, "endTime": START_MS + 4 * HOUR_MS - 1}, 1000, range(4)),
        ({"startTime": START_MS}, 5000, range(600)),  # limits above 1000 are cut to 1000
        ({"startTime": START_MS + 700 * HOUR_MS}, 10, range(0)),
    ],
)
def test_klines_follow_binance_in_what_a_range_and_a_limit_mean(
    loopback_exchange: MakeExchange, params: dict[str, int], limit: int | None, hours: range
):
    exchange = loopback_exchange({BTC: hourly(600)}, "1h")
    request = {"symbol": "BTCUSDT", "interval": "1h", **params, **({"limit": limit} if limit else {})}
    answer = client_of(exchange).public_get_klines(request)
    assert [(int(kline[0]) - START_MS) // HOUR_MS for kline in answer] == list(hours)


def test_prices_arrive_as_exactly_the_floats_that_were_given(loopback_exchange: MakeExchange):
    awkward = (START_MS, 1.1e-9, 123456.789012345678, 1e-12, 0.1 + 0.2, 1e15)
    client = client_of(loopback_exchange({BTC: [awkward]}, "1h"))
    assert client.fetch_ohlcv(BTC, "1h") == [list(awkward)]


def test_a_polars_frame_is_replayed_like_a_list(loopback_exchange: MakeExchange):
    when = [datetime(2021, 1, 1, hour, tzinfo=UTC) for hour in (0, 1, 3)]
    frame = pl.DataFrame({"timestamp": when, **{name: [1.0, 2.0, 3.0] for name in ("open", "high", "low", "close")}})
    frame = frame.with_columns(pl.col("timestamp").dt.cast_time_unit("us"), volume=pl.lit(7.0))
    received = client_of(loopback_exchange({BTC: frame}, "1h")).fetch_ohlcv(BTC, "1h")
    assert [bar[0] for bar in received] == [START_MS, START_MS + HOUR_MS, START_MS + 3 * HOUR_MS]
    assert received[2][1:] == [3.0, 3.0, 3.0, 3.0, 7.0]


def test_the_running_bar_shows_its_open_only_and_later_bars_are_not_known(loopback_exchange: MakeExchange):
    bars = hourly(5)
    client = client_of(loopback_exchange({BTC: bars}, "1h", now_ms=START_MS + 2 * HOUR_MS + 1))
    received = client.fetch_ohlcv(BTC, "1h")
    open_ = bars[2][1]
    assert received == [list(bars[0]), list(bars[1]), [bars[2][0], open_, open_, open_, open_, 0.0]]


def test_a_delisted_market_is_inactive_and_still_has_its_past(loopback_exchange: MakeExchange):
    client = client_of(loopback_exchange({BTC: hourly(3), "LUNA/USDT": hourly(2)}, "1h", delisted=["LUNA/USDT"]))
    assert {symbol: market["active"] for symbol, market in client.load_markets().items()} == {
        BTC: True,
        "LUNA/USDT": False,
    }
    assert len(client.fetch_ohlcv("LUNA/USDT", "1h")) == 2


def test_every_third_request_is_too_many_and_says_how_long_to_wait(loopback_exchange: MakeExchange):
    exchange = loopback_exchange({BTC: hourly(3)}, "1h")
    client = client_of(exchange)
    client.load_markets()
    exchange.program(Faults(every_nth_429=3, retry_after_s=7))
    for expected in (None, None, ccxt.DDoSProtection, None, None, ccxt.DDoSProtection):
        if expected is None:
            client.fetch_ohlcv(BTC, "1h")
        else:
            with pytest.raises(expected) as caught:
                client.fetch_ohlcv(BTC, "1h")
            assert not isinstance(caught.value, ccxt.RateLimitExceeded)  # a sibling in ccxt, not a parent
            assert client.last_response_headers["Retry-After"] == "7"
    assert [request.status for request in exchange.kline_requests] == [200, 200, 429, 200, 200, 429]
    assert len(exchange.impatient_requests) == 3


@pytest.mark.parametrize(
    ("json_500", "error"), [(False, ccxt.ExchangeNotAvailable), (True, ccxt.OperationFailed)], ids=["page", "json"]
)
def test_every_second_request_is_a_server_error(
    loopback_exchange: MakeExchange, json_500: bool, error: type[Exception]
):
    exchange = loopback_exchange({BTC: hourly(3)}, "1h")
    client = client_of(exchange)
    client.load_markets()
    exchange.program(Faults(every_nth_500=2, json_500=json_500))
    assert len(client.fetch_ohlcv(BTC, "1h")) == 3
    with pytest.raises(error) as caught:
        client.fetch_ohlcv(BTC, "1h")
    assert type(caught.value) is error
    assert len(client.fetch_ohlcv(BTC, "1h")) == 3


def test_a_dead_exchange_closes_connections_until_it_is_revived(loopback_exchange: MakeExchange):
    exchange = loopback_exchange({BTC: hourly(3)}, "1h", faults=Faults(die_after_requests=2))
    client = client_of(exchange)
    assert len(client.fetch_ohlcv(BTC, "1h")) == 3  # the markets, then the bars
    for _ in range(2):
        with pytest.raises(ccxt.NetworkError):
            client.fetch_ohlcv(BTC, "1h")
    exchange.revive()
    assert len(client.fetch_ohlcv(BTC, "1h")) == 3
    assert [request.status for request in exchange.requests] == [200, 200, 0, 0, 200]


def test_wrong_requests_are_refused_as_binance_refuses_them(loopback_exchange: MakeExchange):
    client = client_of(loopback_exchange({BTC: hourly(3)}, "1h"))
    with pytest.raises(ccxt.BadSymbol):
        client.public_get_klines({"symbol": "NOSUCH", "interval": "1h"})
    with pytest.raises(ccxt.BadRequest, match="Invalid interval"):
        client.fetch_ohlcv(BTC, "5m")
    with pytest.raises(ccxt.BadRequest, match="symbol"):
        client.public_get_klines({"interval": "1h"})
    with pytest.raises(ccxt.BadRequest, match="startTime"):
        client.public_get_klines({"symbol": "BTCUSDT", "interval": "1h", "startTime": "yesterday"})


# --- What starts and ends them ----------------------------------------------------------------------------------------


def test_a_missing_program_names_the_command_that_installs_it():
    with pytest.raises(ServiceUnavailable, match=r"no-such-program.*apt-get install --no-install-recommends pkg"):
        require_binaries(["sh", "no-such-program"], apt_packages="pkg")


def test_a_failed_step_shows_the_tail_of_its_log(tmp_path: Path):
    with pytest.raises(ServiceFailed, match=r"(?s)exited with 3.*the reason"):
        run_step(["sh", "-c", "echo the reason; exit 3"], tmp_path / "log")


def test_a_service_that_dies_while_starting_is_reported_with_its_log(tmp_path: Path):
    log = tmp_path / "log"
    with (
        pytest.raises(ServiceFailed, match=r"(?s)exited with 4.*port is taken"),
        background(["sh", "-c", "echo port is taken; exit 4"], log) as process,
    ):
        wait_until(lambda: False, "service", process=process, log=log, timeout_s=10)


def test_a_service_that_never_gets_ready_is_ended(tmp_path: Path):
    log = tmp_path / "log"
    command = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]  # deaf to a polite signal
    with (
        pytest.raises(ServiceFailed, match="not ready after"),
        background(command, log, stop_timeout_s=0.3) as process,
    ):
        wait_until(lambda: False, "service", process=process, log=log, timeout_s=0.3)
    assert process.returncode == -signal.SIGKILL


def test_a_service_goes_when_the_test_run_is_killed(tmp_path: Path):
    program = (
        "import sys, time; from pathlib import Path; from services.process import background\n"
        "with background(['sleep', '60'], Path(sys.argv[1])) as process:\n"
        "    print(process.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "log")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    ) as runner:
        assert runner.stdout is not None
        pid = int(runner.stdout.readline())
        time.sleep(0.2)  # between fork and exec the wish to die with the parent is not yet on file
        assert alive(pid)
        runner.kill()
    deadline_s = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not alive(pid)


def test_s3_and_postgres_leave_no_process_and_no_data_behind(tmp_path: Path, s3_server: S3Server):
    from services.postgres import start_postgres
    from services.s3 import start_s3

    del s3_server  # only to be skipped where Ceph is missing
    with start_s3(tmp_path / "s3") as s3, start_postgres(tmp_path / "pg") as postgres:
        pids = [*s3.pids, postgres.pid]
        homes = list(Path("/tmp").glob("quantfleet-pg-*"))
        assert all(map(alive, pids))
    assert not any(map(alive, pids))
    assert not (tmp_path / "s3" / "mon").exists()
    assert sum(home.exists() for home in homes) < len(homes)


def test_free_ports_are_below_the_ephemeral_range():
    assert all(20_000 <= free_port() < 32_000 for _ in range(20))


def test_a_missing_service_skips_here_and_fails_where_ci_is_set(run_without_ceph: Callable[[bool], str]):
    assert "1 skipped" in run_without_ceph(False)
    assert "1 error" in run_without_ceph(True)


@pytest.fixture
def run_without_ceph(tmp_path: Path) -> Callable[[bool], str]:
    """Runs a test that asks for `s3_server` in a pytest of its own that cannot find Ceph."""
    tests = Path(__file__).parents[1]
    (tmp_path / "conftest.py").write_text(
        (tests / "conftest.py").read_text() + "\nimport services.s3\nservices.s3._BINARIES = ('no-such-ceph',)\n"
    )
    (tmp_path / "test_it.py").write_text("def test_it(s3_server): pass\n")

    def run(ci: bool) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "CI"}
        environment |= {"PYTHONPATH": str(tests), **({"CI": "true"} if ci else {})}
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-c", os.devnull]
        done = subprocess.run(
            [*command, f"--rootdir={tmp_path}", "test_it.py"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout

    return run
