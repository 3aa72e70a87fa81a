"""The decision table as data: what each model earned, what was decided, and the first reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from quantfleet.storage import Storage
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.record import StageRecord

__all__ = ["DecisionRow", "decision_rows"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionRow:
    """One model."""

    name: str
    verdict: str
    baseline: bool
    metrics: Mapping[str, float]
    why: tuple[str, ...]
    """Reasons of the gates it failed; of all gates when it passed."""


def decision_rows(recipe: Recipe, done: Mapping[str, StageRecord]) -> list[DecisionRow]:
    """Candidates first, best Sharpe ratio first."""
    storage = Storage(recipe.storage)
    decisions = json.loads(storage.read_text(str(done["register"].outputs["decisions"])))
    rows = []
    for model in recipe.models:
        scores = json.loads(storage.read_text(str(done["evaluate"].outputs["models"][model.label])))["test"]
        decision = decisions[model.label]
        failed = [r["reason"] for r in decision["reasons"] if not r["passed"]]
        why = tuple(failed) if failed else tuple(r["reason"] for r in decision["reasons"])
        metrics = {k: math.nan if v is None else float(v) for k, v in scores.items()}
        rows.append(
            DecisionRow(
                name=model.label, verdict=decision["verdict"], baseline=model.baseline, metrics=metrics, why=why
            )
        )

    def rank(row: DecisionRow) -> tuple[bool, float]:
        sharpe = row.metrics.get("sharpe", math.nan)
        return row.baseline, math.inf if math.isnan(sharpe) else -sharpe

    return sorted(rows, key=rank)
