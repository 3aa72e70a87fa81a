"""Promotion gates: pure decisions over what candidates earned on the untouched test period. No I/O.

A gate looks at one candidate and says passed or not, with values and thresholds in plain words. A candidate is promoted
only if every gate passes and no other candidate that passes is better. Naive models are the yardstick: never promoted.
Whatever is not a number never passes.

Many looks at one test period find winners by luck, so every test shares its error among the candidates compared
(Bonferroni): with `n_trials` candidates at 95 % confidence each one is tested at 5 % / n_trials.
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.errors import ConfigError, RegistryError
from quantfleet.evaluation import sharpe
from quantfleet.plugins import PluginConfig, PluginRegistry

__all__ = [
    "GATES",
    "Candidate",
    "Decision",
    "GateConfig",
    "GateContext",
    "GateResult",
    "Verdict",
    "decide",
    "decide_all",
    "register_gate",
]

Array = npt.NDArray[np.float64]


class Verdict(enum.StrEnum):
    """What happens to the alias: PROMOTE moves it, HOLD leaves it."""

    PROMOTE = "PROMOTE"
    HOLD = "HOLD"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A model as the gates see it. Raises: RegistryError: returns and times do not fit, or times do not rise."""

    name: str
    kind: str
    baseline: bool
    """True for naive models."""
    metrics: Mapping[str, float]
    """What `evaluate_model` returned on the test period."""
    net_return_T: Array
    """Simple return per bar after costs over the test period."""
    time_T: npt.NDArray[np.datetime64]
    """The bars' open times, UTC, strictly rising."""

    def __post_init__(self) -> None:
        if self.net_return_T.ndim != 1 or self.net_return_T.shape != self.time_T.shape:
            raise RegistryError(
                f"{self.name}: {self.net_return_T.shape} returns and {self.time_T.shape} times do not fit each other."
            )
        if (np.diff(self.time_T.astype("datetime64[us]").astype(np.int64)) <= 0).any():
            raise RegistryError(f"{self.name}: the times of its returns do not rise strictly; sort them, one per bar.")

    @property
    def in_cash(self) -> bool:
        """True when it earned exactly nothing in every bar: it never held a position."""
        return bool((self.net_return_T == 0.0).all())

    def sharpe(self, bars_per_year: float) -> float:
        """Annualised Sharpe ratio over its whole period; NaN when undefined or fewer than two bars."""
        return sharpe(self.net_return_T, bars_per_year=bars_per_year) if len(self.net_return_T) > 1 else float("nan")


@dataclass(frozen=True, kw_only=True, slots=True)
class GateContext:
    """What a candidate is judged against. Raises: ConfigError: fewer than one trial, or bars_per_year not positive."""

    candidates: tuple[Candidate, ...]
    """Every model of the run that is not naive."""
    baselines: tuple[Candidate, ...]
    """The naive models, over the same test period."""
    champion: Candidate | None
    """The model behind the alias now, scored on the same data; None when there is none."""
    n_trials: int
    """How many candidates were compared on this test period, for the correction; at least those listed here."""
    leaks: tuple[str, ...]
    """Checks of the audit that failed on the run."""
    bars_per_year: float
    seed: int

    def __post_init__(self) -> None:
        if self.n_trials < max(1, len(self.candidates)):
            raise ConfigError(
                f"gates: n_trials={self.n_trials} is below the {max(1, len(self.candidates))} candidate(s) compared; "
                "counting fewer trials than were made would let luck through."
            )
        if not self.bars_per_year > 0:
            raise ConfigError(f"gates: bars_per_year={self.bars_per_year} must be above 0; 252 for daily equities.")


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """One gate's answer about one candidate."""

    gate: str
    passed: bool
    reason: str
    """Plain words with the value and the threshold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The verdict on one candidate, with the answer of every gate."""

    name: str
    verdict: Verdict
    reasons: tuple[GateResult, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GateConfig(PluginConfig):
    """Base config of every gate. Pure: the same candidate, context and config give the same answer."""

    @abstractmethod
    def check(self, candidate: Candidate, context: GateContext) -> GateResult:
        """Judge one candidate. A value that is NaN does not pass."""

    def result(self, passed: Any, reason: str) -> GateResult:
        """An answer in this gate's name; anything but a true comparison does not pass."""
        return GateResult(gate=self.kind, passed=bool(passed), reason=reason)


GATES: PluginRegistry[GateConfig] = PluginRegistry("gate", GateConfig, command="gates")
register_gate = GATES.register


def decide(candidate: Candidate, context: GateContext, gates: Sequence[GateConfig]) -> Decision:
    """Judge one candidate by all gates, whatever the others earned.

    Returns: PROMOTE when every gate passes. A naive model is held without being tested.
    Raises: ConfigError: no gates; nothing is promoted untested.
    """
    if not gates:
        raise ConfigError("no gates are configured: nothing may be promoted untested. List at least one under `gates`.")
    if candidate.baseline:
        reason = "a naive model is what others must beat; it is never promoted"
        held = GateResult(gate="baseline", passed=False, reason=reason)
        return Decision(name=candidate.name, verdict=Verdict.HOLD, reasons=(held,))
    results = tuple(gate.check(candidate, context) for gate in gates)
    verdict = Verdict.PROMOTE if all(result.passed for result in results) else Verdict.HOLD
    return Decision(name=candidate.name, verdict=verdict, reasons=results)


def decide_all(context: GateContext, gates: Sequence[GateConfig]) -> dict[str, Decision]:
    """Judge every candidate and baseline; at most one is promoted: the best Sharpe ratio of those that pass.

    Returns: a decision per name, candidates first. Those that pass but are not the best are held, with the reason.
    Raises: ConfigError: no gates, or two models of one name.
    """
    models = (*context.candidates, *context.baselines)
    names = [model.name for model in models]
    if len(set(names)) != len(names):
        raise ConfigError(f"two models of one name cannot be told apart in a decision: {', '.join(sorted(names))}.")
    decisions = {model.name: decide(model, context, gates) for model in models}
    ratios = {
        model.name: model.sharpe(context.bars_per_year)
        for model in models
        if decisions[model.name].verdict is Verdict.PROMOTE
    }
    # An undefined ratio ranks last; equal ones go by name, so that a re-run decides alike.
    ranking = sorted(ratios, key=lambda name: (-np.nan_to_num(ratios[name], nan=-np.inf), name))
    for name in ranking[1:]:
        best = ranking[0]
        reason = f"passed every gate, but {best} is better: Sharpe {ratios[name]:.2f} against {ratios[best]:.2f}"
        lost = GateResult(gate="best_of_passed", passed=False, reason=reason)
        decisions[name] = Decision(name=name, verdict=Verdict.HOLD, reasons=(*decisions[name].reasons, lost))
    return decisions
