"""Job: replay the ingested order books into measures at every close of a bar, for features to read."""

from __future__ import annotations

from quantfleet.errors import ConfigError
from quantfleet_data.book_table import write_book
from quantfleet_jobs.main import job_main
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE"]


def _work(context: StageContext) -> StageOutput:
    recipe = context.recipe
    assert recipe.book is not None  # _check
    measures, messages = write_book(context.storage, recipe.ingest.timeframe, recipe.book)
    return StageOutput(
        outputs={
            "table": measures.path,
            "version": measures.version,
            "messages": str(messages),
            "max_age_s": recipe.book.max_age_s,
        },
        summary=f"{len(recipe.book.columns)} columns of {messages} ({measures})",
    )


def _check(recipe: Recipe) -> None:
    if recipe.book is None:
        raise ConfigError(
            "the recipe has no section `book`, which says what to measure of order books. Add `book: {}`."
        )


STAGE = Stage(
    name="book",
    help="Replay the ingested order books into measures at every close of a bar.",
    needs=(),
    settings=("book", "ingest.timeframe"),
    work=_work,
    check=_check,
    uses_ray=True,
    always=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
