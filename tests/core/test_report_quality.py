"""The page of a table's quality: how much is there, what was found, where on the price; of one size for any table."""

import itertools
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.html_page import Page, look, open_browser, visible_text

from quantfleet.evaluation.report import render_quality_page
from quantfleet.evaluation.report.quality import CHECKS, finding_rows
from quantfleet_data.quality import CHECKS as ALL_CHECKS

HOSTILE = "<b>&\"'$x_1$</b>"
DAY_S = 86_400
START_S = 1_577_836_800  # 2020-01-01


def finding(check: str = "outliers", *, symbol: str = "AAA", day: int = 10, **changes: Any) -> dict[str, Any]:
    at = f"2020-01-{day:02d}T00:00:00+00:00"
    plain = {"check": check, "symbol": symbol, "start": at, "end": at, "bars": 1, "detail": "21 deviations"}
    return {**plain, "severity": "warning", "action": "keep", "hindsight": False, **changes}


def symbol(name: str, *findings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    times = {"first": "2020-01-01T00:00:00+00:00", "last": "2020-03-31T00:00:00+00:00"}
    plain = {"symbol": name, "rows": 91, "rows_kept": 91, "rows_quarantined": 0, "findings": list(findings)}
    return {**plain, **times, "left_out": {}, **changes}


def sketch(name: str) -> dict[str, Any]:
    times = [START_S + k * DAY_S for k in range(91)]
    low = [100.0 + k for k in range(91)]
    around = [[times[k], low[k], low[k] + 1.0, low[k] - 1.0, low[k]] for k in range(0, 25)]
    return {"symbol": name, "times": times, "low": low, "high": [x + 1.0 for x in low], "around": around}


def record(*symbols: dict[str, Any], **changes: Any) -> dict[str, Any]:
    rows = [{"label": s["symbol"], "symbols": 1, "cells": "5554301.5555"} for s in symbols]
    grid = {"start": "2020-01-01T00:00:00+00:00", "end": "2020-04-01T00:00:00+00:00", "rows": rows}
    plain = {"timeframe": "1d", "policy": {}, "symbols": list(symbols), "market": [], "coverage": grid, "prices": []}
    return {**plain, **changes}


@cache
def usual_page() -> str:
    swap = finding("token_swaps", severity="error", action="fail", hindsight=True, detail="open is 1000 times")
    halt = finding("halts", symbol="*", day=20, bars=4, detail="no bars of 9 of 9 symbols for 4 bars")
    flagged = symbol("AAA", swap, finding(), finding(day=15))
    return render_quality_page(
        record(flagged, symbol("BBB"), market=[halt], prices=[sketch("AAA")]), table="lake/bars/1d@3"
    )


def test_every_kind_of_finding_is_explained():
    assert tuple(CHECKS) == ALL_CHECKS


def test_it_is_one_file_that_asks_for_nothing():
    page = Page(usual_page())
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert all(value.startswith(("#", "data:,")) for value in page.values("href"))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_headline_counts_errors_among_findings_and_names_the_table():
    text = visible_text(usual_page())
    assert "1 error among 4 findings in 182 bars of 2 symbols." in text
    assert "By kind: outliers 2, token_swaps 1 and halts 1. 1 finding stopped the run." in text
    assert "table lake/bars/1d@3" in text


def test_a_clean_table_says_so():
    text = visible_text(render_quality_page(record(symbol("AAA")), table="t"))
    assert "No findings in 91 bars of 1 symbol." in text
    assert "✓ No findings. Every check passed on every symbol." in text


def test_findings_are_summed_up_by_kind_with_what_was_done_and_whether_later_bars_judged():
    text = visible_text(usual_page())
    assert "such as a tenth" not in text
    assert "error 1 1 AAA (1) run stopped judged with later bars" in text
    assert (
        "halts most symbols without bars or volume at once warning 1 4 all (1) kept, reported only 2020-01-20: no bars"
        in text
    )
    assert text.index("token_swaps a jump") < text.index("outliers a move")


def test_findings_that_are_only_counted_are_counted_in_the_table_too():
    gaps = symbol("AAA", finding("gaps", bars=7), left_out={"gaps": 1200})
    (row,) = finding_rows(record(gaps))
    assert (row.findings, row.bars) == ("1,201", "7+")
    assert "No errors among 1,201 findings" in visible_text(render_quality_page(record(gaps), table="t"))


def test_the_map_and_every_price_are_pictures_that_say_what_they_show():
    page = Page(usual_page())
    labels = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert len(labels) == 3  # the map for a desk and for a phone, one price
    assert labels[0].startswith(
        "Coverage of 2 symbols in 12 steps of time: 63.6% of the cells have all bars due. 1 halts"
    )
    assert labels[2] == "Prices of AAA with 3 findings marked."


def test_symbols_beyond_the_drawn_ones_are_named():
    others = [symbol(f"S{k}", finding(symbol=f"S{k}")) for k in range(3)]
    html = render_quality_page(record(symbol("AAA", finding()), *others, prices=[sketch("AAA")]), table="t")
    assert "Findings on prices, not drawn: S0 (1), S1 (1) and S2 (1)." in visible_text(html)


def test_the_page_stays_small_whatever_the_table():
    busy = "012345" * 20
    rows = [{"label": f"S{k} … S{k + 20}", "symbols": 21, "cells": busy} for k in range(48)]
    found = [finding(symbol="S1", day=1 + k % 28, severity="error", action="quarantine") for k in range(50)]
    symbols = [symbol(f"S{k}", *found) for k in range(1008)]
    large = record(*symbols, prices=[sketch(f"S{k}") for k in range(12)])
    large["coverage"]["rows"] = rows
    assert len(render_quality_page(large, table="t")) < 1_500_000


def test_hostile_names_are_escaped():
    bad = finding("splits", symbol=HOSTILE, detail=HOSTILE, severity="error")
    html = render_quality_page(record(symbol(HOSTILE, bad), prices=[sketch(HOSTILE)]), table=HOSTILE)
    assert '<b>&"' not in html
    assert Page(html).open == []


def test_equal_records_give_equal_bytes():
    one = record(symbol("AAA", finding()), prices=[sketch("AAA")])
    assert render_quality_page(one, table="t") == render_quality_page(json.loads(json.dumps(one)), table="t")


def test_prices_of_one_bar_and_of_no_change_can_be_drawn():
    single = {
        "symbol": "AAA",
        "times": [START_S],
        "low": [1.0],
        "high": [1.0],
        "around": [[START_S, 1.0, 1.0, 1.0, 1.0]],
    }
    html = render_quality_page(record(symbol("AAA", finding()), prices=[single]), table="t")
    assert "NaN" not in html


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as chromium:
        yield chromium


@pytest.mark.services
@pytest.mark.parametrize("width", [1280, 420])
def test_it_opens_in_a_browser_without_errors_requests_or_overflow(browser: Any, tmp_path: Path, width: int):
    file = tmp_path / "quality.html"
    file.write_text(usual_page(), "utf-8")
    look(browser, file, width, heading="1 error among 4 findings")
