"""`python -m bench.fit_start`: where the time goes before the first step of a fit, and what one `report()` costs.

A hybrid of 0.27M parameters is fitted for one epoch on a local Ray, through the trainer of `quantfleet train`, twice; each time all
processes are new. Moments are taken from the wall clock: when the processes of Ray Train's controller and of the worker were made,
when the worker's function was entered (its imports done), when the first step began. Beside them the worker's processor time, which
other work on the machine does not lengthen. Then the worker reports `REPORTS` times without a checkpoint, as it does between
two of them. Writes bench/fit_start.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.train
from ray.train.torch import TorchTrainer

from bench.controller_clock import ControllerClock
from bench.fits import fit_task
from quantfleet.cluster import ClusterConfig
from quantfleet.cluster.session import ray_session
from quantfleet.contracts import FitContext
from quantfleet.storage import Storage, StorageConfig
from quantfleet.training import DDPConfig
from quantfleet.training.runtime import run_config, run_trainer, scaling_config, torch_backend

FITS, REPORTS = 2, 50
MOMENTS = (
    ("controller_process", "fit() called until the controller's process exists"),
    ("worker_process", "controller until the worker's process exists"),
    ("worker_function", "worker's process until its function is entered: Python, Ray, torch are imported"),
    ("loop_imported", "imports of the loop"),
    ("first_step", "process group, network, loader, until the first step"),
)


def _timed_fit(config: dict[str, Any]) -> dict[str, Any]:
    """What a worker runs: notes moments, then fits, then reports."""
    moments = {"worker_process": psutil.Process().create_time(), "worker_function": time.time()}
    cpu = {"worker_function": time.process_time()}
    from quantfleet.training.loop import _Fit

    moments["loop_imported"] = time.time()
    cpu["loop_imported"] = time.process_time()

    class Noted(_Fit):
        def _train_epoch(self) -> None:
            moments.setdefault("first_step", time.time())
            cpu.setdefault("first_step", time.process_time())
            super()._train_epoch()

    with contextlib.ExitStack() as stack:
        Noted(config["task"], stack).run()
    spent = []
    for number in range(REPORTS):
        began = time.perf_counter()
        ray.train.report({"step": number})
        spent.append(time.perf_counter() - began)
    return {"moments": moments, "cpu_s": cpu, "report_s": spent}


def measure() -> dict[str, Any]:
    """One fit; seconds of each part of its start, and the median of a report."""
    with tempfile.TemporaryDirectory(prefix="quantfleet-bench-start-") as folder:
        task = fit_task(folder, "0.27M", epochs=1, strategy=DDPConfig(), workers=1, windows=128)
        noted = Path(folder, "controller")
        context = FitContext(
            run_name="fit", storage=Storage(StorageConfig(root=folder)), training=task.training, seed=1,
            train_callbacks=(ControllerClock(str(noted)),),
        )  # fmt: skip
        began = time.time()
        result = run_trainer(
            lambda: TorchTrainer(
                _timed_fit,
                train_loop_config={"task": task},
                torch_config=torch_backend(context),
                scaling_config=scaling_config(context),
                run_config=run_config(context),
            ),
            context,
        )
        ended = time.time()
        made = result.return_value
        moments = {"controller_process": float(noted.read_text()), **made["moments"]}
    parts, last = {}, began
    for name, _ in MOMENTS:
        parts[name] = round(moments[name] - last, 2)
        last = moments[name]
    return {
        "parts_s": parts,
        "start_s": round(last - began, 2),
        "whole_s": round(ended - began, 2),
        "worker_cpu_s": {name: round(spent, 2) for name, spent in made["cpu_s"].items()},
        "report_ms": round(1e3 * statistics.median(made["report_s"]), 1),
    }


def main() -> None:
    fits = []
    for _ in range(FITS):
        with ray_session(ClusterConfig()):
            fits.append(measure())
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),
        "parts": dict(MOMENTS),
        "fits": fits,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    for name, text in MOMENTS:
        print(f"{text:85} " + " ".join(f"{fit['parts_s'][name]:7.2f} s" for fit in fits))
    for name in ("start_s", "whole_s", "report_ms"):
        print(f"{name:85} " + " ".join(f"{fit[name]:7.2f}" for fit in fits))


if __name__ == "__main__":
    main()
