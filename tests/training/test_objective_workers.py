"""The multi-task loss over two gloo processes: what they learn is what one process learns of the joint batches."""

from pathlib import Path

import pytest
import torch
from support.loss_workers import steps, worker
from torch import multiprocessing

from quantfleet.training import LossConfig

CONFIGS = {
    "fixed": LossConfig(),
    "sharpe": LossConfig(sharpe=1.0, sharpe_cost_bps=50.0),
    "uncertainty and sharpe": LossConfig(balance="uncertainty", sharpe=0.5, return_loss="mse", balance_classes=True),
    "gradnorm": LossConfig(balance="gradnorm"),
    "gradnorm and sharpe": LossConfig(balance="gradnorm", sharpe=0.5, sample_weights=False),
}


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict]]:
    folder = tmp_path_factory.mktemp("gloo")
    multiprocessing.spawn(worker, (2, list(CONFIGS.values()), str(folder)), nprocs=2)
    ranks = [torch.load(Path(folder, f"{rank}.pt")) for rank in range(2)]
    return [dict(zip(CONFIGS, rank, strict=True)) for rank in ranks]


@pytest.mark.parametrize("name", CONFIGS)
def test_two_workers_learn_what_one_learns_of_the_joint_batches(two_workers, name):
    alone = steps(CONFIGS[name])
    for rank in two_workers:
        torch.testing.assert_close(rank[name]["state"], alone["state"], rtol=1e-6, atol=1e-9)
    mean = (two_workers[0][name]["losses"] + two_workers[1][name]["losses"]) / 2
    torch.testing.assert_close(mean, alone["losses"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_learned_is_the_same_to_the_bit_on_both(two_workers, name):
    one, two = (rank[name]["state"] for rank in two_workers)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_learned_balance_is_in_the_checkpoint_and_moved(two_workers):
    state = two_workers[0]["uncertainty and sharpe"]["state"]["objective.log_variance_T"]
    weights = two_workers[0]["gradnorm"]["state"]["objective.weight_T"]
    assert state.abs().min() > 0
    assert (weights - torch.tensor([1.0, 0.5, 0.5])).abs().max() > 1e-3
