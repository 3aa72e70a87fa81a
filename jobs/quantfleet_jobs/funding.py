"""Job: note which version of the ingested funding rates the books will pay."""

from __future__ import annotations

from quantfleet.errors import ConfigError, MissingInputError
from quantfleet.storage import LakeTable
from quantfleet_data.ingest.tables import TABLES
from quantfleet_jobs.main import job_main
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE"]


def _work(context: StageContext) -> StageOutput:
    table = LakeTable(context.storage, TABLES["funding"].path(context.recipe.ingest.timeframe))
    if not table.exists():
        raise MissingInputError(
            f"the recipe has a section `funding`, and {table.uri} holds no funding rates. Ingest them under the same storage root "
            "first, by a recipe with `kind: ccxt_funding`, or `kind: files` with `rows: funding`; or leave the section out."
        )
    newest = table.latest()
    return StageOutput(
        outputs={"table": newest.path, "version": newest.version}, summary=f"funding of perpetuals from {newest}"
    )


def _check(recipe: Recipe) -> None:
    if recipe.funding is None:
        raise ConfigError("the recipe has no section `funding`: its books pay none. Add `funding: {}` for perpetuals.")


STAGE = Stage(
    name="funding",
    help="Note which funding rates the books pay.",
    needs=(),
    settings=("funding", "ingest.timeframe"),
    work=_work,
    check=_check,
    always=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
