"""Job: part time into train, validation and test, purged by label interval and embargoed; stored as data."""

from __future__ import annotations

from quantfleet.contracts import Timeframe
from quantfleet_data.split_table import split_table
from quantfleet_jobs.inputs import labels_table
from quantfleet_jobs.main import job_main
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE"]


def _work(context: StageContext) -> StageOutput:
    recipe = context.recipe
    split = split_table(
        labels_table(context),
        int(context.output("labels", "version")),
        recipe.split,
        horizon_bars=recipe.labels.horizon_bars,
        timeframe=Timeframe(recipe.ingest.timeframe),
    )
    path = context.path("split.json")
    context.storage.write_text(path, split.plan.to_json())
    rows = ", ".join(f"{segment} {count:,}" for segment, count in split.rows.items())
    return StageOutput(
        outputs={"plan": path, "rows": split.rows, "purged": split.left_out},
        summary=f"{rows} rows; {split.left_out:,} purged or embargoed; test from {split.plan.test[0].start:%Y-%m-%d}",
    )


STAGE = Stage(
    name="split",
    help="Part time into train, validation and test, purged by label interval and embargoed.",
    needs=("labels",),
    settings=("split", "labels.horizon_bars"),
    work=_work,
    uses_ray=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
