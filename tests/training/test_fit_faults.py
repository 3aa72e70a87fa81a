"""What a fit does about what breaks inside its workers: bad gradients, full disks, storage that is away."""

import errno
import math
from pathlib import Path
from typing import Any

import pytest
from support.fits import SHARDS, fit_task
from support.gang import run_gang

from quantfleet.errors import StorageError
from quantfleet.training import CheckpointsConfig, FaultsConfig, TrainingConfig
from quantfleet.training.patience import patiently


def run(root: Path, work: Any, *arguments: Any, workers: int = 2, **training: Any) -> list[Any]:
    root.mkdir(exist_ok=True)
    task = fit_task(root, TrainingConfig(workers=workers, shards=SHARDS, **training))
    return run_gang(work, {"task": task}, *arguments, workers=workers, folder=root)


def poisoned(config: dict[str, Any], first: int, last: int) -> dict[str, Any]:
    """A fit whose rank 0 gets a feature that is not finite from step `first` to step `last`."""
    import ray.train

    from quantfleet.training import loop

    plain = loop._Fit._gradients

    def gradients(self: Any, batch: Any) -> Any:
        if ray.train.get_context().get_world_rank() == 0 and first <= self._progress.step <= last:
            batch.x_NLF[batch.mask_N] = math.inf
        return plain(self, batch)

    loop._Fit._gradients = gradients  # type: ignore[method-assign]
    return loop.fit_on_worker(config)


def test_a_step_with_a_bad_gradient_moves_no_weight_on_any_worker_and_the_fit_goes_on(tmp_path: Path):
    made = run(tmp_path, poisoned, 3, 4)
    assert [m["stopped"] for m in made] == [None, None]
    assert all(math.isfinite(row[name]) for row in made[0]["curve"] for name in ("train_loss", "val_loss"))
    assert made[0]["bad_steps"] == 2


def test_bad_gradients_without_end_stop_the_fit_with_the_reason_on_all_workers(tmp_path: Path):
    made = run(tmp_path, poisoned, 2, 99, faults=FaultsConfig(max_bad_steps=3))
    for one in made:
        assert "4 steps in a row had a gradient that is not finite, up to step 5 of epoch 0" in one["stopped"]
        assert "learning_rate" in one["stopped"]


def on_a_full_disk(config: dict[str, Any], times: int) -> dict[str, Any]:
    """A fit whose rank 1 cannot write the first so many checkpoints."""
    import ray.train

    from quantfleet.training import loop
    from quantfleet.training.strategies.ddp_engine import DDPEngine

    left, plain = [times], DDPEngine.save

    def save(self: Any, folder: Path, extra: Any) -> None:
        if ray.train.get_context().get_world_rank() == 1 and left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(self, folder, extra)

    DDPEngine.save = save  # type: ignore[method-assign]
    return loop.fit_on_worker(config)


def test_a_checkpoint_that_one_worker_cannot_write_is_dropped_by_all_and_the_fit_goes_on(tmp_path: Path):
    made = run(tmp_path, on_a_full_disk, 2, checkpoints=CheckpointsConfig(every_steps=2))
    assert [m["stopped"] for m in made] == [None, None]
    assert len(made[0]["curve"]) == 2


def test_a_disk_that_stays_full_stops_the_fit_and_says_where(tmp_path: Path):
    made = run(tmp_path, on_a_full_disk, 99, checkpoints=CheckpointsConfig(every_steps=2))
    for one in made:
        assert "3 checkpoints in a row could not be written to a worker's disk" in one["stopped"]
        assert "TMPDIR" in one["stopped"]


class Clock:
    def __init__(self) -> None:
        self.now, self.waits = 0.0, []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)


def away_for(seconds: float, clock: Clock, error: Exception) -> Any:
    def work() -> str:
        if clock.now < seconds:
            raise error
        return "there"

    return work


def test_storage_that_is_away_for_half_a_minute_costs_time_and_nothing_else():
    clock = Clock()
    work = away_for(30, clock, StorageError("s3://bucket does not answer"))
    assert patiently(work, "reading", seconds=120, sleep=clock.sleep, clock=lambda: clock.now) == "there"
    assert clock.waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert max(clock.waits) <= 10


def test_storage_that_stays_away_raises_what_it_said_last():
    clock = Clock()
    with pytest.raises(StorageError, match="does not answer"):
        patiently(
            away_for(999, clock, StorageError("s3://bucket does not answer")), "reading", seconds=60,
            sleep=clock.sleep, clock=lambda: clock.now,
        )  # fmt: skip
    assert clock.now <= 60


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), OSError(errno.ENOSPC, "full"), PermissionError("no")])
def test_what_no_waiting_mends_is_raised_at_once(error: OSError):
    clock = Clock()
    with pytest.raises(type(error)):
        patiently(away_for(9, clock, error), "reading", seconds=60, sleep=clock.sleep, clock=lambda: clock.now)
    assert clock.waits == []
