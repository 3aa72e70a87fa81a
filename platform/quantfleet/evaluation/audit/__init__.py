"""The leakage audit: what a run holds, looked at with distrust."""

from __future__ import annotations

from quantfleet.evaluation.audit.base import AuditConfig, AuditInputs, Check, Finding, least_squares
from quantfleet.evaluation.audit.canaries import model_answers, oracle_canary, shuffled_canary
from quantfleet.evaluation.audit.looks import test_period_looks
from quantfleet.evaluation.audit.overlap import label_ends, label_overlap, segment_rows
from quantfleet.evaluation.audit.scaling import scaler_range
from quantfleet.evaluation.audit.shift import shifted_features
from quantfleet.evaluation.audit.truncation import future_truncation
from quantfleet.evaluation.audit.universe import universe

__all__ = ["CHECKS", "AuditConfig", "AuditInputs", "Finding", "audit", "least_squares"]

CHECKS: tuple[Check, ...] = (
    future_truncation,
    shifted_features,
    segment_rows,
    label_overlap,
    label_ends,
    scaler_range,
    universe,
    test_period_looks,
    oracle_canary,
    shuffled_canary,
    model_answers,
)


def audit(inputs: AuditInputs, config: AuditConfig) -> tuple[Finding, ...]:
    """Run every check. One that cannot be made says so and does not count as passed."""
    return tuple(check(inputs, config) for check in CHECKS)
