"""`quantfleet train RECIPE --plan`: what training would take, before anything is launched."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantfleet.config import Resolved
from quantfleet.training.plan import RAY_START_S, FitPlan, MemoryRow, Network, PlanRequest
from quantfleet_data.chunks import ChunkStore
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import open_run

__all__ = ["PlanFormat", "plan_training", "print_plans"]

PlanFormat = Literal["table", "json"]
_ADVICE = {
    "compute": "More workers on cores of their own, or a GPU, make it faster.",
    "data": "Fewer augmentations, or chunks on a disk nearer to the workers, make it faster.",
    "communication": "Fewer workers, a larger batch_windows or a faster network make it faster.",
    "start-up": "The fit is short beside its start: more workers would not make it faster.",
}
_UNITS = ("B", "kB", "MB", "GB", "TB")


def plan_training(resolved: Resolved[Recipe], *, bandwidth_mb_s: float) -> list[FitPlan]:
    """Plan every model of the recipe from the run's own chunks; starts no Ray and writes nothing to the run.

    Raises: MissingInputError: the run has no chunks yet; says which command makes them.
    """
    recipe = resolved.value
    storage, _, record = open_run(resolved)
    chunks = ChunkStore.open(storage, str(record.need("chunks", of="train --plan").outputs["path"]))
    address = recipe.cluster.address or os.environ.get("RAY_ADDRESS")
    request = PlanRequest(
        training=recipe.training,
        workers=recipe.training.max_workers,
        seed=recipe.run.seed,
        network=Network(bandwidth_bytes_s=bandwidth_mb_s * 1e6),
        shared_cores=None if address else os.cpu_count() or 1,
        ray_start_s=0.0 if address else RAY_START_S,
    )
    ends = dict.fromkeys((recipe.training.min_workers, recipe.training.max_workers))  # of an elastic fit
    return [model.plan(chunks, replace(request, workers=workers)) for model in recipe.models for workers in ends]


def print_plans(resolved: Resolved[Recipe], plans: Sequence[FitPlan], console: Console, *, style: PlanFormat) -> None:
    """As tables for people, or as one JSON document."""
    if style == "json":
        record = {"run": resolved.value.run.name, "models": [_as_dict(plan) for plan in plans]}
        console.print(json.dumps(record, indent=1), soft_wrap=True, highlight=False, markup=False)
        return
    training = resolved.value.training
    many = f"{training.min_workers} to {training.max_workers}" if training.elastic else f"{training.workers}"
    workers = f"{many} workers of {training.cpus_per_worker:g} CPU{' and 1 GPU' * training.use_gpu}"
    title = f"Training of run {resolved.value.run.name}: {workers}, {training.strategy.kind}. Nothing was launched."
    console.print(Text(title, style="bold"), soft_wrap=True)
    for plan in plans:
        _print(plan, console)
    total = sum(plan.total_s for plan in plans if plan.workers in (0, training.max_workers))
    if total:
        console.print(Text(f"\nAll models, one after the other: about {_time(total)}."), soft_wrap=True)


def _print(plan: FitPlan, console: Console) -> None:
    console.print()
    console.print(Text.assemble((plan.model, "bold"), f" ({plan.kind})", f": {plan.note}" if plan.note else ""))
    if not plan.workers:
        return
    for name, value in _facts(plan).items():
        _print_lines(name, (value,), console)
    console.print(_memory_table(plan.memory))
    console.print(_time_table(plan))
    bottleneck = plan.bottleneck
    if bottleneck is not None:
        said = f"{bottleneck}, {plan.share(bottleneck):.0%} of about {_time(plan.total_s)}. {_ADVICE[bottleneck]}"
        _print_lines("bottleneck", (said,), console, style="bold")
    _print_lines("measured", plan.measured, console, style="dim")
    _print_lines("assumed", plan.assumed, console, style="dim")


def _print_lines(name: str, lines: Sequence[str], console: Console, *, style: str = "") -> None:
    """A name, and beside it sentences, each wrapped under itself."""
    width = max(console.width - 13, 40)
    wrapped = [f"{'' if i else '- '}{part}" for line in lines for i, part in enumerate(textwrap.wrap(line, width - 2))]
    shown = wrapped if len(lines) > 1 else textwrap.wrap(lines[0], width)
    for number, line in enumerate(shown):
        indent = "" if line.startswith("- ") or len(lines) == 1 else "  "
        console.print(Text(f"  {'' if number else name:<11}{indent}{line}", style=style), soft_wrap=True)


def _facts(plan: FitPlan) -> dict[str, str]:
    windows = ", ".join(f"{segment} {count:,}" for segment, count in plan.windows.items())
    if plan.unit == "rounds":
        return {"windows": windows, "rounds": f"at most {plan.units:,}"}
    frozen = plan.parameters - plan.trainable
    steps = f"{plan.units_per_epoch:,} an epoch, {plan.units:,} in {plan.epochs} epochs"
    if plan.optimizer_steps != plan.units:
        steps += f" ({plan.optimizer_steps:,} of the optimizer)"
    return {
        "parameters": f"{plan.parameters:,}" + (f", of them {frozen:,} frozen" if frozen else ", all trained"),
        "windows": f"{windows}; a step takes {plan.batch_windows:,}, {plan.micro_windows:,} on each worker",
        "steps": f"{steps}; {plan.validation_units_per_epoch:,} of validation after each",
    }


def _memory_table(rows: Sequence[MemoryRow]) -> Table:
    table = Table(title="  memory of one worker", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("strategy", no_wrap=True)
    for part in rows[0].parts:
        table.add_column(part, justify="right", no_wrap=True)
    table.add_column("sum", justify="right", no_wrap=True)
    if any(row.host for row in rows):
        table.add_column("on host", justify="right", no_wrap=True)
    for row in rows:
        cells = [_size(value) for value in (*row.parts.values(), row.total)]
        cells += [_size(row.host)] if any(r.host for r in rows) else []
        table.add_row(f"{row.name}{' *' * row.chosen}", *cells, style="bold" if row.chosen else "")
    return table


def _time_table(plan: FitPlan) -> Table:
    table = Table(title="  time", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_header=False)
    table.add_column("part")
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    for part, seconds in plan.seconds.items():
        table.add_row(part, _time(seconds), f"{plan.share(part):.0%}", style="bold" if part == plan.bottleneck else "")
    table.add_row("together", _time(plan.total_s), "")
    return table


def _size(count: float) -> str:
    """Bytes in units of 1000, three digits."""
    place = 0
    while count >= 999.5 and place < len(_UNITS) - 1:
        count, place = count / 1000, place + 1
    return f"{count:.3g} {_UNITS[place]}"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 0.1 else f"{1e3 * seconds:.1f} ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _as_dict(plan: FitPlan) -> Mapping[str, Any]:
    record = asdict(plan)
    for row, memory in zip(record["memory"], plan.memory, strict=True):
        row["total"] = memory.total
    return {**record, "total_s": plan.total_s, "bottleneck": plan.bottleneck}
