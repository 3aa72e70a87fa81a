"""The `loss:` section of torch models: tasks, their weights and how they are balanced. Apart from the loss itself, so that configs
need no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from quantfleet.errors import ConfigError
from quantfleet.training.sampling import SamplingConfig, UniquenessSampling

__all__ = ["LossConfig"]

Weight = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """What training minimises: a sum over tasks, each the mean loss per known label, in units of the label's spread.

    A task of weight 0 is left out. The validation loss, by which a fit stops and a search chooses, always adds the tasks up with
    the fixed weights written here and without sample weights, so that it means the same in every epoch of a fit.
    """

    returns: Weight = 1.0
    direction: Weight = 0.5
    volatility: Weight = 0.5
    quantile: Weight = 0.5
    """Weight of the quantiles' loss; counts only where `quantiles` names levels."""
    confidence: Weight = 0.0
    """Weight of the loss of a head that says how probable it is that the called direction comes: cross entropy of whether it came.
    The call itself is not moved by it. Above 0 the network must have the head."""
    sharpe: Weight = 0.0
    """Weight of minus the Sharpe ratio of positions, see `sharpe_ratio`: those that the network answers with (`position_sizer`), or
    else positions taken from the return forecast. It stands beside the
    return's own loss, because a Sharpe ratio does not care for the size of a forecast and alone would leave it arbitrary."""

    balance: Literal["fixed", "uncertainty", "gradnorm"] = "fixed"
    """How the tasks (all but `sharpe`, which can be negative and keeps its weight) share the gradient.

    fixed: by the weights above.
    uncertainty: a learned variance per task, weight x (loss / variance + log variance): its optimum is variance = loss, so a task
    counts in relation to the error that is left. Source: Kendall, Gal and Cipolla 2018, arXiv:1705.07115, eq. 7, times 2.
    gradnorm: weights are led to where every task's gradient at the network's last shared layer has the same norm, more for tasks
    that learn more slowly; their sum is kept. Source: Chen et al. 2018, arXiv:1711.02257, algorithm 1.
    """
    gradnorm_alpha: Annotated[float, Field(ge=0)] = 1.5
    """Pull towards tasks that learn slowly; 0 only makes the norms equal."""
    gradnorm_rate: Annotated[float, Field(gt=0, lt=1)] = 0.025
    """Relative change of a weight in one training step, where its task's gradient norm is the mean of all; in proportion to it."""

    return_loss: Literal["huber", "mse", "mae"] = "huber"
    """huber and mae resist the outliers that returns have (mae fits the median); mse fits the mean."""
    quantiles: tuple[float, ...] = ()
    """Levels of the return, e.g. [0.05, 0.5, 0.95]; the network must have a head for them. They are fitted with the pinball loss
    and never cross. Source: Koenker and Bassett 1978, Econometrica 46(1)."""
    balance_classes: bool = False
    """Up and not-up moves weigh the same in each horizon, by their shares in the training segment. What the model answers is
    corrected for it, so that the direction stays the log-odds of an up move."""
    focal_gamma: Annotated[float, Field(ge=0)] = 0.0
    """Above 0, directions that are already judged right count less: (1 - p of what came) to this power. The logits are then no
    longer log-odds; probabilities need calibrating. Source: Lin et al. 2017, arXiv:1708.02002, eq. 4."""

    sharpe_gain: Annotated[float, Field(gt=0)] = 1.0
    """Position = tanh(gain x forecast return / spread of returns), where the network has no positions of its own."""
    sharpe_cost_bps: Annotated[float, Field(ge=0)] = 0.0
    """Cost of trading, basis points of what is traded. Windows of a batch are shuffled, so what was held before is not known: each
    window pays for opening its position and for closing it, which is the most that it can cost."""

    sample_weights: bool = True
    """Training windows count by their sample weights (`labels.weights`), scaled to a mean of 1; harmless where there are none."""

    def __post_init__(self) -> None:
        for level in self.quantiles:
            if not 0.0 < level < 1.0:
                raise ConfigError(f"loss.quantiles holds {level}; levels lie between 0 and 1, e.g. [0.05, 0.5, 0.95].")
        if any(low >= high for low, high in pairwise(self.quantiles)):
            raise ConfigError(f"loss.quantiles={list(self.quantiles)} must rise, each level once.")
        if self.confidence and not self.direction:
            raise ConfigError(
                f"loss.confidence={self.confidence} judges the calls of the head direction, which loss.direction=0 does not train. "
                "Give direction a weight above 0, or confidence none."
            )
        if not self.tasks and not self.sharpe:
            raise ConfigError(
                "every task of loss has weight 0, so there is nothing to learn; give one a weight above 0."
            )
        if self.balance != "fixed" and len(self.tasks) < 2:
            raise ConfigError(
                f"loss.balance={self.balance} needs two tasks with a weight above 0 (sharpe is not balanced), and there "
                f"{'is one: ' + next(iter(self.tasks)) if self.tasks else 'is none'}. Use balance: fixed."
            )

    @property
    def tasks(self) -> dict[str, float]:
        """Weights of the tasks that count, by head; without `sharpe`."""
        weights = {
            "return": self.returns,
            "direction": self.direction,
            "volatility": self.volatility,
            "quantiles": self.quantile if self.quantiles else 0.0,
            "confidence": self.confidence,
        }
        return {head: weight for head, weight in weights.items() if weight}

    def check_strategy(self, kind: str, *, compiled: bool = False) -> None:
        """Raises: ConfigError: GradNorm under a strategy of this kind, or with a compiled network.

        GradNorm asks for each task's gradient at the last shared layer in every step: workers that hold parts of a layer, or an
        engine that owns the backward pass, cannot give it, and a compiled backward pass runs once.
        """
        if self.balance != "gradnorm":
            return
        if kind != "ddp":
            raise ConfigError(
                f"loss.balance=gradnorm needs the gradients of single tasks, which training.strategy={kind} does not give. "
                "Use strategy: ddp, or balance: uncertainty."
            )
        if compiled:
            raise ConfigError(
                "loss.balance=gradnorm runs backward once for each task, which a compiled network does not allow. Switch "
                "compiling off, or use balance: uncertainty."
            )

    def check_sampling(self, sampling: SamplingConfig, *, weighted: bool) -> None:
        """Args: weighted: whether the chunks hold sample weights.

        Raises: ConfigError: the sampling and the loss do not go together.
        """
        if weighted and self.sample_weights and isinstance(sampling, UniquenessSampling):
            raise ConfigError(
                "sampling 'uniqueness' and loss.sample_weights would both apply the sample weights, which then count twice. Set "
                "loss.sample_weights: false, or use another sampling."
            )
        if sampling.needs_losses and not self.tasks:
            raise ConfigError(
                f"sampling {sampling.kind!r} needs the loss of single windows, and a Sharpe ratio has none. Give another task of "
                "loss a weight above 0."
            )
