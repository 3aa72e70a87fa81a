"""Job: inspect the bars and decide what to do about each finding."""

from __future__ import annotations

from quantfleet.errors import ConfigError
from quantfleet_data.quality_table import inspect_table
from quantfleet_jobs.inputs import open_bars
from quantfleet_jobs.main import job_main
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE"]


def _work(context: StageContext) -> StageOutput:
    recipe = context.recipe
    report_path = f"lake/quality/{recipe.ingest.timeframe}-{context.fingerprint}.json"
    bars = open_bars(recipe, context.storage, context.inputs["ingest"], report_path)
    report = inspect_table(bars)
    found = {check: count for check, count in report.counts.items() if count}
    said = ", ".join(f"{count} {check}" for check, count in found.items()) or "nothing found"
    quarantined = sum(symbol.rows_quarantined for symbol in report.symbols)
    return StageOutput(
        outputs={"report": bars.report, "page": bars.page},
        summary=f"{report.rows:,} bars of {len(report.symbols)} symbols: {said}; {quarantined} bars quarantined",
    )


def _check(recipe: Recipe) -> None:
    name = recipe.ingest.table.name
    if name != "bars" and recipe.trade_bars is None:
        more = " Add `trade_bars: {}` to make bars of them, or run" if name == "trades" else " Run"
        raise ConfigError(
            f"the recipe ingests {name}, and the stages after `ingest` work on bars.{more} `quantfleet ingest` alone on it, and "
            "use another recipe for bars."
        )


STAGE = Stage(
    name="quality",
    help="Inspect the bars; keep, repair, quarantine or fail, as the policy says of each finding.",
    needs=("ingest",),
    settings=("quality", "ingest.timeframe"),
    work=_work,
    check=_check,
    uses_ray=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
