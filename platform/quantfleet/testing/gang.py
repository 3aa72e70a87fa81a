"""Workers of one fit without a cluster: processes that talk gloo, and a Ray Train that is made of files.

What the loop asks of Ray Train (ranks, reports, checkpoints) is answered here; everything else is the real thing.
"""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing as mp
import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

__all__ = ["PRELOADED", "WorkerFailedError", "run_gang"]

PRELOADED = (
    "torch", "torch._dynamo", "ray.data", "ray.train.torch", "quantfleet.training.loop",
    "quantfleet.training.strategies.ddp_engine",
)  # fmt: skip
"""The fork server is one for the process and starts once, whoever asks for it first: all of a process preload the same."""


class WorkerFailedError(Exception):
    """A worker of the gang raised; the text is its traceback."""


def run_gang(
    work: Callable[..., Any],
    *arguments: Any,
    workers: int,
    folder: Path,
    collective_timeout_s: float = 600.0,
    preload: Sequence[str] = PRELOADED,
) -> list[Any]:
    """Run `work(*arguments)` on so many workers; returns what each of them returned, by rank.

    Args:
        folder: remembers what was reported.
        collective_timeout_s: who waits longer for the others gives up.
        preload: modules that the workers find imported.
    Raises: WorkerFailedError.
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results: Any = context.SimpleQueue()
    world = {"workers": workers, "port": port, "folder": str(folder), "timeout_s": collective_timeout_s}
    processes = [
        context.Process(target=_worker, args=(rank, world, results, sys.path, work, arguments))
        for rank in range(workers)
    ]
    for process in processes:
        process.start()
    made: dict[int, Any] = {}
    failure: str | None = None
    while len(made) < workers and failure is None:
        if results.empty():
            if all(process.exitcode is not None for process in processes) and results.empty():
                failure = f"workers ended with {[process.exitcode for process in processes]}"
            else:
                processes[0].join(0.05)
            continue
        rank, value, error = results.get()
        made[rank], failure = value, error
    for process in processes:
        if failure is not None:
            process.kill()
        process.join()
    if failure is not None:
        raise WorkerFailedError(failure)
    return [made[rank] for rank in range(workers)]


def _worker(
    rank: int, world: dict[str, Any], results: Any, path: list[str], work: Any, arguments: tuple[Any, ...]
) -> None:
    sys.path[:] = path
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(world["port"]), RANK=str(rank), LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world["workers"]), OMP_NUM_THREADS="1",
    )  # fmt: skip
    try:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo", rank=rank, world_size=world["workers"], timeout=dt.timedelta(seconds=world["timeout_s"])
        )
        _install(rank, world)
        results.put((rank, work(*arguments), None))
        dist.destroy_process_group()
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
        raise


def _install(rank: int, world: dict[str, Any]) -> None:
    """Answer for Ray Train in this process."""
    import ray.train
    import ray.train.torch
    import torch
    import torch.distributed as dist

    workers = world["workers"]
    reported = Path(world["folder"], "reported.json")
    context = SimpleNamespace(
        get_world_size=lambda: workers,
        get_world_rank=lambda: rank,
        get_local_rank=lambda: rank,
        get_node_rank=lambda: 0,
    )

    def known() -> list[dict[str, Any]]:
        return json.loads(reported.read_text()) if reported.exists() else []

    def report(metrics: dict[str, Any], checkpoint: Any = None, *, checkpoint_upload_fn: Any = None, **_: Any) -> None:
        rows = known()
        path = None
        if checkpoint is not None:
            path = checkpoint_upload_fn(checkpoint, f"checkpoint_{len(rows):06d}").path
        dist.barrier()
        if rank == 0:
            reported.write_text(json.dumps([*rows, {"path": path, "metrics": metrics}]))
        dist.barrier()

    ray.train.get_context = lambda: context
    ray.train.get_preemption_info = lambda: None
    ray.train.report = report
    ray.train.torch.get_device = lambda: torch.device("cpu")
