"""`quantfleet data`: look at the lake's tables."""

from __future__ import annotations

from typing import Annotated

import typer

from quantfleet_jobs.cli_common import RootOption, console, exit_with, storage_at

__all__ = ["data_app"]

data_app = typer.Typer(
    help="The lake's tables: what is there, what changed, what is wrong with it. TABLE is a path such as bars/1d.",
    no_args_is_help=True,
)

TableArgument = Annotated[
    str, typer.Argument(metavar="TABLE", help="A path that `quantfleet data ls` prints, e.g. bars/1d.")
]


@data_app.command("ls")
def ls(root: RootOption = None) -> None:
    """List every table with its newest version, rows, symbols, time range and size."""

    def work() -> None:
        from quantfleet_jobs.lake_views import show_tables

        show_tables(storage_at(root), console)

    exit_with(work)


@data_app.command("describe")
def describe(
    table: TableArgument,
    version: Annotated[
        int | None, typer.Option(help="A version that `data versions` prints; the newest when absent.")
    ] = None,
    root: RootOption = None,
) -> None:
    """Columns, rows, symbols, time range and origin of one table. Reads the log, not the rows."""

    def work() -> None:
        from quantfleet.storage.catalog import summarise
        from quantfleet_jobs.lake_views import find_table, show_summary

        show_summary(summarise(find_table(storage_at(root), table), version), console)

    exit_with(work)


@data_app.command("versions")
def versions(
    table: TableArgument,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    root: RootOption = None,
) -> None:
    """The commits of a table: when, what, how many rows. Any of them can still be read by its number."""

    def work() -> None:
        from quantfleet.storage.catalog import table_versions
        from quantfleet_jobs.lake_views import find_table, show_versions

        show_versions(table_versions(find_table(storage_at(root), table)), console, limit=limit)

    exit_with(work)


@data_app.command("diff")
def diff(
    table: TableArgument,
    old: Annotated[int, typer.Argument(metavar="OLD", help="Earlier version.")],
    new: Annotated[int | None, typer.Argument(metavar="NEW", help="Later version; the newest when absent.")] = None,
    root: RootOption = None,
) -> None:
    """Rows added, removed and changed between two versions, per symbol, with the first changes spelt out."""

    def work() -> None:
        from quantfleet.storage.catalog import diff_versions
        from quantfleet_jobs.lake_views import find_table, show_diff

        found = find_table(storage_at(root), table)
        show_diff(diff_versions(found, old, found.latest().version if new is None else new), console)

    exit_with(work)


@data_app.command("quality")
def quality(
    table: TableArgument,
    version: Annotated[int | None, typer.Option(help="Version to inspect; the newest when absent.")] = None,
    calendar: Annotated[
        str | None,
        typer.Option(
            help="continuous: a bar is due every timeframe (crypto). sessions: the same but for breaks of 40 hours and more "
            "(currencies, futures). union: whenever any symbol has one (stocks). "
            "When absent, union for bars of a day and longer, else continuous."
        ),
    ] = None,
    root: RootOption = None,
) -> None:
    """Inspect a table of bars and write its quality page: coverage, findings by kind, outliers on the price."""

    def work() -> None:
        from quantfleet_jobs.lake_views import find_table, inspect_and_show

        storage = storage_at(root)
        inspect_and_show(find_table(storage, table), version, calendar, console)

    exit_with(work)


@data_app.command("universe")
def universe(
    day: Annotated[str, typer.Argument(metavar="DAY", help="A past day, such as 2008-09-15.")],
    index: Annotated[str | None, typer.Option(help="Only members of this index on that day.")] = None,
    root: RootOption = None,
) -> None:
    """What was listed on a day, or in an index: as known then, delisted symbols included."""

    def work() -> None:
        from quantfleet_jobs.lake_views import show_universe

        show_universe(storage_at(root), day, index, console)

    exit_with(work)


@data_app.command("compact")
def compact(table: TableArgument, root: RootOption = None) -> None:
    """Join the small files that many small commits left. Rows stay the same; readers are not disturbed."""

    def work() -> None:
        from quantfleet_jobs.lake_views import find_table

        found = find_table(storage_at(root), table)
        before = found.files().height
        version = found.compact()
        console.print(f"{version}: {before} files became {found.files().height}")

    exit_with(work)
