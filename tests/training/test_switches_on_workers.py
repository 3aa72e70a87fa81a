"""The hybrid with every switch on trains alike on one worker and on several: no parameter is left out, no loss is local."""

from pathlib import Path
from typing import Any

import pytest
from support.fits import SHARDS, fit_task
from support.gang import run_gang

from quantfleet.training import DDPConfig, DeepSpeedConfig, FSDPConfig, LossConfig, StrategyConfig, TrainingConfig
from quantfleet.training.loop import fit_on_worker

EVERYTHING: dict[str, Any] = {
    "positions": "rotary", "fusion": "cross_attention", "scales_bars": (3,), "experts": 3, "memory_slots": 4,
    "adaptive_steps": 3, "position_head": True, "epochs": 1, "balance_cost": 0.5, "ponder_cost": 0.1,
    "loss": LossConfig(confidence=0.3, sharpe=0.2, quantiles=(0.1, 0.9)),
}  # fmt: skip


def losses(root: Path, workers: int, strategy: StrategyConfig, **settings: Any) -> list[float]:
    task = fit_task(root, TrainingConfig(workers=workers, shards=SHARDS, strategy=strategy, **settings), **EVERYTHING)
    made = run_gang(fit_on_worker, {"task": task}, workers=workers, folder=root)
    assert made[0]["stopped"] is None
    return [row[name] for row in made[0]["curve"] for name in ("train_loss", "val_loss")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(tmp_path_factory.mktemp("alone"), 1, DDPConfig())


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [(DDPConfig(), {}), (FSDPConfig(), {"recompute": True}), (DeepSpeedConfig(zero_stage=3), {})],
    ids=["ddp", "fsdp, recomputed", "zero-3"],
)
def test_no_loss_changes_with_workers_and_strategy(alone, strategy, settings, tmp_path: Path):
    if strategy.kind == "deepspeed":
        pytest.importorskip("deepspeed", reason="pip install 'quantfleet[deepspeed]'")
    assert losses(tmp_path, 2, strategy, **settings) == pytest.approx(alone, rel=1e-5)
