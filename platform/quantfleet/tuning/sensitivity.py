"""Which settings matter: Sobol' indices of a function of settings, or of a surrogate of the trials of a search.

The first-order index of a setting is the share of the variance that is gone once that setting is known; the total index the share
that is left once all others are. Where the total is larger, the setting acts together with others. Settings are taken to be drawn
evenly over their ranges (on a logarithmic scale where `log` says so), independently.

Shapes: N rows, K settings, D columns of a surrogate's input (a column for each choice of a setting of choices).
Source: Saltelli et al. 2010, Computer Physics Communications 181(2):259-270, as in SALib.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantfleet.errors import ConfigError, DataError
from quantfleet.tuning.config import ParameterRange

__all__ = ["Sensitivity", "SettingIndex", "from_unit", "settings_sensitivity", "sobol_indices", "to_unit"]

Array = npt.NDArray[np.float64]
Space = Mapping[str, ParameterRange]

_MOST_TRIALS = 1000
"""A Gaussian process costs the cube of its rows: of more trials so many are drawn."""
_FOLDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingIndex:
    """One setting. Estimates of small indices may come out a little below 0."""

    name: str
    first: float
    first_low: float
    first_high: float
    """Interval: of the design's Monte Carlo error, and with a surrogate of leaving a fifth of the trials out."""
    total: float
    total_low: float
    total_high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """What was found, and of what."""

    settings: tuple[SettingIndex, ...]
    """The largest total index first."""
    evaluations: int
    """Of the function or the surrogate."""
    trials: int
    """That the surrogate was fitted on; 0 without one."""
    r2: float
    """Share of the variance of trials it has not seen that the surrogate explains, by cross-validation; NaN without one."""


def to_unit(values: Sequence[Any], of: ParameterRange, name: str) -> Array:
    """Values of a setting on [0, 1], shape (N,); a choice is the middle of its share. Raises: ConfigError: one is outside."""
    if of.choices is not None:
        for value in values:
            if value not in of.choices:
                raise _outside(name, value, of)
        return np.array([(of.choices.index(v) + 0.5) / len(of.choices) for v in values])
    low, high = _bounds(of)
    for value in values:
        if not low <= float(value) <= high:
            raise _outside(name, value, of)
    given = np.array([float(v) for v in values])
    if of.whole:  # each number has a share of the same width, as where Tune draws it
        low, high, given = (
            low - (0.0 if of.log else 0.5),
            high + (1.0 if of.log else 0.5),
            given + (0.5 if of.log else 0.0),
        )
    scaled: Array = np.log(given / low) / np.log(high / low) if of.log else (given - low) / (high - low)
    return scaled


def from_unit(unit_N: Array, of: ParameterRange) -> npt.NDArray[Any]:
    """The values that lie at places on [0, 1); the inverse of `to_unit`, rounded where the setting is."""
    if of.choices is not None:
        values = np.empty(len(of.choices), dtype=object)
        values[:] = of.choices
        return np.asarray(values[np.minimum((unit_N * len(of.choices)).astype(int), len(of.choices) - 1)])
    low, high = _bounds(of)
    if of.whole:
        first, last = (low, high + 1.0) if of.log else (low - 0.5, high + 0.5)
        places = first * (last / first) ** unit_N if of.log else first + (last - first) * unit_N
        return np.clip(np.floor(places) if of.log else np.rint(places), low, high).astype(np.int64)
    return np.asarray(low * (high / low) ** unit_N if of.log else low + (high - low) * unit_N)


def _bounds(of: ParameterRange) -> tuple[float, float]:
    assert of.low is not None
    assert of.high is not None
    return float(of.low), float(of.high)


def _outside(name: str, value: Any, of: ParameterRange) -> ConfigError:
    there = f"choices {of.choices}" if of.choices is not None else f"[{of.low}, {of.high}]"
    return ConfigError(
        f"a trial ran with {name}={value!r}, outside {there}: search.space was changed since. Put it back, or search again."
    )


def sobol_indices(
    evaluate: Callable[[Mapping[str, npt.NDArray[Any]]], Array],
    space: Space,
    *,
    base_samples: int = 1024,
    confidence: float = 0.95,
    seed: int = 7,
) -> Sensitivity:
    """Sobol' indices of a function by a Saltelli design of (K + 2) x `base_samples` rows.

    Args:
        evaluate: gets a column (N,) of values for each setting, returns (N,).
        base_samples: a power of 2.
    Raises: ConfigError: no settings, a wrong number of samples or confidence. DataError: a value is not finite, or all are alike.
    """
    design_NK, problem = _design(space, base_samples, confidence, seed)
    columns = {name: from_unit(design_NK[:, k], of) for k, (name, of) in enumerate(space.items())}
    first, total = _analysed(problem, np.asarray(evaluate(columns), dtype=np.float64), confidence, seed)
    rows = [
        _index(name, first[:, k], total[:, k], first[0, k : k + 1], total[0, k : k + 1]) for k, name in enumerate(space)
    ]
    return _ranked(rows, evaluations=len(design_NK), trials=0, r2=math.nan)


def settings_sensitivity(
    trials: Sequence[Mapping[str, Any]],
    losses: Sequence[float],
    space: Space,
    *,
    least_r2: float = 0.5,
    base_samples: int = 1024,
    confidence: float = 0.95,
    seed: int = 7,
) -> Sensitivity:
    """Sobol' indices of a Gaussian process through the trials of a search.

    Args:
        trials: settings of each, of every name in `space`; losses: what each came to; trials without a finite loss are left out.
        least_r2: of trials the surrogate has not seen it must explain this share, or nothing is concluded.
    Returns: indices of the surrogate on all trials; the intervals hold those of surrogates on four fifths of them, too.
    Raises: ConfigError: a trial lies outside the space. DataError: too few trials, all of one loss, or a
            surrogate that knows too little.
    """
    known = [n for n, loss in enumerate(losses) if math.isfinite(loss)]
    least = max(10, 3 * len(space))
    if len(known) < least:
        raise DataError(
            f"{len(known)} trials have a loss, and indices of {len(space)} settings need at least {least}: search "
            "more (search.trials)."
        )
    rng = np.random.default_rng(seed)
    if len(known) > _MOST_TRIALS:
        known = sorted(rng.choice(known, _MOST_TRIALS, replace=False).tolist())
    unit_NK = np.column_stack([to_unit([trials[n][name] for n in known], of, name) for name, of in space.items()])
    loss_N = np.array([losses[n] for n in known])
    if np.ptp(loss_N) == 0.0:
        raise DataError(f"all {len(known)} trials have the loss {loss_N[0]}: no setting explains anything.")
    x_ND = _encoded(unit_NK, space)
    fold_N = rng.permutation(len(known)) % _FOLDS
    folds = [_fitted(x_ND[fold_N != f], loss_N[fold_N != f]) for f in range(_FOLDS)]
    foretold_N = np.empty(len(known))
    for f, surrogate in enumerate(folds):
        foretold_N[fold_N == f] = surrogate.predict(x_ND[fold_N == f])
    r2 = 1.0 - float(((loss_N - foretold_N) ** 2).sum() / ((loss_N - loss_N.mean()) ** 2).sum())
    if r2 < least_r2:
        raise DataError(
            f"a surrogate of the {len(known)} trials explains {r2:.0%} of the variance of trials it has not seen (cross-validated "
            f"R2), less than {least_r2:.0%}: nothing can be concluded. Search more, fewer settings, or train each trial longer.",
            r2=r2,
        )
    design_NK, problem = _design(space, base_samples, confidence, seed)
    design_ND = _encoded(design_NK, space)
    first, total = _analysed(problem, _fitted(x_ND, loss_N).predict(design_ND), confidence, seed)
    others = [_analysed(problem, surrogate.predict(design_ND), confidence, seed) for surrogate in folds]
    rows = [
        _index(
            name,
            first[:, k],
            total[:, k],
            np.array([one[0, k] for one, _ in others]),
            np.array([all_[0, k] for _, all_ in others]),
        )
        for k, name in enumerate(space)
    ]
    return _ranked(rows, evaluations=len(design_NK), trials=len(known), r2=r2)


def _design(space: Space, base_samples: int, confidence: float, seed: int) -> tuple[Array, dict[str, Any]]:
    from SALib.sample import sobol

    if not space:
        raise ConfigError("space is empty: name at least one setting.")
    if base_samples < 2 or base_samples & (base_samples - 1):
        raise ConfigError(f"base_samples={base_samples} must be a power of 2, such as 1024.")
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence={confidence} must lie between 0 and 1.")
    problem = {"num_vars": len(space), "names": list(space), "bounds": [[0.0, 1.0]] * len(space)}
    return sobol.sample(problem, base_samples, calc_second_order=False, seed=seed), problem


def _analysed(problem: dict[str, Any], y_N: Array, confidence: float, seed: int) -> tuple[Array, Array]:
    """First-order and total indices, each (2, K): estimates and half widths."""
    from SALib.analyze import sobol

    if not np.isfinite(y_N).all():
        raise DataError(
            f"{int((~np.isfinite(y_N)).sum())} of {len(y_N)} values are not finite; indices need all of them."
        )
    if np.ptp(y_N) == 0.0:
        raise DataError(f"all {len(y_N)} values are {y_N[0]}: there is no variance to share out.")
    found = sobol.analyze(
        problem, y_N, calc_second_order=False, conf_level=confidence, seed=seed + 1
    )  # it takes 0 for none
    return np.array([found["S1"], found["S1_conf"]]), np.array([found["ST"], found["ST_conf"]])


def _index(name: str, first_2: Array, total_2: Array, firsts: Array, totals: Array) -> SettingIndex:
    def around(estimate_2: Array, others: Array) -> tuple[float, float, float]:
        middle, half = (float(x) for x in estimate_2)
        return middle, min(middle, float(others.min())) - half, max(middle, float(others.max())) + half

    first, total = around(first_2, firsts), around(total_2, totals)
    return SettingIndex(
        name=name,
        first=first[0],
        first_low=first[1],
        first_high=first[2],
        total=total[0],
        total_low=total[1],
        total_high=total[2],
    )


def _ranked(rows: Sequence[SettingIndex], **said: Any) -> Sensitivity:
    return Sensitivity(settings=tuple(sorted(rows, key=lambda row: -row.total)), **said)


def _encoded(unit_NK: Array, space: Space) -> Array:
    """Shape (N, D): places of numbers as they are, a column of 0 and 1 for each choice."""
    columns: list[Array] = []
    for k, of in enumerate(space.values()):
        if of.choices is None:
            columns.append(unit_NK[:, k : k + 1])
        else:
            chosen = np.minimum((unit_NK[:, k] * len(of.choices)).astype(int), len(of.choices) - 1)
            columns.append(np.eye(len(of.choices))[chosen])
    return np.concatenate(columns, axis=1)


def _fitted(x_ND: Array, y_N: Array) -> Any:
    """A Gaussian process with a length scale for each column, and noise: trials of the same settings differ by their seeds."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0, (1e-3, 1e3)) * RBF(np.ones(x_ND.shape[1]), (0.05, 100.0)) + WhiteKernel(
        0.1, (1e-8, 10.0)
    )
    surrogate = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # a setting without effect has no length: its bound is the right answer
        return surrogate.fit(x_ND, y_N)
