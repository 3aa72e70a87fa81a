"""The confidence head: cross entropy of whether the called direction comes, without a pull on the call itself.

Shapes: N windows, H horizons.
"""

import pytest
import torch
from support.networks import spec_of

from quantfleet.errors import ConfigError
from quantfleet.testing.training_data import plain_stats
from quantfleet.training.loss import LossConfig
from quantfleet.training.module import ScaledForecaster
from quantfleet.training.objective import MultiTaskLoss
from quantfleet.training.step import TrainingModule
from quantfleet_models.hybrid import HybridConfig
from quantfleet_models.hybrid.model import HybridNetwork

SPEC, N, H = spec_of(), 200, 2


def judged(config: LossConfig, confidence_NH, direction_NH, up_NH, **stats):
    heads = {
        "return": torch.zeros(N, H),
        "volatility": torch.zeros(N, H),
        "direction": direction_NH,
        "confidence": confidence_NH,
    }
    targets = {"return": torch.zeros(N, H), "volatility": torch.zeros(N, H), "direction": up_NH}
    loss = MultiTaskLoss(config, plain_stats(SPEC, slots=N, **stats), slots=N)
    weight_N = torch.ones(N)
    return loss.task_losses(heads, targets, torch.ones(N, dtype=torch.bool), weight_N)[
        list(config.tasks).index("confidence")
    ]


def some(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    direction, confidence = (torch.randn(N, H, generator=generator, requires_grad=True) for _ in range(2))
    return confidence, direction, (torch.rand(N, H, generator=generator) < 0.5).float()


def test_it_is_the_cross_entropy_of_whether_the_call_came_and_moves_no_call():
    confidence, direction, up = some()
    loss = judged(LossConfig(confidence=1.0), confidence, direction, up)
    came = ((direction > 0) == (up > 0.5)).float()
    torch.testing.assert_close(loss, torch.nn.functional.binary_cross_entropy_with_logits(confidence, came))
    loss.backward()
    assert not direction.grad.any()
    assert confidence.grad.abs().sum() > 0


def test_its_minimum_is_how_often_calls_come():
    _, direction, up = some()
    logit = torch.zeros(1, H, requires_grad=True)
    optimizer = torch.optim.Adam([logit], 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        judged(LossConfig(confidence=1.0), logit.expand(N, H), direction, up).backward()
        optimizer.step()
    came = ((direction > 0) == (up > 0.5)).float().mean(0)
    torch.testing.assert_close(torch.sigmoid(logit[0]), came, rtol=0, atol=1e-3)


def test_with_balanced_classes_the_call_is_the_one_that_is_answered():
    """Weighing classes alike shifts the fitted logit; the call is made after the shift is taken back."""
    confidence, direction, up = some()
    config = LossConfig(confidence=1.0, balance_classes=True)
    means = plain_stats(SPEC, slots=N).label_mean_K.copy()
    means[H : 2 * H] = 0.8
    network = HybridConfig(width=8, loss=config).build_network(SPEC)
    forecaster = ScaledForecaster(network, SPEC, config)
    forecaster.set_label_scales(plain_stats(SPEC, slots=N, label_mean_K=means))
    answered = direction - forecaster.logit_offset_H
    assert ((answered > 0) != (direction > 0)).any()
    came = ((answered > 0) == (up > 0.5)).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(confidence, came)
    torch.testing.assert_close(judged(config, confidence, direction, up, label_mean_K=means), expected)


def test_a_network_without_the_head_is_refused():
    class Deaf(HybridNetwork):
        def forward(self, x_NLF):
            return {name: head for name, head in super().forward(x_NLF).items() if name != "confidence"}

    config = HybridConfig(width=8, loss=LossConfig(confidence=0.5))
    with pytest.raises(
        ConfigError, match=r"loss.confidence=0.5 needs a head 'confidence' of 2 horizons, and Deaf gives return"
    ):
        ScaledForecaster(Deaf(config, SPEC), SPEC, config.loss)


def test_without_a_trained_direction_there_is_nothing_to_be_confident_of():
    with pytest.raises(ConfigError, match=r"loss\.direction=0 does not train"):
        LossConfig(confidence=0.5, direction=0.0)


def test_what_a_network_asks_of_itself_is_added_to_the_training_loss_alone():
    class Costly(HybridNetwork):
        def forward(self, x_NLF):
            return {**super().forward(x_NLF), "auxiliary": torch.tensor(3.0)}

    config = HybridConfig(width=8, dropout=0.0)
    torch.manual_seed(0)
    plain = HybridNetwork(config, SPEC)
    costly = Costly(config, SPEC)
    costly.load_state_dict(plain.state_dict())
    x, y, mask, weight = torch.randn(6, 12, 3), torch.rand(6, 6), torch.ones(6, dtype=torch.bool), torch.ones(6)
    one, two = (
        TrainingModule(ScaledForecaster(network, SPEC), plain_stats(SPEC, slots=6), slots=6)
        for network in (plain, costly)
    )
    torch.testing.assert_close(two(x, y, mask, weight), one(x, y, mask, weight) + 3.0)
    torch.testing.assert_close(two(x, y, mask, weight, "each")[1:], one(x, y, mask, weight, "each")[1:])
    torch.testing.assert_close(two(x, y, mask, weight, "judged"), one(x, y, mask, weight, "judged"))
