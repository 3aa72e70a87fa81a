"""What a fit would take: checked against the ZeRO paper's table, closed formulas and the loader that trains."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantfleet.errors import ConfigError
from quantfleet.testing.training_data import MemoryReader, memory_data
from quantfleet.training import TrainingConfig
from quantfleet.training.memory import SHARINGS, Sharing, collective_bytes, state_bytes
from quantfleet.training.plan import FitPlan, Network, PlanInput, PlanRequest, StepCosts, plan_fit, ring_seconds
from quantfleet.training.torch_plan import activation_bytes, time_steps
from quantfleet.training.tree_plan import TreeCosts, TreeInput, plan_trees
from quantfleet.training.windows import WindowLoader

BILLION = 10**9
PAPER_GB = {  # Rajbhandari et al. 2020, arXiv:1910.02054, Table 1: GB a device for P_os, P_os+g, P_os+g+p
    (7.5, 1): (120, 120, 120),
    (7.5, 4): (52.5, 41.3, 30),
    (7.5, 16): (35.6, 21.6, 7.5),
    (7.5, 64): (31.4, 16.6, 1.88),
    (7.5, 256): (30.4, 15.4, 0.47),
    (7.5, 1024): (30.1, 15.1, 0.12),
    (128, 4): (896, 704, 512),
    (128, 64): (536, 284, 32),
    (128, 1024): (513, 257, 2),
    (1000, 16): (4750, 2875, 1000),
    (1000, 64): (4187, 2218, 250),
    (1000, 1024): (4011, 2013, 15.6),
}

COSTS = StepCosts(
    train_s=0.010, update_s=0.002, forward_s=0.004, train_batch_s=0.001, validation_batch_s=0.0005, activation_bytes=1000,
    process_bytes=500, prepare_s=0.25, import_s=3.0,
)  # fmt: skip


def given(**changes) -> PlanInput:
    values = {
        "model": "m", "kind": "k", "parameters": 1000, "trainable": 900, "epochs": 3, "batch_windows": 64, "buffer_chunks": 4,
        "chunk_bars": 16, "chunk_bytes": 10_000, "window_bytes": 96, "train_chunks": 15, "validation_chunks": 5,
        "train_windows": 200, "validation_windows": 70, "sharing": "ddp", "workers": 2,
    }  # fmt: skip
    return PlanInput(**{**values, **changes})


def request(**changes) -> PlanRequest:
    return PlanRequest(**{"training": TrainingConfig(), "workers": 2, "seed": 1, "ray_start_s": 4.0, **changes})


# --- memory ---


@pytest.mark.parametrize(("billions", "workers"), PAPER_GB)
def test_weights_gradients_and_optimizer_take_what_the_zero_paper_says(billions: float, workers: int):
    psi = int(billions * BILLION)
    for sharing, expected in zip(("zero1", "zero2", "zero3"), PAPER_GB[billions, workers], strict=True):
        state = state_bytes(sharing, parameters=psi, trainable=psi, workers=workers, precision="bf16")
        assert (state.weights + state.gradients + state.optimizer) / BILLION == pytest.approx(
            expected, rel=0.003, abs=0.005
        )  # as printed: two or three digits


def test_adam_in_full_precision_without_sharing_takes_what_torch_allocates():
    model = nn.Linear(40, 30)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 40)).sum().backward()
    optimizer.step()
    weights = sum(p.nbytes for p in model.parameters())
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    moments = sum(s[k].nbytes for s in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq"))
    count = sum(p.numel() for p in model.parameters())
    state = state_bytes("ddp", parameters=count, trainable=count, workers=1)
    assert (state.weights, state.gradients, state.optimizer) == (weights, gradients, moments)
    assert state.buckets == state.gathered == 0, "one worker sends nothing"


@pytest.mark.parametrize("sharing", SHARINGS)
def test_more_workers_never_take_more_each_and_the_shared_parts_together_are_the_whole(sharing: Sharing):
    def state(workers: int):
        return state_bytes(sharing, parameters=10**6, trainable=10**6, workers=workers)

    for workers in (2, 4, 5, 64):
        kept = [getattr(state(workers), part) for part in ("weights", "gradients", "optimizer")]
        alone = [getattr(state(1), part) for part in ("weights", "gradients", "optimizer")]
        for each, whole in zip(kept, alone, strict=True):
            assert each == whole or whole <= each * workers < whole + 16 * workers


def test_offload_moves_optimizer_and_gradients_of_a_gpu_to_the_host_and_saves_a_cpu_nothing():
    on_gpu = state_bytes(
        "zero2", parameters=800, trainable=800, workers=4, precision="bf16", offload=True, use_gpu=True
    )
    assert on_gpu.host == 12 * 200 + 2 * 200
    assert on_gpu.on_device == on_gpu.total - on_gpu.host
    assert state_bytes("zero2", parameters=800, trainable=800, workers=4, offload=True).host == 0


def test_frozen_parameters_have_neither_gradients_nor_moments():
    state = state_bytes("ddp", parameters=1000, trainable=100, workers=2)
    assert (state.weights, state.gradients, state.optimizer) == (4000, 400, 800)


def test_counts_that_no_network_has_are_refused():
    with pytest.raises(ConfigError, match="trainable=11, parameters=10"):
        state_bytes("ddp", parameters=10, trainable=11, workers=1)


# --- communication ---


def test_an_all_reduce_takes_twice_the_gradients_but_for_the_own_part():
    payload = collective_bytes("ddp", parameters=500, trainable=500)
    assert payload == 2 * 4 * 500
    network = Network(bandwidth_bytes_s=1000.0, latency_s=0.0)
    for n in (2, 3, 8):
        assert ring_seconds(payload, workers=n, messages=2, network=network) == pytest.approx(
            2 * (n - 1) / n * 2000 / 1000
        )
    assert ring_seconds(payload, workers=1, messages=2, network=network) == 0


def test_latency_is_paid_for_every_message():
    network = Network(bandwidth_bytes_s=1e12, latency_s=0.001)
    assert ring_seconds(8, workers=5, messages=2, network=network) == pytest.approx(2 * 4 * 0.001, rel=1e-6)


def test_sharded_weights_travel_half_as_much_again():
    assert collective_bytes("zero3", parameters=10, trainable=10) == 1.5 * collective_bytes(
        "zero2", parameters=10, trainable=10
    )


# --- steps and time ---


@pytest.mark.parametrize(("workers", "shards"), [(1, 1), (2, 2), (2, 4), (3, 4)])
def test_steps_are_exactly_those_that_every_worker_s_loader_makes(workers: int, shards: int):
    data = memory_data(chunks=5)
    readers = {s: MemoryReader(data.spec, data.batches[s]) for s in ("train", "validation")}
    asked = given(
        workers=workers, shards=shards, micro_limit=5, train_chunks=len(readers["train"]),
        validation_chunks=len(readers["validation"]), chunk_bars=data.spec.chunk_bars,
    )  # fmt: skip
    plan = plan_fit(asked, COSTS, request(workers=workers))
    for rank in range(workers):
        for segment, seed, steps in (
            ("train", 3, plan.units_per_epoch),
            ("validation", None, plan.validation_units_per_epoch),
        ):
            loader = WindowLoader(
                readers[segment],
                batch_windows=asked.batch_windows,
                shards=shards,
                buffer_chunks=4,
                seed=seed,
                workers=workers,
                rank=rank,
            )
            assert sum(1 for _ in loader) == steps
    assert plan.units == 3 * plan.units_per_epoch
    assert plan.optimizer_steps == plan.units
    assert plan.micro_windows <= 5, "a step is done in pieces that memory allows"


def test_time_is_the_sum_of_measured_steps_batches_exchange_and_start_up():
    plan = plan_fit(given(), COSTS, request(network=Network(bandwidth_bytes_s=1e6, latency_s=0.0)))
    train, validation = plan.units_per_epoch, plan.validation_units_per_epoch
    assert plan.seconds["compute"] == pytest.approx(3 * (train * 0.012 + validation * 0.004))
    assert plan.seconds["data"] == pytest.approx(3 * (train * 0.001 + validation * 0.0005))
    assert plan.seconds["communication"] == pytest.approx(3 * train * (1 / 2) * 2 * 4 * 900 / 1e6)
    assert plan.seconds["start-up"] == pytest.approx(4.0 + 0.25 + 3.0)
    assert plan.bottleneck == "start-up"
    assert sum(plan.share(part) for part in plan.seconds) == pytest.approx(1)


def test_workers_that_share_cores_wait_for_each_other_and_the_plan_says_so():
    alone, crowded = (plan_fit(given(workers=4), COSTS, request(workers=4, shared_cores=n)) for n in (None, 2))
    assert crowded.seconds["compute"] == pytest.approx(2 * alone.seconds["compute"])
    assert crowded.seconds["communication"] == alone.seconds["communication"]
    assert any("4 workers share 2 cores, so each is 2.0 times slower" in line for line in crowded.assumed)


@pytest.mark.parametrize(
    ("costs", "bottleneck"),
    [({"train_s": 100.0}, "compute"), ({"train_batch_s": 100.0}, "data"), ({"import_s": 100.0}, "start-up")],
)
def test_the_bottleneck_is_the_largest_part(costs, bottleneck):
    values = {name: getattr(COSTS, name) for name in StepCosts.__dataclass_fields__}
    assert plan_fit(given(), StepCosts(**{**values, **costs}), request()).bottleneck == bottleneck


def test_what_is_never_trained_has_no_bottleneck():
    assert FitPlan(model="m", kind="k", note="nothing is trained").bottleneck is None


def test_memory_is_given_for_every_sharing_and_the_recipe_s_own_is_marked():
    plan = plan_fit(given(sharing="zero2"), COSTS, request())
    assert [row.name for row in plan.memory] == ["ddp", "fsdp", "ZeRO 1", "ZeRO 2", "ZeRO 3"]
    assert [row.name for row in plan.memory if row.chosen] == ["ZeRO 2"]
    (row,) = [row for row in plan.memory if row.chosen]
    assert row.parts["data"] == 2 * 4 * 10_000 + 32 * 96 + 40 * 20, "two buffers, one minibatch, the index"
    assert row.total == sum(row.parts.values())


def test_with_gpus_offload_is_a_row_of_its_own():
    plan = plan_fit(given(sharing="zero3", use_gpu=True, offload=True), COSTS, request())
    assert [row.name for row in plan.memory if row.chosen] == ["ZeRO 3 offload"]
    assert all(row.host > 0 for row in plan.memory if "offload" in row.name)
    assert any("has no GPU" in line for line in plan.assumed)


# --- measurements ---


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 50), nn.Linear(50, 3)

    def forward(self, x_NF: Tensor) -> dict[str, Tensor]:
        return {"return": self.second(torch.tanh(self.first(x_NF)))}


def test_activations_are_the_bytes_that_a_formula_gives():
    windows = 64
    hidden, output = windows * 50 * 4, windows * 3 * 4
    counted = activation_bytes(Perceptron(), torch.randn(windows, 10))
    assert hidden + output <= counted <= hidden + output + 64, (
        "tanh's answer once, though two operations keep it; then the loss"
    )


def test_activations_grow_with_the_windows_and_leave_the_weights_out():
    model = Perceptron()
    small, large = (activation_bytes(model, torch.randn(n, 10)) for n in (32, 320))
    assert large == pytest.approx(10 * small, rel=0.01)


def test_a_checkpointed_layer_keeps_less():
    class Checkpointed(Perceptron):
        def forward(self, x_NF: Tensor) -> dict[str, Tensor]:
            return torch.utils.checkpoint.checkpoint(super().forward, x_NF, use_reentrant=False)

    x = torch.randn(64, 10)
    assert activation_bytes(Checkpointed(), x) < 0.2 * activation_bytes(Perceptron(), x)


def test_steps_are_timed_and_a_forward_pass_is_the_smaller_part(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("quantfleet.training.torch_plan._MEASURE_S", 0.1)

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*[nn.Linear(256, 256) for _ in range(4)])

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"return": self.layers(x)}

    times = time_steps(Deep(), torch.randn(512, 256))
    assert 0 < times.forward_s < times.train_s
    assert times.update_s > 0


# --- trees ---


def trees(**changes) -> TreeInput:
    values = {
        "model": "t", "kind": "xgboost", "rounds": 50, "trees_per_round": 3, "max_depth": 4, "features": 10, "labels": 3,
        "train_windows": 8000, "validation_windows": 2000, "workers": 4,
    }  # fmt: skip
    return TreeInput(**{**values, **changes})


TREE_COSTS = TreeCosts(sampled_rows=1000, read_s=0.1, round_s=0.02, process_bytes=7, prepare_s=0.5, import_s=2.0)


def test_trees_are_planned_in_rounds_whose_time_grows_with_a_worker_s_rows():
    plan = plan_trees(trees(), TREE_COSTS, request(workers=4))
    assert (plan.unit, plan.units) == ("rounds", 50)
    assert plan.seconds["compute"] == pytest.approx(50 * 0.02 * 2000 / 1000)
    assert plan.seconds["data"] == pytest.approx(0.1 * (2000 + 500) / 1000)
    assert plan_trees(trees(workers=1), TREE_COSTS, request()).seconds["communication"] == 0


def test_external_memory_does_not_grow_with_the_features_of_all_rows():
    def rows(windows: int, name: str) -> int:
        plan = plan_trees(trees(train_windows=windows), TREE_COSTS, request(workers=4))
        (row,) = [row for row in plan.memory if row.name == name]
        return row.parts["rows"]

    assert rows(80_000_000, "rows in RAM") > 9 * rows(8_000_000, "rows in RAM")
    assert rows(80_000_000, "external memory") == rows(8_000_000, "external memory")


def test_epochs_that_take_a_fraction_of_the_chunks_have_fewer_steps():
    whole, half = (plan_fit(given(train_chunks=n), COSTS, request()) for n in (16, 8))
    assert half.units_per_epoch * 2 == whole.units_per_epoch
    assert np.isclose(half.seconds["communication"] * 2, whole.seconds["communication"])
