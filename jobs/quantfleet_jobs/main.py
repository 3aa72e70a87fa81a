"""`python -m quantfleet_jobs.NAME --config RECIPE`: the same for every job, on a laptop and under `ray job submit`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from rich.console import Console

from quantfleet.config import Resolved
from quantfleet_jobs.progress import Progress, reported
from quantfleet_jobs.recipe import Recipe, load_recipe
from quantfleet_jobs.record import StageRecord
from quantfleet_jobs.stage import Stage, run_stages

__all__ = ["job_main", "perform", "reported"]

Done = dict[str, StageRecord]


class Plan(Protocol):
    """Prints what a job would take."""

    def __call__(
        self, resolved: Resolved[Recipe], console: Console, *, style: Literal["table", "json"], bandwidth_mb_s: float
    ) -> None: ...


def perform(
    stages: Sequence[Stage], resolved: Resolved[Recipe], *, overwrite: bool = False, console: Console | None = None
) -> Done:
    """Run stages with progress on a console."""
    progress = Progress(console or Console())
    try:
        return run_stages(stages, resolved, progress=progress, overwrite=overwrite)
    finally:
        progress.stop()


def job_main(
    stage: Stage,
    argv: Sequence[str] | None = None,
    *,
    plan: Plan | None = None,
    resume: Callable[[Resolved[Recipe]], None] | None = None,
    judge: Callable[[Resolved[Recipe], StageRecord], None] | None = None,
) -> int:
    """Entry of one job's module.

    Args:
        plan: what `--plan` does, for a job that has one.
        resume: what `--resume` checks before the job starts, for a job that has it.
        judge: raises where what the job made is to be an error.
    """
    parser = argparse.ArgumentParser(prog=f"python -m quantfleet_jobs.{stage.name}", description=stage.help)
    parser.add_argument(
        "--config", required=True, metavar="RECIPE", help="a YAML or JSON file, or the name of a shipped one"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", help="override one value; repeatable"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace output made with other settings")
    if plan is not None:
        parser.add_argument(
            "--plan", action="store_true", help="print memory, steps, time and bottleneck; launch nothing"
        )
        parser.add_argument("--format", choices=("table", "json"), default="table", help="of the plan")
        parser.add_argument("--bandwidth", type=float, default=1250.0, help="between workers, MB/s, for the plan")
    if resume is not None:
        parser.add_argument(
            "--resume", action="store_true", help="go on from a checkpoint; an error where there is none"
        )
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    if plan is not None and options.plan:
        return reported(
            lambda: plan(
                load_recipe(options.config, options.set),
                Console(),
                style=options.format,
                bandwidth_mb_s=options.bandwidth,
            )
        )

    def work() -> None:
        resolved = load_recipe(options.config, options.set)
        if resume is not None and options.resume:
            resume(resolved)
        done = perform([stage], resolved, overwrite=options.overwrite)
        _discard(done)
        if judge is not None:
            judge(resolved, done[stage.name])

    return reported(work)


def _discard(done: Done) -> None:
    for record in done.values():
        Console().print(f"{record.stage}: {record.outputs}", highlight=False, soft_wrap=True)
