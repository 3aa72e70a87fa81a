"""Settings of the xLSTM-Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.errors import ConfigError, nearest
from quantfleet_models.parts.checks import check_divides
from quantfleet_models.xlstm.config import XLSTMStackConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["XLSTMTransformerConfig"]


@register_model("xlstm_transformer")
@dataclass(frozen=True, kw_only=True, slots=True)
class XLSTMTransformerConfig(XLSTMStackConfig):
    """A stack of xLSTM blocks and a Transformer on the same bars, fused by attention in both directions and a gate.

    Source: the paths are those of Beck et al. 2024, arXiv:2405.04517, and Vaswani et al. 2017, arXiv:1706.03762; fusing two
    streams by attention follows Lu et al. 2019, arXiv:1908.02265; the gate is this project's choice.
    """

    blocks: Annotated[int, Field(ge=1)] = 2
    attention_heads: Annotated[int, Field(ge=1)] = 4
    attention_layers: Annotated[int, Field(ge=1)] = 2
    positions: Literal["rotary", "none"] = "rotary"
    """What tells attention how far apart two bars are. `none`: only that one does not see those after it."""
    position_feature: str | None = None
    """Feature column that holds the position taken so far (a fraction of capital, as a book or a simulator writes it); its value at
    the decision bar is read on its own, behind both paths, and not as one of the features. None: no state is read."""

    def __post_init__(self) -> None:
        XLSTMStackConfig.__post_init__(self)
        check_divides(total=self.width, total_name="width", part=self.attention_heads, part_name="attention_heads")
        if self.positions == "rotary" and (self.width // self.attention_heads) % 2:
            raise ConfigError(
                f"width={self.width} gives attention_heads={self.attention_heads} an odd {self.width // self.attention_heads} "
                "features each, and rotary positions turn pairs. Use another width or positions: none."
            )

    @property
    def required_features(self) -> tuple[str, ...]:
        return () if self.position_feature is None else (self.position_feature,)

    def build_network(self, spec: DataSpec) -> nn.Module:
        """Raises: ConfigError: the window is too short, or the network's input lacks `position_feature`."""
        from quantfleet_models.xlstm_transformer.model import XLSTMTransformerNetwork

        self.check_window(spec)
        name = self.position_feature
        if name is not None and name not in spec.feature_columns:
            raise ConfigError(
                f"{self.label}.position_feature={name!r} is not among the network's inputs.{nearest(name, spec.feature_columns)} "
                "Add a feature of that name, and see that `selection` keeps it."
            )
        if name is not None and spec.features < 2:
            raise ConfigError(f"{self.label} has nothing to read beside position_feature={name!r}; add features.")
        return XLSTMTransformerNetwork(self, spec)
