"""What is run, with the settings of the authors' scripts and the figures of their papers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from bench.forecast.protocol import Persistence, Training

__all__ = ["ROWS", "Row"]

ZENG = "Zeng et al. 2023, arXiv:2205.13504, table 2"
NIE = "Nie et al. 2023, arXiv:2211.14730, table 3"
LIU = "Liu et al. 2024, arXiv:2310.06625, appendix, full results"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    model: str
    data: str
    lookback: int
    steps: int
    published: tuple[float, float]
    """Mean squared and mean absolute error, by the paper; NaN where it prints none."""
    source: str
    make: Callable[[int], nn.Module]
    """Network for so many channels."""
    training: Training | None = None
    """None: there is nothing to train."""
    note: str = ""

    @property
    def id(self) -> str:
        return f"{self.model}/{self.data}/{self.steps}"


def _persistence(data: str, figures: dict[int, tuple[float, float]]) -> list[Row]:
    return [
        Row(
            model="persistence", data=data, lookback=1, steps=steps, published=published, source=f"{ZENG}, row Repeat",
            make=lambda _, steps=steps: Persistence(steps=steps),  # type: ignore[misc]
            note="the paper leaves out the last windows, which fill no batch of 32",
        )
        for steps, published in figures.items()
    ]  # fmt: skip


def _dlinear(data: str, rate: float, batches: dict[int, int], figures: dict[int, tuple[float, float]]) -> list[Row]:
    def make(steps: int) -> Callable[[int], nn.Module]:
        from quantfleet_models.dlinear.model import DLinearCore

        return lambda _: DLinearCore(lookback_bars=336, steps=steps)

    return [
        Row(
            model="dlinear", data=data, lookback=336, steps=steps, published=published, source=ZENG, make=make(steps),
            training=Training(batch=batches[steps], learning_rate=rate),
        )
        for steps, published in figures.items()
    ]  # fmt: skip


def _itransformer(channels: int) -> nn.Module:
    from quantfleet_models.itransformer.model import ITransformerCore

    return ITransformerCore(
        lookback_bars=96, steps=96, channels=channels, width=256, attention_heads=8, layers=2, feedforward_width=256,
        dropout=0.1,
    )  # fmt: skip


def _patch_tst(channels: int) -> nn.Module:
    from quantfleet_models.patch_tst.model import PatchTSTCore

    return PatchTSTCore(
        lookback_bars=512, steps=96, channels=channels, patch_bars=16, stride_bars=8, width=16, attention_heads=4, layers=3,
        feedforward_width=128, dropout=0.3, window_norm_affine=False,
    )  # fmt: skip


ROWS: tuple[Row, ...] = (
    *_persistence("ETTh1", dict.fromkeys((96, 192, 336, 720), (float("nan"), float("nan")))),
    *_persistence(
        "exchange_rate", {96: (0.081, 0.196), 192: (0.167, 0.289), 336: (0.305, 0.396), 720: (0.823, 0.681)}
    ),
    *_dlinear(
        "ETTh1", 5e-3, dict.fromkeys((96, 192, 336, 720), 32),
        {96: (0.375, 0.399), 192: (0.405, 0.416), 336: (0.439, 0.443), 720: (0.472, 0.490)},
    ),
    *_dlinear(
        "exchange_rate", 5e-4, {96: 8, 192: 8, 336: 32, 720: 32},
        {96: (0.081, 0.203), 192: (0.157, 0.293), 336: (0.305, 0.414), 720: (0.643, 0.601)},
    ),
    Row(
        model="itransformer", data="ETTh1", lookback=96, steps=96, published=(0.386, 0.405), source=LIU, make=_itransformer,
        training=Training(batch=32, learning_rate=1e-4),
        note="without the calendar tokens that the authors' run has",
    ),
    Row(
        model="patch_tst", data="ETTh1", lookback=512, steps=96, published=(0.370, 0.400), source=f"{NIE}, PatchTST/64",
        make=_patch_tst, training=Training(batch=128, learning_rate=1e-4, epochs=100, patience=100, decay="late"),
    ),
)  # fmt: skip
