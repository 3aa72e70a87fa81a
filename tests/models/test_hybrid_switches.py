"""The hybrid's switches, one by one and together: causal, trainable, every parameter in use, and each part its own definition.

Shapes: N rows, D width, X experts, M memory slots.
"""

import builtins

import numpy as np
import pytest
import torch
from support.networks import assert_causal, learn_by_heart, spec_of

from quantfleet.errors import ConfigError
from quantfleet.training import LossConfig
from quantfleet_models.hybrid import HybridConfig
from quantfleet_models.parts.adaptive import AdaptiveDepth, OdeBlock, PersistentMemory
from quantfleet_models.parts.experts import ExpertFeedForward, balance_loss
from quantfleet_models.parts.rolling_attention import RollingAttention, rotate
from quantfleet_models.parts.scales import causal_mean

SPEC = spec_of()
SMALL = {"width": 16, "dropout": 0.0}
SWITCHES = {
    "plain": {},
    "rotary": {"positions": "rotary"},
    "no positions": {"positions": "none", "recurrent_layers": 2},
    "cross attention": {"fusion": "cross_attention"},
    "scales": {"scales_bars": (2, 5, 12)},
    "experts": {"experts": 4, "attention_layers": 2},
    "memory": {"memory_slots": 6},
    "ode": {"ode_steps": 2},
    "adaptive": {"adaptive_steps": 4},
    "heads": {
        "position_head": True, "loss": LossConfig(confidence=0.3, sharpe=0.2, quantiles=(0.1, 0.5, 0.9)),
    },
    "all": {
        "positions": "rotary", "fusion": "cross_attention", "scales_bars": (3,), "experts": 3, "memory_slots": 4, "ode_steps": 1,
        "adaptive_steps": 3, "position_head": True, "loss": LossConfig(confidence=0.3, sharpe=0.2, quantiles=(0.1, 0.9)),
    },
}  # fmt: skip


def config_of(name: str) -> HybridConfig:
    if SWITCHES[name].get("ode_steps"):
        pytest.importorskip("torchdiffeq", reason="the extra `ode`")
    return HybridConfig(**SMALL, **SWITCHES[name])


@pytest.mark.parametrize("name", SWITCHES)
def test_hidden_rows_do_not_change_with_later_rows(name):
    torch.manual_seed(0)
    assert_causal(config_of(name).build_network(SPEC).eval(), SPEC)


@pytest.mark.parametrize("name", SWITCHES)
def test_it_learns_one_batch_by_heart_and_every_parameter_gets_a_gradient(name):
    losses = learn_by_heart(config_of(name), SPEC, steps=40)
    assert losses[-1] < losses[0] - 0.5 * abs(losses[0])


@pytest.mark.parametrize("name", SWITCHES)
def test_the_last_row_alone_is_the_last_of_all_rows(name):
    torch.manual_seed(0)
    network = config_of(name).build_network(SPEC).eval()
    x_NLF = torch.randn(4, SPEC.lookback_bars, SPEC.features)
    with torch.no_grad():
        torch.testing.assert_close(network._rows(x_NLF, last=True)[0][:, 0], network.hidden(x_NLF)[:, -1])


@pytest.mark.parametrize("name", SWITCHES)
def test_what_the_heads_read_last_is_what_gradnorm_is_told(name):
    network = config_of(name).build_network(SPEC).eval()
    heads = network(torch.randn(4, SPEC.lookback_bars, SPEC.features))
    for head in heads.values():
        gradients = torch.autograd.grad(head.sum(), network.shared_parameters(), retain_graph=True)
        assert all(g.abs().sum() > 0 for g in gradients)


def test_the_price_of_thinking_and_of_favourites_is_added_in_training_and_never_in_validation():
    config = HybridConfig(**SMALL, experts=4, adaptive_steps=3, ponder_cost=0.5, balance_cost=0.25)
    network = config.build_network(SPEC)
    x_NLF = torch.randn(8, SPEC.lookback_bars, SPEC.features)
    assert "auxiliary" not in network.eval()(x_NLF)
    rows, (says,) = network.train()._rows(x_NLF, last=True)
    expected = 0.25 * balance_loss(says) + 0.5 * network.adaptive(rows[:, -1])[1].mean()
    torch.testing.assert_close(network(x_NLF)["auxiliary"], expected)


# --- the parts --------------------------------------------------------------------------------------------------------


def test_rotated_products_depend_on_the_distance_alone():
    a, b = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def product(i: int, j: int) -> float:
        return float((rotate(a, torch.tensor([i])) * rotate(b, torch.tensor([j]))).sum())

    assert product(3, 1) == pytest.approx(product(103, 101), rel=1e-4)
    assert product(3, 1) != pytest.approx(product(3, 2), rel=1e-3)
    assert float(rotate(a, torch.tensor([7])).norm()) == pytest.approx(float(a.norm()), rel=1e-5)


def test_attention_reads_as_far_back_as_its_reach():
    torch.manual_seed(0)
    attention = RollingAttention(8, 2, reach_bars=3, rotary=True, dropout=0.0)
    x = torch.randn(1, 7, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(attention(x, x)[0, 5].sum(), x)
    assert (gradient[0].abs().sum(-1) > 0).tolist() == [False, False, False, True, True, True, False]


def test_a_causal_mean_is_the_mean_of_the_bars_there_are():
    x = torch.randn(2, 9, 3)
    for bars in (1, 4, 20):
        by_hand = torch.stack([x[:, max(0, t - bars + 1) : t + 1].mean(1) for t in range(9)], dim=1)
        torch.testing.assert_close(causal_mean(x, bars), by_hand, rtol=1e-5, atol=1e-5)


def test_experts_answer_as_the_sum_over_the_chosen_ones_by_hand():
    torch.manual_seed(0)
    layer, x = ExpertFeedForward(6, 10, experts=4, chosen=2, dropout=0.0), torch.randn(3, 5, 6)
    out, says = layer(x)
    count = torch.zeros(4)
    for at in np.ndindex(3, 5):
        chance = torch.softmax(layer.router(x[at]), 0)
        best = chance.topk(2)
        count[best.indices] += 1
        answer = sum(
            w / best.values.sum()
            * (torch.nn.functional.gelu(x[at] @ layer.up_XDI[e] + layer.up_bias_XI[e]) @ layer.down_XID[e] + layer.down_bias_XD[e])
            for w, e in zip(best.values, best.indices, strict=True)
        )  # fmt: skip
        torch.testing.assert_close(out[at], answer, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(says[0], count)


def test_the_balance_loss_is_one_when_all_are_busy_and_as_many_as_there_are_when_one_does_all():
    assert float(balance_loss(torch.tensor([[5.0] * 4, [5.0] * 4]))) == pytest.approx(1.0)
    assert float(balance_loss(torch.tensor([[20.0, 0, 0, 0], [20.0, 0, 0, 0]]))) == pytest.approx(4.0)


def test_training_on_the_balance_loss_alone_makes_the_experts_equally_busy():
    torch.manual_seed(0)
    layer, x = ExpertFeedForward(6, 4, experts=4, chosen=1, dropout=0.0), torch.randn(400, 6) + 1.0
    with torch.no_grad():
        layer.router.weight[0] += 0.5
    optimizer = torch.optim.Adam(layer.parameters(), 3e-2)
    before = balance_loss(layer(x)[1]).item()
    for _ in range(200):
        optimizer.zero_grad()
        loss = balance_loss(layer(x)[1])
        loss.backward()
        optimizer.step()
    assert before > 1.2
    assert loss.item() < 1.05


def test_adaptive_depth_is_graves_s_formula():
    torch.manual_seed(0)
    layer, x = AdaptiveDepth(6, most_steps=5), torch.randn(40, 6)
    with torch.no_grad():
        layer.halt.weight.mul_(6.0)
    out, ponder = layer(x)
    steps_taken = set()
    for row in range(40):
        state, spent, answer, steps = x[row : row + 1], 0.0, torch.zeros(1, 6), 0
        while True:
            steps += 1
            state = layer.norm(state + layer.change(torch.cat([state, torch.tensor([[float(steps == 1)]])], 1)))
            halt = torch.sigmoid(layer.halt(state)).item()
            if spent + halt >= 0.99 or steps == 5:
                answer = answer + (1 - spent) * state
                break
            answer, spent = answer + halt * state, spent + halt
        steps_taken.add(steps)
        torch.testing.assert_close(out[row : row + 1], answer, rtol=1e-4, atol=1e-5)
        assert ponder[row].item() == pytest.approx(steps + 1 - spent, rel=1e-4)
    assert len(steps_taken) >= 3  # rows differ in how long they take


def test_the_ponder_cost_makes_it_think_less():
    torch.manual_seed(0)
    layer, x = AdaptiveDepth(6, most_steps=6), torch.randn(64, 6)
    with torch.no_grad():
        layer.halt.bias.fill_(-2.0)
    optimizer = torch.optim.Adam(layer.parameters(), 3e-2)
    before = layer(x)[1].mean().item()
    for _ in range(200):
        optimizer.zero_grad()
        layer(x)[1].mean().backward()
        optimizer.step()
    assert before > 5
    assert layer(x)[1].mean().item() < 3


def test_a_linear_flow_is_its_matrix_exponential():
    pytest.importorskip("torchdiffeq", reason="the extra `ode`")
    torch.manual_seed(0)
    block, x = OdeBlock(4, steps=20).double(), torch.randn(3, 4, dtype=torch.float64)
    flow = torch.randn(4, 4, dtype=torch.float64) / 2
    block.flow = lambda time, row: row @ flow.T  # type: ignore[method-assign]
    torch.testing.assert_close(block(x), x @ torch.linalg.matrix_exp(flow).T, rtol=1e-6, atol=1e-6)


def test_the_memory_gives_back_what_its_key_was_written_with():
    memory = PersistentMemory(4, slots=3, dropout=0.0)
    with torch.no_grad():
        memory.query.weight.copy_(torch.eye(4))
        memory.query.bias.zero_()
        memory.key_MD.copy_(100 * torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]))
    for slot in range(3):
        row = memory.key_MD[slot : slot + 1] / 100
        torch.testing.assert_close(memory(row), row + memory.value_MD[slot])


# --- settings that cannot work ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"experts": 1}, "a router needs two experts or more"),
        ({"experts": 2, "experts_chosen": 3}, "may not choose more than there are"),
        ({"adaptive_steps": 1}, "leaves nothing to decide"),
        ({"position_head": True}, "needs loss.sharpe above 0"),
        ({"width": 12, "positions": "rotary"}, "an odd 3 features each"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        HybridConfig(**settings)


def test_a_scale_longer_than_the_window_is_refused():
    with pytest.raises(ConfigError, match=r"scales_bars=13 is longer than the window"):
        HybridConfig(scales_bars=(5, 13)).build_network(SPEC)


def test_without_torchdiffeq_the_extra_is_named(monkeypatch):
    imported = builtins.__import__

    def refuse(name, *args, **options):
        if name.startswith("torchdiffeq"):
            raise ModuleNotFoundError("No module named 'torchdiffeq'", name="torchdiffeq")
        return imported(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=r"pip install 'quantfleet\[ode\]'"):
        HybridConfig(ode_steps=2).build_network(SPEC)
