"""The quality report as data."""

import json
from dataclasses import replace

import polars as pl

from quantfleet.config import to_plain
from quantfleet.contracts import Timeframe
from quantfleet_data.quality import (
    CHECKS,
    MARKET,
    Coverage,
    CoverageRow,
    Finding,
    QualityPolicy,
    QualityReport,
    SymbolReport,
    apply_policy,
    inspect_bars,
    report_symbol,
    sketch_prices,
)

DAY = Timeframe("1d")
POLICY = QualityPolicy(calendar="continuous", ohlc="quarantine")


def report(make_bars):
    """AAA lacks a bar and has one that contradicts itself; BBB is clean."""
    row = pl.int_range(pl.len())
    bad = make_bars(1, 100).filter(row != 30).with_columns(high=pl.when(row == 50).then(0.01).otherwise("high"))
    symbols = []
    for bars in (bad, make_bars(2, 80, symbol="BBB")):
        symbols.append(report_symbol(bars, apply_policy(bars, inspect_bars(bars, POLICY, DAY), POLICY)))
    return QualityReport(timeframe="1d", symbols=tuple(symbols), policy=to_plain(POLICY)), bad


def test_a_symbol_is_summed_up_as_it_came_in_and_as_it_was_left(make_bars):
    made, bars = report(make_bars)
    first = made.symbols[0]
    assert (first.symbol, first.rows, first.rows_kept, first.rows_quarantined) == ("AAA", 99, 98, 1)
    assert (first.first, first.last) == (bars["timestamp"][0], bars["timestamp"][-1])
    assert {check: count for check, count in first.counts.items() if count} == {"gaps": 1, "ohlc": 1}
    assert list(first.counts) == list(CHECKS)
    assert first.actions == {"gaps": "keep", "ohlc": "quarantine"}
    assert made.symbols[1].findings == ()


def test_counts_and_rows_add_up_over_symbols(make_bars):
    made, _ = report(make_bars)
    assert made.rows == 179
    assert sum(made.counts.values()) == sum(len(s.findings) for s in made.symbols) == 2


def test_it_survives_being_stored(make_bars):
    made, _ = report(make_bars)
    assert QualityReport.from_json(made.to_json()) == made


def test_the_json_says_what_when_how_many_and_what_was_done(make_bars):
    made, _ = report(make_bars)
    record = json.loads(made.to_json())
    assert record["policy"]["ohlc"] == "quarantine"
    assert record["counts"]["gaps"] == 1
    assert record["symbols"][0]["findings"][0] == {
        "check": "gaps",
        "symbol": "AAA",
        "start": "2020-01-31T00:00:00+00:00",
        "end": "2020-01-31T00:00:00+00:00",
        "bars": 1,
        "detail": "1 bars missing",
        "severity": "warning",
        "action": "keep",
        "known_at": "2020-02-01T00:00:00+00:00",
        "hindsight": False,
    }


def test_findings_that_were_kept_are_counted_beyond_the_fifty_longest(make_bars):
    row = pl.int_range(pl.len())
    bars = make_bars(3, 400).filter((row % 5 != 3) & ~row.is_between(100, 101))
    result = apply_policy(bars, inspect_bars(bars, POLICY, DAY), POLICY)
    made = report_symbol(bars, result)
    assert made.counts["gaps"] == len(result.findings) == 81
    assert len(made.findings) == 50
    assert max(f.bars for f in made.findings) == max(f.bars for f in result.findings) > 1
    assert made.left_out == {"gaps": 31}
    assert SymbolReport.from_dict(made.to_dict()) == made


def test_findings_that_changed_bars_are_all_listed(make_bars):
    odd = pl.int_range(pl.len()) % 2 == 1
    bars = make_bars(4, 400).with_columns(high=pl.when(odd).then(pl.col("low") * 0.9).otherwise("high"))
    result = apply_policy(bars, inspect_bars(bars, POLICY, DAY), POLICY)
    made = report_symbol(bars, result)
    assert (len(made.findings), made.left_out) == (200, {})
    assert apply_policy(bars, made.findings, POLICY).bars.equals(result.bars)


def test_market_findings_coverage_and_prices_are_stored_too(make_bars):
    made, bars = report(make_bars)
    halt = Finding(
        check="halts",
        symbol=MARKET,
        start=bars["timestamp"][3],
        end=bars["timestamp"][4],
        bars=2,
        detail="",
        severity="warning",
    )
    row = CoverageRow(label="AAA", symbols=1, cells="54.0")
    cover = Coverage(start=bars["timestamp"][0], end=bars["timestamp"][-1], rows=(row,))
    whole = replace(made, market=(halt,), coverage=cover, prices=(sketch_prices(bars, made.symbols[0].findings),))
    assert QualityReport.from_json(whole.to_json()) == whole
    assert whole.counts["halts"] == 1


def test_an_empty_report_is_a_report():
    assert QualityReport.from_json(QualityReport(timeframe="1h", symbols=()).to_json()).rows == 0
