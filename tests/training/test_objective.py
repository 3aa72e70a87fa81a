"""The multi-task loss: it parts evenly over workers, tasks come into balance, weights are repetitions, masks hide all.

Shapes: N windows, H horizons, K label columns, Q quantile levels.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quantfleet.contracts import DataSpec, Forecast
from quantfleet.errors import ConfigError, SchemaError
from quantfleet.testing.training_data import plain_stats
from quantfleet.training import LossConfig
from quantfleet.training.module import HEADS, ScaledForecaster
from quantfleet.training.objective import MultiTaskLoss
from quantfleet.training.task_losses import pinball_loss

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = DataSpec(
    symbols=("A",), feature_columns=("f", "g"), feature_digest="d", horizons_bars=(1, 5), timeframe="1d", lookback_bars=3,
    chunk_bars=4,
)  # fmt: skip
H, LEVELS = 2, (0.1, 0.5, 0.9)
WEIGHTS = LossConfig(returns=1.0, direction=0.5, volatility=0.25)
EVERYTHING = replace(WEIGHTS, quantiles=LEVELS, balance_classes=True, focal_gamma=1.0, return_loss="mse")

Tensors = dict[str, torch.Tensor]


def heads_and_targets(count: int, seed: int) -> tuple[Tensors, Tensors]:
    generator = torch.Generator().manual_seed(seed)
    heads = {h: torch.randn(count, H, generator=generator, dtype=torch.float64) for h in HEADS}
    heads["quantiles"] = torch.randn(count, H, 3, generator=generator, dtype=torch.float64).sort(-1).values
    targets = {h: torch.randn(count, H, generator=generator, dtype=torch.float64) for h in HEADS}
    targets["direction"] = (targets["direction"] > 0).double()
    for target in targets.values():
        target[torch.rand(count, H, generator=generator) < 0.2] = torch.nan
    return heads, targets


def objective(config: LossConfig, targets: Tensors, mask: torch.Tensor, weight: torch.Tensor | None = None, **stats):
    """The loss of a segment that is exactly this batch."""
    known_NK = torch.cat([torch.isfinite(targets[h]) & mask[:, None] for h in HEADS], 1).double()
    weight = torch.ones(len(mask)) if weight is None else weight
    moments = plain_stats(
        SPEC, slots=len(mask), label_known_K=known_NK.sum(0).long().numpy(),
        label_weight_K=(weight.double() @ known_NK).numpy(), **stats,
    )  # fmt: skip
    return MultiTaskLoss(config, moments, len(mask)).double()


def rows(tensors: Tensors, at: slice | torch.Tensor) -> Tensors:
    return {name: tensor[at] for name, tensor in tensors.items()}


# --- fixed weights ----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.booleans(), min_size=2, max_size=24).filter(lambda m: len(m) % 2 == 0), st.integers(0, 2**31),
    st.sampled_from([WEIGHTS, EVERYTHING, replace(EVERYTHING, balance="uncertainty")]),
)  # fmt: skip
def test_the_mean_over_two_workers_is_the_loss_of_the_joint_batch_whatever_masks_and_weights(masked, seed, config):
    mask, half = torch.tensor(masked), len(masked) // 2
    heads, targets = heads_and_targets(len(masked), seed)
    weight = torch.rand(len(masked), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    loss = objective(config, targets, mask, weight)
    joint = loss(heads, targets, mask, weight)
    parts = [
        loss(rows(heads, at), rows(targets, at), mask[at], weight[at]) for at in (slice(0, half), slice(half, None))
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), joint)


def test_the_loss_of_a_whole_segment_is_the_weighted_mean_over_its_known_labels():
    heads, targets = heads_and_targets(40, seed=1)
    mask, weight = torch.arange(40) % 3 != 0, torch.rand(40, dtype=torch.float64) * 5e-4
    expected = torch.zeros((), dtype=torch.float64)
    for name, task_weight in (("return", 1.0), ("direction", 0.5), ("volatility", 0.25), ("quantiles", 0.5)):
        for h in range(H):
            target = targets["return" if name == "quantiles" else name][:, h]
            known = mask & torch.isfinite(target)
            p, t, w = heads[name][known, h], target[known], weight[known]
            if name == "direction":
                each = torch.log1p(torch.exp(-p)) * t + torch.log1p(torch.exp(p)) * (1 - t)
            elif name == "quantiles":
                each = pinball_loss(p, t, torch.tensor(LEVELS, dtype=torch.float64))
            else:
                each = torch.where((p - t).abs() < 1, 0.5 * (p - t) ** 2, (p - t).abs() - 0.5)
            expected += task_weight * (w * each).sum() / w.sum() / H
    found = objective(replace(WEIGHTS, quantiles=LEVELS), targets, mask, weight)(heads, targets, mask, weight)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_a_weight_of_two_is_a_row_seen_twice(seed):
    heads, targets = heads_and_targets(12, seed)
    mask, again = torch.ones(12, dtype=torch.bool), torch.cat([torch.arange(12), torch.arange(4)])
    weight = torch.ones(12, dtype=torch.float64)
    weight[:4] = 2.0
    weighted = objective(EVERYTHING, targets, mask, weight)(heads, targets, mask, weight)
    heads, targets, mask = rows(heads, again), rows(targets, again), mask[again]
    twice = objective(EVERYTHING, targets, mask)(heads, targets, mask)
    torch.testing.assert_close(weighted, twice, rtol=1e-6, atol=1e-9)


def test_the_scale_of_the_weights_means_nothing_and_a_switch_leaves_them_out():
    heads, targets = heads_and_targets(20, seed=5)
    mask, weight = torch.ones(20, dtype=torch.bool), torch.rand(20, dtype=torch.float64)
    config = replace(EVERYTHING, sharpe=0.3)
    one, other = (objective(config, targets, mask, weight * c)(heads, targets, mask, weight * c) for c in (1.0, 1e-4))
    torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
    off = objective(replace(config, sample_weights=False), targets, mask, weight)(heads, targets, mask, weight)
    torch.testing.assert_close(off, objective(config, targets, mask)(heads, targets, mask))


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(HEADS), st.sampled_from([float("nan"), float("inf"), -float("inf"), 3e38]), st.integers(0, 2**31)
)
def test_labels_that_are_unknown_or_masked_leave_loss_and_gradients_alone(head, odd, seed):
    heads, targets = heads_and_targets(6, seed)
    mask = torch.tensor([True, True, False, True, True, False])
    loss_of = MultiTaskLoss(replace(EVERYTHING, sharpe=1.0), plain_stats(SPEC, slots=6), 6)

    def gradients(target: Tensors) -> list[torch.Tensor]:
        leaves = {h: heads[h].clone().requires_grad_() for h in heads}
        loss = loss_of(leaves, target, mask)
        loss.backward()
        return [loss.detach(), *(leaves[h].grad for h in heads)]

    poisoned = {h: t.clone() for h, t in targets.items()}
    poisoned[head][2] = odd  # masked
    poisoned[head][0] = float("nan")
    without = {h: t.clone() for h, t in targets.items()}
    without[head][[0, 2]] = float("nan")
    for one, two in zip(gradients(poisoned), gradients(without), strict=True):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("sharpe", [0.0, 1.0])
def test_a_step_of_padding_only_costs_nothing_and_moves_nothing(sharpe):
    heads = {h: torch.randn(5, H, requires_grad=True) for h in HEADS}
    targets = {h: torch.full((5, H), torch.nan) for h in HEADS}
    loss = MultiTaskLoss(replace(WEIGHTS, sharpe=sharpe), plain_stats(SPEC, slots=5), 5)(
        heads, targets, torch.zeros(5, dtype=torch.bool)
    )
    loss.backward()
    assert loss.item() == 0.0
    assert all(torch.count_nonzero(heads[h].grad) == 0 for h in HEADS)


@pytest.mark.parametrize("config", [WEIGHTS, EVERYTHING, replace(EVERYTHING, balance="uncertainty")])
def test_the_losses_of_single_windows_average_to_the_loss_of_fully_known_labels(config):
    heads, targets = heads_and_targets(30, seed=4)
    targets = {h: torch.nan_to_num(t, nan=0.3) for h, t in targets.items()}
    mask = torch.ones(30, dtype=torch.bool)
    loss = objective(config, targets, mask)
    each = loss.window_losses(heads, targets, mask)
    torch.testing.assert_close(each.mean(), loss(heads, targets, mask).detach())
    assert loss.window_losses(heads, targets, ~mask).tolist() == [0.0] * 30


def test_a_task_of_weight_zero_does_not_count():
    heads, targets = heads_and_targets(8, seed=3)
    mask = torch.ones(8, dtype=torch.bool)
    loss = MultiTaskLoss(LossConfig(direction=0.0, volatility=0.0), plain_stats(SPEC, slots=8), 8)
    changed = {**targets, "direction": 1 - targets["direction"], "volatility": targets["volatility"] + 5}
    one, two = (loss(heads, t, mask) for t in (targets, changed))
    assert one == two > 0


@given(st.integers(1, 19), st.sampled_from([EVERYTHING, replace(EVERYTHING, sharpe=0.5, balance="uncertainty")]))
@settings(max_examples=20, deadline=None)
def test_the_validation_loss_is_that_of_all_windows_at_once_without_weights_or_balance(cut, config):
    heads, targets = heads_and_targets(20, seed=6)
    mask = torch.arange(20) != 7
    loss = objective(config, targets, mask, torch.rand(20))
    if config.balance == "uncertainty":
        nn.init.constant_(loss.log_variance_T, 3.0)
    parts = [loss.validation_sums(rows(heads, a), rows(targets, a), mask[a]) for a in (slice(cut), slice(cut, None))]
    assert all(len(p) == loss.validation_sums_length for p in parts)
    complete = mask & torch.stack([torch.isfinite(t).all(1) for t in targets.values()]).all(0)
    plain = replace(config, balance="fixed", sample_weights=False)
    heads, targets, counted = rows(heads, complete), rows(targets, complete), mask[complete]
    torch.testing.assert_close(
        loss.validation_loss(parts[0] + parts[1]), objective(plain, targets, counted)(heads, targets, counted)
    )
    assert loss.validation_loss(torch.zeros(loss.validation_sums_length)) == 0.0


# --- balance ----------------------------------------------------------------------------------------------------------


def test_at_the_optimum_of_the_uncertainties_each_variance_is_its_loss_and_each_weight_one_over_it():
    heads, targets = heads_and_targets(50, seed=2)
    mask = torch.ones(50, dtype=torch.bool)
    loss = objective(replace(WEIGHTS, balance="uncertainty", quantiles=LEVELS), targets, mask)
    optimizer = torch.optim.Adam(loss.parameters(), 0.1)
    for _ in range(250):
        optimizer.zero_grad()
        loss(heads, targets, mask).backward()
        optimizer.step()
    losses_T = loss.task_losses(heads, targets, mask, torch.ones(50))
    torch.testing.assert_close(loss.log_variance_T.exp().detach(), losses_T, rtol=1e-3, atol=0)
    torch.testing.assert_close(loss.weights(), loss.base_T / losses_T, rtol=1e-3, atol=0)


def test_uncertainties_begin_as_the_fixed_weights_and_are_saved():
    heads, targets = heads_and_targets(9, seed=2)
    mask = torch.ones(9, dtype=torch.bool)
    fixed, learned = (
        objective(replace(WEIGHTS, balance=balance), targets, mask) for balance in ("fixed", "uncertainty")
    )
    torch.testing.assert_close(fixed(heads, targets, mask), learned(heads, targets, mask))
    assert list(learned.state_dict()) == ["log_variance_T"]
    assert not fixed.state_dict()


class Shared(nn.Module):
    """Two linear layers; the return's target is a thousand times the volatility's."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.heads = nn.ModuleDict({h: nn.Linear(8, H) for h in HEADS})

    def forward(self, x: torch.Tensor) -> Tensors:
        hidden = torch.tanh(self.body(x))
        return {name: head(hidden) for name, head in self.heads.items()}


def test_gradnorm_leads_tasks_of_different_scale_to_equal_gradients_and_keeps_the_sum_of_their_weights():
    torch.manual_seed(0)
    network, x, y = Shared(), torch.randn(256, 4), torch.randn(256, H)
    scale = {"return": 100.0, "direction": 1.0, "volatility": 0.1}
    targets = {h: (y > 0).float() if h == "direction" else y * s for h, s in scale.items()}
    mask = torch.ones(256, dtype=torch.bool)
    config = LossConfig(
        balance="gradnorm", gradnorm_alpha=0.0, gradnorm_rate=0.05, return_loss="mse", direction=1.0, volatility=1.0
    )
    loss, shared = MultiTaskLoss(config, plain_stats(SPEC, slots=256), 256), tuple(network.body.parameters())

    def norms() -> torch.Tensor:
        losses = loss.weights() * loss.task_losses(network(x), targets, mask, torch.ones(256))
        gradients = [torch.autograd.grad(part, shared, retain_graph=True) for part in losses]
        return torch.stack([torch.cat([g.flatten() for g in gs]).norm() for gs in gradients])

    before = norms()
    assert before.max() > 100 * before.min()
    for _ in range(250):
        loss(network(x), targets, mask, shared=shared)
    after = norms()
    assert after.max() < 1.15 * after.min()
    assert loss.weights().sum() == pytest.approx(3.0, rel=1e-5)
    assert set(loss.state_dict()) == {"weight_T", "first_loss_T"}
    kept = loss.weights()
    with torch.no_grad():
        loss(network(x), targets, mask)
    loss.eval()(network(x), targets, mask)
    torch.testing.assert_close(loss.weights(), kept)


def test_gradnorm_gives_more_to_the_task_that_learns_more_slowly():
    shared = (nn.Parameter(torch.ones(2)),)

    def losses(*values: float) -> torch.Tensor:
        return torch.tensor(values) + shared[0] - shared[0].detach()  # every gradient is 1

    loss = MultiTaskLoss(
        LossConfig(balance="gradnorm", volatility=0.0, direction=1.0), plain_stats(SPEC, slots=1), slots=1
    )
    loss._rebalance(losses(1.0, 4.0), shared)
    torch.testing.assert_close(loss.weights(), torch.ones(2))
    loss._rebalance(losses(0.2, 3.6), shared)
    assert loss.weights()[1] > loss.weights()[0]


def test_a_batch_without_a_finite_gradient_leaves_gradnorms_weights_alone():
    network = Shared()
    loss = MultiTaskLoss(LossConfig(balance="gradnorm"), plain_stats(SPEC, slots=4), slots=4)
    for factor, counted in ((float("nan"), True), (1.0, False)):
        heads = {h: v * factor for h, v in network(torch.randn(4, 4)).items()}
        loss(
            heads,
            {h: torch.ones(4, H) for h in HEADS},
            torch.full((4,), counted),
            shared=tuple(network.body.parameters()),
        )
    torch.testing.assert_close(loss.weights(), loss.base_T)
    assert not loss.first_loss_T.any()
    with pytest.raises(ValueError, match="no shared parameters"):
        loss(network(torch.randn(4, 4)), {h: torch.ones(4, H) for h in HEADS}, torch.ones(4, dtype=torch.bool))


# --- what a forecaster answers ----------------------------------------------------------------------------------------


class Echo(nn.Module):
    def forward(self, x_NLF: torch.Tensor) -> Tensors:
        return dict.fromkeys(HEADS, x_NLF[:, -1, :H])


def test_balanced_classes_still_answer_the_log_odds_of_what_was_seen():
    stats = plain_stats(SPEC, slots=1, label_mean_K=np.array([0, 0, 0.8, 0.5, 0, 0]))
    config = LossConfig(returns=0.0, volatility=0.0, balance_classes=True)
    made, loss = ScaledForecaster(Echo(), SPEC, config), MultiTaskLoss(config, stats, 1000)
    made.set_label_scales(stats)
    up = torch.tensor([[1.0, 1.0]] * 800 + [[0.0, 0.0]] * 200)
    up[500:, 1] = 0.0
    logit = torch.zeros(1, H, requires_grad=True)
    optimizer = torch.optim.LBFGS([logit], max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss({h: logit.expand(1000, H) for h in HEADS}, dict.fromkeys(HEADS, up), torch.ones(1000) > 0)
        value.backward()
        return value

    optimizer.step(closure)
    torch.testing.assert_close(logit.detach(), torch.zeros(1, H), atol=1e-4, rtol=0)
    x = torch.zeros(1, SPEC.lookback_bars, H)
    expected = torch.logit(torch.tensor([[0.8, 0.5]]))
    torch.testing.assert_close(made.answer(x)["direction"], expected, atol=1e-5, rtol=0)


def test_a_network_without_the_heads_or_names_that_the_loss_asks_for_is_refused():
    with pytest.raises(ConfigError, match=r"a head 'quantiles' of 2 horizons x 3 levels, and Echo gives return, dir"):
        ScaledForecaster(Echo(), SPEC, LossConfig(quantiles=LEVELS))
    with pytest.raises(ConfigError, match="Echo has no method `shared_parameters`"):
        ScaledForecaster(Echo(), SPEC, LossConfig(balance="gradnorm"))


def test_quantiles_are_answered_in_natural_units():
    class WithQuantiles(Echo):
        def forward(self, x_NLF: torch.Tensor) -> Tensors:
            return {**super().forward(x_NLF), "quantiles": torch.zeros(len(x_NLF), H, 3)}

    made = ScaledForecaster(WithQuantiles(), SPEC, LossConfig(quantiles=LEVELS))
    made.set_label_scales(
        plain_stats(SPEC, slots=1, label_mean_K=np.full(6, 0.5), label_std_K=np.array([0.1, 0.2, 1, 1, 1, 1]))
    )
    step = np.log(2.0)  # softplus of 0
    expected = 0.5 + np.array([0.1, 0.2])[:, None] * np.array([-step, 0, step])
    np.testing.assert_allclose(made.answer(torch.zeros(1, 3, 2))["quantiles"][0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("quantiles", "levels", "said"),
    [
        (np.zeros((1, 2, 1, 2)), None, "together with their levels"),
        (np.zeros((1, 2, 1, 2)), (0.1, 0.5, 0.9), r"has shape \(1, 2, 1, 2\); it needs \(1, 2, 1, 3\)"),
        (np.zeros((1, 2, 1, 2)), (0.5, 0.1), "must rise"),
    ],
)
def test_a_forecast_checks_its_quantiles(quantiles, levels, said):
    head = np.zeros((1, 2, 1), np.float32)
    with pytest.raises(SchemaError, match=said):
        Forecast(
            return_BCH=head,
            direction_logit_BCH=head,
            volatility_BCH=head,
            quantile_BCHQ=quantiles,
            quantile_levels=levels,
        )
