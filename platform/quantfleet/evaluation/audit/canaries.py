"""Canaries: an oracle must be found, shuffled labels must teach nothing, and answers must not be too good to be true."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import polars as pl

from quantfleet.evaluation.audit.base import AuditConfig, AuditInputs, Finding
from quantfleet.evaluation.canaries import plant_oracle, shuffle_rows
from quantfleet.evaluation.forecast import information_coefficient

__all__ = ["model_answers", "oracle_canary", "shuffled_canary"]

Doubles = npt.NDArray[np.float64]
_KEYS = ["symbol", "timestamp"]
_MOST_ROWS = 20_000
_SURE = 4.5
"""Standard errors beyond which chance is not believed."""


def _known(rows: pl.DataFrame, segment: str, columns: tuple[str, ...]) -> tuple[Doubles, Doubles]:
    """Features and outcomes of a segment, evenly thinned to what fits in memory."""
    own = rows.filter((pl.col("segment") == segment) & pl.col("outcome").is_finite()).sort("timestamp", "symbol")
    own = own.gather_every(max(1, own.height // _MOST_ROWS))
    return own.select(pl.col(c).cast(pl.Float64) for c in columns).to_numpy(), own["outcome"].cast(
        pl.Float64
    ).to_numpy()


def oracle_canary(inputs: AuditInputs, config: AuditConfig) -> Finding:
    """Plant the label table's own value as a feature: it must be the outcome the models learned, and the learner must find it.

    Labels that were moved against their features, by a bar or to another symbol, fail here.
    """
    planted = plant_oracle(inputs.rows, inputs.labels, label="outcome")
    columns = (*inputs.feature_columns, "oracle")
    (x, y), (x_test, y_test) = (_known(planted, segment, columns) for segment in ("train", "test"))
    if min(len(y), len(y_test)) < len(columns) + 2:
        return Finding(check="oracle_canary", outcome="not_checked", detail="too few rows with a known outcome")
    same = information_coefficient(x[:, -1], y)
    found = information_coefficient(inputs.learner(x, y, x_test), y_test)
    if not (same > 0.999 and found > 0.9):
        return Finding(
            check="oracle_canary",
            outcome="failed",
            detail=f"the label table correlates {same:.3f} with what the models were taught, and a learner that is given it scores "
            f"{found:.3f} on test; both must be about 1: outcomes do not stand beside the features they belong to",
            evidence={"same": same, "found": found},
        )
    return Finding(check="oracle_canary", outcome="passed", detail=f"a planted oracle is found: IC {found:.3f} on test")


def shuffled_canary(inputs: AuditInputs, config: AuditConfig) -> Finding:
    """Fit on labels in random order, many times: on average that must not forecast the test period, in either direction."""
    (x, y), (x_test, y_test) = (_known(inputs.rows, segment, inputs.feature_columns) for segment in ("train", "test"))
    if min(len(y), len(y_test)) < len(inputs.feature_columns) + 2:
        return Finding(check="shuffled_canary", outcome="not_checked", detail="too few rows with a known outcome")
    scores = np.array(
        [
            information_coefficient(
                inputs.learner(x, shuffle_rows(y[:, None], seed=[config.seed, i])[:, 0], x_test), y_test
            )
            for i in range(config.shuffles)
        ]
    )
    scores = np.nan_to_num(scores)  # a learner that answers the same for every row knows nothing
    error = max(float(scores.std(ddof=1)), 1.0 / math.sqrt(len(y_test))) / math.sqrt(len(scores))
    away = float(scores.mean()) / error
    failed = abs(away) > _SURE
    return Finding(
        check="shuffled_canary",
        outcome="failed" if failed else "passed",
        detail=f"{len(scores)} fits on shuffled labels score an IC of {scores.mean():+.4f} on test, "
        f"{away:+.1f} standard errors from 0"
        + ("; the test outcomes reach the learner some other way" if failed else ""),
        evidence={"ic": float(scores.mean()), "errors": away},
    )


def model_answers(inputs: AuditInputs, config: AuditConfig) -> Finding:
    """Every model answers for every test target, once, and none knows more than is believed."""
    test = inputs.rows.filter(pl.col("segment") == "test").select(*_KEYS, "outcome")
    worst, partial = ("", 0.0), []
    for (name,), own in inputs.answers.group_by("model"):
        both = test.join(own.with_columns(answered=pl.lit(value=True)), on=_KEYS, how="left")
        if own.height != test.height or both.height != test.height or both["answered"].null_count():
            partial.append(f"{name} ({own.height:,} of {test.height:,})")
        ic = information_coefficient(
            both["expected_return"].cast(pl.Float64).fill_null(math.nan).to_numpy(),
            both["outcome"].cast(pl.Float64).to_numpy(),
        )
        worst = max(worst, (str(name), ic), key=lambda item: abs(item[1]) if math.isfinite(item[1]) else 0.0)
    if partial:
        return Finding(
            check="model_answers",
            outcome="failed",
            detail=f"answers do not cover the test targets once each: {', '.join(sorted(partial)[:5])}; "
            "what was left out chooses the score",
            evidence={"models": float(len(partial))},
        )
    if abs(worst[1]) > config.most_ic:
        return Finding(
            check="model_answers",
            outcome="failed",
            detail=f"{worst[0]} correlates {worst[1]:+.3f} with the outcomes of the test period; beyond "
            f"{config.most_ic:g} a leak is the likelier explanation",
            evidence={"ic": worst[1]},
        )
    return Finding(
        check="model_answers",
        outcome="passed",
        detail=f"all models answer for all {test.height:,} test targets; the largest IC is {worst[1]:+.3f}",
    )
