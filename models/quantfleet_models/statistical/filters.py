"""The recursions, over many windows at once. Everything starts at its long-run value, for a window knows nothing before it.

Shapes: N windows, L returns of a window, S steps ahead, P and Q orders. Parameters have one value per window, (N,) or (N, P).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["arma_forecast", "garch_forecast", "smoothed_level"]

Array = npt.NDArray[np.float64]


def arma_forecast(y_NL: Array, mean_N: Array, ar_NP: Array, ma_NQ: Array, steps: int) -> tuple[Array, Array]:
    """Expected values of the next steps, (N, S), and the weights of shocks in them (psi), (N, S).

    Source: Box and Jenkins 1970; shocks before the window are 0.
    """
    N, L = y_NL.shape
    P, Q = ar_NP.shape[1], ma_NQ.shape[1]
    values = np.concatenate([np.zeros((N, P)), y_NL - mean_N[:, None], np.zeros((N, steps))], axis=1)
    shocks = np.zeros((N, Q + L + steps))
    for t in range(L + steps):
        expected = np.einsum("np,np->n", ar_NP, values[:, t : t + P][:, ::-1])
        expected += np.einsum("nq,nq->n", ma_NQ, shocks[:, t : t + Q][:, ::-1])
        if t < L:
            shocks[:, Q + t] = values[:, P + t] - expected
        else:
            values[:, P + t] = expected
    psi = np.zeros((N, steps))
    psi[:, 0] = 1.0
    for s in range(1, steps):
        psi[:, s] = ma_NQ[:, s - 1] if s <= Q else 0.0
        for p in range(1, min(P, s) + 1):
            psi[:, s] += ar_NP[:, p - 1] * psi[:, s - p]
    return values[:, P + L :] + mean_N[:, None], psi


def smoothed_level(y_NL: Array, start_N: Array, alpha_N: Array) -> Array:
    """Level after the window, (N,): each value pulls it by alpha times its distance."""
    level = start_N.copy()
    for t in range(y_NL.shape[1]):
        level += alpha_N * (y_NL[:, t] - level)
    return level


def garch_forecast(
    y_NL: Array, mean_N: Array, omega_N: Array, alpha_N: Array, beta_N: Array, steps: int, start_N: Array
) -> Array:
    """Expected variance of each of the next steps, (N, S).

    Args:
        start_N: variance of the window's first bar.
    """
    variance = start_N.copy()
    for t in range(y_NL.shape[1]):
        variance = omega_N + alpha_N * (y_NL[:, t] - mean_N) ** 2 + beta_N * variance
    out = np.empty((len(y_NL), steps))
    for s in range(steps):
        out[:, s] = variance
        variance = omega_N + (alpha_N + beta_N) * variance
    return out
