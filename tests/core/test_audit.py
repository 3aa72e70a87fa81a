"""The audit passes a clean run and names each of twelve planted leaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from support.audited import DAY, SPLIT, clean_run, day, honest, scaled_by

from quantfleet.contracts import TimeInterval
from quantfleet.evaluation.audit import CHECKS, AuditConfig, AuditInputs, audit, least_squares

CONFIG = AuditConfig(symbols=2)


@pytest.fixture(scope="module")
def clean() -> AuditInputs:
    return clean_run()


def centred_mean(run: AuditInputs) -> AuditInputs:
    """A feature is smoothed with the bars on both sides."""

    def leaking(bars: pl.DataFrame) -> pl.DataFrame:
        both = pl.col("close") / pl.col("close").rolling_mean(11, min_samples=1, center=True) - 1.0
        return honest(bars).with_columns(mean_10=bars.select(both).to_series())

    stored = pl.concat(
        leaking(own).with_columns(symbol=pl.lit(str(name)))
        for (name,), own in run.bars.group_by("symbol", maintain_order=True)
    )
    return replace(run, recompute=leaking, stored_features=stored)


def scaled_by_its_own_future(run: AuditInputs) -> AuditInputs:
    """A feature in the table was divided by its deviation over the whole history."""
    whole = pl.col("return_1") / pl.col("return_1").std().over("symbol")
    return replace(run, stored_features=run.stored_features.with_columns(return_1=whole))


def label_as_feature(run: AuditInputs) -> AuditInputs:
    """A feature is tomorrow's move with some noise on top."""
    noise = pl.Series(np.random.default_rng(1).normal(0.0, 0.03, run.rows.height))
    return replace(run, rows=run.rows.with_columns(return_1=pl.col("outcome").fill_nan(0.0) + noise))


def no_purge(run: AuditInputs) -> AuditInputs:
    """Training goes on up to the bar before validation, whose labels reach into it."""
    wide = replace(SPLIT, train=(TimeInterval(day(0), day(210)),))
    late = run.labels.join(run.stored_features, on=["symbol", "timestamp"]).filter(
        (pl.col("timestamp") >= day(200)) & (pl.col("timestamp") < day(210))
    )
    more = late.with_columns(segment=pl.lit("train")).select(run.rows.columns)
    return replace(run, rows=pl.concat([run.rows, more]), split=wide)


def test_rows_in_training(run: AuditInputs) -> AuditInputs:
    """Some test targets are trained on as well."""
    copied = run.rows.filter(pl.col("segment") == "test").head(20).with_columns(segment=pl.lit("train"))
    return replace(run, rows=pl.concat([run.rows, copied]))


def label_known_too_early(run: AuditInputs) -> AuditInputs:
    """Labels claim to be known at the next close, so that purging does nothing."""
    return replace(run, labels=run.labels.with_columns(t_end=pl.col("timestamp") + DAY))


def scaler_fitted_on_everything(run: AuditInputs) -> AuditInputs:
    """Mean and deviation come from training, validation and test together."""
    return replace(run, moments=scaled_by(run.rows))


def survivors_only(run: AuditInputs) -> AuditInputs:
    """The symbol that was delisted is not in the data."""
    return replace(run, bars=run.bars.filter(pl.col("symbol") != "GONE"))


def test_period_used_up(run: AuditInputs) -> AuditInputs:
    """Dozens of models were tried on the same test period."""
    return replace(run, looks=40)


def labels_moved_by_a_bar(run: AuditInputs) -> AuditInputs:
    """Outcomes stand one row later than the features they belong to."""
    moved = pl.col("outcome").shift(1).over("symbol", "segment")
    return replace(run, rows=run.rows.with_columns(outcome=moved.fill_null(np.nan)))


def learner_that_has_seen_the_test(run: AuditInputs) -> AuditInputs:
    """What is fitted remembers the test outcomes, whatever labels it is given."""
    test = run.rows.filter((pl.col("segment") == "test") & pl.col("outcome").is_finite()).sort("timestamp", "symbol")
    memory = test["outcome"].to_numpy()
    return replace(run, learner=lambda x, y, ask: least_squares(x, y, ask) + 0.2 * memory)


def answers_too_good(run: AuditInputs) -> AuditInputs:
    """A model's test answers hold half of the truth."""
    truth = run.rows.filter(pl.col("segment") == "test")["outcome"].fill_nan(0.0)
    noise = pl.Series(np.random.default_rng(2).normal(0.0, 0.1, len(truth)))
    return replace(run, answers=run.answers.with_columns(expected_return=truth + noise))


def losers_left_out(run: AuditInputs) -> AuditInputs:
    """A model answers only where it was right."""
    test = run.rows.filter(pl.col("segment") == "test").select("symbol", "timestamp", "outcome")
    right = run.answers.join(test, on=["symbol", "timestamp"]).filter(pl.col("expected_return") * pl.col("outcome") > 0)
    return replace(run, answers=right.drop("outcome"))


for _leak in (test_rows_in_training, test_period_used_up):
    _leak.__test__ = False  # type: ignore[attr-defined]

PLANTED: dict[str, tuple[Callable[[AuditInputs], AuditInputs], str]] = {
    "a feature smoothed with later bars": (centred_mean, "future_truncation"),
    "a feature scaled by its own future": (scaled_by_its_own_future, "future_truncation"),
    "a feature that is the label": (label_as_feature, "shifted_features"),
    "training labels that reach into validation": (no_purge, "label_overlap"),
    "test rows among the training rows": (test_rows_in_training, "segment_rows"),
    "labels that claim to be known too early": (label_known_too_early, "label_ends"),
    "a scaler fitted on everything": (scaler_fitted_on_everything, "scaler_range"),
    "a universe of survivors": (survivors_only, "universe"),
    "a test period that is used up": (test_period_used_up, "test_period_looks"),
    "labels moved against their features": (labels_moved_by_a_bar, "oracle_canary"),
    "a learner that has seen the test": (learner_that_has_seen_the_test, "shuffled_canary"),
    "answers that are too good": (answers_too_good, "model_answers"),
    "answers without the losers": (losers_left_out, "model_answers"),
}


def test_a_clean_run_passes_every_check(clean: AuditInputs):
    findings = audit(clean, CONFIG)
    assert {finding.check: finding.outcome for finding in findings} == {check.__name__: "passed" for check in CHECKS}, (
        findings
    )
    assert all(finding.detail for finding in findings)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_leak_is_caught_by_the_check_that_is_for_it(clean: AuditInputs, name: str):
    plant, check = PLANTED[name]
    failed = {finding.check: finding.detail for finding in audit(plant(clean), CONFIG) if finding.outcome == "failed"}
    assert check in failed, failed


def test_ten_kinds_of_leak_are_planted_and_every_check_has_one():
    assert len(PLANTED) >= 10
    assert {check for _, check in PLANTED.values()} == {check.__name__ for check in CHECKS}


def test_without_a_list_of_instruments_survivorship_is_not_said_to_be_fine(clean: AuditInputs):
    (finding,) = [f for f in audit(replace(clean, instruments=None), CONFIG) if f.check == "universe"]
    assert finding.outcome == "not_checked"


def test_bars_outside_a_listing_are_found(clean: AuditInputs):
    assert clean.instruments is not None
    late = clean.instruments.with_columns(listed_at=pl.lit(day(10)).cast(pl.Datetime("us", "UTC")))
    (finding,) = [f for f in audit(replace(clean, instruments=late), CONFIG) if f.check == "universe"]
    assert (finding.outcome, finding.evidence["stray_bars"]) == ("failed", 40.0)


def test_what_cannot_be_checked_says_so(clean: AuditInputs):
    nothing = replace(
        clean, cut_bars={}, rows=clean.rows.filter(pl.col("segment") != "test"), moments=scaled_by(clean.rows)
    )
    outcome = {finding.check: finding.outcome for finding in audit(nothing, CONFIG)}
    assert outcome["future_truncation"] == outcome["oracle_canary"] == outcome["shuffled_canary"] == "not_checked"
