"""`quantfleet features list` and `drift`; `compute` is the stage."""

from __future__ import annotations

from typing import Annotated

import typer

from quantfleet_jobs.cli_common import RecipeArgument, SetOption, console, exit_with

__all__ = ["add_feature_commands"]


def add_feature_commands(group: typer.Typer) -> None:
    """Add the verbs that only features have."""
    group.command("list")(_list)
    group.command("drift")(_drift)


def _list(
    feature_set: Annotated[
        str | None, typer.Option("--set", metavar="NAME", help="The columns of one named set instead.")
    ] = None,
) -> None:
    """List the named sets and the kinds of features; with --set the columns of one set."""

    def work() -> None:
        from quantfleet.contracts import FEATURES
        from quantfleet.plugins import load_plugins
        from quantfleet_jobs.recipe import BUILT_IN_PLUGINS
        from quantfleet_jobs.show import show_feature_set, show_feature_sets, show_plugins

        load_plugins(BUILT_IN_PLUGINS)
        if feature_set is not None:
            show_feature_set(feature_set, console)
            return
        show_feature_sets(console)
        show_plugins(FEATURES, console)

    exit_with(work)


def _drift(
    recipe: RecipeArgument,
    since: Annotated[
        str | None,
        typer.Option(help="First bar of the later span, e.g. 2024-06-01 (UTC); the test segment's start if absent."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="End of the later span; everything there is if absent.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many features to show, the largest drift first.")] = 20,
    override: SetOption = None,
) -> None:
    """Have the features moved since training? PSI and KS of the training segment against a later span."""

    def work() -> None:
        from quantfleet_jobs.drift import print_drift
        from quantfleet_jobs.recipe import load_recipe

        print_drift(load_recipe(recipe, override or ()), console, since=since, until=until, top=top)

    exit_with(work)
