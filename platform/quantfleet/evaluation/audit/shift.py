"""Shifted features: an honest edge survives a delay of one bar for the most part; a leak does not."""

from __future__ import annotations

import math

import polars as pl

from quantfleet.evaluation.audit.base import AuditConfig, AuditInputs, Finding
from quantfleet.evaluation.forecast import information_coefficient

__all__ = ["shifted_features"]

_SUSPECT = 0.5
"""Share of `most_ic` above which a feature must survive a delay."""


def shifted_features(inputs: AuditInputs, config: AuditConfig) -> Finding:
    """Correlate every feature with the outcome, as it is and one bar late, on the training rows."""
    train = inputs.rows.filter(pl.col("segment") == "train").sort("symbol", "timestamp")
    outcome = train["outcome"].to_numpy()
    found: dict[str, tuple[float, float]] = {}
    for name in inputs.feature_columns:
        late = train.select(pl.col(name).shift(1).over("symbol"))[name].cast(pl.Float64).fill_null(math.nan)
        now = information_coefficient(train[name].cast(pl.Float64).to_numpy(), outcome)
        then = information_coefficient(late.to_numpy(), outcome)
        lost = abs(now) > _SUSPECT * config.most_ic and not abs(then) > abs(now) / 2.0
        if abs(now) > config.most_ic or lost:
            found[name] = (now, then)
    if found:
        worst = max(found, key=lambda name: abs(found[name][0]))
        now, then = found[worst]
        return Finding(
            check="shifted_features",
            outcome="failed",
            detail=f"{len(found)} feature(s) know too much of what comes, or only until the next bar: {worst} correlates "
            f"{now:+.3f} with the outcome, {then:+.3f} one bar late",
            evidence={"features": float(len(found)), "ic": now, "ic_late": then},
        )
    return Finding(
        check="shifted_features",
        outcome="passed",
        detail=f"none of {len(inputs.feature_columns)} features correlates more than {config.most_ic:g} with the outcome, or loses "
        "a large correlation within a bar",
    )
