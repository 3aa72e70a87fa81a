"""Gates promote what cannot be luck, at most one model, and say in plain words why."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from quantfleet.errors import ConfigError, RegistryError
from quantfleet.evaluation import sharpe_interval
from quantfleet.registry import (
    GATES,
    BeatsBaselinesGate,
    BeatsChampionGate,
    Candidate,
    DeflatedSharpeGate,
    GateConfig,
    GateContext,
    GateResult,
    MaxDrawdownGate,
    MinIcGate,
    MinSharpeGate,
    MinTradesOrBarsGate,
    NoLeakGate,
    Verdict,
    decide,
    decide_all,
)

BARS = 750
MARKET = np.random.default_rng(0).normal(0.0002, 0.01, BARS)
GOOD_METRICS = {"ic": 0.05, "max_drawdown": 0.1, "trades": 100.0}


def days(count: int = BARS, start: str = "2018-01-01") -> np.ndarray:
    return np.datetime64(start, "us") + np.arange(count) * np.timedelta64(1, "D")


def model(name: str, returns: np.ndarray, *, baseline: bool = False, **metrics: float) -> Candidate:
    return Candidate(
        name=name,
        kind="naive" if baseline else "hybrid",
        baseline=baseline,
        metrics={**GOOD_METRICS, **metrics},
        net_return_T=returns,
        time_T=days(len(returns)),
    )


def skilled(name: str = "skilled", edge: float = 0.003, seed: int = 1, **metrics: float) -> Candidate:
    """The market plus an edge per bar that is large against its own noise."""
    return model(name, MARKET + edge + np.random.default_rng(seed).normal(0.0, 0.002, BARS), **metrics)


HOLD_THE_MARKET = model("buy_and_hold", MARKET, baseline=True)
CASH = model("zero", np.zeros(BARS), baseline=True)


def context(*candidates: Candidate, **options: object) -> GateContext:
    defaults: dict[str, object] = {
        "candidates": candidates,
        "baselines": (HOLD_THE_MARKET, CASH),
        "champion": None,
        "n_trials": max(1, len(candidates)),
        "leaks": (),
        "bars_per_year": 252,
        "seed": 0,
    }
    return GateContext(**{**defaults, **options})  # type: ignore[arg-type]


ALL_GATES: tuple[GateConfig, ...] = (
    MinTradesOrBarsGate(),
    MinSharpeGate(resamples=1000),
    MaxDrawdownGate(),
    MinIcGate(),
    BeatsBaselinesGate(resamples=1000),
    BeatsChampionGate(resamples=1000),
)


# --- one gate at a time


def test_the_builtin_gates_are_registered_under_their_names():
    names = {
        "min_sharpe",
        "beats_baselines",
        "max_drawdown",
        "min_ic",
        "beats_champion",
        "min_trades_or_bars",
        "no_leak",
    }
    assert names <= set(GATES.names())


def test_min_sharpe_asks_for_the_lower_bound_and_not_for_the_estimate():
    lucky = model("lucky", MARKET - MARKET.mean() + 0.05 * MARKET.std(ddof=1))
    result = MinSharpeGate(resamples=1000).check(lucky, context(lucky))
    assert not result.passed
    assert result.reason.startswith("Sharpe 0.79, lower bound -")
    assert "must be above 0.00" in result.reason
    assert MinSharpeGate(resamples=1000).check(skilled(), context(skilled())).passed


def test_the_same_returns_pass_alone_and_fail_among_many_trials():
    returns = np.random.default_rng(5).normal(0.0, 0.01, BARS)
    middling = model("middling", returns - returns.mean() + 2.0 * 0.01 / math.sqrt(BARS))  # two standard errors
    alone = MinSharpeGate().check(middling, context(middling))
    among = MinSharpeGate().check(middling, context(middling, n_trials=100))
    assert alone.passed
    assert not among.passed
    assert "shared among 100 trials" in among.reason


def test_the_lower_bound_is_one_sided_at_the_shared_confidence():
    candidate = model("m", MARKET)
    gate = MinSharpeGate(confidence=0.95, resamples=2000)
    for trials, two_sided in ((1, 0.90), (5, 0.98)):
        interval = sharpe_interval(MARKET, bars_per_year=252, seed=0, confidence=two_sided, resamples=2000)
        assert f"lower bound {interval.low:.2f} (" in gate.check(candidate, context(candidate, n_trials=trials)).reason


def test_a_flat_or_broken_return_series_never_passes_min_sharpe():
    holed = MARKET.copy()
    holed[3] = math.nan
    for returns in (np.zeros(BARS), holed, np.array([0.1])):
        candidate = model("odd", returns)
        assert not MinSharpeGate(threshold=-100.0, resamples=100).check(candidate, context(candidate)).passed


def test_beating_the_market_takes_more_than_being_the_market():
    copy = model("copy", MARKET + np.random.default_rng(3).normal(0.0, 0.001, BARS))
    assert not BeatsBaselinesGate(resamples=1000).check(copy, context(copy)).passed
    assert BeatsBaselinesGate(resamples=1000).check(skilled(), context(skilled())).passed


def test_paired_tests_share_their_error_among_the_trials_too():
    noise = np.random.default_rng(11).normal(0.0, 0.004, BARS)
    candidate = model("m", MARKET + noise - noise.mean() + 0.00035)
    champion = model("champ", MARKET)
    for gate in (BeatsBaselinesGate(resamples=2000), BeatsChampionGate(resamples=2000)):
        alone = gate.check(candidate, context(candidate, champion=champion, baselines=(HOLD_THE_MARKET,)))
        among = gate.check(candidate, context(candidate, champion=champion, baselines=(HOLD_THE_MARKET,), n_trials=50))
        assert alone.passed
        assert not among.passed
        assert "must be below 0.001 (" in among.reason


def test_the_best_naive_model_is_the_one_to_beat_and_cash_counts_as_zero():
    falling = model("falling", MARKET - 0.003, baseline=True)
    rising = model("rising", MARKET + 0.003, baseline=True)
    candidate = skilled(edge=0.0005)
    with_falling = BeatsBaselinesGate(resamples=200).check(candidate, context(candidate, baselines=(falling, CASH)))
    with_rising = BeatsBaselinesGate(resamples=200).check(candidate, context(candidate, baselines=(falling, rising)))
    assert "0.00 of zero, the best naive model" in with_falling.reason
    assert "of rising, the best naive model" in with_rising.reason
    assert not with_rising.passed


def test_a_candidate_with_an_edge_beats_cash():
    candidate = skilled()
    assert BeatsBaselinesGate(resamples=1000).check(candidate, context(candidate, baselines=(CASH,))).passed


def test_without_a_naive_model_there_is_nothing_to_beat_and_nothing_passes():
    result = BeatsBaselinesGate().check(skilled(), context(skilled(), baselines=()))
    assert not result.passed
    assert "nothing to beat" in result.reason


def test_a_naive_model_over_another_period_does_not_count():
    short = model("buy_and_hold", MARKET[:700], baseline=True)
    result = BeatsBaselinesGate(resamples=100).check(skilled(), context(skilled(), baselines=(short,)))
    assert not result.passed
    assert "covers 700 of the candidate's 750 bars" in result.reason


def test_a_candidate_in_cash_beats_nobody():
    idle = model("idle", np.zeros(BARS))
    falling = model("falling", MARKET - 0.003, baseline=True)
    assert not BeatsBaselinesGate(resamples=100).check(idle, context(idle, baselines=(falling,))).passed


def test_beats_champion_passes_when_there_is_none_and_says_so():
    result = BeatsChampionGate().check(skilled(), context(skilled()))
    assert result.passed
    assert result.reason == "there is no champion yet"


def test_beats_champion_compares_on_the_bars_both_have():
    candidate = skilled()
    champion = replace(model("champ", MARKET[200:]), time_T=days()[200:])
    result = BeatsChampionGate(resamples=1000).check(candidate, context(candidate, champion=champion))
    assert result.passed
    assert "champion champ on 550 common bars" in result.reason
    same = BeatsChampionGate(resamples=1000).check(candidate, context(candidate, champion=candidate))
    assert not same.passed


@pytest.mark.parametrize("overlap", [0, 1, 99])
def test_too_short_an_overlap_with_the_champion_is_a_hold(overlap: int):
    candidate = skilled()
    champion = replace(model("champ", MARKET), time_T=days() + np.timedelta64(BARS - overlap, "D"))
    result = BeatsChampionGate(min_overlap_bars=100).check(candidate, context(candidate, champion=champion))
    assert not result.passed
    assert f"only {overlap} bars in common" in result.reason


def test_max_drawdown_and_min_ic_hold_at_their_limits():
    at = model("at", MARKET, max_drawdown=0.35, ic=0.02)
    assert MaxDrawdownGate(limit=0.35).check(at, context(at)).passed
    assert not MaxDrawdownGate(limit=0.34).check(at, context(at)).passed
    assert not MinIcGate(threshold=0.02).check(at, context(at)).passed
    assert MinIcGate(threshold=0.019).check(at, context(at)).passed
    assert MaxDrawdownGate(limit=0.34).check(at, context(at)).reason == "maximum drawdown 35.0%; must be at most 34.0%"


@pytest.mark.parametrize("gate", [MaxDrawdownGate(), MinIcGate(threshold=-1.0), MinTradesOrBarsGate()])
def test_a_metric_that_is_nan_or_missing_never_passes(gate: GateConfig):
    broken = model("broken", MARKET, ic=math.nan, max_drawdown=math.nan, trades=math.nan)
    bare = replace(broken, metrics={})
    assert not gate.check(broken, context(broken)).passed
    assert not gate.check(bare, context(bare)).passed


def test_too_few_bars_or_trades_say_too_little():
    gate = MinTradesOrBarsGate(min_bars=250, min_trades=10)
    assert gate.check(model("ok", MARKET[:250], trades=10.0), context()).passed
    assert not gate.check(model("short", MARKET[:249], trades=10.0), context()).passed
    assert not gate.check(model("idle", MARKET[:250], trades=9.0), context()).passed
    assert MinTradesOrBarsGate(min_trades=0).check(model("holder", MARKET, trades=math.nan), context()).passed


@pytest.mark.parametrize(
    ("gate", "options"),
    [
        (MinSharpeGate, {"confidence": 0.5}),
        (BeatsBaselinesGate, {"confidence": 1.0}),
        (BeatsChampionGate, {"resamples": 0}),
        (BeatsChampionGate, {"min_overlap_bars": 1}),
        (MaxDrawdownGate, {"limit": 0.0}),
        (MaxDrawdownGate, {"limit": 35.0}),
        (MinTradesOrBarsGate, {"min_bars": 1}),
    ],
)
def test_a_gate_out_of_range_is_a_config_error_in_its_name(gate: type[GateConfig], options: dict[str, float]):
    with pytest.raises(ConfigError, match=f"gate {gate.kind}: .*{next(iter(options))}="):
        gate(**options)


# --- decisions


def test_a_model_that_passes_everything_is_promoted_with_every_reason():
    decision = decide(skilled(), context(skilled()), ALL_GATES)
    assert decision.verdict is Verdict.PROMOTE
    assert [r.gate for r in decision.reasons] == [gate.kind for gate in ALL_GATES]
    assert all(r.passed and r.reason for r in decision.reasons)


def test_one_gate_that_fails_is_a_hold_and_the_others_still_say_theirs():
    deep = skilled(max_drawdown=0.9)
    decision = decide(deep, context(deep), ALL_GATES)
    assert decision.verdict is Verdict.HOLD
    assert [r.gate for r in decision.reasons if not r.passed] == ["max_drawdown"]
    assert len(decision.reasons) == len(ALL_GATES)


def test_a_naive_model_is_never_promoted_however_well_it_did():
    star = model("star", MARKET + 0.01, baseline=True)
    decision = decide(star, context(baselines=(star,)), (MaxDrawdownGate(),))
    assert decision.verdict is Verdict.HOLD
    assert [r.gate for r in decision.reasons] == ["baseline"]


def test_at_most_one_is_promoted_the_best_by_sharpe():
    better, good, poor = skilled("better", 0.004), skilled("good", 0.003, seed=2), model("poor", MARKET)
    decisions = decide_all(context(good, better, poor), ALL_GATES)
    assert list(decisions) == ["good", "better", "poor", "buy_and_hold", "zero"]
    assert {name for name, d in decisions.items() if d.verdict is Verdict.PROMOTE} == {"better"}
    lost = decisions["good"].reasons[-1]
    assert (lost.gate, lost.passed) == ("best_of_passed", False)
    assert lost.reason.startswith("passed every gate, but better is better: Sharpe ")
    assert decisions["poor"].reasons[-1].gate != "best_of_passed"


def test_equal_candidates_are_told_apart_by_name_so_that_a_rerun_decides_alike():
    twins = [replace(skilled(), name=name) for name in ("b", "a")]
    for order in (twins, twins[::-1]):
        decisions = decide_all(context(*order), (MaxDrawdownGate(),))
        assert decisions["a"].verdict is Verdict.PROMOTE
        assert decisions["b"].verdict is Verdict.HOLD


def test_a_candidate_without_a_sharpe_ratio_loses_to_any_that_has_one():
    idle, held = model("a_idle", np.zeros(BARS)), model("b_held", -np.abs(MARKET))
    decisions = decide_all(context(idle, held), (MaxDrawdownGate(),))
    assert decisions["b_held"].verdict is Verdict.PROMOTE


def test_among_models_without_skill_luck_is_promoted_far_less_often_than_without_the_correction():
    rng = np.random.default_rng(7)
    gates = (MinSharpeGate(confidence=0.9, resamples=100),)
    families = corrected = uncorrected = 0
    for _ in range(25):
        noise = [model(f"m{i}", rng.normal(0.0, 0.01, 100)) for i in range(5)]
        families += 1
        decisions = decide_all(context(*noise), gates)
        corrected += any(d.verdict is Verdict.PROMOTE for d in decisions.values())
        uncorrected += any(decide(m, context(m), gates).verdict is Verdict.PROMOTE for m in noise)
    assert corrected / families < 0.25  # 10 % promised, give or take
    assert uncorrected / families > 0.30  # 1 - 0.9^5 is 41 %


def test_a_decision_is_the_same_when_it_is_taken_again():
    at = context(skilled(), model("poor", MARKET))
    assert decide_all(at, ALL_GATES) == decide_all(at, ALL_GATES)


def test_nothing_is_promoted_untested():
    with pytest.raises(ConfigError, match="nothing may be promoted untested"):
        decide_all(context(skilled()), ())


def test_two_models_of_one_name_cannot_be_decided():
    with pytest.raises(ConfigError, match="two models of one name"):
        decide_all(context(skilled(), skilled()), ALL_GATES)


def test_fewer_trials_than_candidates_are_refused():
    with pytest.raises(ConfigError, match=r"n_trials=1 is below the 2 candidate\(s\)"):
        context(skilled("a"), skilled("b"), n_trials=1)


def test_bars_per_year_must_be_positive():
    with pytest.raises(ConfigError, match="bars_per_year=0"):
        context(skilled(), bars_per_year=0)


def test_returns_and_times_of_a_candidate_must_fit():
    with pytest.raises(RegistryError, match="do not fit"):
        replace(skilled(), time_T=days(10))
    with pytest.raises(RegistryError, match="do not rise"):
        replace(skilled(), time_T=days()[::-1])


def test_a_gate_of_ones_own_is_a_frozen_config_that_checks():
    @dataclass(frozen=True, kw_only=True, slots=True)
    class NamedGate(GateConfig):
        """Passes models with a certain first letter."""

        letter: str = "s"

        def check(self, candidate: Candidate, context: GateContext) -> GateResult:
            return self.result(candidate.name.startswith(self.letter), f"name {candidate.name}")

    assert decide(skilled(), context(skilled()), (NamedGate(),)).verdict is Verdict.PROMOTE
    assert decide(skilled(), context(skilled()), (NamedGate(letter="x"),)).verdict is Verdict.HOLD


# --- many trials


def test_a_ratio_that_one_trial_may_claim_is_luck_when_a_search_tried_a_thousand():
    lucky = model("lucky", np.random.default_rng(11).normal(0.0, 0.01, BARS) + 0.0011)
    gate = DeflatedSharpeGate()
    assert gate.check(lucky, context(lucky)).passed
    held = gate.check(lucky, context(lucky, n_trials=1000))
    assert not held.passed
    assert "luckiest of 1000 trials" in held.reason


def test_the_deflated_ratio_of_a_model_in_cash_does_not_pass():
    assert not DeflatedSharpeGate().check(model("idle", np.zeros(BARS)), context()).passed
    with pytest.raises(ConfigError, match=r"confidence=0\.2"):
        DeflatedSharpeGate(confidence=0.2)


def test_a_leak_in_the_run_keeps_the_best_of_candidates_from_promotion():
    best = skilled()
    gates = (NoLeakGate(), *ALL_GATES)
    assert decide(best, context(best), gates).verdict is Verdict.PROMOTE
    held = decide(best, context(best, leaks=("future_truncation", "scaler_range")), gates)
    assert held.verdict is Verdict.HOLD
    (reason,) = [r for r in held.reasons if not r.passed]
    assert (reason.gate, reason.reason) == ("no_leak", "the audit found future_truncation, scaler_range")
