"""Job: bring a raw table (bars, trades, book, funding) up to date with its sources, and the instruments with their files."""

from __future__ import annotations

from typing import Any

from quantfleet_data.ingest import IngestProgress, ingest
from quantfleet_data.instruments import load_instruments, write_instruments
from quantfleet_jobs.main import job_main
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE"]


def _work(context: StageContext) -> StageOutput:
    def show(at: IngestProgress) -> None:
        context.progress.update(f"{at.source} {at.symbol} to {at.reached_utc:%Y-%m-%d %H:%M}, {at.received:,} rows")

    recipe = context.recipe
    instruments: dict[str, Any] = {}
    said = ""
    if recipe.instruments is not None:  # first: they are small, and a mistake in them is known at once
        loaded = load_instruments(recipe.instruments)
        versions = write_instruments(context.storage, loaded)
        instruments = {name: getattr(versions, name).version for name in ("listings", "memberships", "actions")}
        said = f"; {loaded.listings.height} listings, {loaded.memberships.height} memberships, {loaded.actions.height} actions"
    report = ingest(recipe.ingest, context.storage, progress=show)
    return StageOutput(
        outputs={"table": report.after.path, "version": report.after.version, "instruments": instruments},
        summary=report.summary + said,
    )


def _in_parts(recipe: Recipe) -> bool:
    """Whether a source is read in parts at the same time, as Ray tasks."""
    return any(len(source.split()) > 1 for source in recipe.ingest.sources)


STAGE = Stage(
    name="ingest",
    help="Bring the bars table up to date with its sources; the same again changes nothing.",
    needs=(),
    settings=("ingest", "instruments"),
    work=_work,
    uses_ray=_in_parts,
    always=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
