"""A stage: reads what other stages of the run made, writes its own output once, and can be run again without harm."""

from __future__ import annotations

import contextlib
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import quantfleet
from quantfleet.config import Resolved, fingerprint, to_plain
from quantfleet.logs import bind_run, configure_logging, get_logger
from quantfleet.registry.store import ModelRegistry
from quantfleet.storage import Storage
from quantfleet_jobs.progress import Progress
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.record import RunRecord, StageRecord

__all__ = ["Stage", "StageContext", "StageOutput", "open_run", "run_stages"]

log = get_logger(__name__)
_LOADER_MODULE = "quantfleet_jobs.pyfunc"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOutput:
    """What a stage hands on."""

    outputs: dict[str, Any]
    summary: str


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """What a stage works with."""

    recipe: Recipe
    storage: Storage
    registry: ModelRegistry
    record: RunRecord
    inputs: dict[str, StageRecord]
    fingerprint: str
    progress: Progress

    def output(self, stage: str, name: str) -> Any:
        return self.inputs[stage].outputs[name]

    def path(self, *parts: str) -> str:
        return self.record.path(*parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One job."""

    name: str
    help: str
    needs: tuple[str, ...]
    """Stages whose outputs it reads. `ingest` stands for the stage that made the bars, which for a recipe of trades is
    `trade_bars`.
    """
    settings: tuple[str, ...]
    """The parts of the recipe that its output depends on, such as `policy.horizon_bars`."""
    work: Callable[[StageContext], StageOutput]
    also: Callable[[Recipe], tuple[str, ...]] | None = None
    """Stages that it reads besides, where the recipe has a section for them."""
    check: Callable[[Recipe], object] | None = None
    """Raises ConfigError for what would go wrong in this stage, before any stage starts."""
    uses_ray: bool | Callable[[Recipe], bool] = False
    """Whether it works on Ray; may depend on the recipe."""
    uses_registry: bool = False
    """Whether MLflow is needed: it is reached before the first stage starts, not after hours of training."""
    always: bool = False
    """Run even when nothing changed: its input is the world outside (an exchange, the registry)."""


def open_run(resolved: Resolved[Recipe]) -> tuple[Storage, ModelRegistry, RunRecord]:
    """Set up logging and open the places a run lives in.

    Raises: StorageError: the storage root cannot be listed and written.
    """
    recipe = resolved.value
    configure_logging(fmt=recipe.log.format, level=recipe.log.level)
    bind_run(recipe.run.name)
    storage = Storage(recipe.storage).absolute()
    storage.check()
    registry = ModelRegistry(recipe.registry, storage, loader_module=_LOADER_MODULE)
    return storage, registry, RunRecord(storage, recipe.run.name)


def run_stages(
    stages: Sequence[Stage], resolved: Resolved[Recipe], *, progress: Progress, overwrite: bool = False
) -> dict[str, StageRecord]:
    """Run stages in order; finished ones whose settings and inputs are the same are kept.

    Args:
        overwrite: replace outputs that were made with other settings.
    Returns: the record of each stage.
    Raises: QuantfleetError: a stage failed; what earlier stages made stays, and the same command goes on from there.
    """
    recipe = resolved.value
    for stage in stages:
        if stage.check is not None:
            stage.check(recipe)
    storage, registry, record = open_run(resolved)
    asked = {stage.name for stage in stages}
    for stage in stages:  # nobody else makes these; said before anything is started
        for name in (n for n in stage.needs if n not in asked):
            record.need(name, of=stage.name)
    if any(stage.uses_registry for stage in stages):
        registry.check()
    done: dict[str, StageRecord] = {}
    with contextlib.ExitStack() as stack:
        connected = False
        for number, stage in enumerate(stages, start=1):
            names = (*stage.needs, *(stage.also(recipe) if stage.also is not None else ()))
            inputs = {name: record.need(_maker(name, stage, recipe), of=stage.name) for name in names}
            versions = {name: made.fingerprint for name, made in inputs.items()}
            settings = {path: operator.attrgetter(path)(recipe) for path in stage.settings}
            print_ = fingerprint(stage.name, quantfleet.__version__, settings, versions)
            found = record.find(stage.name)
            progress.start(stage.name, number, len(stages))
            if found is not None and not stage.always:
                if found.fingerprint == print_:
                    progress.finish(f"unchanged: {found.summary}")
                    done[stage.name] = found
                    continue
                if not overwrite:
                    record.refuse_other(found, versions, to_plain(settings))
                record.forget(stage.name)
            needs_ray = stage.uses_ray(recipe) if callable(stage.uses_ray) else stage.uses_ray
            if needs_ray and not connected:
                from quantfleet.cluster.session import ray_session  # a second to import

                progress.update("starting Ray" if not recipe.cluster.address else "connecting to Ray")
                stack.enter_context(ray_session(recipe.cluster))
                connected = True
            began = time.perf_counter()
            context = StageContext(
                recipe=recipe,
                storage=storage,
                registry=registry,
                record=record,
                inputs=inputs,
                fingerprint=print_,
                progress=progress,
            )
            made = stage.work(context)
            seconds = time.perf_counter() - began
            done[stage.name] = record.finish(
                StageRecord(
                    stage=stage.name,
                    # what came from outside is part of what the next stages depend on
                    fingerprint=fingerprint(print_, made.outputs) if stage.always else print_,
                    inputs=versions,
                    outputs=made.outputs,
                    summary=made.summary,
                    seconds=round(seconds, 3),
                    settings=to_plain(settings),
                )
            )
            progress.finish(made.summary)
            log.info("stage finished", stage=stage.name, seconds=round(seconds, 2), outputs=made.outputs)
    return done


def _maker(name: str, stage: Stage, recipe: Recipe) -> str:
    """The stage that a need is about: bars may be made of trades, by the only stage that itself reads what `ingest` made."""
    return recipe.bars_stage if name == "ingest" and stage.name != recipe.bars_stage else name
