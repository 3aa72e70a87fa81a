"""Settings of PatchTST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.training import TorchModelConfig
from quantfleet_models.parts.checks import check_divides, check_within_window

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PatchTSTConfig"]

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


@register_model("patch_tst")
@dataclass(frozen=True, kw_only=True, slots=True)
class PatchTSTConfig(TorchModelConfig):
    """Transformer on overlapping patches of each channel, weights shared by all channels; labels are read off all channels' output.

    Source: Nie et al. 2023, arXiv:2211.14730; residual attention: He et al. 2021, arXiv:2012.11747, as in the authors' code.
    """

    patch_bars: Positive = 8
    """Bars per patch; no longer than the window."""
    stride_bars: Positive = 4
    """From the start of one patch to the next; the window is padded at its end with so many copies of its last bar."""
    width: Positive = 32
    """D, features of every patch."""
    attention_heads: Positive = 4
    layers: Positive = 2
    feedforward_width: Positive = 64
    dropout: Share = 0.2
    residual_attention: bool = True
    """Attention scores of a layer are added to those of the next."""
    norm: Literal["batch", "layer"] = "layer"
    """What stands after each part. The paper has batch norm, whose moments are those of one worker's share of a batch: a fit then
    is not the same on any number of workers, and masked windows count in them. So the default is layer norm here."""
    window_norm: bool = True
    """Each channel of each window is normalised by its own moments first (RevIN); its level comes back at the end."""
    window_norm_affine: bool = True
    """With a learned scale and shift per channel, as in the paper's code; needs `window_norm`."""
    steps: Positive = 4
    """S, numbers per channel that the heads read: what would be steps ahead in a forecast of the channel."""

    def __post_init__(self) -> None:
        check_divides(total=self.width, total_name="width", part=self.attention_heads, part_name="attention_heads")

    def build_network(self, spec: DataSpec) -> nn.Module:
        from quantfleet_models.patch_tst.model import PatchTSTNetwork

        check_within_window(self.label, "patch_bars", self.patch_bars, spec)
        return PatchTSTNetwork(self, spec)
