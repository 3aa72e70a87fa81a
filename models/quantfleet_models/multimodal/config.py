"""Settings of the multimodal network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from quantfleet.contracts import DataSpec, register_model
from quantfleet.errors import ConfigError
from quantfleet.training import TorchModelConfig
from quantfleet_models.parts.checks import check_divides

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MultimodalConfig"]

Positive = Annotated[int, Field(ge=1)]
Patterns = tuple[str, ...]


@register_model("multimodal")
@dataclass(frozen=True, kw_only=True, slots=True)
class MultimodalConfig(TorchModelConfig):
    """Price, volume, order flow, calendar and embedding features as streams of their own, each with a learned embedding; streams
    of a bar attend to each other, then bars attend to bars before them. A stream that is not there is known as missing.

    A column belongs to the first stream one of whose patterns fits (`*` stands for anything); what fits none is a price.

    Source: attention between modalities as tokens: Jaegle et al. 2021, arXiv:2103.03206, in spirit; dropping whole modalities:
    Neverova et al. 2016, "ModDrop", arXiv:1501.00102.
    """

    volume: Patterns = ("*volume*", "obv*", "chaikin*", "vwap*")
    order_flow: Patterns = ("*imbalance*", "vpin*", "book_*", "spread*", "*depth*", "trade_*", "funding*")
    calendar: Patterns = ("day_*", "month_*", "hour_*", "week_*", "minute_*", "session_*", "*_sin", "*_cos")
    embedding: Patterns = ("embedding_*", "emb_*")
    width: Positive = 32
    """D, features of every hidden row."""
    attention_heads: Positive = 4
    attention_layers: Positive = 2
    """Layers over bars; there is one over streams."""
    drop_stream: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Chance that a stream of a training window is treated as missing; one always stays."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def __post_init__(self) -> None:
        check_divides(total=self.width, total_name="width", part=self.attention_heads, part_name="attention_heads")
        if (self.width // self.attention_heads) % 2:
            raise ConfigError(
                f"width={self.width} gives attention_heads={self.attention_heads} an odd {self.width // self.attention_heads} "
                "features each, and rotary positions turn pairs. Use another width."
            )

    def streams(self, columns: Sequence[str]) -> dict[str, list[int]]:
        """Places of the columns of each stream that has any, prices first."""
        named = ("volume", "order_flow", "calendar", "embedding")
        found: dict[str, list[int]] = {name: [] for name in ("price", *named)}
        for place, column in enumerate(columns):
            fits = (name for name in named if any(fnmatchcase(column, pattern) for pattern in getattr(self, name)))
            found[next(fits, "price")].append(place)
        return {name: places for name, places in found.items() if places}

    def build_network(self, spec: DataSpec) -> nn.Module:
        from quantfleet_models.multimodal.model import MultimodalNetwork

        return MultimodalNetwork(self, spec)
