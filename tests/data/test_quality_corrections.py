"""Late corrections: the same source, symbol and time told differently by two versions of the bars table."""

import datetime as dt

import polars as pl
import pytest

from quantfleet.contracts import BARS_SCHEMA, VALUE_COLUMNS
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.quality import correcting_versions, find_corrections, read_corrections

FIRST, LATER = dt.datetime(2021, 1, 1, tzinfo=dt.UTC), dt.datetime(2021, 6, 1, 12, tzinfo=dt.UTC)
KEYS = ("source", "symbol", "timestamp")


def stored(bars, *, at=FIRST, source="yahoo"):
    return bars.with_columns(source=pl.lit(source), ingested_at=pl.lit(at, pl.Datetime("us", "UTC")))


def changed(bars, rows, **changes):
    """Bars of some rows with other values, ingested later."""
    hit = pl.int_range(pl.len()).is_in(list(rows))
    return bars.filter(hit).with_columns(
        **{name: pl.col(name) * factor for name, factor in changes.items()}, ingested_at=pl.lit(LATER)
    )


def merged(bars, news):
    return pl.concat([bars.join(news, on=KEYS, how="anti"), news]).sort(KEYS)


def arrow(bars):
    return bars.select(BARS_SCHEMA.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(BARS_SCHEMA)


@pytest.fixture
def table(tmp_path):
    return LakeTable(Storage(StorageConfig(root=str(tmp_path))), "lake/bars/1d")


def test_runs_of_changed_bars_are_findings_with_what_changed_and_when_it_was_known(make_bars):
    before = stored(make_bars(1, 50))
    news = changed(before, [10, 11, 30], close=1.01, volume=2.0)
    found = find_corrections(before, merged(before, news), version=7)
    stamps = before["timestamp"]
    assert [(f.start, f.end, f.bars) for f in found] == [(stamps[10], stamps[11], 2), (stamps[30], stamps[30], 1)]
    assert {(f.check, f.known_at, f.hindsight) for f in found} == {("corrections", LATER, True)}
    assert "yahoo changed close, volume in version 7, ingested 2021-06-01 12:00" in found[0].detail
    old, new = before["close"][30], before["close"][30] * 1.01
    assert f"the close went from {old:g} to {new:g}" in found[1].detail


def test_new_bars_and_bars_that_are_gone_are_no_corrections(make_bars):
    bars = stored(make_bars(2, 50))
    assert find_corrections(bars.head(40), bars.tail(45), version=1) == ()


def test_another_source_with_other_values_corrects_nobody(make_bars):
    yahoo = stored(make_bars(3, 50))
    both = pl.concat([yahoo, stored(make_bars(4, 50), source="vendor", at=LATER)])
    assert find_corrections(yahoo, both, version=1) == ()


def test_a_volume_that_was_unknown_and_is_told_later_is_a_correction(make_bars):
    bars = stored(make_bars(5, 20, volume="null"))
    told = bars.with_columns(volume=pl.lit(5.0))
    (found,) = find_corrections(bars, told, version=1)
    assert (found.bars, "changed volume in" in found.detail) == (20, True)


def test_the_table_remembers_what_was_corrected_and_in_which_version(table, make_bars):
    first, second = (stored(make_bars(seed, 40, symbol=symbol)) for seed, symbol in ((6, "AAA"), (7, "BBB")))
    table.append(arrow(pl.concat([first.head(30), second])), partition_by=("symbol",))
    table.upsert(arrow(first.tail(10)), KEYS)  # new bars only
    corrected = table.upsert(arrow(changed(first, [3, 4], close=1.5)), KEYS)
    newest = table.upsert(arrow(changed(second, [8], open=1.1)), KEYS)
    versions = correcting_versions(table, newest.version)
    assert versions == {"AAA": [corrected.version], "BBB": [newest.version]}
    (found,) = read_corrections(table, "AAA", versions["AAA"])
    assert (found.symbol, found.start, found.bars) == ("AAA", first["timestamp"][3], 2)
    assert correcting_versions(table, corrected.version) == {"AAA": [corrected.version]}
    assert read_corrections(table, "BBB", ()) == ()


def test_versions_whose_files_are_gone_are_left_out(table, make_bars):
    from deltalake import DeltaTable

    bars = stored(make_bars(8, 30))
    table.append(arrow(bars), partition_by=("symbol",))
    version = table.upsert(arrow(changed(bars, [3], close=1.5)), KEYS).version
    DeltaTable(table.uri).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert read_corrections(table, "AAA", correcting_versions(table, version).get("AAA", ())) == ()
    assert set(VALUE_COLUMNS) <= set(table.read().columns)
