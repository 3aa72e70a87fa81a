"""The gates of every run. Defaults are strict: a model that cannot be told from luck is held.

Bootstrap tests raise their number of resamples so that about twenty lie in the corrected tail, up to a million; a tail
finer than that cannot be resolved and is answered conservatively.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from quantfleet.errors import ConfigError
from quantfleet.evaluation import (
    SharpeDifference,
    deflated_sharpe,
    expected_best_sharpe,
    sharpe_difference,
    sharpe_interval,
)
from quantfleet.registry.gates import Candidate, GateConfig, GateContext, GateResult, register_gate

__all__ = [
    "BeatsBaselinesGate",
    "BeatsChampionGate",
    "DeflatedSharpeGate",
    "MaxDrawdownGate",
    "MinIcGate",
    "MinSharpeGate",
    "MinTradesOrBarsGate",
    "NoLeakGate",
]

_IN_TAIL = 20
_MOST_RESAMPLES = 1_000_000


def _check_test(gate: str, confidence: float, resamples: int) -> None:
    if not 0.5 < confidence < 1.0 or resamples < 1:
        raise ConfigError(
            f"gate {gate}: confidence={confidence} must lie between 0.5 and 1, resamples={resamples} must be at "
            "least 1."
        )


def _enough(resamples: int, alpha: float) -> int:
    return max(resamples, min(_MOST_RESAMPLES, math.ceil(_IN_TAIL / alpha)))


def _shared(confidence: float, context: GateContext) -> str:
    trials = "1 trial" if context.n_trials == 1 else f"{context.n_trials} trials"
    return f"{confidence:.4g} confidence, shared among {trials}"


def _compare(
    a: Candidate, b: Candidate, context: GateContext, confidence: float, resamples: int
) -> tuple[int, SharpeDifference | None]:
    """Bars the two have in common, and the paired test over them; None when they share fewer than two."""
    shared, in_a, in_b = np.intersect1d(a.time_T, b.time_T, assume_unique=True, return_indices=True)
    if len(shared) < 2:
        return len(shared), None
    alpha = (1.0 - confidence) / context.n_trials
    return len(shared), sharpe_difference(
        a.net_return_T[in_a],
        b.net_return_T[in_b],
        bars_per_year=context.bars_per_year,
        seed=context.seed,
        confidence=confidence,
        resamples=_enough(resamples, alpha),
    )


@register_gate("no_leak")
@dataclass(frozen=True, kw_only=True, slots=True)
class NoLeakGate(GateConfig):
    """The audit found no leak in the run: what follows from one says nothing, however good it looks."""

    def check(self, candidate: Candidate, context: GateContext) -> GateResult:
        found = ", ".join(context.leaks)
        return self.result(not context.leaks, f"the audit found {found or 'no leak'}")


@register_gate("min_sharpe")
@dataclass(frozen=True, kw_only=True, slots=True)
class MinSharpeGate(GateConfig):
    """The lower confidence bound of the Sharpe ratio after costs lies above a threshold."""

    threshold: float = 0.0
    confidence: float = 0.95
    """One-sided, before it is shared among the candidates compared."""
    resamples: int = 10_000

    def __post_init__(self) -> None:
        _check_test("min_sharpe", self.confidence, self.resamples)

    def check(self, candidate: Candidate, context: GateContext) -> GateResult:
        if len(candidate.net_return_T) < 2:
            return self.result(
                False, f"{len(candidate.net_return_T)} bar(s) of returns say nothing about a Sharpe ratio"
            )
        alpha = (1.0 - self.confidence) / context.n_trials
        interval = sharpe_interval(
            candidate.net_return_T,
            bars_per_year=context.bars_per_year,
            seed=context.seed,
            confidence=1.0 - 2.0 * alpha,
            resamples=_enough(self.resamples, alpha),
        )
        return self.result(
            interval.low > self.threshold,
            f"Sharpe {interval.estimate:.2f}, lower bound {interval.low:.2f} ({_shared(self.confidence, context)}); "
            f"must be above {self.threshold:.2f}{_missing(interval.low)}",
        )


@register_gate("deflated_sharpe")
@dataclass(frozen=True, kw_only=True, slots=True)
class DeflatedSharpeGate(GateConfig):
    """The Sharpe ratio is above what the best of all trials, those of a search as well, would show by luck alone.

    Trials without skill are taken to scatter as estimates of a zero ratio over as many bars do, by 1 / sqrt(T - 1) per bar,
    and to be independent, which is the strict side: trials of one search resemble each other.
    """

    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not 0.5 < self.confidence < 1.0:
            raise ConfigError(f"gate deflated_sharpe: confidence={self.confidence} must lie between 0.5 and 1.")

    def check(self, candidate: Candidate, context: GateContext) -> GateResult:
        bars = len(candidate.net_return_T)
        if bars < 3:
            return self.result(False, f"{bars} bar(s) of returns say nothing about a Sharpe ratio")
        deviation = 1.0 / math.sqrt(bars - 1)
        chance = deflated_sharpe(candidate.net_return_T, trials=context.n_trials, deviation=deviation)
        luck = expected_best_sharpe(trials=context.n_trials, deviation=deviation) * math.sqrt(context.bars_per_year)
        trials = "1 trial" if context.n_trials == 1 else f"{context.n_trials} trials"
        return self.result(
            chance > self.confidence,
            f"deflated Sharpe ratio {chance:.3f}: the chance that {candidate.sharpe(context.bars_per_year):.2f} is above the "
            f"{luck:.2f} that the luckiest of {trials} would show; must be above {self.confidence:.4g}{_missing(chance)}",
        )


@register_gate("beats_baselines")
@dataclass(frozen=True, kw_only=True, slots=True)
class BeatsBaselinesGate(GateConfig):
    """The Sharpe ratio beats that of the best naive model in a paired test; a naive model in cash counts as 0."""

    confidence: float = 0.95
    """One-sided, before it is shared among the candidates compared."""
    resamples: int = 10_000

    def __post_init__(self) -> None:
        _check_test("beats_baselines", self.confidence, self.resamples)

    def check(self, candidate: Candidate, context: GateContext) -> GateResult:
        ratios = {b.name: 0.0 if b.in_cash else b.sharpe(context.bars_per_year) for b in context.baselines}
        scores = {name: ratio for name, ratio in ratios.items() if not math.isnan(ratio)}
        if not scores:
            return self.result(False, "no naive model with a defined Sharpe ratio was run; there is nothing to beat")
        best = max(sorted(scores), key=scores.__getitem__)
        rival = next(b for b in context.baselines if b.name == best)
        alpha = (1.0 - self.confidence) / context.n_trials
        bars, test = _compare(candidate, rival, context, self.confidence, self.resamples)
        if test is None or bars < len(candidate.time_T):
            return self.result(
                False,
                f"{best}, the best naive model, covers {bars} of the candidate's {len(candidate.time_T)} bars; it must "
                "cover all of them",
            )
        own = candidate.sharpe(context.bars_per_year)
        return self.result(
            test.p_value < alpha,
            f"Sharpe {own:.2f} against {scores[best]:.2f} of {best}, the best naive model; p = {test.p_value:.4g}, "
            f"must be below {alpha:.4g} ({_shared(self.confidence, context)})",
        )


@register_gate("beats_champion")
@dataclass(frozen=True, kw_only=True, slots=True)
class BeatsChampionGate(GateConfig):
    """The Sharpe ratio beats the champion's in a paired test on their common bars; no champion, no obstacle."""

    confidence: float = 0.95
    """One-sided, before it is shared among the candidates compared."""
    min_overlap_bars: int = 100
    resamples: int = 10_000

    def __post_init__(self) -> None:
        _check_test("beats_champion", self.confidence, self.resamples)
        if self.min_overlap_bars < 2:
            raise ConfigError(f"gate beats_champion: min_overlap_bars={self.min_overlap_bars} must be at least 2.")

    def check(self, candidate: Candidate, context: GateContext) -> GateResult:
        champion = context.champion
        if champion is None:
            return self.result(True, "there is no champion yet")
        alpha = (1.0 - self.confidence) / context.n_trials
        bars, test = _compare(candidate, champion, context, self.confidence, self.resamples)
        if test is None or bars < self.min_overlap_bars:
            return self.result(
                False,
                f"only {bars} bars in common with the champion {champion.name}; a comparison needs "
                f"{self.min_overlap_bars}",
            )
        return self.result(
            test.p_value < alpha,
            f"Sharpe {test.estimate:+.2f} above the champion {champion.name} on {bars} common bars; p = "
            f"{test.p_value:.4g}, must be below {alpha:.4g} ({_shared(self.confidence, context)})",
        )


@register_gate("max_drawdown")
@dataclass(frozen=True, kw_only=True, slots=True)
class MaxDrawdownGate(GateConfig):
    """The largest loss from a high stays within a limit."""

    limit: float = 0.35
    """Fraction: 0.35 is a loss of 35 %."""

    def __post_init__(self) -> None:
        if not 0.0 < self.limit <= 1.0:
            raise ConfigError(f"gate max_drawdown: limit={self.limit} must lie in (0, 1]; 0.35 is a loss of 35 %.")

    def check(self, candidate: Candidate, context: GateContext) -> GateResult:
        value = candidate.metrics.get("max_drawdown", math.nan)
        return self.result(
            value <= self.limit, f"maximum drawdown {value:.1%}; must be at most {self.limit:.1%}{_missing(value)}"
        )


@register_gate("min_ic")
@dataclass(frozen=True, kw_only=True, slots=True)
class MinIcGate(GateConfig):
    """The information coefficient lies above a threshold."""

    threshold: float = 0.0

    def check(self, candidate: Candidate, context: GateContext) -> GateResult:
        value = candidate.metrics.get("ic", math.nan)
        return self.result(
            value > self.threshold, f"IC {value:.4f}; must be above {self.threshold:.4f}{_missing(value)}"
        )


@register_gate("min_trades_or_bars")
@dataclass(frozen=True, kw_only=True, slots=True)
class MinTradesOrBarsGate(GateConfig):
    """There is enough to judge by: at least so many test bars and at least so many trades."""

    min_bars: int = 250
    min_trades: int = 10
    """0 does not ask for trades."""

    def __post_init__(self) -> None:
        if self.min_bars < 2 or self.min_trades < 0:
            raise ConfigError(
                f"gate min_trades_or_bars: min_bars={self.min_bars} must be at least 2 and "
                f"min_trades={self.min_trades} at least 0."
            )

    def check(self, candidate: Candidate, context: GateContext) -> GateResult:
        bars, trades = len(candidate.time_T), candidate.metrics.get("trades", math.nan)
        enough = self.min_trades == 0 or trades >= self.min_trades
        return self.result(
            bars >= self.min_bars and enough,
            f"{bars} bars and {trades:.0f} trades on the test period; needs {self.min_bars} bars and "
            f"{self.min_trades} trades",
        )


def _missing(value: float) -> str:
    return " (not computed or undefined)" if math.isnan(value) else ""
