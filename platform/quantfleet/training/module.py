"""The torch side of a model: label scales and heads around a network that is given.

Shapes: N windows, L look-back bars, F features, H horizons, K = 3 H label columns, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from quantfleet.contracts import DataSpec, TrainingStats
from quantfleet.errors import ConfigError
from quantfleet.training.loss import LossConfig
from quantfleet.training.objective import class_weights
from quantfleet.training.task_losses import monotone_quantiles

__all__ = ["HEADS", "Head", "ScaledForecaster"]

Head = Literal["return", "direction", "volatility"]
HEADS: tuple[Head, ...] = ("return", "direction", "volatility")


class ScaledForecaster(nn.Module):
    """A network and the scales of its labels, fitted on the training segment; they are buffers, so they travel with the weights.

    The network maps scaled features (N, L, F), see `InputTransform`, to {"return", "direction", "volatility"}, each (N, H):
    standardised return, logit of an up move, standardised volatility. Where the loss names quantiles, it also gives "quantiles",
    (N, H, Q) free numbers, which are made to rise here. It may give "position", (N, 1) in [-1, 1], too: the position to hold, which
    the Sharpe ratio of the loss then judges instead of the return forecast. Where `loss.confidence` counts, it gives "confidence",
    (N, H), logits that the called direction comes. While it is trained it may give "auxiliary", a scalar: what a part of it asks of
    itself (a router's balance, the price of thinking), a mean over the windows with its weight in it; it is added to the training
    loss, and never to the validation loss. Where the loss is balanced by GradNorm, it has a method
    `shared_parameters()` that gives those of the last layer which all heads read.

    Raises: ConfigError: the network lacks what the loss asks of it.
    """

    label_mean_K: Tensor
    label_std_K: Tensor
    logit_offset_H: Tensor

    def __init__(self, network: nn.Module, spec: DataSpec, loss: LossConfig | None = None) -> None:
        super().__init__()
        self.network = network
        self.loss = loss or LossConfig()
        self.horizons = len(spec.horizons_bars)
        labels = len(spec.label_columns)
        self.register_buffer("label_mean_K", torch.zeros(labels))
        self.register_buffer("label_std_K", torch.ones(labels))
        self.register_buffer("logit_offset_H", torch.zeros(self.horizons))
        if self.loss.quantiles or self.loss.confidence:
            self._check_heads(spec)
        if self.loss.balance == "gradnorm":
            self.shared_parameters()

    def set_label_scales(self, stats: TrainingStats) -> None:
        """Take the labels' moments in the training segment; a constant label is only centred."""
        std, mean = torch.as_tensor(stats.label_std_K), torch.as_tensor(stats.label_mean_K)
        with torch.no_grad():
            self.label_mean_K.copy_(mean)
            self.label_std_K.copy_(torch.where(std > 0, std, torch.ones_like(std)))
            if self.loss.balance_classes:
                up_H, down_H = class_weights(mean[self.horizons : 2 * self.horizons])
                self.logit_offset_H.copy_(torch.log(up_H / down_H))

    def shared_parameters(self) -> tuple[nn.Parameter, ...]:
        """Parameters of the last layer that all heads read. Raises: ConfigError: the network does not name them."""
        named: Callable[[], Sequence[nn.Parameter]] | None = getattr(self.network, "shared_parameters", None)
        if named is None:
            raise ConfigError(
                f"loss.balance=gradnorm needs the network's last shared layer, and {type(self.network).__name__} has no method "
                "`shared_parameters`. Use balance: uncertainty, or another model."
            )
        return tuple(named())

    def forward(self, x_NLF: Tensor) -> dict[str, Tensor]:
        """Scaled features to standardised heads. Undefined features (masked windows only) become 0, the scaler's centre."""
        return self.monotone(self.network(torch.nan_to_num(x_NLF, nan=0.0)))

    def monotone(self, heads: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network's heads, quantiles made to rise with their level."""
        if self.loss.quantiles:
            return {**heads, "quantiles": monotone_quantiles(heads["quantiles"], self.loss.quantiles)}
        return heads

    def answer(self, x_NLF: Tensor) -> dict[str, Tensor]:
        """Scaled features to heads in natural units: return, its quantiles and volatility as fractions, direction as log-odds.

        Weighing the classes alike shifts the logit that is fitted by the log of their odds; it is shifted back here.
        """
        return self.in_natural_units(self(x_NLF))

    def in_natural_units(self, heads: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `forward` gave to what `answer` gives."""
        H = self.horizons
        mean_H, std_H = self.label_mean_K[:H], self.label_std_K[:H]
        answer = {
            "return": heads["return"] * std_H + mean_H,
            "direction": heads["direction"] - self.logit_offset_H,
            "volatility": (heads["volatility"] * self.label_std_K[2 * H :] + self.label_mean_K[2 * H :]).clamp_min(0.0),
        }
        if self.loss.quantiles:
            answer["quantiles"] = heads["quantiles"] * std_H[:, None] + mean_H[:, None]
        if "position" in heads:
            answer["position"] = heads["position"]
        if "confidence" in heads:
            answer["confidence"] = torch.sigmoid(heads["confidence"])
        return answer

    def targets(self, y_NK: Tensor) -> dict[str, Tensor]:
        """Labels in natural units to what `forward` should give; quantiles are judged by the return."""
        H, scaled = self.horizons, (y_NK - self.label_mean_K) / self.label_std_K
        return {"return": scaled[:, :H], "direction": y_NK[:, H : 2 * H], "volatility": scaled[:, 2 * H :]}

    def _check_heads(self, spec: DataSpec) -> None:
        """Ask the network for one window, which shows what heads it has."""
        wanted: dict[str, tuple[int, ...]] = {}
        if self.loss.quantiles:
            wanted["quantiles"] = (self.horizons, len(self.loss.quantiles))
        if self.loss.confidence:
            wanted["confidence"] = (self.horizons,)
        some = next(self.network.parameters(), torch.zeros(()))
        training = self.network.training
        with torch.no_grad():
            x_NLF = torch.zeros(1, spec.lookback_bars, spec.features, device=some.device, dtype=some.dtype)
            heads: dict[str, Tensor] = self.network.eval()(x_NLF)
        self.network.train(training)
        for name, shape in wanted.items():
            found = tuple(heads[name].shape[1:]) if name in heads else None
            if found == shape:
                continue
            asks = (
                f"quantiles={list(self.loss.quantiles)}"
                if name == "quantiles"
                else f"confidence={self.loss.confidence}"
            )
            size = f"{self.horizons} horizons" + (f" x {shape[1]} levels" if name == "quantiles" else "")
            has = f"gives {', '.join(heads)}" if found is None else f"gives {found} of them a window"
            raise ConfigError(
                f"loss.{asks} needs a head {name!r} of {size}, and {type(self.network).__name__} {has}. Leave loss.{name} out, or "
                "use a model that has such a head."
            )
