"""Same seed, same data: the same fit on any number of workers and by every strategy."""

from pathlib import Path

import pytest
from support.fits import SHARDS, fit_task
from support.gang import run_gang

from quantfleet.training import DDPConfig, DeepSpeedConfig, FSDPConfig, StrategyConfig, TrainingConfig
from quantfleet.training.loop import fit_on_worker

WAYS = {
    "ddp-2-in-pieces": (2, DDPConfig(), {"micro_windows": 20}),
    "ddp-3-uneven": (3, DDPConfig(), {}),
    "ddp-4": (4, DDPConfig(), {}),
    "fsdp-2": (2, FSDPConfig(), {}),
    "fsdp-3-uneven-in-pieces": (3, FSDPConfig(), {"micro_windows": 20}),
    "zero-1": (2, DeepSpeedConfig(zero_stage=1), {}),
    "zero-2-in-pieces": (2, DeepSpeedConfig(zero_stage=2), {"micro_windows": 20}),
    "zero-3": (2, DeepSpeedConfig(zero_stage=3), {}),
    "zero-2-offload": (2, DeepSpeedConfig(zero_stage=2, offload=True), {}),
}
TOLERANCE = 1e-5
"""Relative, on every loss of both epochs: sums are made in another order, nothing else differs."""


def losses(root: Path, workers: int, strategy: StrategyConfig, **settings) -> list[float]:
    training = TrainingConfig(workers=workers, shards=SHARDS, strategy=strategy, **settings)
    task = fit_task(root, training)
    made = run_gang(fit_on_worker, {"task": task}, workers=workers, folder=root)
    assert made[0]["stopped"] is None
    return [row[name] for row in made[0]["curve"] for name in ("train_loss", "val_loss")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """One worker that serves all shards."""
    made = losses(tmp_path_factory.mktemp("alone"), 1, DDPConfig())
    assert made[3] < made[1], "it learns"
    return made


@pytest.mark.parametrize("way", WAYS)
def test_workers_and_strategies_change_no_loss(alone: list[float], way: str, tmp_path: Path):
    workers, strategy, settings = WAYS[way]
    if strategy.kind == "deepspeed":
        pytest.importorskip(
            "deepspeed", reason="the extra `deepspeed` is not installed: pip install 'quantfleet[deepspeed]'"
        )
    assert losses(tmp_path, workers, strategy, **settings) == pytest.approx(alone, rel=TOLERANCE)


def test_half_precision_ends_near_single_precision(alone: list[float], tmp_path: Path):
    assert losses(tmp_path, 2, DDPConfig(), precision="bf16") == pytest.approx(alone, rel=1e-2)


def test_recomputed_activations_change_nothing(alone: list[float], tmp_path: Path):
    assert losses(tmp_path, 2, DDPConfig(), recompute=True) == pytest.approx(alone, rel=TOLERANCE)


def test_deterministic_fits_are_equal_to_the_bit(tmp_path: Path):
    one, two = (losses(tmp_path / name, 2, DDPConfig(), deterministic=True) for name in ("one", "two"))
    assert one == two
