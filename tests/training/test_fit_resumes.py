"""Exactly once: killed by -9 at any step, a fit goes on with any number of workers as if nothing had happened."""

import random
from pathlib import Path

import pytest
from support.fits import SHARDS, best_of, fit_task, recorded_fit, windows_by_step
from support.gang import WorkerFailedError, run_gang

from quantfleet.training import (
    CheckpointsConfig,
    DDPConfig,
    DeepSpeedConfig,
    FSDPConfig,
    StrategyConfig,
    TrainingConfig,
)
from quantfleet.training.loop import fit_on_worker

EVERY = 2
STEPS = 12


def fit(root: Path, strategy: StrategyConfig, workers: int, kill: tuple[int, int] | None = None, **settings):
    (root / "log").mkdir(parents=True, exist_ok=True)
    checkpoints = CheckpointsConfig(every_steps=EVERY, keep=3)
    task = fit_task(
        root, TrainingConfig(workers=workers, shards=SHARDS, strategy=strategy, checkpoints=checkpoints), **settings
    )
    arguments = ({"task": task}, str(root / "log"), kill)
    return run_gang(recorded_fit, *arguments, workers=workers, folder=root)[0]


CASES = {
    "ddp": (DDPConfig(), (2, 3, 1)),
    "fsdp": (FSDPConfig(), (2, 3)),
    "zero-2": (DeepSpeedConfig(zero_stage=2), (2, 2)),
    "zero-3": (DeepSpeedConfig(zero_stage=3), (2, 2)),
    "zero-2, universal": (DeepSpeedConfig(zero_stage=2), (2, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_steps_every_window_is_trained_on_once_and_the_end_is_the_same(case: str, tmp_path: Path):
    strategy, sizes = CASES[case]
    if strategy.kind == "deepspeed":
        pytest.importorskip(
            "deepspeed", reason="the extra `deepspeed` is not installed: pip install 'quantfleet[deepspeed]'"
        )
    undisturbed = fit(tmp_path / "undisturbed", strategy, sizes[0])
    rng, first = random.Random(case), 2
    for workers in sizes[:-1]:
        kill = (rng.randrange(first, first + 4), rng.randrange(workers))
        with pytest.raises(WorkerFailedError):
            fit(tmp_path / "killed", strategy, workers, kill)
        first += 4
    done = fit(tmp_path / "killed", strategy, sizes[-1])

    assert done["stopped"] is None
    assert done["resumed_from"] >= first - 4 - EVERY, "no more is lost than what came after a checkpoint"
    assert windows_by_step(tmp_path / "killed" / "log") == windows_by_step(tmp_path / "undisturbed" / "log")
    for name in ("train_loss", "val_loss"):
        assert [r[name] for r in done["curve"]] == pytest.approx([r[name] for r in undisturbed["curve"]], rel=1e-5)
    assert best_of(tmp_path / "killed").val_loss == pytest.approx(best_of(tmp_path / "undisturbed").val_loss, rel=1e-5)


@pytest.mark.parametrize("strategy", [DDPConfig(), FSDPConfig()], ids=["ddp", "fsdp"])
def test_dropout_and_averages_go_on_where_they_were(strategy: StrategyConfig, tmp_path: Path):
    settings = {"dropout": 0.3, "average": "ema", "ema_decay": 0.9}
    undisturbed = fit(tmp_path / "undisturbed", strategy, 2, **settings)
    with pytest.raises(WorkerFailedError):
        fit(tmp_path / "killed", strategy, 2, (5, 1), **settings)
    done = fit(tmp_path / "killed", strategy, 2, **settings)
    for name in ("train_loss", "val_loss"):
        assert [r[name] for r in done["curve"]] == [r[name] for r in undisturbed["curve"]], "to the bit"


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path):
    with pytest.raises(WorkerFailedError):
        fit(tmp_path, DDPConfig(), 2, (5, 0))
    newest = max((tmp_path / "train" / "fit").glob("checkpoint_*"))
    state = newest / "state.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)

    done = fit(tmp_path, DDPConfig(), 2)

    assert done["resumed_from"] == 2, "checkpoints were at steps 2 and 4, and the second is torn"
    assert done["stopped"] is None


def test_a_checkpoint_that_lacks_the_manifest_of_a_worker_does_not_count(tmp_path: Path):
    with pytest.raises(WorkerFailedError):
        fit(tmp_path, DDPConfig(), 2, (3, 0))
    for manifest in (tmp_path / "train" / "fit").glob("checkpoint_*/manifest-00001.json"):
        manifest.unlink()
    done = fit(tmp_path, DDPConfig(), 2)
    assert done["resumed_from"] is None, "the fit begins anew"
    assert [row["epoch"] for row in done["curve"]] == [0.0, 1.0]


def test_a_whole_checkpoint_counts_though_ray_never_heard_of_it(tmp_path: Path):
    with pytest.raises(WorkerFailedError):
        fit(tmp_path, DDPConfig(), 2, (5, 0))
    (tmp_path / "reported.json").unlink()  # as when its workers died between the upload and the report
    assert fit(tmp_path, DDPConfig(), 2)["resumed_from"] == 4


def test_a_checkpoint_of_another_model_is_refused_and_says_which(tmp_path: Path):
    fit(tmp_path, DDPConfig(), 1)
    with pytest.raises(WorkerFailedError, match=r"of another model: its model\.width is 8, this fit's is 16"):
        fit(tmp_path, DDPConfig(), 1, width=16)


def test_a_finished_fit_is_not_trained_again(tmp_path: Path):
    done = fit(tmp_path, DDPConfig(), 2)
    before = windows_by_step(tmp_path / "log")
    again = fit(tmp_path, DDPConfig(), 1)
    assert (again["curve"], again["resumed_from"]) == (done["curve"], STEPS)
    assert windows_by_step(tmp_path / "log") == before


def test_the_best_weights_lie_beside_as_safetensors_that_anything_can_read(tmp_path: Path):
    from safetensors.numpy import load_file

    training = TrainingConfig(workers=2, shards=SHARDS, strategy=FSDPConfig())
    task = fit_task(tmp_path, training)
    run_gang(fit_on_worker, {"task": task}, workers=2, folder=tmp_path)
    weights = load_file(tmp_path / best_of(tmp_path).path / "weights.safetensors")
    assert weights["network.embed.weight"].shape == (8, task.spec.features)
