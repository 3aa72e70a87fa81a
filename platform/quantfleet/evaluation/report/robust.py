"""Tables of how robust a result is: against chance, through the parts of the period, month by month, and what the audit found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from quantfleet.evaluation.report.charts import by_sharpe
from quantfleet.evaluation.report.inputs import ModelPage, ReportInputs
from quantfleet.evaluation.report.robust_charts import bootstrap_distribution, panels, rolling_sharpe, shown
from quantfleet.evaluation.report.text import DASH, Cell, listed, magnitude, number, percent, plural

__all__ = ["robust_section"]

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MOST_YEARS = 30
_MOST_ASSETS = 20
_GROUPS = (
    ("year", "Year"),
    ("regime", "Volatility"),
    ("crisis", "Crisis"),
    ("asset", "Asset, before costs"),
    ("stress", "Stress: the same decisions at prices that never were"),
)


@dataclass(frozen=True, slots=True)
class HeatCell:
    """A month: its return, and how strongly it is coloured."""

    text: str
    tone: str
    """up, down or none."""
    depth: int
    """Per cent of the colour, 0 to 60."""


def robust_section(inputs: ReportInputs) -> dict[str, Any]:
    """What the template needs of it."""
    best = next(iter(by_sharpe(inputs.candidates)), None)
    return {
        "rolling": rolling_sharpe(inputs),
        "distribution": bootstrap_distribution(inputs),
        "panels": panels(inputs),
        "verdict": [*_verdict(inputs), *_shift(inputs.input_shift), *_attacks(inputs)],
        "verdict_rows": _verdict_rows(inputs),
        "heat_name": None if best is None else best.name,
        "heat": [] if best is None else _heat(best),
        "months": _MONTHS,
        "parts": _parts(inputs),
        "part_names": [page.name for page in shown(inputs)],
        "audit": inputs.audit,
        "looks": inputs.looks,
    }


def _verdict(inputs: ReportInputs) -> list[str]:
    """Sentences on all candidates together."""
    found, lines = inputs.verdict, []
    if inputs.looks:
        often = "once" if inputs.looks == 1 else plural(inputs.looks, "time")
        lines.append(
            f"This test period has been looked at {often}; each look makes the best one seem better than it is."
        )
    if not found:
        return [*lines, "There are no candidates and naive models of at least 30 bars to compare."]
    test = found["superiority"]
    better = listed(list(test["better"])) if test["better"] else "no candidate"
    lines += [
        f"Against {found['yardstick']}, the best naive model, on mean returns: SPA p = {number(test['spa_p'], 3)}, reality check "
        f"p = {number(test['reality_check_p'], 3)}; StepM names {better} at {percent(test['size'], 0)}.",
        f"The period is {number(found['years'], 1)} years long: a true Sharpe ratio of 0.5 would be found in it "
        f"{percent(next(iter(found['models'].values()))['power'], 0)} of the time.",
    ]
    return lines


def _shift(found: Mapping[str, Any] | None) -> list[str]:
    """Sentences on what the models were asked about in the test period."""
    if not found:
        return []
    worst_time, worst = max(found["out_by_part"], key=lambda part: part[1])
    moved = ", ".join(f"{name} by {number(by, 1)}" for name, by in found["moved"][:3])
    where = (
        f", most of them, {percent(worst, 0)} of a tenth of the period, from {worst_time[:10]} on"
        if worst > 0.0
        else ""
    )
    return [
        f"{percent(found['out_share'])} of the test inputs are out of the training distribution (1% where nothing moved){where}.",
        f"A classifier tells unseen test inputs from training inputs with an AUC of {number(found['auc'])} (0.5 is not at all; p = "
        f"{number(found['auc_p'], 3)}). In standard deviations moved most: {moved}.",
    ]


def _attacks(inputs: ReportInputs) -> list[str]:
    """A sentence for each model that was attacked, at the middle size."""
    lines = []
    for page in inputs.candidates:
        found = page.detail.get("attacks", {})
        if found.get("turned"):
            middle = found["turned"][len(found["turned"]) // 2]
            lines.append(
                f"Attacked, {page.name}: changes of at most {number(middle['size'])} standard deviations turn "
                f"{percent(middle['pgd'], 0)} of its forecasts in the worst direction (FGSM {percent(middle['fgsm'], 0)}), and "
                f"{percent(middle['noise'], 0)} by chance."
            )
    return lines


def _verdict_rows(inputs: ReportInputs) -> list[tuple[str, list[tuple[str, Cell]]]]:
    if not inputs.verdict:
        return []
    details = {page.name: page.detail for page in inputs.models}
    return [
        (name, [*_verdict_cells(row), ("Capacity", _capacity_cell(details.get(name, {}).get("capacity")))])
        for name, row in inputs.verdict["models"].items()
    ]


def _capacity_cell(found: Mapping[str, float | None] | None) -> Cell:
    """The capital at which impact takes half of what is earned."""
    half = None if found is None else found["half"]
    if half is None:
        return Cell(DASH, "undefined: volumes are not known, or nothing was traded", missing=True)
    return Cell(magnitude(half), "capital at which the impact of its own trades takes half of what it earns")


def _verdict_cells(row: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    def years(value: float | None) -> Cell:
        return Cell("never", "its advantage is not above 0, or undefined") if value is None else Cell(number(value, 1))

    def plain(value: float | None, digits: int = 3) -> Cell:
        return Cell(number(value, digits), "" if value is not None else "undefined: returns are equal", value is None)

    factor = row["bayes_factor"]
    return [
        ("Sharpe ahead", plain(row["difference"], 2)),
        ("p", plain(row["p_value"])),
        ("p, FDR", plain(row["adjusted_p"])),
        ("Diebold-Mariano p", plain(row["diebold_mariano_p"])),
        ("Bayes factor", Cell("> 1000") if factor is not None and factor > 1000 else plain(factor, 2)),
        ("In confidence set", Cell("yes" if row["in_confidence_set"] else "no")),
        ("P(Sharpe > 0)", plain(row["probabilistic_sharpe"])),
        ("Years to tell from 0", years(row["years_to_detect"])),
        ("Years to beat it", years(row["years_to_beat"])),
    ]


def _heat(page: ModelPage) -> list[tuple[str, list[HeatCell], str]]:
    """(year, twelve months, whole year) of compounded returns."""
    monthly = (
        page.curve.group_by(year=pl.col("timestamp").dt.year(), month=pl.col("timestamp").dt.month())
        .agg(earned=(pl.col("net_return") + 1.0).product() - 1.0)
        .sort("year", "month")
    )
    known = {(int(y), int(m)): float(r) for y, m, r in monthly.iter_rows()}
    finite = [abs(r) for r in known.values() if math.isfinite(r)]
    top = float(np.quantile(finite, 0.95)) if finite else 0.0
    rows = []
    for year in sorted({y for y, _ in known})[-_MOST_YEARS:]:
        own = [known.get((year, month), math.nan) for month in range(1, 13)]
        whole = math.prod(1.0 + r for r in own if not math.isnan(r)) - 1.0
        rows.append((str(year), [_heat_cell(value, top) for value in own], percent(whole)))
    return rows


def _heat_cell(value: float, top: float) -> HeatCell:
    if math.isnan(value):
        return HeatCell("", "none", 0)
    depth = 0 if top == 0.0 else round(min(abs(value) / top, 1.0) * 60)
    return HeatCell(percent(value), "up" if value > 0.0 else "down" if value < 0.0 else "none", depth)


def _parts(inputs: ReportInputs) -> list[tuple[str, list[tuple[str, int, list[Cell]]]]]:
    """(group, rows of (part, bars, a Sharpe ratio per model)), with the return beneath it."""
    pages = shown(inputs)
    tables = []
    for group, title in _GROUPS:
        scores: dict[str, dict[str, Mapping[str, Any]]] = {}
        for page in pages:
            for row in page.detail.get("slices", ()):
                if row["group"] == group:
                    scores.setdefault(row["name"], {})[page.name] = row
        rows = [
            (name, max(row["bars"] for row in own.values()), [_part_cell(own.get(page.name)) for page in pages])
            for name, own in list(scores.items())[: _MOST_ASSETS if group == "asset" else None]
        ]
        if rows:
            tables.append((title, rows))
    return tables


def _part_cell(row: Mapping[str, Any] | None) -> Cell:
    if row is None or row["sharpe"] is None:
        return Cell("–", "undefined: too few bars, or returns that never move", missing=True)
    return Cell(number(row["sharpe"]), note=percent(row["total_return"], signed=True))
