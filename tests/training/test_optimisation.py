"""How weights move, against torch's own schedulers and averages."""

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from quantfleet.errors import ConfigError
from quantfleet.training.optimisation import WeightAverage, adamw, check_average, learning_rate
from quantfleet_models.hybrid import HybridConfig

PEAK, EPOCHS, PER_EPOCH = 0.02, 12, 5
TOTAL = EPOCHS * PER_EPOCH


def config(**settings) -> HybridConfig:
    return HybridConfig(epochs=EPOCHS, learning_rate=PEAK, **settings)


def ours(**settings) -> list[float]:
    return [learning_rate(config(**settings), step, steps_per_epoch=PER_EPOCH) for step in range(TOTAL)]


def theirs(make) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler: LRScheduler = make(optimizer)
    rates = []
    for _ in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_is_torchs_cosine():
    assert ours(schedule="cosine") == pytest.approx(theirs(lambda o: CosineAnnealingLR(o, T_max=TOTAL)), abs=1e-9)


def test_warm_restarts_are_torchs_warm_restarts():
    made = theirs(lambda o: CosineAnnealingWarmRestarts(o, T_0=2 * PER_EPOCH, T_mult=2))
    assert ours(schedule="cosine_restarts", restart_epochs=2, restart_growth=2) == pytest.approx(made, abs=1e-9)


def test_one_cycle_is_torchs_one_cycle_but_for_its_momentum():
    made = theirs(lambda o: OneCycleLR(o, max_lr=PEAK, total_steps=TOTAL, cycle_momentum=False))
    ours_ = ours(schedule="one_cycle")
    assert max(ours_) == pytest.approx(PEAK, rel=0.01)
    assert ours_ == pytest.approx(made, abs=0.07 * PEAK), "torch counts its phases from whole steps"


def test_the_rate_rises_to_its_peak_while_it_warms_up_and_never_jumps():
    rates = ours(schedule="cosine", warmup_epochs=2)
    rising = rates[: 2 * PER_EPOCH + 1]
    assert rising == sorted(rising)
    assert rates[0] > 0
    assert max(rates) == rates[2 * PER_EPOCH] == PEAK
    assert ours(schedule="constant")[-1] == PEAK


def steps(
    average: WeightAverage, module: nn.Module, count: int, peer: AveragedModel | None = None, first: int = 1
) -> None:
    generator = torch.Generator().manual_seed(0)
    for step in range(first, first + count):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += torch.randn(parameter.shape, generator=generator)
        average.update(step, steps_per_epoch=PER_EPOCH)
        if peer is not None:
            peer.update_parameters(module)


def test_a_grown_exponential_average_is_torchs():
    module = nn.Linear(3, 2)
    average = WeightAverage(config(average="ema", ema_decay=0.5), module)
    steps(average, module, 30)  # long enough for 0.5 to hold
    peer = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    with average.applied():
        peer.module.load_state_dict(module.state_dict())
    peer.n_averaged += 1
    steps(average, module, 9, peer, first=31)
    with average.applied():
        for mine, his in zip(module.parameters(), peer.module.parameters(), strict=True):
            torch.testing.assert_close(mine, his)


def test_a_plain_average_is_the_mean_of_the_weights_at_the_ends_of_the_last_epochs():
    module = nn.Linear(2, 1)
    average = WeightAverage(config(average="swa", swa_from=0.75), module)
    seen = []
    for step in range(1, TOTAL + 1):
        with torch.no_grad():
            module.weight.fill_(step)
        average.update(step, steps_per_epoch=PER_EPOCH)
        if step % PER_EPOCH == 0 and step // PER_EPOCH > 9:
            seen.append(step)
    with average.applied():
        assert module.weight[0, 0].item() == pytest.approx(sum(seen) / len(seen))
    assert module.weight[0, 0].item() == TOTAL, "training goes on with its own weights"


def test_without_averaging_nothing_is_kept_and_nothing_changes():
    module = nn.Linear(2, 1)
    average = WeightAverage(config(), module)
    before = module.weight.clone()
    steps(average, module, 3)
    assert average.tensors == {}
    with average.applied():
        assert not torch.equal(module.weight, before)


def test_what_the_loss_learns_does_not_decay():
    module = nn.Module()
    module.forecaster, module.objective = nn.Linear(2, 1), nn.Linear(1, 1)
    optimizer = adamw(config(weight_decay=0.1), module)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {decays[id(p)] for p in module.forecaster.parameters()} == {0.1}
    assert {decays[id(p)] for p in module.objective.parameters()} == {0.0}


def test_averages_of_weights_that_no_worker_holds_are_refused():
    with pytest.raises(ConfigError, match=r"ZeRO stage 3 frees them\. Use zero_stage 1 or 2"):
        check_average(config(average="ema"), zero_stage=3)
    check_average(config(average="ema"), zero_stage=2)
    assert math.isfinite(sum(ours()))
