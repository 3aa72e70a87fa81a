"""How little must inputs change until a forecast changes its sign? Attacks on differentiable models.

Shapes: N rows, ... the shape of an input, such as (L, F) standardised features.

An attacker with the gradients is the worst case: data errors and noise are kinder. What matters is how much easier one model is to
turn than another, at sizes that data errors have (a tenth of a standard deviation, say).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Attack", "AttackConfig", "Resistance", "Turned", "carlini_wagner", "fgsm", "pgd", "resistance"]

Forecast = Callable[["Tensor"], "Tensor"]
"""Inputs (N, ...) to one forecast each, (N,), differentiable, with nothing random in it: a network in `eval()`."""


@dataclass(frozen=True, slots=True)
class Attack:
    """Inputs changed against a model."""

    x: Tensor
    """The changed inputs; where no change was found, the inputs as they were."""
    flipped_N: Tensor
    """Bool: the forecast has changed its sign."""
    size_N: Tensor
    """Of the change: the largest (FGSM, PGD) or the Euclidean length (Carlini and Wagner)."""

    @property
    def share(self) -> float:
        """Of rows whose sign changed."""
        return float(self.flipped_N.float().mean())


def fgsm(forecast: Forecast, x: Tensor, *, epsilon: float) -> Attack:
    """One step of size epsilon in every input, against the forecast.

    Raises: ValueError: epsilon is not above 0.
    Source: Goodfellow, Shlens and Szegedy (2015), arXiv:1412.6572.
    """
    return pgd(forecast, x, epsilon=epsilon, steps=1, step_size=epsilon)


def pgd(forecast: Forecast, x: Tensor, *, epsilon: float, steps: int = 20, step_size: float | None = None) -> Attack:
    """Many small steps, none of which takes an input further than epsilon from where it was.

    Args:
        step_size: None takes 2.5 epsilon / steps, which reaches the edge and can turn there.
    Raises: ValueError: epsilon or step_size not above 0, or no steps.
    Source: Madry et al. (2018), arXiv:1706.06083, started at the input itself, so that the answer is the same every time.
    """
    import torch

    size = 2.5 * epsilon / max(steps, 1) if step_size is None else step_size
    if not epsilon > 0.0 or not size > 0.0 or steps < 1:
        raise ValueError(f"epsilon={epsilon} and step_size={size} must be above 0, steps={steps} at least 1.")
    start, side_N = x.detach(), _side(forecast, x)
    moved = start.clone()
    for _ in range(steps):
        downhill = _gradient(forecast, moved, side_N).sign()
        moved = start + torch.clamp(moved - size * downhill - start, -epsilon, epsilon)
    flipped_N = _flipped(forecast, moved, side_N)
    return Attack(moved, flipped_N, (moved - start).abs().flatten(1).amax(1))


def carlini_wagner(
    forecast: Forecast, x: Tensor, *, steps: int = 100, searches: int = 6, rate: float = 0.05, margin: float = 0.0
) -> Attack:
    """The shortest change, by Euclidean length, that turns the sign: length squared plus c times what is left to turn.

    The weight c is searched row by row, ten times larger while the sign has not turned, halved between bounds after.

    Args:
        rate: of Adam.
        margin: how far beyond 0 the forecast must come, in its own unit.
    Returns: rows that could not be turned keep their inputs and have an infinite size.
    Raises: ValueError: no steps, searches or rate.
    Source: Carlini and Wagner (2017), arXiv:1608.04644, the L2 attack without the box, as features have none.
    """
    import torch

    if steps < 1 or searches < 1 or not rate > 0.0:
        raise ValueError(f"steps={steps} and searches={searches} must be at least 1, rate={rate} above 0.")
    start, side_N = x.detach(), _side(forecast, x)
    rows, ones = len(start), (1,) * (start.dim() - 1)
    weight_N, low_N = torch.ones(rows, dtype=start.dtype), torch.zeros(rows, dtype=start.dtype)
    high_N = torch.full((rows,), torch.inf, dtype=start.dtype)
    best, size_N = start.clone(), torch.full((rows,), torch.inf, dtype=start.dtype)
    for _ in range(searches):
        change = torch.zeros_like(start, requires_grad=True)
        adam = torch.optim.Adam([change], lr=rate)
        turned_N = torch.zeros(rows, dtype=torch.bool)
        for _ in range(steps):
            left_N = torch.clamp(side_N * forecast(start + change) + margin, min=0.0)
            cost = change.flatten(1).square().sum(1) + weight_N * left_N
            (change.grad,) = torch.autograd.grad(cost.sum(), [change])
            adam.step()
            with torch.no_grad():
                length_N = change.flatten(1).norm(dim=1)
                over_N = side_N * forecast(start + change) < -margin
                turned_N |= over_N
                shorter_N = over_N & (length_N < size_N)
                size_N = torch.where(shorter_N, length_N, size_N)
                best = torch.where(shorter_N.view(-1, *ones), start + change, best)
        high_N = torch.where(turned_N, torch.minimum(high_N, weight_N), high_N)
        low_N = torch.where(turned_N, low_N, torch.maximum(low_N, weight_N))
        weight_N = torch.where(torch.isinf(high_N), weight_N * 10.0, (low_N + high_N) / 2.0)
    return Attack(best.detach(), torch.isfinite(size_N), size_N)


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackConfig:
    """How much a model is attacked."""

    windows: Annotated[int, Field(ge=1)] = 256
    """Spread evenly over the test period."""
    sizes: tuple[float, ...] = (0.05, 0.1, 0.25)
    """Largest change of any input, in standard deviations of training."""
    searched_windows: Annotated[int, Field(ge=0)] = 32
    """Of the windows, for how many the shortest change is searched (Carlini and Wagner); it costs 600 passes each."""

    def __post_init__(self) -> None:
        if not self.sizes or any(not (math.isfinite(size) and size > 0.0) for size in self.sizes):
            raise ConfigError(f"attacks.sizes={list(self.sizes)} must be at least one number above 0.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Turned:
    """Shares of windows whose forecast changes its sign when inputs change by a size at most."""

    size: float
    noise: float
    """By chance: every input up or down by the size. What the attacks are to be compared with."""
    fgsm: float
    pgd: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Resistance:
    """How easily a model's forecasts turn."""

    windows: int
    turned: tuple[Turned, ...]
    shortest: float
    """Median Euclidean length of the shortest change found, over the root of the number of inputs: so much a change is per input.
    NaN where none was searched, infinite where fewer than half could be turned."""


def resistance(forecast: Forecast, x: Tensor, config: AttackConfig, *, seed: int) -> Resistance:
    """Attack a model at windows of its own.

    Args:
        forecast: differentiable, see above.
        x: standardised inputs, (N, L, F).
    """
    import torch

    generator, side_N = torch.Generator().manual_seed(seed), _side(forecast, x)
    turned = []
    for size in config.sizes:
        signs = torch.randint(0, 2, x.shape, generator=generator).to(x.dtype) * 2.0 - 1.0
        turned.append(
            Turned(
                size=size,
                noise=float(_flipped(forecast, x + size * signs, side_N).float().mean()),
                fgsm=fgsm(forecast, x, epsilon=size).share,
                pgd=pgd(forecast, x, epsilon=size).share,
            )
        )
    shortest = math.nan
    if config.searched_windows:
        found = carlini_wagner(forecast, x[:: max(1, len(x) // config.searched_windows)][: config.searched_windows])
        shortest = float(found.size_N.median()) / math.sqrt(x[0].numel())
    return Resistance(windows=len(x), turned=tuple(turned), shortest=shortest)


def _side(forecast: Forecast, x: Tensor) -> Tensor:
    """1 where the forecast is positive, -1 where it is negative or 0."""
    import torch

    with torch.no_grad():
        answer_N = forecast(x)
    return torch.where(answer_N > 0.0, 1.0, -1.0).to(answer_N.dtype)


def _gradient(forecast: Forecast, x: Tensor, side_N: Tensor) -> Tensor:
    import torch

    asked = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad((side_N * forecast(asked)).sum(), [asked])
    return gradient


def _flipped(forecast: Forecast, x: Tensor, side_N: Tensor) -> Tensor:
    import torch

    with torch.no_grad():
        return side_N * forecast(x) < 0.0
