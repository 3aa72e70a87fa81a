"""What the report says about the data: findings by kind, coverage, prices with marks. Plain data in, no markup out.

The input is the quality report as plain data (`QualityReport.to_json`): timeframe, rows, policy, symbols, market,
coverage and prices. Whatever is missing is left out of the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from quantfleet.evaluation.report.charts import MOST_ROWS
from quantfleet.evaluation.report.quality_charts import coverage_map, price_chart
from quantfleet.evaluation.report.svg import Chart
from quantfleet.evaluation.report.text import DASH, as_time, listed, moment, percent, plural
from quantfleet.evaluation.report.timelines import quality_timeline

__all__ = [
    "CHECKS",
    "ON_PRICES",
    "FindingRow",
    "PriceFigure",
    "QualitySection",
    "finding_rows",
    "page_headline",
    "page_tiles",
    "quality_section",
]

CHECKS = {
    "gaps": "bars missing between the first and the last",
    "duplicates": "more than one bar of the same time",
    "ohlc": "high, low, open and close contradict each other",
    "stale": "the same prices, bar after bar",
    "zero_volume": "bars without volume",
    "flat": "one price for open, high, low and close, though traded",
    "outliers": "a move far outside the usual",
    "thin_moves": "a price doubled or halved where hardly anybody trades",
    "splits": "a jump by a whole multiple, as an unadjusted split makes",
    "token_swaps": "a jump by a hundred or more, as a coin's renaming in new units makes",
    "bad_ticks": "a few bars at another scale than their neighbours, such as a tenth",
    "half_adjusted": "the source adjusts for a split that its prices do not show",
    "reused_tickers": "another asset under the same name",
    "corrections": "bars changed after they had been written",
    "halts": "most symbols without bars or volume at once",
}
ON_PRICES = (
    "token_swaps", "reused_tickers", "splits", "bad_ticks", "half_adjusted", "corrections", "thin_moves", "outliers", "ohlc",
)  # fmt: skip
"""Checks whose findings are marked on prices."""
_ACTIONS = {
    "keep": "kept, reported only",
    "repair": "repaired",
    "quarantine": "moved out of the table",
    "fail": "run stopped",
}
_SEVERITIES = ("error", "warning", "info")
_MARKET = "*"
_MOST_NAMED = 200
_MOST_SAID = 3


@dataclass(frozen=True, slots=True)
class FindingRow:
    """All findings of one check, severity and action."""

    check: str
    meaning: str
    severity: str
    findings: str
    bars: str
    symbols: str
    action: str
    example: str
    hindsight: bool
    """Whether later bars took part in the judgement of any of them."""


@dataclass(frozen=True, slots=True)
class PriceFigure:
    """One symbol's prices with its findings."""

    symbol: str
    chart: Markup
    said: tuple[str, ...]
    """The gravest findings in words."""
    more: int


@dataclass(frozen=True, slots=True)
class QualitySection:
    """Everything the quality part of a page shows."""

    inspected: bool
    findings: Sequence[FindingRow]
    coverage: Chart | None
    """A heat map, or for reports without cell counts a bar per symbol."""
    is_map: bool
    prices: Sequence[PriceFigure]
    also_flagged: str
    """Symbols whose prices have findings too, and are not drawn."""
    symbols: Sequence[Mapping[str, Any]]
    symbols_left_out: int


def quality_section(record: Mapping[str, Any]) -> QualitySection:
    """Work out the quality part of a page from a quality report; empty when none was made."""
    symbols = sorted(
        record.get("symbols", ()), key=lambda s: (-_found(s), -len(s.get("findings", ())), str(s.get("symbol", "")))
    )
    drawable = [s for s in symbols if as_time(s.get("first")) and as_time(s.get("last"))]
    grid = record.get("coverage")
    chart = None
    if grid:
        chart = coverage_map(grid, symbols, record.get("market", ()))
    elif drawable:
        chart = quality_timeline(drawable, len(symbols))
    prices = _price_figures(record)
    drawn = {figure.symbol for figure in prices}
    others = {
        str(s.get("symbol", "")): n for s in symbols if (n := len(_on_prices(s))) and s.get("symbol") not in drawn
    }
    return QualitySection(
        inspected=bool(symbols),
        findings=finding_rows(record),
        coverage=chart,
        is_map=bool(grid),
        prices=prices,
        also_flagged=listed([f"{name}\u00a0({n:,})" for name, n in others.items()], most=_MOST_NAMED) if others else "",
        symbols=symbols[:MOST_ROWS],
        symbols_left_out=len(symbols) - len(symbols[:MOST_ROWS]),
    )


def finding_rows(record: Mapping[str, Any]) -> list[FindingRow]:
    """Findings summed up by check, severity and action, the gravest first."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for finding in _findings(record):
        key = tuple(str(finding.get(name) or DASH) for name in ("severity", "check", "action"))
        groups.setdefault((key[0], key[1], key[2]), []).append(finding)
    unlisted: Counter[str] = Counter()
    for symbol in record.get("symbols", ()):
        unlisted.update(symbol.get("left_out", {}))

    def rank(key: tuple[str, str, str]) -> tuple[int, str, str]:
        return (_SEVERITIES.index(key[0]) if key[0] in _SEVERITIES else len(_SEVERITIES), key[1], key[2])

    rows = []
    for severity, check, action in sorted(groups, key=rank):
        found = groups[severity, check, action]
        most = max(found, key=lambda finding: finding.get("bars", 0))
        per_symbol = Counter("all" if f.get("symbol") == _MARKET else str(f.get("symbol", "")) for f in found)
        more = unlisted.pop(check, 0) if action in ("keep", DASH) else 0
        name = f"{most.get('symbol', '')}, " if most.get("symbol") != _MARKET else ""
        rows.append(
            FindingRow(
                check=check,
                meaning=CHECKS.get(check, ""),
                severity=severity,
                findings=f"{len(found) + more:,}",
                bars=f"{sum(int(finding.get('bars', 0)) for finding in found):,}{'+' if more else ''}",
                symbols=listed([f"{symbol}\u00a0({n:,})" for symbol, n in per_symbol.most_common()], most=3),
                action=_ACTIONS.get(action, action),
                example=f"{name}{moment(most.get('start'))}: {most.get('detail', '')}",
                hindsight=any(finding.get("hindsight") for finding in found),
            )
        )
    return rows


def page_headline(record: Mapping[str, Any]) -> tuple[str, str, str]:
    """(sentence, what it rests on, verdict for its colour) at the top of a table's own page."""
    symbols, market = record.get("symbols", ()), record.get("market", ())
    found = sum(_found(symbol) for symbol in symbols) + len(market)
    errors = sum(f.get("severity") == "error" for f in _findings(record))
    stopped = sum(f.get("action") == "fail" for f in _findings(record))
    what = f"{plural(sum(int(s.get('rows', 0)) for s in symbols), 'bar')} of {plural(len(symbols), 'symbol')}"
    if not found:
        return f"No findings in {what}.", "Every check passed on every symbol.", "promote"
    counts = Counter(str(f.get("check", "")) for f in _findings(record))
    for symbol in symbols:
        counts.update(symbol.get("left_out", {}))
    told = f"By kind: {listed([f'{check} {n:,}' for check, n in counts.most_common()], most=len(CHECKS))}."
    if errors:
        sentence = f"{plural(errors, 'error')} among {plural(found, 'finding')} in {what}."
    else:
        sentence = f"No errors among {plural(found, 'finding')} in {what}."
    stop = f" {plural(stopped, 'finding')} stopped the run." if stopped else ""
    return sentence, told + stop, "hold" if errors else "promote"


def page_tiles(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(label, value, detail) of the facts beside the headline."""
    symbols = record.get("symbols", ())
    rows, out = (sum(int(s.get(name, 0)) for s in symbols) for name in ("rows", "rows_quarantined"))
    times = [(as_time(s.get("first")), as_time(s.get("last"))) for s in symbols]
    first = min((a for a, _ in times if a), default=None)
    last = max((b for _, b in times if b), default=None)
    halts = [f for f in record.get("market", ()) if f.get("check") == "halts"]
    return [
        ("Table", str(record.get("timeframe", DASH)), f"{plural(rows, 'bar')} of {plural(len(symbols), 'symbol')}"),
        ("Period", f"{moment(first)} to {moment(last)}", "UTC, opens of the first and the last bar"),
        ("Moved out", plural(out, "bar"), f"{percent(out / rows if rows else None, 2)} of all"),
        ("Halts", plural(len(halts), "halt"), "common to most symbols"),
    ]


def _findings(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for symbol in record.get("symbols", ()):
        yield from symbol.get("findings", ())
    yield from record.get("market", ())


def _found(symbol: Mapping[str, Any]) -> int:
    """Findings of a symbol, those included that are counted and not listed."""
    return len(symbol.get("findings", ())) + sum(int(n) for n in symbol.get("left_out", {}).values())


def _on_prices(symbol: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Findings that belong on prices, the most telling first."""
    found = [f for f in symbol.get("findings", ()) if f.get("check") in ON_PRICES]
    return sorted(found, key=lambda f: (ON_PRICES.index(f["check"]), str(f.get("start"))))


def _price_figures(record: Mapping[str, Any]) -> list[PriceFigure]:
    own = {str(s.get("symbol", "")): s for s in record.get("symbols", ())}
    figures = []
    for number, sketch in enumerate(record.get("prices", ())):
        name = str(sketch["symbol"])
        found = _on_prices(own.get(name, {}))
        said = tuple(f"{f['check']}, {moment(f.get('start'))}: {f.get('detail', '')}" for f in found[:_MOST_SAID])
        chart = price_chart(sketch, found, f"price-{number}")
        figures.append(PriceFigure(symbol=name, chart=chart, said=said, more=len(found) - len(said)))
    return figures
