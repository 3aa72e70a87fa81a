"""Quality of a whole table of bars: every symbol inspected by a task of its own, a report, a page to look at.

Memory: a task holds one symbol's history; the driver holds counts, findings, at most one entry per time at which anything
traded, and the few symbols that are drawn.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import polars as pl

from quantfleet.config import fingerprint, to_plain
from quantfleet.contracts import BAR_COLUMNS, Timeframe
from quantfleet.errors import EmptyTableError, QualityError
from quantfleet.storage import LakeTable, Storage, TableVersion
from quantfleet_data.ingest import bars_path, list_symbols, read_bars
from quantfleet_data.instruments import adjust_forward, read_actions
from quantfleet_data.per_symbol import Run, on_ray
from quantfleet_data.quality import (
    CHECKS,
    CleanResult,
    CoverageCount,
    Finding,
    MarketTimes,
    QualityPolicy,
    QualityReport,
    SymbolReport,
    SymbolTimes,
    apply_policy,
    correcting_versions,
    count_bars,
    inspect_bars,
    read_corrections,
    refuse_failing,
    report_symbol,
    sketch_prices,
    sum_up_times,
    symbols_to_sketch,
)

__all__ = ["CheckedBars", "inspect_table", "quality_page"]


@dataclass(frozen=True, kw_only=True)
class CheckedBars:
    """Bars of one table version as the quality report left them: the bars every later stage reads.

    Nothing is copied: the report's decisions are applied as bars are read.
    """

    storage: Storage
    timeframe: str
    version: int
    report: str
    """Path of the quality report under the storage root."""
    policy: QualityPolicy
    source_priority: tuple[str, ...] = ()
    actions: TableVersion | None = None
    """Corporate actions that the bars are adjusted for as they are read; None: bars as ingested."""
    dividends: bool = False
    """Whether cash dividends are among them."""

    @property
    def table(self) -> LakeTable:
        return LakeTable(self.storage, bars_path(self.timeframe))

    @property
    def page(self) -> str:
        """Path of the report as a page, beside the report."""
        return str(PurePosixPath(self.report).with_suffix(".html"))

    @property
    def symbols(self) -> tuple[str, ...]:
        return list_symbols(self.storage, self.timeframe, self.version)

    @property
    def fingerprint(self) -> str:
        adjusted = () if self.actions is None else (str(self.actions), self.dividends)
        return fingerprint(
            bars_path(self.timeframe), self.version, self.report, self.policy, self.source_priority, *adjusted
        )

    def read(self, symbol: str) -> pl.DataFrame:
        """BAR_COLUMNS of one symbol, sorted by time, repaired and without quarantined bars, then adjusted for `actions`."""
        bars = apply_policy(self.read_raw(symbol), self.findings(symbol), self.policy).bars.select(BAR_COLUMNS)
        if self.actions is None or bars.is_empty():
            return bars
        own = _actions(self.storage, self.actions).filter(pl.col("symbol") == symbol)
        return bars if own.is_empty() else adjust_forward(bars, own, dividends=self.dividends)

    def findings(self, symbol: str) -> tuple[Finding, ...]:
        """What the report says of a symbol."""
        return _report(self.storage, self.report)[symbol].findings

    def read_raw(self, symbol: str) -> pl.DataFrame:
        """BAR_COLUMNS and the optional columns that the table has, as ingested."""
        return read_bars(
            self.storage, self.timeframe, self.version, (symbol,), source_priority=self.source_priority, optional=True
        )

    def read_times(self, symbol: str) -> SymbolTimes:
        """When a symbol has bars, of whatever source: two columns are read."""
        times = self.table.read(self.version, columns=["symbol", "timestamp", "volume"], symbols=(symbol,))
        return sum_up_times(times.sort("timestamp"), Timeframe(self.timeframe))


@functools.lru_cache(maxsize=2)
def _actions(storage: Storage, version: TableVersion) -> pl.DataFrame:
    return read_actions(storage, version)


@functools.lru_cache(maxsize=4)
def _report(storage: Storage, path: str) -> dict[str, SymbolReport]:
    report = QualityReport.from_json(storage.read_text(path))
    return {symbol.symbol: symbol for symbol in report.symbols}


def inspect_table(bars: CheckedBars, *, run: Run = on_ray) -> QualityReport:
    """Inspect every symbol and the market as a whole, decide by the policy, write the report and its page.

    The table is read twice, first for its times alone: what is due and what an exchange's halt is, many symbols tell together.

    Args:
        run: where the work is done, a task per symbol.
    Raises:
        QualityError: findings whose policy is `fail`. Report and page are written all the same, to be looked at.
        EmptyTableError: the table holds no bars.
    """
    timeframe, policy, symbols = Timeframe(bars.timeframe), bars.policy, bars.symbols
    if not symbols:
        raise EmptyTableError(f"{bars.table.uri} holds no bars.")
    market = MarketTimes(timeframe)
    for times in run(_read_times, symbols, bars):
        market.add(times)
    coverage = CoverageCount(symbols, market.first, market.last, timeframe)
    continuous = policy.calendar == "continuous"
    task = _Inspection(
        bars=bars,
        union=None if continuous else market.union(),
        closed=policy.closed_from(timeframe),
        edges=coverage.edges,
        corrected={symbol: tuple(seen) for symbol, seen in correcting_versions(bars.table, bars.version).items()},
    )
    reports, failures = [], []
    for text, failure, counts in run(_inspect, symbols, task):
        reports.append(SymbolReport.from_dict(json.loads(text)))
        coverage.add(reports[-1].symbol, *counts)
        failures += [failure] * bool(failure)
    reports.sort(key=lambda report: report.symbol)
    halts = market.halts(continuous=continuous, share=policy.halt_share, symbols=policy.halt_symbols)
    try:
        refuse_failing(halts, policy)
    except QualityError as error:
        failures.append(error.message)
    found = {report.symbol: report.findings for report in reports}
    report = QualityReport(
        timeframe=bars.timeframe,
        symbols=tuple(reports),
        policy=to_plain(policy),
        market=tuple(replace(finding, action=policy.halts) for finding in halts),
        coverage=coverage.finish(),
        prices=tuple(sketch_prices(bars.read_raw(name), found[name]) for name in symbols_to_sketch(found)),
    )
    bars.storage.write_text(bars.report, report.to_json())
    quality_page(bars)
    if failures:
        raise QualityError(
            f"{failures[0]} {len(failures)} of {len(symbols)} symbols fail. The report: {bars.storage.uri(bars.report)}; "
            f"to look at: {bars.storage.uri(bars.page)}"
        )
    return report


def quality_page(bars: CheckedBars) -> str:
    """Write the quality report as one HTML file that needs nothing else: coverage, findings, marks on the prices.

    Returns: its path under the storage root.
    Raises: MissingInputError: the bars were not inspected yet.
    """
    from quantfleet.evaluation.report import render_quality_page  # matplotlib takes half a second to import

    record = json.loads(bars.storage.read_text(bars.report))
    html = render_quality_page(record, table=f"{bars_path(bars.timeframe)}@{bars.version}")
    bars.storage.write_text(bars.page, html)
    return bars.page


@dataclass(frozen=True, kw_only=True)
class _Inspection:
    """What the inspection of one symbol needs of the others."""

    bars: CheckedBars
    union: pl.Series | None
    closed: dt.timedelta | None
    edges: Any
    corrected: dict[str, tuple[int, ...]]


def _read_times(symbol: str, bars: CheckedBars) -> SymbolTimes:
    return bars.read_times(symbol)


def _inspect(symbol: str, task: _Inspection) -> tuple[str, str, tuple[Any, Any]]:
    """(report as JSON, message of what fails, counts of bars per bin)."""
    bars, timeframe = task.bars, Timeframe(task.bars.timeframe)
    raw = bars.read_raw(symbol)
    findings = (
        *inspect_bars(raw, bars.policy, timeframe, union=task.union),
        *read_corrections(bars.table, symbol, task.corrected.get(symbol, ())),
    )
    findings = tuple(sorted(findings, key=lambda finding: (CHECKS.index(finding.check), finding.start)))
    failure = ""
    try:
        result = apply_policy(raw, findings, bars.policy)
    except QualityError as error:
        result, failure = CleanResult(bars=raw, quarantined=raw.clear(), findings=findings), error.message
    union = task.union if bars.policy.calendar == "union" else None
    counts = count_bars(raw["timestamp"], task.edges, timeframe, union, task.closed)
    return json.dumps(report_symbol(raw, result).to_dict()), failure, counts
