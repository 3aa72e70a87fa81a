"""The hybrid's network: causal, trainable, and honest about settings that cannot work."""

import pytest
import torch

from quantfleet.contracts import DataSpec
from quantfleet.errors import ConfigError
from quantfleet.testing.training_data import plain_stats
from quantfleet.training.loss import LossConfig
from quantfleet.training.module import HEADS
from quantfleet.training.objective import MultiTaskLoss
from quantfleet_models.hybrid import HybridConfig
from quantfleet_models.hybrid.model import HybridNetwork

SPEC = DataSpec(
    symbols=("A",),
    feature_columns=("f0", "f1", "f2"),
    feature_digest="0" * 16,
    horizons_bars=(1, 5),
    timeframe="1d",
    lookback_bars=12,
    chunk_bars=4,
)


@pytest.fixture
def network() -> HybridNetwork:
    torch.manual_seed(0)
    return HybridNetwork(HybridConfig(width=16, dropout=0.0), SPEC).eval()


def test_hidden_rows_do_not_change_with_later_rows(network: HybridNetwork):
    x_NLF = torch.randn(2, SPEC.lookback_bars, SPEC.features)
    before = network.hidden(x_NLF)
    for t in range(SPEC.lookback_bars - 1):
        changed = x_NLF.clone()
        changed[:, t + 1 :] += 100.0
        torch.testing.assert_close(network.hidden(changed)[:, : t + 1], before[:, : t + 1])


def test_the_last_row_reads_the_whole_window(network: HybridNetwork):
    x_NLF = torch.randn(1, SPEC.lookback_bars, SPEC.features, requires_grad=True)
    network(x_NLF)["return"].sum().backward()
    assert x_NLF.grad is not None
    assert (x_NLF.grad.abs().sum(dim=(0, 2)) > 0).all()


def test_heads_have_one_answer_per_window_and_horizon(network: HybridNetwork):
    heads = network(torch.randn(7, SPEC.lookback_bars, SPEC.features))
    assert {name: tuple(value.shape) for name, value in heads.items()} == dict.fromkeys(HEADS, (7, 2))


def test_it_learns_one_batch_by_heart_and_every_parameter_gets_a_gradient():
    torch.manual_seed(2)
    network = HybridNetwork(HybridConfig(width=32, dropout=0.0), SPEC)
    x_NLF = torch.randn(32, SPEC.lookback_bars, SPEC.features)
    targets = {
        "return": torch.randn(32, 2),
        "direction": torch.randint(0, 2, (32, 2)).float(),
        "volatility": torch.randn(32, 2),
    }
    objective = MultiTaskLoss(LossConfig(), plain_stats(SPEC, slots=32), slots=32)
    optimizer, mask_N = torch.optim.Adam(network.parameters(), 1e-2), torch.ones(32, dtype=torch.bool)
    losses = []
    for _ in range(150):
        loss = objective(network(x_NLF), targets, mask_N)
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
            assert silent == []
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20


def test_where_the_loss_names_quantiles_there_is_a_head_for_them_and_they_never_cross():
    config = HybridConfig(width=16, loss=LossConfig(quantiles=(0.05, 0.5, 0.95)))
    forecaster = config.build_forecaster(SPEC).eval()
    answer = forecaster.answer(10 * torch.randn(50, SPEC.lookback_bars, SPEC.features))
    assert answer["quantiles"].shape == (50, 2, 3)
    assert (answer["quantiles"].diff(dim=-1) > 0).all()


def test_every_head_reads_what_the_shared_parameters_make(network: HybridNetwork):
    heads = network(torch.randn(4, SPEC.lookback_bars, SPEC.features))
    for head in HEADS:
        gradients = torch.autograd.grad(heads[head].sum(), network.shared_parameters(), retain_graph=True)
        assert all(g.abs().sum() > 0 for g in gradients)


def test_a_width_that_the_attention_heads_cannot_share_is_refused():
    with pytest.raises(ConfigError, match=r"width=30 does not divide by attention_heads=4"):
        HybridConfig(width=30, attention_heads=4)


def test_a_kernel_longer_than_the_window_is_refused():
    with pytest.raises(ConfigError, match=r"kernel_bars=13 is longer than the window, lookback_bars=12"):
        HybridConfig(kernel_bars=13).build_network(SPEC)
