"""Job: compute the feature set for every symbol, beside an index where the recipe has one."""

from __future__ import annotations

from typing import Any

from quantfleet_data.feature_store import write_features
from quantfleet_data.index_table import write_index
from quantfleet_jobs.inputs import bar_context, checked_bars, instrument_versions
from quantfleet_jobs.main import job_main
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE"]


def _work(context: StageContext) -> StageOutput:
    recipe, bars = context.recipe, checked_bars(context)
    index = None
    if recipe.index is not None:
        context.progress.update(f"building index {recipe.index.symbol}")
        index = write_index(bars, recipe.index, instrument_versions(context))
    features = recipe.feature_set
    outputs: dict[str, Any] = {
        "index": None if index is None else {"path": index.path, "version": index.version},
        "book": context.inputs["book"].outputs if recipe.book is not None else None,
    }
    beside = bar_context(bars, outputs)
    table = write_features(bars, features, beside)
    said = "" if index is None else f", beside index {index}"
    return StageOutput(
        outputs={
            "table": table.path,
            "version": table.version,
            "feature_digest": features.digest,
            "bars_version": context.output("ingest", "version"),
            **outputs,
        },
        summary=f"{len(features.features)} features of set {features.name} v{features.version} ({table}){said}",
    )


STAGE = Stage(
    name="features",
    help="Compute causal features per symbol; refused if cutting the future off changes one.",
    needs=("ingest", "quality"),
    also=lambda recipe: ("book",) if recipe.book is not None else (),
    settings=("feature_set", "index"),
    work=_work,
    uses_ray=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
