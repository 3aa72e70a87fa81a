"""`quantfleet bench models`: the models of a recipe through the stages of every run, side by side, one run for each seed."""

from __future__ import annotations

import itertools
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, replace

from rich.console import Console

from quantfleet.config import Resolved, from_plain, to_plain
from quantfleet.contracts import MODELS, ModelConfig
from quantfleet.errors import ConfigError, TrainingError, nearest
from quantfleet.evaluation.plain import json_ready
from quantfleet.storage import Storage
from quantfleet_jobs import backtest, evaluate, train
from quantfleet_jobs.bench import job
from quantfleet_jobs.bench.ablation import AblationRow, SeedRun, ablation_rows
from quantfleet_jobs.bench.rows import BenchRow, answers_on_test, bench_rows
from quantfleet_jobs.bench.view import bench_png, budget_text, print_ablation, print_bench
from quantfleet_jobs.main import perform
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.record import RunRecord
from quantfleet_jobs.run import stages_of
from quantfleet_jobs.stage import open_run

__all__ = ["bench_models", "choose_models", "seed_runs"]

_JUDGING = (train.STAGE, backtest.STAGE, evaluate.STAGE)


def choose_models(resolved: Resolved[Recipe], names: Sequence[str]) -> Resolved[Recipe]:
    """The recipe with these models alone, and its naive ones.

    Args:
        names: labels of the recipe's models, or registered models with their defaults; none: all of the recipe.
    Raises: ConfigError: there is no such model.
    """
    if not names:
        return resolved
    recipe = resolved.value
    known = {model.label: model for model in recipe.models}
    chosen: dict[str, ModelConfig] = {}
    for name in names:
        if name in known:
            chosen[name] = known[name]
        elif name in MODELS.names():
            chosen[name] = from_plain(ModelConfig, {"kind": name}, where=f"--models {name}")
        else:
            raise ConfigError(
                f"there is no model {name!r}: none of the recipe is called so, and none is registered."
                f"{nearest(name, (*known, *MODELS.names()))} The recipe has {', '.join(known)}; `quantfleet models list` names the "
                "others."
            )
    chosen |= {model.label: model for model in recipe.models if model.baseline}
    return replace(resolved, value=replace(recipe, models=tuple(chosen.values())))


def seed_runs(resolved: Resolved[Recipe]) -> list[Resolved[Recipe]]:
    """A run for each of `bench.seeds`: the first has the recipe's own name, the others their seed behind it."""
    recipe = resolved.value
    return [
        replace(
            resolved,
            value=replace(
                recipe, run=replace(recipe.run, seed=seed, name=f"{recipe.run.name}{f'-seed{seed}' if number else ''}")
            ),
        )
        for number, seed in enumerate(recipe.bench.seeds or (recipe.run.seed,))
    ]


def bench_models(resolved: Resolved[Recipe], console: Console, *, overwrite: bool = False) -> None:
    """Fit, answer, trade, judge; print the tables, and leave them and a picture in the (first) run's folder.

    Raises: ConfigError: no naive model, no model that learns, no test period: before anything starts. TrainingError: every model
        that learns has failed. Everything a stage raises that is no model's own fault.
    """
    from quantfleet.cluster.session import ray_session  # a second to import

    for stage in (job.STAGE, *_JUDGING):
        if stage.check is not None:
            stage.check(resolved.value)  # before a cluster is started
    open_run(resolved)  # storage and logs, before a cluster is started
    runs, made = seed_runs(resolved), []
    with ray_session(resolved.value.cluster):
        for run in runs:
            made.append(_one_run(run, console, overwrite=overwrite))
    recipe = runs[0].value
    shown = len(runs) if recipe.bench.reference is None else 1  # differences over all seeds come below
    for run, seed_run in list(zip(runs, made, strict=True))[:shown]:
        print_bench(list(seed_run.rows.values()), run.value, console)
    compared: list[AblationRow] = []
    if recipe.bench.reference is not None:
        compared = ablation_rows(
            made,
            [model.label for model in recipe.models if not model.baseline],
            recipe.bench.reference,
            horizon_bars=recipe.policy.horizon_bars,
            bars_per_year=recipe.market.bars_per_year,
        )
        print_ablation(compared, recipe.bench.reference, [run.seed for run in made], console)
    _store(recipe, made, compared, console)


def _one_run(resolved: Resolved[Recipe], console: Console, *, overwrite: bool) -> SeedRun:
    """Fit one by one, then the stages of every run with the models that were fitted."""
    recipe = replace(resolved.value, search=None)
    storage = Storage(recipe.storage).absolute()
    record = RunRecord(storage, recipe.run.name)
    before = record.find("bench")
    again = before is not None and before.outputs["failed"] and before.settings["models"] == to_plain(recipe.models)
    if again:
        record.forget("bench")  # what failed is tried again; what is fitted is found
    preparing = itertools.takewhile(lambda stage: stage.name != "train", stages_of(recipe))
    done = perform([*preparing, job.STAGE], replace(resolved, value=recipe), overwrite=overwrite, console=console)
    failed, epochs = done["bench"].outputs["failed"], done["bench"].outputs["epochs"]
    fitted = tuple(model for model in job.within_budget(recipe.models, epochs) if model.label not in failed)
    if all(model.baseline for model in fitted):
        raise TrainingError(f"every model that learns has failed: {'; '.join(f'{k}: {v}' for k, v in failed.items())}")
    there = {model.label for model in fitted}
    reference = recipe.bench.reference if recipe.bench.reference in there else None
    rest = replace(recipe, models=fitted, bench=replace(recipe.bench, reference=reference))
    mended = before is not None and again and before.outputs["failed"].keys() != failed.keys()
    done |= perform(_JUDGING, replace(resolved, value=rest), overwrite=overwrite or mended, console=console)
    rows = bench_rows(recipe, done, storage)
    return SeedRun(
        seed=recipe.run.seed,
        rows={row.name: row for row in rows},
        answers={name: answers_on_test(name, recipe, done, storage) for name in sorted(there)},
    )


def _store(recipe: Recipe, made: Sequence[SeedRun], compared: Sequence[AblationRow], console: Console) -> None:
    storage = Storage(recipe.storage).absolute()
    record = RunRecord(storage, recipe.run.name)
    rows: list[BenchRow] = list(made[0].rows.values())
    picture = record.path("bench", "models.png")
    storage.write_bytes(picture, bench_png(rows, f"{recipe.run.name}: test period, {budget_text(recipe)}"))
    told = {
        "run": recipe.run.name,
        "budget": budget_text(recipe),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "models": {str(run.seed): [asdict(row) for row in run.rows.values()] for run in made},
        "against": recipe.bench.reference,
        "differences": [asdict(row) | {"noise": row.noise} for row in compared],
    }
    table = record.path("bench", "models.json")
    storage.write_text(table, json.dumps(json_ready(told), indent=1))
    console.print(f"Picture: {storage.uri(picture)}\nNumbers: {storage.uri(table)}", soft_wrap=True, highlight=False)
