"""Data quality: findings on raw bars, a policy that acts on them, a report that says what was done."""

from quantfleet_data.quality.anomalies import find_outliers, find_thin_moves
from quantfleet_data.quality.breaks import find_breaks
from quantfleet_data.quality.checks import (
    find_contradictions,
    find_duplicates,
    find_flat_bars,
    find_gaps,
    find_stale_runs,
    find_zero_volume_runs,
)
from quantfleet_data.quality.corrections import correcting_versions, find_corrections, read_corrections
from quantfleet_data.quality.coverage import (
    Coverage,
    CoverageCount,
    CoverageRow,
    PriceSketch,
    count_bars,
    sketch_prices,
    symbols_to_sketch,
)
from quantfleet_data.quality.finding import CHECKS, MARKET, Action, Check, Finding, Severity
from quantfleet_data.quality.inspect import inspect_bars
from quantfleet_data.quality.market import MarketTimes, SymbolTimes, sum_up_times
from quantfleet_data.quality.policy import Calendar, CleanResult, QualityPolicy, apply_policy, refuse_failing
from quantfleet_data.quality.report import QualityReport, SymbolReport, report_symbol

__all__ = [
    "CHECKS",
    "MARKET",
    "Action",
    "Calendar",
    "Check",
    "CleanResult",
    "Coverage",
    "CoverageCount",
    "CoverageRow",
    "Finding",
    "MarketTimes",
    "PriceSketch",
    "QualityPolicy",
    "QualityReport",
    "Severity",
    "SymbolReport",
    "SymbolTimes",
    "apply_policy",
    "correcting_versions",
    "count_bars",
    "find_breaks",
    "find_contradictions",
    "find_corrections",
    "find_duplicates",
    "find_flat_bars",
    "find_gaps",
    "find_outliers",
    "find_stale_runs",
    "find_thin_moves",
    "find_zero_volume_runs",
    "inspect_bars",
    "read_corrections",
    "refuse_failing",
    "report_symbol",
    "sketch_prices",
    "sum_up_times",
    "symbols_to_sketch",
]
