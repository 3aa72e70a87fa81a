"""The report as plain data: what the page says, for programs."""

from __future__ import annotations

from typing import Any

from quantfleet.evaluation.plain import json_ready
from quantfleet.evaluation.report.inputs import ReportInputs
from quantfleet.evaluation.report.view import headline

__all__ = ["report_data"]


def report_data(inputs: ReportInputs) -> Any:
    """Decision, scores, reasons, verdict, input shift, parts, costs, delays and audit of a report; what is not known is null.

    Curves and features are left out: they are tables of the run.
    """
    said = headline(inputs)
    return json_ready(
        {
            "run": inputs.run_name,
            "created_utc": inputs.created_utc.isoformat(),
            "version": inputs.version,
            "decision": {"verdict": said.verdict, "sentence": said.sentence, "detail": said.detail},
            "benchmark": inputs.benchmark,
            "split": {name: [start.isoformat(), end.isoformat()] for name, (start, end) in inputs.split.items()},
            "data_versions": dict(inputs.data_versions),
            "models": [
                {
                    "name": page.name,
                    "kind": page.kind,
                    "baseline": page.baseline,
                    "verdict": page.verdict,
                    "reasons": [{"gate": g, "passed": p, "reason": r} for g, p, r in page.reasons],
                    "metrics": dict(page.metrics),
                    "detail": dict(page.detail),
                }
                for page in inputs.models
            ],
            "together": inputs.verdict,
            "input_shift": inputs.input_shift,
            "test_looks": inputs.looks,
            "audit": list(inputs.audit),
            "notes": list(inputs.notes),
            "config": dict(inputs.config),
        }
    )
