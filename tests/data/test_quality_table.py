"""Quality of a whole table: one task per symbol, one report, one page; and the bars as the report leaves them."""

import dataclasses
import datetime as dt
import json

import polars as pl
import pytest

from quantfleet.contracts import BARS_SCHEMA, PRICE_COLUMNS, Timeframe
from quantfleet.errors import EmptyTableError, QualityError
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.ingest import bars_path
from quantfleet_data.instruments import Instruments, write_instruments
from quantfleet_data.per_symbol import in_process, on_ray
from quantfleet_data.quality import QualityPolicy, QualityReport, inspect_bars
from quantfleet_data.quality_table import CheckedBars, inspect_table

KEYS = ("source", "symbol", "timestamp")


def stored(bars, *, at=dt.datetime(2021, 1, 1, tzinfo=dt.UTC)):
    return bars.with_columns(source=pl.lit("yahoo"), ingested_at=pl.lit(at, pl.Datetime("us", "UTC")))


def arrow(bars):
    return bars.select(BARS_SCHEMA.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(BARS_SCHEMA)


@pytest.fixture
def lake(tmp_path):
    """`lake(tables, timeframe, policy...)`: bars in a Delta table, not inspected yet."""
    storage = Storage(StorageConfig(root=str(tmp_path)))

    def write(tables, timeframe="1d", **policy):
        table = LakeTable(storage, bars_path(timeframe))
        version = table.append(arrow(stored(pl.concat(tables))), partition_by=("symbol",)).version
        return CheckedBars(
            storage=storage,
            timeframe=timeframe,
            version=version,
            report="lake/quality/report.json",
            policy=QualityPolicy(**policy),
        )

    return write


def market(make_bars, *, symbols=6, rows=200, lost=(), timeframe="1d"):
    index = pl.int_range(pl.len())
    return [
        make_bars(i, rows, symbol=f"S{i}", timeframe=timeframe).filter(~index.is_in(list(lost))) for i in range(symbols)
    ]


def swapped(bars, row):
    late = pl.int_range(pl.len()) >= row
    return bars.with_columns(pl.when(late).then(pl.col(PRICE_COLUMNS) * 1000).otherwise(pl.col(PRICE_COLUMNS)))


def test_every_symbol_is_inspected_as_it_would_be_alone(lake, make_bars):
    tables = market(make_bars)
    tables[2] = tables[2].filter(pl.int_range(pl.len()) != 50)
    bars = lake(tables)
    report = inspect_table(bars, run=in_process)
    union = tables[0]["timestamp"]
    assert [symbol.symbol for symbol in report.symbols] == [f"S{i}" for i in range(6)]
    for own, table in zip(report.symbols, tables, strict=True):
        expected = inspect_bars(table, bars.policy, Timeframe("1d"), union=union)
        assert own.findings == tuple(dataclasses.replace(f, action=bars.policy.action(f.check)) for f in expected)
    assert report.counts["gaps"] == 1
    assert QualityReport.from_json(bars.storage.read_text(bars.report)) == report


def test_a_halt_of_all_is_told_once_for_the_market(lake, make_bars):
    bars = lake(market(make_bars, lost=(50, 51), timeframe="1h"), timeframe="1h", calendar="continuous")
    report = inspect_table(bars, run=in_process)
    (halt,) = report.market
    assert (halt.check, halt.bars, halt.action) == ("halts", 2, "keep")
    assert report.counts["gaps"] == 6
    assert {row.cells.count("5") for row in report.coverage.rows} == {27}
    assert {row.cells[7] for row in report.coverage.rows} == {"2"}


def test_a_halt_stops_the_run_where_the_policy_says_so(lake, make_bars):
    bars = lake(market(make_bars, lost=(50,)), calendar="continuous", halts="fail")
    with pytest.raises(QualityError, match=r"quality.halts: \* at 2020-02-20"):
        inspect_table(bars, run=in_process)
    assert bars.storage.read_text(bars.page).startswith("<!DOCTYPE html>")


def test_what_fails_is_named_and_report_and_page_are_there_to_be_looked_at(lake, make_bars):
    tables = market(make_bars)
    bars = lake([*tables[:5], swapped(tables[5], 100)])
    with pytest.raises(
        QualityError, match=r"quality.token_swaps: S5 .* 1 of 6 symbols fail.*to look at: .*report.html"
    ) as caught:
        inspect_table(bars, run=in_process)
    assert str(caught.value).count("S5")
    record = json.loads(bars.storage.read_text(bars.report))
    assert [sketch["symbol"] for sketch in record["prices"]] == ["S5"]
    assert "token_swaps" in bars.storage.read_text(bars.page)


def test_bars_are_read_as_the_report_left_them(lake, make_bars):
    tables = market(make_bars)
    bars = lake([*tables[:5], swapped(tables[5], 100)], token_swaps="quarantine")
    inspect_table(bars, run=in_process)
    assert bars.read("S5").equals(tables[5].head(100).select(bars.read("S5").columns))
    assert bars.read("S0").equals(tables[0].select(bars.read("S0").columns))


def test_corrections_of_earlier_versions_are_findings_of_the_table(lake, make_bars):
    tables = market(make_bars)
    bars = lake(tables)
    late = dt.datetime(2021, 6, 1, tzinfo=dt.UTC)
    news = stored(tables[1][40:43].with_columns(pl.col("volume") * 2), at=late)
    version = bars.table.upsert(arrow(news), KEYS).version
    report = inspect_table(dataclasses.replace(bars, version=version, report="later.json"), run=in_process)
    (found,) = [f for symbol in report.symbols for f in symbol.findings if f.check == "corrections"]
    assert (found.symbol, found.bars, found.known_at) == ("S1", 3, late)
    assert inspect_table(bars, run=in_process).counts["corrections"] == 0


def test_an_empty_table_is_refused(lake, make_bars):
    bars = lake([make_bars(1, 20)])
    empty = bars.table.overwrite(BARS_SCHEMA.empty_table(), partition_by=("symbol",)).version
    with pytest.raises(EmptyTableError, match="holds no bars"):
        inspect_table(dataclasses.replace(bars, version=empty), run=in_process)


@pytest.mark.ray
def test_on_ray_the_report_is_the_same(lake, make_bars, local_ray):
    tables = market(make_bars, symbols=9)
    tables[3] = tables[3].filter(pl.int_range(pl.len()) != 50)
    bars = lake(tables)
    here = inspect_table(bars, run=in_process)
    assert inspect_table(dataclasses.replace(bars, report="ray.json"), run=on_ray) == here


# ------------------------------------------------------------------------------------------------ corporate actions


@pytest.fixture
def split_bars(lake, make_bars):
    """Two symbols of 60 days; AAA is split 2 for 1 before its 31st bar. `split_bars(actions)` reads them adjusted."""

    def open_with(*actions, **settings):
        late = pl.int_range(pl.len()) >= 30
        halved = make_bars(0, 60, symbol="AAA").with_columns(
            *(pl.when(late).then(pl.col(name) / 2).otherwise(pl.col(name)) for name in PRICE_COLUMNS),
            volume=pl.when(late).then(pl.col("volume") * 2).otherwise(pl.col("volume")),
        )
        bars = lake([halved, make_bars(1, 60, symbol="BBB")], splits="keep")
        inspect_table(bars, run=in_process)
        rows = [{"symbol": "AAA", "kind": "split", "ratio": 2.0} | action for action in actions]
        versions = write_instruments(bars.storage, Instruments(actions=pl.DataFrame(rows)))
        return dataclasses.replace(bars, actions=versions.actions, **settings)

    return open_with


def on_bar(make_bars, row):
    return make_bars(0, 60)["timestamp"][row]


def test_bars_are_read_adjusted_forward_for_the_actions_of_their_symbol(split_bars, make_bars):
    bars = split_bars({"effective_at": on_bar(make_bars, 30)})
    whole = make_bars(0, 60, symbol="AAA")
    read = bars.read("AAA")
    for name in (*PRICE_COLUMNS, "volume"):
        assert read[name].to_list() == whole[name].to_list()
    assert bars.read("BBB").equals(dataclasses.replace(bars, actions=None).read("BBB"))
    assert bars.read_raw("AAA")["close"].to_list() != whole["close"].to_list()


def test_an_action_never_changes_a_bar_before_it_was_in_effect_and_known(split_bars, make_bars):
    late_news = {"effective_at": on_bar(make_bars, 30), "announced_at": on_bar(make_bars, 40)}
    bars = split_bars(late_news)
    plain = dataclasses.replace(bars, actions=None).read("AAA")
    assert bars.read("AAA")[:40].equals(plain[:40])
    assert (bars.read("AAA")["close"][40:] == plain["close"][40:] * 2).all()


def test_other_actions_are_another_fingerprint_and_an_earlier_version_of_them_stays(split_bars, make_bars):
    first = split_bars({"effective_at": on_bar(make_bars, 30)})
    before = first.read("AAA")
    more = [{"effective_at": on_bar(make_bars, n), "symbol": "AAA", "kind": "split", "ratio": 2.0} for n in (30, 50)]
    versions = write_instruments(first.storage, Instruments(actions=pl.DataFrame(more)))
    second = dataclasses.replace(first, actions=versions.actions)
    plain = dataclasses.replace(first, actions=None)
    assert len({first.fingerprint, second.fingerprint, plain.fingerprint}) == 3
    assert second.read("AAA")[:50].equals(before[:50])
    assert second.read("AAA")["close"][50] == before["close"][50] * 2
    assert first.read("AAA").equals(before)
