"""What a fit does about what breaks inside its workers: bad gradients, full disks, storage that is away, hangs, notices."""

import errno
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fits import SHARDS, fit_task
from support.gang import WorkerFailedError, run_gang

from quantfleet.errors import StorageError
from quantfleet.training import CheckpointsConfig, FaultsConfig, TrainingConfig
from quantfleet.training.patience import patiently


def run(
    root: Path, work: Any, *arguments: Any, workers: int = 2, model: dict[str, Any] | None = None, **training: Any
) -> list[Any]:
    root.mkdir(exist_ok=True)
    task = fit_task(root, TrainingConfig(workers=workers, shards=SHARDS, **training), **(model or {}))
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


def slow_worker(config: dict[str, Any], rank: int) -> list[dict[str, Any]]:
    """A fit one of whose workers takes several times as long for every step; returns this worker's warnings about it."""
    import ray.train

    from quantfleet.training import loop
    from quantfleet.training.strategies.engine import TorchEngine

    plain, warnings = TorchEngine.forward, []

    def forward(self: Any, *inputs: Any) -> Any:
        began = time.perf_counter()
        made = plain(self, *inputs)
        if ray.train.get_context().get_world_rank() == rank:  # on a busy machine, too
            time.sleep(0.03 + 4.0 * (time.perf_counter() - began))
        return made

    TorchEngine.forward = forward  # type: ignore[method-assign]
    loop.log = SimpleNamespace(warning=lambda said, **about: warnings.append({"said": said, **about}))
    loop.fit_on_worker(config)
    return warnings


def test_a_slow_worker_is_named_with_its_node(tmp_path: Path):
    fast, slow = run(tmp_path, slow_worker, 1, model={"batch_windows": 16})
    assert fast == []
    assert {w["said"] for w in slow} == {"this worker holds up the others"}
    assert {w["rank"] for w in slow} == {1}
    assert slow[0]["own_s"] > 2 * slow[0]["usual_s"]


def warned_of_preemption(config: dict[str, Any], step: int) -> list[int]:
    """A fit that hears after so many steps that its node is going to be taken away; returns the steps of its checkpoints."""
    import ray.train

    from quantfleet.training import loop

    loop._PREEMPTION_POLL_S = 0.0
    fits: list[Any] = []
    plain = loop._Fit._step

    def noted(self: Any, batch: Any) -> None:
        fits[:] = [self]
        plain(self, batch)

    def notice() -> Any:
        return SimpleNamespace(preempted_node_to_ranks={"node": [0]}) if fits[0]._progress.step >= step else None

    report, steps = ray.train.report, []

    def reported(metrics: dict[str, Any], **options: Any) -> None:
        if "checkpoint" in options:
            steps.append(metrics["step"])
        report(metrics, **options)

    loop._Fit._step = noted  # type: ignore[method-assign]
    ray.train.get_preemption_info, ray.train.report = notice, reported
    loop.fit_on_worker(config)
    return steps


def test_a_preemption_notice_is_answered_by_one_checkpoint_at_once_on_all_workers(tmp_path: Path):
    first, second = run(
        tmp_path, warned_of_preemption, 12, model={"batch_windows": 16}, checkpoints=CheckpointsConfig(every_s=3600)
    )
    assert first == second
    per_epoch = first[-1] // 2
    assert first == [20, per_epoch, 2 * per_epoch], (
        "workers confer every ten steps; epochs end with a checkpoint anyway"
    )


def hung(config: dict[str, Any], step: int, marker: str) -> dict[str, Any]:
    """A fit whose rank 1 stops at a step and never comes back, the first time."""
    import ray.train

    from quantfleet.training import loop

    plain = loop._Fit._step

    def stop(self: Any, batch: Any) -> None:
        if self._progress.step == step and ray.train.get_context().get_world_rank() == 1 and not Path(marker).exists():
            Path(marker).touch()
            time.sleep(3600)
        plain(self, batch)

    loop._Fit._step = stop  # type: ignore[method-assign]
    return loop.fit_on_worker(config)


def test_a_worker_that_hangs_ends_the_others_after_the_timeout_and_the_fit_goes_on_from_its_checkpoint(tmp_path: Path):
    task = fit_task(tmp_path, TrainingConfig(workers=2, shards=SHARDS, checkpoints=CheckpointsConfig(every_steps=2)))
    arguments = (hung, {"task": task}, 5, str(tmp_path / "hung"))
    with pytest.raises(WorkerFailedError, match=r"(?i)timed out|timeout"):
        run_gang(*arguments, workers=2, folder=tmp_path, collective_timeout_s=3)
    made = run_gang(*arguments, workers=2, folder=tmp_path, collective_timeout_s=60)
    assert (made[0]["stopped"], made[0]["resumed_from"], len(made[0]["curve"])) == (None, 4, 2)


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
