"""Settings of the hybrid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.errors import ConfigError
from quantfleet.training import TorchModelConfig
from quantfleet_models.parts.checks import check_divides, check_within_window

if TYPE_CHECKING:
    from torch import nn

__all__ = ["HybridConfig"]

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]


@register_model("hybrid")
@dataclass(frozen=True, kw_only=True, slots=True)
class HybridConfig(TorchModelConfig):
    """Causal convolution, then LSTM and Transformer side by side, fused; heads for return, direction and volatility, and for
    quantiles, confidence and position where the loss asks for them. Every other part is a switch.

    Source: the three parts are the standard ones (van den Oord et al. 2016; Hochreiter and Schmidhuber 1997; Vaswani et al.
    2017); the gated sum of the two paths is this project's choice. The switches name their sources.
    """

    width: Positive = 32
    """D, features of every hidden row."""
    kernel_bars: Positive = 5
    """Bars under one convolution."""
    recurrent_layers: Positive = 1
    attention_heads: Positive = 4
    attention_layers: Positive = 1
    feed_forward_factor: Positive = 2
    """Features inside a feed-forward layer, as a multiple of the width."""
    positions: Literal["learned", "rotary", "none"] = "learned"
    """What tells attention where a bar stands: a learned row per place of the window; or rotary, how far apart two bars are (Su et
    al. 2021, arXiv:2104.09864); or nothing but that later bars are hidden. Streams need rotary or none."""
    fusion: Literal["gate", "cross_attention"] = "gate"
    """`gate`: a gated sum of the two paths. `cross_attention`: each path first reads the other (Lu et al. 2019,
    arXiv:1908.02265)."""
    scales_bars: tuple[Positive, ...] = ()
    """Means of the convolution's rows over these many last bars are added to the fused row, e.g. [5, 20]; none by default."""
    experts: Count = 0
    """Experts in place of each feed-forward layer (Shazeer et al. 2017, arXiv:1701.06538); 0: one dense layer."""
    experts_chosen: Positive = 2
    """How many of them answer a row."""
    balance_cost: Annotated[float, Field(ge=0)] = 0.01
    """Weight of the loss that keeps the experts equally busy (Fedus et al. 2021, arXiv:2101.03961);
    that loss is 1 where they are."""
    memory_slots: Count = 0
    """Learned rows that the last row looks up by attention (Sukhbaatar et al. 2019, arXiv:1907.01470); 0: none."""
    ode_steps: Count = 0
    """Runge-Kutta steps of a neural ODE that the last row goes through (Chen et al. 2018, arXiv:1806.07366); 0: none. Needs the
    extra `ode`."""
    adaptive_steps: Count = 0
    """Most applications of a layer that says itself when it is done (Graves 2016, arXiv:1603.08983), on the last row; 0: none."""
    ponder_cost: Annotated[float, Field(ge=0)] = 0.001
    """Weight of the mean ponder cost (steps plus remainder) in the training loss."""
    position_head: bool = False
    """A head for the position to hold, in [-1, 1], which `loss.sharpe` trains and a backtest takes as it is."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def __post_init__(self) -> None:
        check_divides(total=self.width, total_name="width", part=self.attention_heads, part_name="attention_heads")
        if self.positions == "rotary" and (self.width // self.attention_heads) % 2:
            raise ConfigError(
                f"width={self.width} gives attention_heads={self.attention_heads} an odd {self.width // self.attention_heads} "
                "features each, and rotary positions turn pairs. Use another width, or other positions."
            )
        if self.experts == 1 or (self.experts and self.experts_chosen > self.experts):
            raise ConfigError(
                f"experts={self.experts} with experts_chosen={self.experts_chosen}: a router needs two experts or more, and may "
                "not choose more than there are. Use experts: 0 for one dense layer."
            )
        if self.adaptive_steps == 1:
            raise ConfigError("adaptive_steps=1 leaves nothing to decide; use 2 or more, or 0 for none.")
        if self.position_head and not self.loss.sharpe:
            raise ConfigError(
                "position_head needs loss.sharpe above 0, which is what trains the position, e.g. sharpe: 0.2."
            )

    def build_network(self, spec: DataSpec) -> nn.Module:
        """Raises: ConfigError: a convolution or a scale is longer than the window, or a package is missing."""
        from quantfleet_models.hybrid.model import HybridNetwork

        check_within_window(self.label, "kernel_bars", self.kernel_bars, spec)
        for bars in self.scales_bars:
            check_within_window(self.label, "scales_bars", bars, spec)
        return HybridNetwork(self, spec)
