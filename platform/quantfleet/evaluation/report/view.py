"""What the page says: sentences and table rows, worked out from the inputs. No markup, no pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from ruamel.yaml import YAML

from quantfleet.evaluation.report.charts import best_epoch, by_sharpe
from quantfleet.evaluation.report.inputs import SEGMENTS, ModelPage, ReportInputs
from quantfleet.evaluation.report.text import (
    DASH,
    Cell,
    as_time,
    count,
    duration,
    listed,
    moment,
    number,
    percent,
    plural,
)

__all__ = [
    "DecisionRow",
    "FeatureRow",
    "Headline",
    "Tile",
    "always_up",
    "config_text",
    "decision_rows",
    "feature_rows",
    "gate_summary",
    "headline",
    "segment_rows",
    "tiles",
    "training_rows",
]

_UNDEFINED = {
    "sharpe": "undefined: all returns are equal, as when no position is ever taken",
    "sharpe_low": "undefined: all returns are equal, as when no position is ever taken",
    "sharpe_high": "undefined: all returns are equal, as when no position is ever taken",
    "ic": "undefined: the forecast never changes, or there is none",
    "directional_accuracy": "undefined: it never called up or down",
}


@dataclass(frozen=True, slots=True)
class Headline:
    """What was decided."""

    verdict: str
    """PROMOTE or HOLD: how it is coloured."""
    sentence: str
    detail: str


@dataclass(frozen=True, slots=True)
class Tile:
    """One fact beside the headline."""

    label: str
    value: str
    details: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A model in the decision table."""

    anchor: str
    name: str
    kind: str
    baseline: bool
    benchmark: bool
    verdict: str
    cells: tuple[tuple[str, Cell], ...]
    """(column, value), in the order of the columns."""
    reason: str
    more: int
    """Failed gates beyond the one in `reason`."""


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A feature; `bar` is its IC as a share of the largest."""

    name: str
    lookback: str
    source: str
    mean: Cell
    std: Cell
    missing: Cell
    ic: Cell
    bar: float


# --- decision ---------------------------------------------------------------------------------------------------------


def headline(inputs: ReportInputs) -> Headline:
    """The decision in one sentence, and in another why."""
    candidates = by_sharpe(inputs.candidates)
    promoted = [page for page in candidates if page.verdict == "PROMOTE"]
    if promoted:
        held = len(candidates) - len(promoted)
        names = listed([page.name for page in promoted])
        rest = f" {plural(held, 'other candidate')} {'was' if held == 1 else 'were'} held." if held else ""
        return Headline("PROMOTE", f"PROMOTED {names}.", f"It {gate_summary(promoted[0])}.{rest}")
    if not candidates:
        detail = "They are the yardstick for others and are never promoted themselves."
        return Headline("HOLD", "Nothing was promoted: this run has naive models only.", detail)
    whom = f"the only candidate, {candidates[0].name}" if len(candidates) == 1 else f"all {len(candidates)} candidates"
    closest = max(candidates, key=lambda page: sum(passed for _, passed, _ in page.reasons))
    failed = _failed(closest)
    detail = "No gate was asked about any of them."
    if failed:
        subject = "It" if len(candidates) == 1 else f"Closest was {closest.name}, which"
        detail = f"{subject} {gate_summary(closest)} and failed {failed[0][0]}: {failed[0][1]}."
    return Headline("HOLD", f"Nothing was promoted: HOLD for {whom}.", detail)


def gate_summary(page: ModelPage) -> str:
    """ "passed 4 of 6 gates"."""
    passed = sum(ok for _, ok, _ in page.reasons)
    if page.reasons and passed == len(page.reasons):
        return f"passed all {plural(passed, 'gate')}" if passed > 1 else "passed its only gate"
    return f"passed {passed} of {plural(len(page.reasons), 'gate')}"


def tiles(inputs: ReportInputs) -> list[Tile]:
    """The facts that a reader compares the decision with."""
    benchmark = inputs.benchmark_page
    best = by_sharpe(inputs.candidates)[:1]
    shown = [Tile("Best candidate", best[0].name, _scores(best[0]))] if best else []
    symbols = [str(symbol.get("symbol", "")) for symbol in inputs.quality.get("symbols", ())]
    times = benchmark.curve["timestamp"]
    timeframe = f" of {inputs.quality['timeframe']}" if "timeframe" in inputs.quality else ""
    naive = len(inputs.models) - len(inputs.candidates)
    return [
        *shown,
        Tile("To beat", benchmark.name, _scores(benchmark)),
        Tile(
            "Test period",
            f"{moment(times[0])} to {moment(times[-1])}",
            (f"{plural(benchmark.curve.height, 'bar')}{timeframe}", "after costs, out of sample"),
        ),
        Tile(
            "Data",
            listed(symbols, most=3) if symbols else DASH,
            (f"{plural(len(inputs.candidates), 'candidate')} compared", f"with {plural(naive, 'naive model')}"),
        ),
    ]


def decision_rows(inputs: ReportInputs) -> list[DecisionRow]:
    """One row per model, best Sharpe ratio first."""
    rows = []
    for page in by_sharpe(inputs.models):
        failed = _failed(page)
        if page.baseline:
            reason, more = "naive: a yardstick, never promoted", 0
        elif page.verdict == "PROMOTE" or not failed:
            reason, more = gate_summary(page), 0
        else:
            reason, more = f"{failed[0][0]}: {failed[0][1]}", len(failed) - 1
        rows.append(
            DecisionRow(
                anchor=f"why-{inputs.models.index(page)}",
                name=page.name,
                kind=page.kind,
                baseline=page.baseline,
                benchmark=page.name == inputs.benchmark,
                verdict=page.verdict,
                cells=_metric_cells(page, inputs.confidence),
                reason=reason,
                more=more,
            )
        )
    return rows


def _metric_cells(page: ModelPage, confidence: float) -> tuple[tuple[str, Cell], ...]:
    metrics = page.metrics
    low, high = (number(metrics.get(key)) for key in ("sharpe_low", "sharpe_high"))
    sharpe = _cell(metrics, "sharpe", number)
    if not sharpe.missing:
        sharpe = Cell(sharpe.text, f"{percent(confidence, 0)} bootstrap interval in brackets", note=f"[{low}, {high}]")
    called = metrics.get("call_share", math.nan)
    title = f"share of right calls; it called up or down in {percent(called)} of the rows"
    accuracy = _cell(metrics, "directional_accuracy", percent)
    if not accuracy.missing:
        accuracy = Cell(accuracy.text, title)
    return (
        ("Sharpe after costs", sharpe),
        ("Total return", _cell(metrics, "total_return", lambda v: percent(v, signed=True))),
        ("Max drawdown", _cell(metrics, "max_drawdown", lambda v: percent(-v if v else v))),
        ("Turnover per year", _cell(metrics, "turnover_per_year", lambda v: f"{number(v, 1)}×")),
        ("IC", _cell(metrics, "ic", lambda v: number(v, 3, signed=True))),
        ("Direction right", accuracy),
    )


def _cell(metrics: Mapping[str, float], key: str, show: Any) -> Cell:
    value = metrics.get(key)
    if value is None:
        return Cell(DASH, f"{key} was not computed", missing=True)
    if math.isnan(value):
        return Cell(DASH, _UNDEFINED.get(key, f"{key} is undefined for this model"), missing=True)
    return Cell(show(value))


def always_up(inputs: ReportInputs) -> str:
    """What calls of direction must be compared with; empty when unknown."""
    share = inputs.benchmark_page.metrics.get("up_share", math.nan)
    return "" if math.isnan(share) else f" Always calling up would be right {percent(share)} of the time."


def _scores(page: ModelPage) -> tuple[str, str]:
    metrics = page.metrics
    sharpe, low, high = (number(metrics.get(key)) for key in ("sharpe", "sharpe_low", "sharpe_high"))
    ratio = f"Sharpe {sharpe}" if sharpe == DASH else f"Sharpe {sharpe} [{low}, {high}]"
    return ratio, f"total return {percent(metrics.get('total_return'), signed=True)}"


def _failed(page: ModelPage) -> list[tuple[str, str]]:
    return [(gate, reason) for gate, passed, reason in page.reasons if not passed]


# --- training ---------------------------------------------------------------------------------------------------------


def training_rows(inputs: ReportInputs) -> list[tuple[str, ...]]:
    """(name, kind, parameters, fit time, epochs, best epoch, validation loss there)."""
    rows: list[tuple[str, ...]] = []
    for page in inputs.models:
        best = best_epoch(page.learning_curve)
        rows.append(
            (
                page.name,
                page.kind,
                count(page.parameters) if page.parameters else DASH,
                duration(page.fit_seconds),
                count(len(page.learning_curve)) if page.learning_curve else DASH,
                DASH if best is None else count(best[0]),
                DASH if best is None else number(best[1], 4),
            )
        )
    return rows


# --- data -------------------------------------------------------------------------------------------------------------


def feature_rows(features: pl.DataFrame) -> list[FeatureRow]:
    """Every feature, the largest absolute IC first."""
    records = features.to_dicts()

    def strength(record: Mapping[str, Any]) -> float:
        value = record["ic_train"]
        return -1.0 if value is None or math.isnan(value) else abs(value)

    records.sort(key=lambda record: (-strength(record), str(record["feature"])))
    largest = max((strength(record) for record in records), default=0.0)
    return [
        FeatureRow(
            name=str(record["feature"]),
            lookback=count(record["lookback_bars"]),
            source=str(record["source"]),
            mean=_statistic(record["mean"]),
            std=_statistic(record["std"]),
            missing=_known(record["missing_share"], percent(record["missing_share"])),
            ic=_known(record["ic_train"], number(record["ic_train"], 3, signed=True)),
            bar=record["ic_train"] / largest if largest > 0.0 and strength(record) >= 0.0 else 0.0,
        )
        for record in records
    ]


def _statistic(value: float | None) -> Cell:
    """Four significant digits, whatever the size."""
    if value is None or not math.isfinite(value) or value == 0.0:
        return _known(value, number(value, 0))
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return Cell(number(value, digits) if digits <= 6 else f"{value:.2e}".replace("-", "−"))


def _known(value: float | None, text: str) -> Cell:
    missing = value is None or math.isnan(value)
    return Cell(text, "undefined: no values, or they are all equal" if missing else "", missing)


def segment_rows(inputs: ReportInputs) -> list[tuple[str, str, str, str]]:
    """(segment, from, until, days)."""
    rows = []
    for name in SEGMENTS:
        start, end = (as_time(bound) for bound in inputs.split[name])
        days = (end - start).total_seconds() / 86_400 if start and end else math.nan
        rows.append((name, moment(start), moment(end), number(days, 0 if days >= 10 else 1)))
    return rows


def config_text(config: Mapping[str, Any]) -> str:
    """The config as YAML, in its own order."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # annotated as None
    yaml.width = 110
    text = io.StringIO()
    yaml.dump(_bare(config), text)
    return text.getvalue()


def _bare(value: Any) -> Any:
    """Dicts, lists and scalars only; whatever else there is, as its text."""
    if isinstance(value, Mapping):
        return {str(key): _bare(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_bare(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
