"""Job: fit every model of the recipe within one budget, measure each, and note those that fail instead of stopping at them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from quantfleet.contracts import ChunkBatch, ModelConfig
from quantfleet.errors import ClusterError, ConfigError, RegistryError, StorageError
from quantfleet.logs import get_logger
from quantfleet.registry.artifact import read_artifact
from quantfleet.training import TorchModelConfig
from quantfleet.training.plan import PlanRequest
from quantfleet_data.chunks import ChunkStore
from quantfleet_jobs.bench.measure import PeakMemory, answer_latency, first_window
from quantfleet_jobs.fits import finished_fit, fit_content
from quantfleet_jobs.main import job_main
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import Stage, StageContext, StageOutput
from quantfleet_jobs.train import check_shards, train_one

__all__ = ["STAGE", "check_bench", "within_budget"]

log = get_logger(__name__)

_NOT_THE_MODELS = (StorageError, RegistryError, ClusterError)
"""What would meet every model alike: it ends the bench."""


def check_bench(recipe: Recipe) -> None:
    """Raises: ConfigError: there is nothing to compare, or nothing to compare it with."""
    labels = ", ".join(model.label for model in recipe.models)
    if not any(model.baseline for model in recipe.models):
        raise ConfigError(
            f"a bench compares with naive models, and the recipe has none among {labels}. Add one to models, such as "
            "`kind: buy_and_hold`."
        )
    if all(model.baseline for model in recipe.models):
        raise ConfigError(f"models {labels} are all naive; add one that learns, such as `kind: ridge`.")
    check_shards(recipe)


def within_budget(models: tuple[ModelConfig, ...], epochs: Mapping[str, int]) -> tuple[ModelConfig, ...]:
    """The models with the epochs that each may take."""
    return tuple(
        replace(model, epochs=epochs[model.label])
        if isinstance(model, TorchModelConfig) and model.label in epochs
        else model
        for model in models
    )


def epochs_within(seconds: float, *, epoch_s: float, start_s: float, most: int) -> int:
    """Epochs that fit into so many seconds beside the start; one at least, `most` at most."""
    return max(1, min(most, int((seconds - start_s) / epoch_s))) if epoch_s > 0 else most


def _work(context: StageContext) -> StageOutput:
    recipe = context.recipe
    chunks = ChunkStore.open(context.storage, str(context.output("chunks", "path")))
    failed: dict[str, str] = {}
    epochs = _epochs(context, chunks, failed)
    window = first_window(chunks)
    measured: dict[str, dict[str, Any]] = {}
    for model in within_budget(recipe.models, epochs):
        if model.label in failed:
            continue
        try:
            measured[model.label] = _measure(model, chunks, window, context)
        except _NOT_THE_MODELS:
            raise
        except Exception as error:  # whatever a model's library raises is that model's row
            log.warning("a model of the bench failed", model=model.label, exc_info=error)
            failed[model.label] = _reason(error)
            context.progress.note(f"{model.label} failed: {failed[model.label]}")
    said = f"{len(measured)} of {len(recipe.models)} models fitted"
    return StageOutput(
        outputs={"epochs": epochs, "measured": measured, "failed": failed},
        summary=f"{said}; failed: {', '.join(failed)}" if failed else said,
    )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    return text if type(error).__module__.startswith("quantfleet.") else f"{type(error).__name__}: {text}"


def _epochs(context: StageContext, chunks: ChunkStore, failed: dict[str, str]) -> dict[str, int]:
    """Of every torch model. What a plan said is kept, since a second one would say something else."""
    recipe, bench = context.recipe, context.recipe.bench
    torch = [model for model in recipe.models if isinstance(model, TorchModelConfig)]
    epochs = {model.label: bench.epochs or model.epochs for model in torch}
    if bench.minutes is None:
        return epochs
    place = context.path("bench", "epochs.json")
    known = json.loads(context.storage.read_text(place)) if context.storage.exists(place) else {}
    request = PlanRequest(
        training=recipe.training,
        workers=recipe.training.max_workers,
        seed=recipe.run.seed,
        shared_cores=None if recipe.cluster.address or os.environ.get("RAY_ADDRESS") else os.cpu_count() or 1,
        ray_start_s=0.0,
    )
    for model in within_budget(tuple(torch), epochs):
        asked = f"{fit_content(model, chunks.path, recipe)} in {bench.minutes:g} min"
        if known.get(model.label, {}).get("asked") == asked:
            epochs[model.label] = int(known[model.label]["epochs"])
            continue
        context.progress.update(f"{model.label}: planning")
        try:
            plan = model.plan(chunks, request)
        except Exception as error:  # as in its fit
            log.warning("a model of the bench could not be planned", model=model.label, exc_info=error)
            failed[model.label] = _reason(error)
            continue
        start_s = plan.seconds["start-up"]
        epochs[model.label] = epochs_within(
            60 * bench.minutes, epoch_s=(plan.total_s - start_s) / plan.epochs, start_s=start_s, most=plan.epochs
        )
        known[model.label] = {"asked": asked, "epochs": epochs[model.label]}
        context.storage.write_text(place, json.dumps(known, indent=1))
    return epochs


def _measure(model: ModelConfig, chunks: ChunkStore, window: ChunkBatch, context: StageContext) -> dict[str, Any]:
    """Fit one model unless this run has it already, load it as it was stored, and ask it."""
    place = context.path("bench", f"{model.label}.json")
    content = fit_content(model, chunks.path, context.recipe)
    with PeakMemory() as memory:
        made = train_one(model, chunks, context)
    if (known := finished_fit(context.storage, place, content)) is not None:
        return known
    context.progress.update(f"{model.label}: answering")
    with tempfile.TemporaryDirectory() as folder:
        context.storage.download(made["artifact"], Path(folder))
        stored = read_artifact(Path(folder), digest=made["digest"], chunk_bars=1)
        latency = answer_latency(stored.model, window, calls=context.recipe.bench.latency_calls)
    record = {"content": content, "peak_mb": memory.peak_mb, **asdict(latency)}
    context.storage.write_text(place, json.dumps(record, indent=1))
    return record


STAGE = Stage(
    name="bench",
    help="Fit and measure every model of the recipe within one budget; one that fails is noted and does not stop the others.",
    needs=("ingest", "features", "labels", "split", "chunks"),
    settings=("models", "training", "run.seed", "bench.epochs", "bench.minutes", "bench.latency_calls"),
    work=_work,
    check=check_bench,
    uses_ray=True,
    uses_registry=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
