"""Many models, one yardstick: is the best of them better, and which are, when all were tried on the same data?

Shapes: T bars, K models, P p-values.

All of them resample the models together, so that models which resemble each other count for less than others do. They ask about
mean returns, not about Sharpe ratios.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.evaluation.bootstrap import optimal_block_bars

__all__ = ["Superiority", "adjusted_p_values", "confidence_set", "superiority"]

Array = npt.NDArray[np.floating[Any]]
_FEWEST_BARS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Superiority:
    """Whether any of several models earns more per bar than the yardstick."""

    reality_check_p: float
    """White's: of the best mean difference, as if every model were as good as the yardstick. Much worse models make it blunt."""
    spa_p: float
    """Hansen's, consistent: of the best studentised difference; hopeless models do not count."""
    better: tuple[str, ...]
    """Romano and Wolf's stepwise test: models that are better, with the chance of even one false name at most `size`."""
    size: float
    block_bars: float


def superiority(
    returns: Mapping[str, Array],
    yardstick_T: Array,
    *,
    seed: int,
    size: float = 0.05,
    resamples: int = 2000,
    block_bars: float | None = None,
) -> Superiority:
    """White's reality check, Hansen's SPA and Romano and Wolf's StepM against one yardstick.

    Args:
        returns: name to simple returns per bar, of the same bars as the yardstick.
        block_bars: mean block of the stationary bootstrap; None takes the longest that a difference from the yardstick asks for.
    Raises: ValueError: no models, other lengths, fewer than 16 bars, or returns that are not finite.
    Source: White (2000), Econometrica 68(5); Hansen (2005), JBES 23(4); Romano and Wolf (2005), Econometrica 73(4); by `arch`.
    """
    names, model_TK, yardstick = _checked(returns, yardstick_T)
    difference_TK = model_TK - yardstick[:, None]
    moving = np.ptp(difference_TK, axis=0) > 0.0  # a model that is the yardstick cannot be better, and has no variance
    if not moving.any():
        return Superiority(reality_check_p=1.0, spa_p=1.0, better=(), size=size, block_bars=1.0)
    from arch.bootstrap import SPA, StepM  # pulls in statsmodels, which takes a second to import

    kept = [name for name, moves in zip(names, moving, strict=True) if moves]
    block = block_bars or max(optimal_block_bars(column) for column in difference_TK[:, moving].T)
    whole = max(1, round(block))
    options: dict[str, Any] = {"block_size": whole, "reps": resamples, "bootstrap": "stationary", "seed": seed}
    losses = -yardstick, -model_TK[:, moving]
    check, spa = SPA(*losses, studentize=False, **options), SPA(*losses, studentize=True, **options)
    stepwise = StepM(*losses, size=size, studentize=True, **options)
    for test in (check, spa, stepwise):
        test.compute()
    return Superiority(
        reality_check_p=_never_zero(check.pvalues["upper"], resamples),
        spa_p=_never_zero(spa.pvalues["consistent"], resamples),
        better=tuple(kept[int(i)] for i in sorted(stepwise.superior_models)),
        size=size,
        block_bars=float(whole),
    )


def confidence_set(
    returns: Mapping[str, Array],
    *,
    seed: int,
    size: float = 0.1,
    resamples: int = 2000,
    block_bars: float | None = None,
) -> dict[str, float]:
    """Hansen's model confidence set: which models cannot be told from the best, by mean return.

    Returns: name to p-value; with confidence `1 - size` the best is among those whose p-value is above `size`.
    Raises: ValueError: fewer than two models, or as `superiority`.
    Source: Hansen, Lunde and Nason (2011), "The Model Confidence Set", Econometrica 79(2); by `arch`, method R.
    """
    if len(returns) < 2:
        raise ValueError(f"{len(returns)} model(s): a confidence set takes at least two.")
    names, model_TK, _ = _checked(returns, np.zeros(len(next(iter(returns.values())))))
    twins = {tuple(column): name for name, column in zip(reversed(names), model_TK.T[::-1], strict=True)}
    first = {name: twins[tuple(column)] for name, column in zip(names, model_TK.T, strict=True)}
    kept = [
        name for name in names if first[name] == name
    ]  # equal series share one place: their difference has no variance
    if len(kept) < 2:
        return dict.fromkeys(names, 1.0)
    from arch.bootstrap import MCS

    own_TK = model_TK[:, [names.index(name) for name in kept]]
    block = block_bars or max(optimal_block_bars(column) for column in own_TK.T)
    test = MCS(-own_TK, size=size, reps=resamples, block_size=max(1, round(block)), bootstrap="stationary", seed=seed)
    test.compute()
    values = test.pvalues["Pvalue"]
    found = {kept[int(i)]: float(values.loc[i]) for i in values.index}
    return {name: found[first[name]] for name in names}


def adjusted_p_values(p_P: Sequence[float] | Array, *, dependent: bool = False) -> npt.NDArray[np.float64]:
    """P-values to compare with a false discovery rate: rejecting those below q keeps the expected share of false names at q.

    Args:
        p_P: NaN counts as no test.
        dependent: Benjamini and Yekutieli's correction, valid under any dependence; else Benjamini and Hochberg's, for independent
            or positively dependent tests.
    Raises: ValueError: a value outside [0, 1].
    Source: Benjamini and Hochberg (1995), JRSS B 57(1); Benjamini and Yekutieli (2001), Annals of Statistics 29(4).
    """
    p = np.asarray(p_P, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    if ((p[known] < 0.0) | (p[known] > 1.0)).any():
        raise ValueError(f"p-values must lie in [0, 1]; got {p[known].min()} to {p[known].max()}.")
    count = len(known)
    order = known[np.argsort(p[known], kind="stable")]
    rank = np.arange(1, count + 1)
    weight = count * (np.sum(1.0 / rank) if dependent else 1.0)
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(np.minimum.accumulate((p[order] * weight / rank)[::-1])[::-1], 1.0)
    return adjusted


def _never_zero(p_value: float, resamples: int) -> float:
    """The observed value is one of those that chance could show."""
    return (float(p_value) * resamples + 1.0) / (resamples + 1.0)


def _checked(
    returns: Mapping[str, Array], yardstick_T: Array
) -> tuple[list[str], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    lengths = {len(series) for series in (*returns.values(), yardstick_T)}
    if not returns or len(lengths) != 1 or lengths.pop() < _FEWEST_BARS:
        raise ValueError(
            f"{len(returns)} model(s) and a yardstick of {len(yardstick_T)} bars: it takes a model, and the same bars of each, at "
            f"least {_FEWEST_BARS}."
        )
    models = np.column_stack([np.asarray(series, dtype=np.float64) for series in returns.values()])
    yardstick = np.asarray(yardstick_T, dtype=np.float64)
    if not (np.isfinite(models).all() and np.isfinite(yardstick).all()):
        raise ValueError("a return is not finite: leave a ruined account out of the comparison.")
    return list(returns), models, yardstick
