"""Layers that families share: each equals its definition, and none looks ahead."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import DataSpec
from quantfleet.errors import ConfigError
from quantfleet.training import LossConfig
from quantfleet_models.parts.attention import CausalSelfAttention
from quantfleet_models.parts.checks import check_divides, check_odd, check_within_window
from quantfleet_models.parts.convolution import CausalConv
from quantfleet_models.parts.heads import ForecastHeads
from quantfleet_models.parts.normalise import WindowNorm
from quantfleet_models.parts.position import LearnedPosition, SinusoidalPosition

SPEC = DataSpec(
    symbols=("A",),
    feature_columns=("f0", "f1", "f2"),
    feature_digest="0" * 16,
    horizons_bars=(1, 5),
    timeframe="1d",
    lookback_bars=12,
    chunk_bars=4,
)


@given(kernel_bars=st.integers(1, 5), dilation=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_causal_convolution_equals_its_definition(kernel_bars: int, dilation: int, seed: int):
    torch.manual_seed(seed)
    conv, x_LF = CausalConv(2, 3, kernel_bars, dilation=dilation), torch.randn(9, 2)
    assert conv.conv.bias is not None
    by_hand = conv.conv.bias.repeat(9, 1)
    for t in range(9):
        for k in range(kernel_bars):
            bar = t - (kernel_bars - 1 - k) * dilation
            if bar >= 0:
                by_hand[t] = by_hand[t] + conv.conv.weight[:, :, k] @ x_LF[bar]
    torch.testing.assert_close(conv(x_LF[None])[0], by_hand)
    assert conv.receptive_bars == (kernel_bars - 1) * dilation + 1


def test_the_sinusoidal_table_is_the_formula_of_the_paper():
    table_LD = SinusoidalPosition(7, 6)(torch.zeros(1, 7, 6))[0]
    for at in range(7):
        for i in range(3):
            angle = at / 10_000 ** (2 * i / 6)
            assert table_LD[at, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table_LD[at, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("position", [SinusoidalPosition(8, 5), LearnedPosition(8, 5)], ids=["sinusoidal", "learned"])
def test_a_position_is_added_from_the_first_row_on_also_to_shorter_windows(position: torch.nn.Module):
    whole, short = position(torch.zeros(2, 8, 5)), position(torch.zeros(2, 3, 5))
    torch.testing.assert_close(short, whole[:, :3])
    assert len({tuple(row.tolist()) for row in whole[0]}) == 8, "no two places look alike"


def test_attention_under_the_mask_reads_no_later_row_and_every_earlier_one():
    torch.manual_seed(0)
    stack = CausalSelfAttention(6, 8, heads=2, layers=2, dropout=0.0).eval()
    x_NLD = torch.randn(1, 6, 8, requires_grad=True)
    for t in range(6):
        (gradient,) = torch.autograd.grad(stack(x_NLD)[:, t].square().sum(), x_NLD)
        reads = gradient.abs().sum((0, 2)) > 0
        assert reads.tolist() == [row <= t for row in range(6)]


@pytest.mark.parametrize("centre", ["mean", "last"])
def test_window_norm_makes_a_forecast_move_with_the_level_and_the_scale_of_its_window(centre):
    torch.manual_seed(1)
    norm, x_NLF = WindowNorm(3, affine=True, centre=centre), torch.randn(2, 20, 3)
    with torch.no_grad():
        norm.weight_F.uniform_(0.5, 2.0)
        norm.bias_F.normal_()

    def forecast(x):
        y, centre_, spread = norm(x)
        return norm.undo(y[:, -4:] ** 2, centre_, spread)

    torch.testing.assert_close(forecast(50 * x_NLF + 7), 50 * forecast(x_NLF) + 7, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(norm.undo(*norm(x_NLF)), x_NLF)


def test_a_window_normalised_by_its_mean_has_mean_0_and_spread_1():
    normed, _, _ = WindowNorm(3)(5 + 9 * torch.randn(4, 50, 3))
    torch.testing.assert_close(normed.mean(1), torch.zeros(4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.std(1, unbiased=False), torch.ones(4, 3), atol=1e-5, rtol=0)


def test_heads_are_those_that_the_loss_reads():
    row_ND = torch.randn(5, 8)
    plain = ForecastHeads(8, SPEC, LossConfig())(row_ND)
    assert {name: tuple(v.shape) for name, v in plain.items()} == dict.fromkeys(
        ("return", "direction", "volatility"), (5, 2)
    )
    assert ForecastHeads(8, SPEC, LossConfig(quantiles=(0.1, 0.5, 0.9)))(row_ND)["quantiles"].shape == (5, 2, 3)


def test_settings_that_cannot_work_are_refused_with_what_to_use_instead():
    with pytest.raises(ConfigError, match=r"width=30 does not divide by attention_heads=4; use a multiple"):
        check_divides(total=30, total_name="width", part=4, part_name="attention_heads")
    with pytest.raises(ConfigError, match=r"average_bars=24 is even.* use 25"):
        check_odd("average_bars", 24)
    with pytest.raises(
        ConfigError, match=r"x\.patch_bars=13 is longer than the window, lookback_bars=12\. Set patch_bars to that"
    ):
        check_within_window("x", "patch_bars", 13, SPEC)
    check_within_window("x", "patch_bars", 12, SPEC)
