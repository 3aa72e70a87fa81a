"""Job: every stage of a recipe in order, then the decision table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantfleet.config import Resolved
from quantfleet.evaluation.report.text import number, percent
from quantfleet_jobs import (
    audit,
    backtest,
    book,
    chunks,
    evaluate,
    features,
    funding,
    ingest,
    labels,
    predict,
    quality,
    register,
    report,
    search,
    split,
    trade_bars,
    train,
)
from quantfleet_jobs.main import perform, reported
from quantfleet_jobs.recipe import Recipe, load_recipe
from quantfleet_jobs.stage import Stage
from quantfleet_jobs.table import DecisionRow, decision_rows

__all__ = ["STAGES", "run_recipe", "stages_of"]

STAGES: tuple[Stage, ...] = tuple(
    job.STAGE
    for job in (
        ingest,
        quality,
        features,
        labels,
        split,
        chunks,
        train,
        backtest,
        evaluate,
        audit,
        register,
        predict,
        report,
    )
)


SEARCH_STAGES: tuple[Stage, ...] = tuple(
    job.STAGE for job in (ingest, quality, features, labels, split, chunks, search)
)


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a recipe in order: of its search if it has one, and with those that its
    sections `trade_bars`, `book` and `funding` ask for."""
    first, *others = STAGES if recipe.search is None else SEARCH_STAGES
    between = ((trade_bars.STAGE, recipe.trade_bars), (book.STAGE, recipe.book), (funding.STAGE, recipe.funding))
    return (first, *(stage for stage, section in between if section is not None), *others)


def run_recipe(resolved: Resolved[Recipe], *, overwrite: bool = False) -> None:
    """Run all stages, print the decision table and where the report is; a recipe with a search ends with the search."""
    console = Console()
    if resolved.value.search is not None:
        done = perform(stages_of(resolved.value), resolved, overwrite=overwrite, console=console)
        console.print(done["search"].summary, soft_wrap=True, highlight=False)
        return
    done = perform(stages_of(resolved.value), resolved, overwrite=overwrite, console=console)
    rows = decision_rows(resolved.value, done)
    console.print(_table(rows, resolved.value))
    console.print(_reasons(rows), soft_wrap=True)
    console.print(Text.assemble("Report: ", (done["report"].summary, "bold")), soft_wrap=True)


def _table(rows: Sequence[DecisionRow], recipe: Recipe) -> Table:
    """Numbers only; reasons are sentences and stand below it."""
    title = f"Decisions of run {recipe.run.name}: test period, after costs"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for name in ("model", "verdict", "Sharpe [95 %]", "return", "drawdown", "turn/yr", "IC", "hit"):
        table.add_column(name, justify="left" if name in ("model", "verdict") else "right", no_wrap=True)
    for row in rows:
        m = row.metrics
        style = "bold green" if row.verdict == "PROMOTE" else "dim" if row.baseline else ""
        table.add_row(
            row.name,
            "naive" if row.baseline else row.verdict,
            f"{number(m.get('sharpe'))} [{number(m.get('sharpe_low'))}, {number(m.get('sharpe_high'))}]",
            percent(m.get("total_return")),
            percent(m.get("max_drawdown")),
            number(m.get("turnover_per_year"), 1),
            number(m.get("ic"), 3),
            percent(m.get("directional_accuracy")),
            style=style,
        )
    return table


def _reasons(rows: Sequence[DecisionRow]) -> Text:
    """Why each candidate was promoted or held."""
    lines = []
    for row in rows:
        if row.baseline:
            continue
        style = "bold green" if row.verdict == "PROMOTE" else "bold"
        lines.append(Text.assemble((f"{row.verdict} {row.name}", style)))
        lines += [Text(f"  - {reason}") for reason in row.why]
    return Text("\n").join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m quantfleet_jobs.run", description="Every stage of a recipe.")
    parser.add_argument(
        "--config", required=True, metavar="RECIPE", help="a YAML or JSON file, or the name of a shipped one"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", help="override one value; repeatable"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace output made with other settings")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    return reported(lambda: run_recipe(load_recipe(options.config, options.set), overwrite=options.overwrite))


if __name__ == "__main__":
    raise SystemExit(main())
