"""Job: make bars of the trades that were ingested; the stages after it work on those."""

from __future__ import annotations

import datetime as dt

from quantfleet_data.trade_table import write_trade_bars
from quantfleet_jobs.inputs import table_version
from quantfleet_jobs.main import job_main
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE"]


def _work(context: StageContext) -> StageOutput:
    recipe = context.recipe
    assert recipe.trade_bars is not None  # _check
    made = write_trade_bars(
        context.storage,
        table_version(context, "ingest"),
        tuple(source.source_name for source in recipe.ingest.sources),
        recipe.ingest.timeframe,
        recipe.trade_bars,
        now_utc=dt.datetime.now(dt.UTC),
    )
    counts = made.counts
    return StageOutput(
        outputs={
            "table": made.bars.path,
            "version": made.bars.version,
            "trades": str(made.trades),
            "instruments": context.output("ingest", "instruments"),
        },
        summary=f"{counts.new} new, {counts.corrected} corrected, {counts.unchanged} already there, of {made.trades} ({made.bars})",
    )


def _check(recipe: Recipe) -> None:
    recipe.need_trade_bars()


STAGE = Stage(
    name="trade_bars",
    help="Make bars of the ingested trades; the same trades again change nothing.",
    needs=("ingest",),
    settings=("trade_bars", "ingest.timeframe"),
    work=_work,
    check=_check,
    uses_ray=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
