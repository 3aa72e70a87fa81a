"""Job: cut features and labels into chunks, the form in which train workers read them."""

from __future__ import annotations

from quantfleet.contracts import SEGMENTS
from quantfleet_data.chunks import ChunkInputs, write_chunks
from quantfleet_jobs.inputs import checked_bars, split_plan, table_version
from quantfleet_jobs.main import job_main
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE"]


def _work(context: StageContext) -> StageOutput:
    recipe = context.recipe
    inputs = ChunkInputs(
        features=table_version(context, "features"),
        labels=table_version(context, "labels"),
        plan=split_plan(context),
        spec=recipe.data_spec(checked_bars(context).symbols),
        weight_column="weight" if recipe.labels.weights is not None else None,
        regime_column="regime" if recipe.labels.regime is not None else None,
    )
    store = write_chunks(inputs, context.storage)
    said = ", ".join(f"{segment} {store.stats.targets[segment]:,}" for segment in SEGMENTS)
    return StageOutput(
        outputs={"path": store.path, "targets": dict(store.stats.targets)},
        summary=f"windows of {inputs.spec.lookback_bars} bars: {said} ({store.path})",
    )


STAGE = Stage(
    name="chunks",
    help="Cut features and labels into chunks; windows are views on them, never stored.",
    needs=("ingest", "quality", "features", "labels", "split"),
    settings=("windows",),
    work=_work,
    uses_ray=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
