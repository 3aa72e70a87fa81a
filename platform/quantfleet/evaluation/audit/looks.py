"""Peeking: a test period that was looked at often has become a validation period."""

from __future__ import annotations

from quantfleet.evaluation.audit.base import AuditConfig, AuditInputs, Finding

__all__ = ["test_period_looks"]


def test_period_looks(inputs: AuditInputs, config: AuditConfig) -> Finding:
    """How often different models were evaluated on this test period; the registry counts."""
    return Finding(
        check="test_period_looks",
        outcome="failed" if inputs.looks > config.most_looks else "passed",
        detail=f"the test period has been looked at {inputs.looks} time(s); {config.most_looks} are allowed",
        evidence={"looks": float(inputs.looks)},
    )


test_period_looks.__test__ = False  # type: ignore[attr-defined]  # not for pytest
