"""The quality report as data: what every symbol's bars hold, what was found in them and what was done."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from quantfleet_data.quality.coverage import Coverage, PriceSketch
from quantfleet_data.quality.finding import CHECKS, Action, Check, Finding
from quantfleet_data.quality.policy import CleanResult

__all__ = ["QualityReport", "SymbolReport", "report_symbol"]

_MOST_LISTED = 50


@dataclass(frozen=True, kw_only=True)
class SymbolReport:
    """One symbol. Times are bar opens, UTC, of the bars as they came in."""

    symbol: str
    rows: int
    """Bars that came in."""
    rows_kept: int
    rows_quarantined: int
    first: dt.datetime
    last: dt.datetime
    findings: tuple[Finding, ...] = ()
    """All that something was done about; of those kept, the 50 longest per check."""
    left_out: Mapping[Check, int] = field(default_factory=dict)
    """How many findings that were kept are counted, but not listed."""

    @property
    def counts(self) -> dict[Check, int]:
        """Findings per check, those left out and checks without findings included."""
        listed = Counter(finding.check for finding in self.findings)
        return {check: listed[check] + self.left_out.get(check, 0) for check in CHECKS}

    @property
    def actions(self) -> dict[Check, Action | None]:
        """What was done about each check that found something."""
        return {finding.check: finding.action for finding in self.findings}

    def to_dict(self) -> dict[str, Any]:
        return {
            "symbol": self.symbol,
            "rows": self.rows,
            "rows_kept": self.rows_kept,
            "rows_quarantined": self.rows_quarantined,
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
            "counts": self.counts,
            "actions": self.actions,
            "findings": [finding.to_dict() for finding in self.findings],
            "left_out": dict(self.left_out),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> SymbolReport:
        """Read what `to_dict` wrote; counts and actions are worked out again."""
        return cls(
            symbol=record["symbol"],
            rows=record["rows"],
            rows_kept=record["rows_kept"],
            rows_quarantined=record["rows_quarantined"],
            first=dt.datetime.fromisoformat(record["first"]),
            last=dt.datetime.fromisoformat(record["last"]),
            findings=tuple(Finding.from_dict(finding) for finding in record["findings"]),
            left_out=dict(record.get("left_out", {})),
        )


@dataclass(frozen=True, kw_only=True)
class QualityReport:
    """All symbols of one table of bars."""

    timeframe: str
    symbols: tuple[SymbolReport, ...]
    policy: Mapping[str, Any] = field(default_factory=dict)
    """The policy in force, as `quantfleet.config.to_plain` gives it."""
    market: tuple[Finding, ...] = ()
    """Findings about many symbols at once, such as an exchange's halts."""
    coverage: Coverage | None = None
    prices: tuple[PriceSketch, ...] = ()
    """Of the few symbols whose findings are best seen on their prices."""

    @property
    def counts(self) -> dict[Check, int]:
        """Findings per check over all symbols and the market as a whole."""
        total = Counter(finding.check for finding in self.market)
        for symbol in self.symbols:
            total.update(symbol.counts)
        return {check: total[check] for check in CHECKS}

    @property
    def rows(self) -> int:
        return sum(symbol.rows for symbol in self.symbols)

    def to_json(self) -> str:
        record = {
            "timeframe": self.timeframe,
            "rows": self.rows,
            "counts": self.counts,
            "policy": dict(self.policy),
            "market": [finding.to_dict() for finding in self.market],
            "symbols": [symbol.to_dict() for symbol in self.symbols],
            "coverage": self.coverage and self.coverage.to_dict(),
            "prices": [sketch.to_dict() for sketch in self.prices],
        }
        return json.dumps(record, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> QualityReport:
        record = json.loads(text)
        return cls(
            timeframe=record["timeframe"],
            symbols=tuple(SymbolReport.from_dict(symbol) for symbol in record["symbols"]),
            policy=record["policy"],
            market=tuple(Finding.from_dict(finding) for finding in record.get("market", ())),
            coverage=Coverage.from_dict(record["coverage"]) if record.get("coverage") else None,
            prices=tuple(PriceSketch.from_dict(sketch) for sketch in record.get("prices", ())),
        )


def report_symbol(bars: pl.DataFrame, result: CleanResult) -> SymbolReport:
    """Sum up one symbol: its bars as they came in, and what the policy made of them."""
    listed, left_out = _listed(result.findings)
    return SymbolReport(
        symbol=bars["symbol"][0],
        rows=bars.height,
        rows_kept=result.bars.height,
        rows_quarantined=result.quarantined.height,
        first=bars["timestamp"].min(),  # type: ignore[arg-type]  # a Datetime column's minimum
        last=bars["timestamp"].max(),  # type: ignore[arg-type]
        findings=listed,
        left_out=left_out,
    )


def _listed(findings: Sequence[Finding]) -> tuple[tuple[Finding, ...], dict[Check, int]]:
    """The findings to list, in their order, and how many others there are per check.

    A finding that changes bars is needed to read them again; one that was kept is only told.
    """
    kept: dict[Check, list[Finding]] = {}
    for finding in findings:
        if finding.action in ("keep", None):
            kept.setdefault(finding.check, []).append(finding)
    dropped = {
        id(finding) for found in kept.values() for finding in sorted(found, key=lambda f: -f.bars)[_MOST_LISTED:]
    }
    left_out = {check: len(found) - _MOST_LISTED for check, found in kept.items() if len(found) > _MOST_LISTED}
    return tuple(finding for finding in findings if id(finding) not in dropped), left_out
