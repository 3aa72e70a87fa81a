"""The loop every torch worker runs inside Ray Train: steps, checkpoints at any step, and what is done when something breaks.

Strategies wrap devices and precision (ADR 0015); the loop is ours, so that a fit can stop and go on between any two steps
(ADR 0012). All workers make the same decisions at the same steps: what one of them alone knows (a clock, a slow disk) is shared
every few steps in one small message.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.v2.api.report_config import CheckpointUploadMode
from safetensors.torch import save_file
from torch import Tensor

from quantfleet.contracts import Segment
from quantfleet.errors import TrainingError
from quantfleet.logs import get_logger
from quantfleet.training.checkpoints import (
    WEIGHTS_FILE,
    Progress,
    fetch_whole,
    keep_best,
    stored_checkpoints,
    upload,
)
from quantfleet.training.data_state import DataState
from quantfleet.training.fit_task import FitTask, open_loader
from quantfleet.training.meter import StepMeter
from quantfleet.training.optimisation import WeightAverage, adamw, learning_rate
from quantfleet.training.patience import patiently
from quantfleet.training.preflight import check_same_fit, check_strategy, see_hardware
from quantfleet.training.profile import StepProfiler
from quantfleet.training.prometheus import WorkerMetrics
from quantfleet.training.step import TrainingModule
from quantfleet.training.strategies import EngineSettings
from quantfleet.training.windows import WindowBatch, WindowLoader

__all__ = ["SCORE", "fit_on_worker"]

log = get_logger(__name__)

SCORE = "val_loss"
_SYNC_STEPS = 10
"""Steps between two messages in which workers tell each other what each alone knows."""
_PREEMPTION_POLL_S = 5.0
_LOST_CHECKPOINTS = 3
"""Checkpoints in a row that could not be written before the fit stops."""


def fit_on_worker(config: dict[str, Any]) -> dict[str, Any]:
    """Ray Train's `train_loop_per_worker`; `config["task"]` is a FitTask.

    Returns: {"stopped": why or None, "curve": rows, "resumed_from": step or None, "bad_steps": how many were skipped}.
    """
    with ExitStack() as stack:
        return _Fit(config["task"], stack).run()


class _Stop(Exception):  # noqa: N818  # a decision that all workers take at the same step, not an error of one
    """The fit cannot go on; workers end in good order, so that nothing is tried again in vain."""


class _Fit:
    """One worker's part of a fit, from the newest whole checkpoint to the last epoch."""

    def __init__(self, task: FitTask, stack: ExitStack) -> None:
        context = ray.train.get_context()
        self._task, self._config, self._training = task, task.config, task.training
        self._rank, self._workers = context.get_world_rank(), context.get_world_size()
        self._loader = self._open("train", seed=task.seed, state=None)
        self._validation = self._open("validation", seed=None, state=None)
        self._uploads = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="best-weights"))
        self._best_upload: Any = None
        self._pending = 0
        self._lost_checkpoints = 0
        self._bad_in_a_row = 0
        self._slow_in_a_row = 0
        self._preempted = False
        self._last_checkpoint = self._last_poll = time.monotonic()
        self._busy_s = 0.0
        self._live_loss = 0.0
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantfleet-fit-")))
        self._build()
        self._progress = self._restore() or Progress(fit=task.fit, workers=self._workers, data=self._loader.state())
        exporter = None if task.live is None else WorkerMetrics(**task.live.names, rank=self._rank)
        self._meter = StepMeter(workers=self._workers, first_step=self._progress.step, exporter=exporter)
        profiled = self._training.profile_steps if self._rank == 0 else None
        self._profiler = StepProfiler(profiled, storage=task.storage, folder=task.profile_folder, rank=self._rank)
        stack.callback(self._profiler.close)

    # --- setting up ---------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        task, training = self._task, self._training
        torch.set_num_threads(max(1, int(training.cpus_per_worker)))
        torch.manual_seed(task.seed)
        check_strategy(
            training.strategy.kind, use_gpu=training.use_gpu, precision=training.precision,
            offload=getattr(training.strategy, "offload", False), hardware=see_hardware(),
        )  # fmt: skip
        if training.deterministic:
            torch.use_deterministic_algorithms(True)
        forecaster = self._config.build_forecaster(task.inputs.spec)
        if training.recompute:
            _recompute(forecaster.network)
        if training.compile:
            forecaster.network.compile()
        forecaster.set_label_scales(task.stats)
        slots = len(task.readers["train"]) * task.spec.chunk_bars
        step_windows = self._config.batch_windows // training.data_shards
        most = step_windows * -(-training.data_shards // self._workers)
        self._pieces = 1 if training.micro_windows is None else -(-most // training.micro_windows)
        self._engine = training.strategy.build(
            EngineSettings(
                use_gpu=training.use_gpu,
                precision=training.precision,
                gradient_clip=self._config.gradient_clip,
                micro_windows=-(-most // self._pieces),
            )
        )
        module = TrainingModule(forecaster, task.stats, slots=slots)
        self._objective = module.objective
        self._engine.setup(module, lambda wrapped: adamw(self._config, wrapped))
        self._average = WeightAverage(self._config, module)
        torch.manual_seed(task.seed + 1_000_003 * (self._rank + 1))  # dropout differs between workers

    def _open(self, segment: Segment, *, seed: int | None, state: DataState | None) -> WindowLoader:
        return open_loader(self._task, segment, rank=self._rank, workers=self._workers, seed=seed, state=state)

    # --- going on -----------------------------------------------------------------------------------------------------

    def _restore(self) -> Progress | None:
        """Take up the newest whole checkpoint, where there is one; a torn one is passed over for its predecessor."""
        task, retry_s, stored = self._task, self._training.faults.storage_retry_s, self._agreed(self._stored)
        for path in stored:
            folder = self._folder / "restored"
            whole = fetch_whole(task.storage, path, folder, retry_s=retry_s)
            if self._all(whole):
                progress = Progress.read(folder)
                check_same_fit(progress.fit, json.loads(json.dumps(task.fit)))
                self._take_up(folder, progress)
                shutil.rmtree(folder)
                return replace(
                    progress, workers=self._workers, attempt=progress.attempt + 1, resumed_from=progress.step
                )
            shutil.rmtree(folder, ignore_errors=True)
        if stored:
            log.warning("no checkpoint is whole; the fit begins anew", run=task.run)
        return None

    def _stored(self) -> list[str]:
        task = self._task
        return patiently(
            lambda: stored_checkpoints(task.storage, task.run),
            "list of checkpoints", seconds=self._training.faults.storage_retry_s,
        )  # fmt: skip

    def _agreed(self, ask: Callable[[], list[str]]) -> list[str]:
        """What rank 0 finds, on all workers."""
        found: list[Any] = [ask() if self._rank == 0 else None]
        if self._workers > 1:
            torch.distributed.broadcast_object_list(found, src=0)
        return list(found[0])

    def _take_up(self, folder: Path, progress: Progress) -> None:
        self._engine.load(folder, self._average.tensors, workers=progress.workers)
        self._task.inputs.check_checkpoint(folder)
        self._loader = self._open("train", seed=self._task.seed, state=progress.data)
        random = folder / _random_file(self._rank)
        if progress.workers == self._workers and random.is_file():
            torch.set_rng_state(torch.load(random, weights_only=True))
        else:  # other workers: numbers that nobody has drawn yet
            torch.manual_seed(self._task.seed + 1_000_003 * (self._rank + 1) + 7_919 * (progress.step + 1))

    # --- training -----------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        stopped: str | None = None
        try:
            while not self._progress.finished and self._loader.epoch < self._config.epochs:
                self._train_epoch()
                self._end_epoch()
        except _Stop as stop:
            stopped = str(stop)
        if self._best_upload is not None:
            self._best_upload.result()
        progress = self._progress
        return {
            "stopped": stopped,
            "curve": list(progress.curve),
            "resumed_from": progress.resumed_from,
            "bad_steps": progress.bad_steps,
        }

    def _train_epoch(self) -> None:
        self._engine.module.train()
        self._began = time.monotonic()
        # loss and count of this epoch's steps; what was counted before a restart is carried by rank 0
        carried = (self._progress.loss_sum * self._workers, self._progress.loss_steps * self._workers)
        self._losses = torch.tensor(carried if self._rank == 0 else (0.0, 0.0), dtype=torch.float64)
        batches, done = iter(self._loader), 0
        while True:
            number = self._progress.step
            self._profiler.before_step(number)
            self._meter.wait_began()
            began = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self._busy_s += time.perf_counter() - began
            self._meter.wait_ended()
            self._step(batch)
            self._meter.step_ended(len(batch.mask_N))
            self._profiler.after_step(number)
            done += 1
            if self._meter.due(self._training.report_every_s):
                self._say()
            every = self._training.checkpoints.every_steps
            if len(self._loader) and every is not None and done % every == 0:
                self._checkpoint()
            if len(self._loader) and done % _SYNC_STEPS == 0:
                self._confer()

    def _step(self, batch: WindowBatch) -> None:
        step = self._progress.step
        self._engine.set_learning_rate(learning_rate(self._config, step, steps_per_epoch=self._loader.steps))
        loss = self._gradients(batch)
        norm = self._engine.step()
        if math.isfinite(norm):
            self._bad_in_a_row = 0
            self._live_loss = float(loss)
            self._losses[0] += self._live_loss
            self._losses[1] += 1
            self._average.update(step + 1, steps_per_epoch=self._loader.steps)
        elif not (self._training.precision == "fp16" and bool(torch.isfinite(loss))):  # fp16 lowers its scale itself
            self._bad_step(batch, float(loss), norm)
        self._progress = replace(self._progress, step=step + 1)

    def _gradients(self, batch: WindowBatch) -> Tensor:
        """Gradients of a step in as many pieces as memory asks for; returns this worker's share of the loss."""
        needs_losses, total = self._training.sampling.needs_losses, len(batch.mask_N)
        bounds = [total * piece // self._pieces for piece in range(self._pieces + 1)]
        sum_of = torch.zeros((), device=self._engine.device)
        for piece, (low, high) in enumerate(itertools.pairwise(bounds)):
            began = time.perf_counter()
            inputs = (batch.x_NLF, batch.y_NK, batch.mask_N, batch.weight_N)
            tensors = (t[low:high].to(self._engine.device, non_blocking=True) for t in inputs)
            made = self._engine.forward(*tensors, "each" if needs_losses else "loss")
            loss = made[0] if needs_losses else made
            self._busy_s += time.perf_counter() - began
            scaled = loss * ((high - low) / total * self._loader.share)
            self._engine.backward(scaled, last=piece == self._pieces - 1)
            sum_of += scaled.detach()
            if needs_losses:
                counted = batch.mask_N[low:high]
                self._loader.observe(batch.place_N[low:high][counted], made[1:].detach().cpu()[counted])
        return sum_of

    def _bad_step(self, batch: WindowBatch, loss: float, norm: float) -> None:
        self._bad_in_a_row += 1
        self._progress = replace(self._progress, bad_steps=self._progress.bad_steps + 1)
        places = sorted(set(batch.place_N[batch.place_N >= 0].tolist()))
        where = f"step {self._progress.step} of epoch {self._loader.epoch}"
        log.warning(
            "a step was skipped: its gradient is not finite", where=where, loss=loss, norm=norm, rank=self._rank,
            chunks=places[:20],
        )  # fmt: skip
        if self._bad_in_a_row > self._training.faults.max_bad_steps:
            raise _Stop(
                f"{self._bad_in_a_row} steps in a row had a gradient that is not finite, up to {where} (loss {loss}). The weights "
                "are those before. Look at the features of the chunks named in the log, lower learning_rate or gradient_clip, or "
                f"raise training.faults.max_bad_steps={self._training.faults.max_bad_steps}."
            )

    def _say(self) -> None:
        """Show where training stands; rank 0 speaks for all, the others only close their interval."""
        measured = self._meter.snapshot()
        if self._rank == 0 and self._task.live is not None:
            self._task.live.send({**measured, **self._standing(), "train_loss": self._live_loss})

    def _standing(self) -> dict[str, float]:
        return {
            "epoch": self._loader.epoch,
            "epochs": self._config.epochs,
            "step": self._progress.step,
            "steps": self._config.epochs * self._loader.steps,
            "learning_rate": float(self._engine.optimizer.param_groups[0]["lr"]),
            "workers": self._workers,
            "attempt": self._progress.attempt,
        }

    # --- what workers tell each other ---------------------------------------------------------------------------------

    def _confer(self) -> None:
        """Share clocks and troubles, and decide together."""
        now, checkpoints = time.monotonic(), self._training.checkpoints
        due = checkpoints.every_steps is None and now - self._last_checkpoint >= checkpoints.every_s
        poll = now - self._last_poll >= _PREEMPTION_POLL_S
        mine = torch.tensor([float(due and self._rank == 0), float(poll and self._rank == 0), self._busy_s])
        everyone = self._engine.all_gather(mine)
        self._busy_s = 0.0
        self._watch_stragglers(everyone[:, 2])
        if bool(everyone[:, 1].any()):
            self._last_poll = now
            notice = ray.train.get_preemption_info()
            if notice is not None and not self._preempted:
                log.warning("a node is going to be taken away; saving now", nodes=list(notice.preempted_node_to_ranks))
                self._preempted = True
                self._checkpoint()
                return
        if bool(everyone[:, 0].any()):
            self._checkpoint()

    def _watch_stragglers(self, busy_W: Tensor) -> None:
        usual, mine = float(busy_W.median()), float(busy_W[self._rank])
        slow = self._workers > 1 and mine > self._training.faults.straggler_factor * max(usual, 1e-3)
        self._slow_in_a_row = self._slow_in_a_row + 1 if slow else 0
        if self._slow_in_a_row == 3:
            node = ray.util.get_node_ip_address()
            log.warning("this worker holds up the others", rank=self._rank, node=node, own_s=mine, usual_s=usual)

    def _all(self, mine: bool) -> bool:
        """Whether all workers say yes."""
        return bool(self._engine.all_gather(torch.tensor([float(mine)])).all())

    # --- epochs and checkpoints ---------------------------------------------------------------------------------------

    def _end_epoch(self) -> None:
        epoch = self._loader.epoch
        losses = self._engine.all_sum(self._losses.clone())
        observed = self._loader.observed()
        self._loader.end_epoch(None if observed is None else self._engine.all_sum(observed))
        with self._average.applied():
            val_loss = self._validate()
            row = {
                "epoch": float(epoch),
                "step": float(self._progress.step),
                "train_loss": float(losses[0] / losses[1].clamp_min(1)),
                SCORE: val_loss,
                "learning_rate": float(self._engine.optimizer.param_groups[0]["lr"]),
                "seconds": time.monotonic() - self._began,
            }
            before = self._progress.best
            progress = replace(self._progress, curve=(*self._progress.curve, row), loss_sum=0.0, loss_steps=0)
            if before is None or val_loss < before[SCORE]:
                self._keep_best(row)
        spent = progress.patience_spent() >= self._config.patience_epochs
        self._progress = replace(progress, finished=spent or epoch + 1 >= self._config.epochs)
        if not math.isfinite(val_loss):
            raise _Stop(
                f"the validation loss after epoch {epoch} is {val_loss}. Lower learning_rate, or look at the features of the "
                "validation segment; the weights of earlier epochs are kept."
            )
        self._losses = torch.zeros(2, dtype=torch.float64)
        self._checkpoint(row)

    def _validate(self) -> float:
        """Loss over every window of all workers whose labels are known, whatever their shares."""
        self._engine.module.eval()
        total = torch.zeros(self._objective.validation_sums_length, dtype=torch.float64)
        with torch.no_grad():
            for batch in self._validation:
                inputs = (batch.x_NLF, batch.y_NK, batch.mask_N, batch.weight_N)
                total += self._engine.forward(*(t.to(self._engine.device) for t in inputs), "judged").double().cpu()
        return float(self._objective.validation_loss(self._engine.all_sum(total).to(self._engine.device)))

    def _keep_best(self, row: dict[str, float]) -> None:
        weights = self._engine.weights()
        if weights is None:
            return
        local = Path(tempfile.mkdtemp(prefix="best-", dir=self._folder))
        prefix = "forecaster."
        save_file({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}, local / WEIGHTS_FILE)
        self._task.inputs.save(local)
        if self._best_upload is not None:
            self._best_upload.result()  # raises what went wrong
        task, training = self._task, self._training

        def store() -> None:
            keep_best(
                task.storage, task.run, local, row,
                keep=training.checkpoints.keep_best, retry_s=training.faults.storage_retry_s,
            )  # fmt: skip
            shutil.rmtree(local)

        self._best_upload = self._uploads.submit(store)

    def _checkpoint(self, row: dict[str, float] | None = None) -> None:
        """Save the whole state and report it; `row` is that of an epoch that just ended."""
        if row is None and not self._all(self._pending == 0):
            return  # the one before is still on its way: storage is slower than the clock
        losses, observed = self._engine.all_sum(self._losses.clone()) / self._workers, self._loader.observed()
        seen = None if observed is None else self._engine.all_sum(observed)
        self._progress = replace(
            self._progress,
            data=self._loader.state(seen),
            loss_sum=float(losses[0]),
            loss_steps=int(losses[1]),
        )
        metrics = {**self._meter.snapshot(), **self._standing(), "train_loss": self._live_loss, **(row or {})}
        metrics["epoch"] = int(metrics["epoch"])
        folder = self._saved()
        self._last_checkpoint = time.monotonic()
        if folder is None:
            ray.train.report(metrics)
            return
        self._pending += 1
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=self._upload,
        )

    def _saved(self) -> Path | None:
        """Write this worker's part to its disk; None, on all workers, when one of them cannot."""
        folder = Path(tempfile.mkdtemp(prefix="quantfleet-checkpoint-"))
        try:
            self._engine.save(folder, self._average.tensors)
            torch.save(torch.get_rng_state(), folder / _random_file(self._rank))
            if self._rank == 0:
                self._task.inputs.save(folder)
                self._progress.write(folder)
            written = True
        except OSError as error:
            log.error("a checkpoint cannot be written; training goes on", rank=self._rank, error=str(error))
            written = False
        if self._all(written):
            self._lost_checkpoints = 0
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        self._lost_checkpoints += 1
        if self._lost_checkpoints >= _LOST_CHECKPOINTS:
            raise _Stop(
                f"{self._lost_checkpoints} checkpoints in a row could not be written to a worker's disk ({tempfile.gettempdir()}). "
                "Make room there, or point TMPDIR to a larger disk; the same command goes on from the last whole checkpoint."
            )
        return None

    def _upload(self, checkpoint: Any, name: str) -> Any:
        """Runs in Ray Train's upload thread. A checkpoint is whole only after the weights of its best epoch are stored, too."""
        if self._best_upload is not None:
            self._best_upload.result()
        task, path = self._task, f"{self._task.run}/{name}"
        upload(
            task.storage, Path(checkpoint.path), path,
            rank=self._rank, workers=self._workers, retry_s=self._training.faults.storage_retry_s,
        )  # fmt: skip
        self._pending -= 1
        return ray.train.Checkpoint(task.storage.path(path), filesystem=task.storage.filesystem)


def _random_file(rank: int) -> str:
    return f"random-{rank:05d}.pt"


def _recompute(network: torch.nn.Module) -> None:
    """Wrap the layers of every list of layers so that their activations are computed again in the backward pass.

    Raises: TrainingError: the network has no such list.
    """
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
        apply_activation_checkpointing,
        checkpoint_wrapper,
    )

    blocks = {id(b) for child in network.modules() if isinstance(child, torch.nn.ModuleList) for b in child}
    if not blocks:
        raise TrainingError(
            f"training.recompute has nothing to wrap: {type(network).__name__} keeps no layers in a ModuleList."
        )
    apply_activation_checkpointing(
        network, checkpoint_wrapper_fn=checkpoint_wrapper, check_fn=lambda module: id(module) in blocks
    )
