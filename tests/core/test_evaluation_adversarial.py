"""Attacks find what a linear model's closed form says, and more steps are never weaker than one."""

from __future__ import annotations

import pytest
import torch

from quantfleet.errors import ConfigError
from quantfleet.evaluation.adversarial import AttackConfig, carlini_wagner, fgsm, pgd, resistance

WEIGHT = torch.tensor([[1.0, -2.0], [0.5, 0.25]], dtype=torch.float64)


def linear(x: torch.Tensor) -> torch.Tensor:
    return (x * WEIGHT).sum((1, 2))


def bent(x: torch.Tensor) -> torch.Tensor:
    """A gradient that changes along the way."""
    return torch.tanh(3.0 * x[:, 0, 0]) - x[:, 0, 1] ** 2 + 0.5 * torch.sin(4.0 * x[:, 1, 0]) + 0.3


def inputs(rows: int = 200) -> torch.Tensor:
    return torch.randn(rows, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_one_step_moves_a_linear_forecast_by_epsilon_times_the_sum_of_its_weights():
    x = inputs()
    found = fgsm(linear, x, epsilon=0.1)
    assert (linear(x) - linear(found.x)).abs() == pytest.approx(0.1 * 3.75)
    assert (found.flipped_N == (linear(x).abs() < 0.1 * 3.75)).all()
    assert found.size_N == pytest.approx(0.1)
    assert 0.0 < found.share < 1.0


def test_many_steps_stay_within_epsilon_and_do_no_worse_than_one():
    x = inputs()
    one, many = fgsm(bent, x, epsilon=0.5), pgd(bent, x, epsilon=0.5, steps=40)
    assert many.size_N.max() <= 0.5 + 1e-12
    assert many.share > one.share, "the first gradient points past the turn"
    assert (pgd(linear, x, epsilon=0.1).flipped_N == fgsm(linear, x, epsilon=0.1).flipped_N).all()


def test_the_shortest_change_of_a_linear_model_is_its_distance_from_zero():
    x = inputs(50)
    found = carlini_wagner(linear, x, steps=150, searches=6)
    distance = linear(x).abs() / WEIGHT.norm()
    assert found.flipped_N.all()
    assert (found.size_N >= distance - 1e-9).all()
    assert (found.size_N / distance).median() < 1.1
    assert (linear(x) * linear(found.x) < 0.0).all()


def test_a_forecast_that_never_turns_is_left_alone():
    x = inputs(5)
    found = carlini_wagner(lambda z: z.flatten(1).square().sum(1) + 1.0, x, steps=20, searches=2)
    assert not found.flipped_N.any()
    assert torch.isinf(found.size_N).all()
    assert torch.equal(found.x, x)
    assert pgd(lambda z: z.flatten(1).square().sum(1) + 1.0, x, epsilon=9.0).share == 0.0


def test_the_model_keeps_its_gradients_to_itself():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1, dtype=torch.float64), torch.nn.Flatten(0))
    attacks = (
        fgsm(network, inputs(4), epsilon=0.1),
        pgd(network, inputs(4), epsilon=0.1),
        carlini_wagner(network, inputs(4), steps=3),
    )
    for attack in attacks:
        assert not attack.x.requires_grad
    assert all(weight.grad is None for weight in network.parameters())


@pytest.mark.parametrize(
    "options", [{"epsilon": 0.0}, {"epsilon": 0.1, "steps": 0}, {"epsilon": 0.1, "step_size": -1.0}]
)
def test_steps_that_go_nowhere_are_refused(options: dict[str, float]):
    with pytest.raises(ValueError, match="must be above 0"):
        pgd(linear, inputs(1), **options)  # type: ignore[arg-type]


def test_resistance_sets_attacks_beside_chance():
    x = inputs(400)
    found = resistance(linear, x, AttackConfig(sizes=(0.1, 0.5), searched_windows=20), seed=1)
    assert found.windows == 400
    for one in found.turned:
        closed_form = float((linear(x).abs() < one.size * 3.75).double().mean())
        assert (one.fgsm, one.pgd) == pytest.approx((closed_form, closed_form))
        assert one.noise < one.fgsm, "chance seldom finds the worst direction"
    assert found.turned[0].pgd < found.turned[1].pgd
    distance = (linear(x[::20]).abs() / WEIGHT.norm()).median() / 2.0
    assert found.shortest == pytest.approx(float(distance), rel=0.1), "per input, of which there are four"


def test_without_a_search_there_is_no_shortest_change():
    found = resistance(linear, inputs(10), AttackConfig(searched_windows=0), seed=1)
    assert found.shortest != found.shortest


@pytest.mark.parametrize("sizes", [(), (0.1, 0.0), (float("nan"),)])
def test_sizes_that_are_none_are_refused(sizes: tuple[float, ...]):
    with pytest.raises(ConfigError, match=r"attacks\.sizes"):
        AttackConfig(sizes=sizes)
