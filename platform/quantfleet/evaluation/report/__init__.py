"""The report of a run: one self-contained HTML file that a person understands in a minute."""

from quantfleet.evaluation.report.data import report_data
from quantfleet.evaluation.report.inputs import (
    CURVE_COLUMNS,
    FEATURE_COLUMNS,
    SEGMENTS,
    ModelPage,
    ReportInputs,
    StageRow,
)
from quantfleet.evaluation.report.render import render_quality_page, render_report

__all__ = [
    "CURVE_COLUMNS",
    "FEATURE_COLUMNS",
    "SEGMENTS",
    "ModelPage",
    "ReportInputs",
    "StageRow",
    "render_quality_page",
    "render_report",
    "report_data",
]
