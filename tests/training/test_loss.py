"""Losses of single tasks against closed formulas, peers and the metrics they stand for; configs that cannot work are refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quantfleet.config import from_plain
from quantfleet.errors import ConfigError
from quantfleet.evaluation.metrics import sharpe
from quantfleet.training import DifficultySampling, LossConfig, UniformSampling, UniquenessSampling
from quantfleet.training.objective import class_weights
from quantfleet.training.task_losses import (
    RETURN_LOSSES,
    direction_loss,
    monotone_quantiles,
    pinball_loss,
    sharpe_moments,
    sharpe_ratio,
)

pytestmark = pytest.mark.usefixtures("one_thread")

ONE = torch.ones(1, dtype=torch.float64)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


# --- single tasks -----------------------------------------------------------------------------------------------------


def test_return_losses_are_their_formulas():
    forecast, target = column(0.0, 0.0, 0.0), column(0.5, -3.0, 1.0)
    expected = {"huber": [0.125, 2.5, 0.5], "mse": [0.25, 9.0, 1.0], "mae": [0.5, 3.0, 1.0]}
    assert {name: loss(forecast, target)[:, 0].tolist() for name, loss in RETURN_LOSSES.items()} == expected


@given(st.floats(-30, 30), st.floats(0, 1), st.floats(0.2, 5))
def test_without_focus_the_direction_loss_is_torchs_weighted_cross_entropy(logit, up, weight):
    found = direction_loss(column(logit), column(up), weight * ONE, ONE, gamma=0.0)
    expected = nn.functional.binary_cross_entropy_with_logits(column(logit), column(up), pos_weight=weight * ONE)
    torch.testing.assert_close(found[0, 0], expected)


@given(st.floats(-8, 8), st.booleans(), st.floats(0.5, 4))
def test_the_focal_loss_is_its_formula(logit, up, gamma):
    p = 1 / (1 + math.exp(-logit))
    of_truth = p if up else 1 - p
    expected = -((1 - of_truth) ** gamma) * math.log(of_truth)
    found = direction_loss(column(logit), column(float(up)), ONE, ONE, gamma)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_the_focal_gradient_agrees_with_differences_and_stays_finite_where_probabilities_round_to_one():
    logits = column(-3.0, -0.5, 0.0, 0.7, 4.0).requires_grad_()
    up = column(1.0, 0.0, 0.3, 1.0, 0.0)
    assert torch.autograd.gradcheck(lambda x: direction_loss(x, up, 1.3 * ONE, 0.7 * ONE, 1.5), (logits,))
    sure = torch.tensor([[200.0], [-200.0]], requires_grad=True)
    direction_loss(sure, torch.tensor([[1.0], [0.0]]), torch.ones(1), torch.ones(1), 0.5).sum().backward()
    assert torch.isfinite(sure.grad).all()


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4))
def test_class_weights_give_both_classes_half_of_the_total_and_have_mean_one(shares):
    share = torch.tensor(shares, dtype=torch.float64)
    up, down = class_weights(share)
    torch.testing.assert_close(share * up, (1 - share) * down)
    torch.testing.assert_close(share * up + (1 - share) * down, torch.ones_like(share))


def test_a_horizon_that_only_ever_rose_has_no_classes_to_balance():
    assert [w.tolist() for w in class_weights(torch.tensor([1.0, 0.0]))] == [[1.0, 1.0], [1.0, 1.0]]


# --- quantiles --------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(st.integers(-50, 50), min_size=3, max_size=25, unique=True), st.floats(0.03, 0.97))
def test_no_forecast_has_a_lower_pinball_loss_than_the_empirical_quantile(sample, level):
    targets = column(*map(float, sample))
    best = float(np.quantile(sample, level, method="inverted_cdf"))

    def loss(forecast: float) -> float:
        return float(pinball_loss(torch.full((len(sample), 1, 1), forecast), targets, torch.tensor([level])).mean())

    assert all(loss(best) <= loss(other) + 1e-5 for other in np.linspace(-51, 51, 103))


def test_gradient_descent_on_the_pinball_loss_finds_the_quantiles_of_a_distribution():
    levels = (0.1, 0.5, 0.9)
    sample = torch.distributions.Exponential(1.0).icdf((torch.arange(2000) + 0.5) / 2000)[:, None]
    free = torch.zeros(1, 1, 3, requires_grad=True)
    optimizer = torch.optim.Adam([free], 0.02)
    for _ in range(600):
        optimizer.zero_grad()
        quantiles = monotone_quantiles(free, levels)
        pinball_loss(quantiles.expand(2000, 1, 3), sample, torch.tensor(levels)).mean().backward()
        optimizer.step()
    found = monotone_quantiles(free, levels).detach().flatten().tolist()
    assert found == pytest.approx([-math.log(1 - q) for q in levels], abs=0.03)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6), st.data())
def test_quantiles_never_cross_whatever_a_network_says(free, data):
    levels = tuple((i + data.draw(st.floats(0.1, 0.9))) / len(free) for i in range(len(free)))
    quantiles = monotone_quantiles(torch.tensor(free, dtype=torch.float64), levels)
    assert quantiles.shape == (len(free),)
    assert (quantiles.diff() >= 0).all()
    middle = min(range(len(levels)), key=lambda i: abs(levels[i] - 0.5))
    assert quantiles[middle] == free[middle]


# --- the Sharpe ratio -------------------------------------------------------------------------------------------------


def moments(position: torch.Tensor, returns: torch.Tensor, weight: torch.Tensor | None = None, cost: float = 0.0):
    weight = torch.ones_like(returns) if weight is None else weight
    return sharpe_moments(position, returns, torch.full((returns.shape[1],), cost, dtype=returns.dtype), weight)


def test_it_is_the_sharpe_metric_of_the_windows_profits_averaged_over_horizons():
    rng = np.random.default_rng(0)
    position, returns = np.tanh(rng.normal(size=(200, 2))), rng.normal(0.05, 1, (200, 2))
    pnl = position * returns - 2 * np.abs(position) * 0.01
    expected = np.mean([sharpe(pnl[:, h], bars_per_year=1) for h in range(2)])
    found = sharpe_ratio(moments(torch.tensor(position), torch.tensor(returns), cost=0.01))
    assert float(found) == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 2**31), st.integers(1, 19))
def test_a_weight_of_two_is_a_window_seen_twice_and_moments_add_up(seed, cut):
    generator = torch.Generator().manual_seed(seed)
    position, returns = (torch.randn(20, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.ones(20, 2)
    weight[:5] = 2.0
    twice = moments(torch.cat([position, position[:5]]), torch.cat([returns, returns[:5]]))
    torch.testing.assert_close(moments(position, returns, weight), twice)
    parts = [moments(position[at], returns[at], weight[at]) for at in (slice(cut), slice(cut, None))]
    torch.testing.assert_close(parts[0] + parts[1], twice)


def test_its_gradient_agrees_with_differences():
    generator = torch.Generator().manual_seed(3)
    position, returns = (torch.randn(12, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    position.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: sharpe_ratio(moments(p, returns, cost=0.05)), (position,))


@pytest.mark.parametrize("windows", [0, 1])
def test_fewer_than_two_windows_have_no_ratio_and_no_gradient(windows):
    position = torch.ones(windows, 1, requires_grad=True)
    ratio = sharpe_ratio(moments(position, torch.ones(windows, 1)))
    ratio.backward()
    assert ratio.item() == 0.0
    assert not position.grad.any()


def test_equal_profits_leave_loss_and_gradient_finite():
    position = torch.zeros(4, 1, requires_grad=True)
    sharpe_ratio(moments(position, torch.ones(4, 1))).backward()
    assert torch.isfinite(position.grad).all()


# --- configs ----------------------------------------------------------------------------------------------------------


def test_a_recipe_names_quantiles_as_a_list():
    assert from_plain(LossConfig, {"quantiles": [0.1, 0.9]}, where="recipe") == LossConfig(quantiles=(0.1, 0.9))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quantiles": (0.0, 0.5)}, r"quantiles holds 0\.0; levels lie between 0 and 1"),
        ({"quantiles": (0.5, 0.1)}, r"quantiles=\[0\.5, 0\.1\] must rise"),
        ({"returns": 0.0, "direction": 0.0, "volatility": 0.0}, "nothing to learn"),
        ({"direction": 0.0, "volatility": 0.0, "balance": "gradnorm"}, "needs two tasks .* there is one: return"),
        (
            {"returns": 0.0, "direction": 0.0, "volatility": 0.0, "sharpe": 1.0, "balance": "uncertainty"},
            "there is none",
        ),
    ],
)
def test_a_loss_that_cannot_work_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        LossConfig(**settings)


def test_gradnorm_is_refused_where_gradients_of_single_tasks_cannot_be_had():
    loss = LossConfig(balance="gradnorm")
    loss.check_strategy("ddp")
    for kind in ("deepspeed", "fsdp"):
        with pytest.raises(ConfigError, match=rf"gradnorm .* training\.strategy={kind} .* balance: uncertainty"):
            loss.check_strategy(kind)
        LossConfig(balance="uncertainty").check_strategy(kind)
    with pytest.raises(ConfigError, match="a compiled network"):
        loss.check_strategy("ddp", compiled=True)


def test_weights_that_would_count_twice_are_refused():
    with pytest.raises(ConfigError, match="count twice"):
        LossConfig().check_sampling(UniquenessSampling(), weighted=True)
    LossConfig(sample_weights=False).check_sampling(UniquenessSampling(), weighted=True)
    LossConfig().check_sampling(UniquenessSampling(), weighted=False)
    LossConfig().check_sampling(UniformSampling(), weighted=True)


def test_difficulty_cannot_be_told_from_a_sharpe_ratio_alone():
    alone = LossConfig(returns=0.0, direction=0.0, volatility=0.0, sharpe=1.0)
    with pytest.raises(ConfigError, match="a Sharpe ratio has none"):
        alone.check_sampling(DifficultySampling(), weighted=False)
