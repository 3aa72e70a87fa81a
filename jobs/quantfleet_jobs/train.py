"""Job: fit every model of the recipe and let it answer for validation and test."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from quantfleet.config import Resolved
from quantfleet.contracts import FitContext, FitReport, ModelConfig
from quantfleet.registry.artifact import write_artifact
from quantfleet.training import TorchModelConfig
from quantfleet_data.chunks import ChunkStore
from quantfleet_jobs.fits import check_resumable, finished_fit, fit_content, fit_name
from quantfleet_jobs.inputs import split_plan, table_version
from quantfleet_jobs.main import job_main
from quantfleet_jobs.predictions import StoredArtifact, write_predictions
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import Stage, StageContext, StageOutput
from quantfleet_jobs.watch import watched_fit

__all__ = ["STAGE", "check_shards", "plan", "train_one"]


def _work(context: StageContext) -> StageOutput:
    chunks = ChunkStore.open(context.storage, str(context.output("chunks", "path")))
    made = {model.label: train_one(model, chunks, context) for model in context.recipe.models}
    context.progress.update("all models answer for validation and test")
    artifacts = {name: StoredArtifact(m["artifact"], m["digest"]) for name, m in made.items()}
    predictions = context.path("predictions")
    write_predictions(context.storage, artifacts, chunks, predictions)
    fitted = ", ".join(f"{name} {m['seconds']:.0f} s" for name, m in made.items() if m["seconds"] >= 1)
    return StageOutput(
        outputs={"chunks": chunks.path, "models": made, "predictions": predictions},
        summary=f"{len(made)} models on {chunks.stats.targets['train']:,} windows{': ' + fitted if fitted else ''}",
    )


def check_shards(recipe: Recipe) -> None:
    """Raises: ConfigError: a torch model's step cannot be shared evenly among the shards."""
    for model in recipe.models:
        if isinstance(model, TorchModelConfig):
            model.check_shards(recipe.training.data_shards)


def train_one(config: ModelConfig, chunks: ChunkStore, context: StageContext) -> dict[str, Any]:
    """Fit one model unless this run has it already; a file written last says that it is whole."""
    recipe, storage = context.recipe, context.storage
    content = fit_content(config, chunks.path, recipe)
    folder, marker = context.path("models", config.label), context.path("models", f"{config.label}.json")
    if (known := finished_fit(storage, marker, content)) is not None:
        return known
    storage.delete(marker)
    storage.delete(folder)

    context.progress.update(f"{config.label}: starting")
    model = config.build(chunks.spec)
    fit = fit_name(config, chunks.path, recipe)
    picture = None
    with watched_fit(config, context, fit) as watch:
        report = model.fit(
            chunks,
            FitContext(
                run_name=fit,
                storage=storage,
                training=recipe.training,
                seed=recipe.run.seed,
                train_callbacks=(watch.channel.callback,),
                live=watch.channel.sink,
                profile_folder=context.path("profile", config.label),
            ),
        )
        if report.curves:
            picture = context.path("learning", f"{config.label}.png")
            storage.write_bytes(picture, watch.finish(report.curves))
    provenance = _provenance(context, chunks)
    with tempfile.TemporaryDirectory() as local:
        digest = write_artifact(model, recipe.feature_set, provenance, Path(local))
        storage.upload(Path(local), folder)
    record = _record(content, folder, digest, report) | {"fit": fit, "learning": picture}
    storage.write_text(marker, json.dumps(record, indent=1))
    return record


def _provenance(context: StageContext, chunks: ChunkStore) -> dict[str, Any]:
    return {
        "run": context.recipe.run.name,
        "bars": f"{context.output('ingest', 'table')}@{context.output('ingest', 'version')}",
        "features": str(table_version(context, "features")),
        "labels": str(table_version(context, "labels")),
        "split": json.loads(split_plan(context).to_json()),
        "chunks": chunks.path,
        "seed": context.recipe.run.seed,
    }


def _record(content: str, folder: str, digest: str, report: FitReport) -> dict[str, Any]:
    return {
        "content": content,
        "artifact": folder,
        "digest": digest,
        "curves": [dict(row) for row in report.curves],
        "seconds": round(report.seconds, 3),
        "resumed_from": report.resumed_from,
        "parameters": report.parameters,
    }


def plan(
    resolved: Resolved[Recipe], console: Console, *, style: Literal["table", "json"] = "table", bandwidth_mb_s: float
) -> None:
    """Print what this stage would take; nothing is launched. Raises: MissingInputError: the run has no chunks."""
    from quantfleet_jobs.plan import plan_training, print_plans

    check_shards(resolved.value)
    print_plans(resolved, plan_training(resolved, bandwidth_mb_s=bandwidth_mb_s), console, style=style)


STAGE = Stage(
    name="train",
    help="Fit every model of the recipe on Ray Train; killed at any moment, the same command goes on.",
    needs=("ingest", "features", "labels", "split", "chunks"),
    settings=("models", "training", "run.seed"),
    work=_work,
    check=check_shards,
    uses_ray=True,
    uses_registry=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE, plan=plan, resume=check_resumable))
