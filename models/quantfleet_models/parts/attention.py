"""Attention over the rows of a window.

Shapes: N windows, L rows, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["CausalSelfAttention", "causal_mask"]


def causal_mask(rows: int) -> Tensor:
    """(L, L), 0 where row i may read row j (j <= i), minus infinity elsewhere; to be added to attention's logits."""
    return nn.Transformer.generate_square_subsequent_mask(rows)


class CausalSelfAttention(nn.Module):
    """A stack of pre-norm transformer encoder layers under a causal mask, with a norm at its end.

    Source: Vaswani et al. 2017, arXiv:1706.03762; norm before each part: Xiong et al. 2020, arXiv:2002.04745.
    """

    mask_LL: Tensor

    def __init__(
        self, rows: int, width: int, *, heads: int, layers: int, dropout: float, feedforward: int | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, feedforward or 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.register_buffer("mask_LL", causal_mask(rows), persistent=False)

    def forward(self, x_NLD: Tensor) -> Tensor:
        """(N, L, D) to (N, L, D); row t reads rows 0..t. L is at most `rows`."""
        mask_LL = self.mask_LL[: x_NLD.shape[1], : x_NLD.shape[1]]
        for layer in self.layers:
            x_NLD = layer(x_NLD, src_mask=mask_LL, is_causal=True)
        out: Tensor = self.norm(x_NLD)
        return out
