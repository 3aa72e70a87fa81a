"""Settings of the xLSTM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.errors import ConfigError
from quantfleet.training import TorchModelConfig
from quantfleet_models.parts.checks import check_divides, check_within_window

if TYPE_CHECKING:
    from torch import nn

__all__ = ["XLSTMConfig", "XLSTMStackConfig"]

Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class XLSTMStackConfig(TorchModelConfig):
    """Settings of a stack of xLSTM blocks, for the families that have one."""

    width: Positive = 32
    """D, features of every hidden row."""
    blocks: Positive = 4
    slstm_at: tuple[Annotated[int, Field(ge=0)], ...] = (1,)
    """Blocks that are sLSTM, counted from 0; the others are mLSTM. An sLSTM goes bar by bar, which takes longer; it can track a
    state that an mLSTM cannot."""
    memory_heads: Positive = 4
    """Heads of every block; the width must divide by them."""
    kernel_bars: Positive = 4
    """Bars under the convolution in front of the gates."""
    mlstm_factor: Annotated[float, Field(gt=0)] = 2.0
    """Features inside an mLSTM block, as a multiple of the width; rounded up to a multiple of what heads and projections need."""
    block_features: Positive = 4
    """Queries, keys and values mix so many features at a time."""
    feed_forward_factor: Annotated[float, Field(gt=0)] = 1.3
    """Features inside the layer behind an sLSTM, as a multiple of the width; rounded up to a multiple of 8."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def __post_init__(self) -> None:
        check_divides(total=self.width, total_name="width", part=self.memory_heads, part_name="memory_heads")
        wrong = [place for place in self.slstm_at if place >= self.blocks]
        if wrong:
            raise ConfigError(
                f"slstm_at={list(self.slstm_at)} names block {wrong[0]}, and the {self.blocks} blocks are counted from 0 to "
                f"{self.blocks - 1}."
            )

    def check_window(self, spec: DataSpec) -> None:
        """Raises: ConfigError: the window is shorter than the convolution."""
        check_within_window(self.label, "kernel_bars", self.kernel_bars, spec)


@register_model("xlstm")
@dataclass(frozen=True, kw_only=True, slots=True)
class XLSTMConfig(XLSTMStackConfig):
    """A stack of mLSTM and sLSTM blocks: exponential gates, matrix memory. Answers bar by bar from carried state, too.

    Source: Beck et al. 2024, arXiv:2405.04517.
    """

    def build_network(self, spec: DataSpec) -> nn.Module:
        from quantfleet_models.xlstm.model import XLSTMNetwork

        self.check_window(spec)
        return XLSTMNetwork(self, spec)
