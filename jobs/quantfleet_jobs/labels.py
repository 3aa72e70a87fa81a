"""Job: compute the labels of every symbol, each with the time at which it is known."""

from __future__ import annotations

from quantfleet_data.label_table import write_labels
from quantfleet_jobs.inputs import checked_bars
from quantfleet_jobs.main import job_main
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE"]


def _work(context: StageContext) -> StageOutput:
    labels = context.recipe.labels
    table = write_labels(checked_bars(context), labels)
    return StageOutput(
        outputs={"table": table.path, "version": table.version, "bars_version": context.output("ingest", "version")},
        summary=f"{len(labels.columns)} labels, longest horizon {labels.horizon_bars} bars ({table})",
    )


STAGE = Stage(
    name="labels",
    help="Compute labels per symbol, each with t_end, the time at which it is known.",
    needs=("ingest", "quality"),
    settings=("labels",),
    work=_work,
    uses_ray=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
