"""`quantfleet models plot`; `list` and `describe` are what every kind of plugin has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantfleet_jobs.cli_common import console, exit_with

__all__ = ["add_model_commands"]


def add_model_commands(group: typer.Typer) -> None:
    """Add the verbs that only models have."""
    group.command("plot")(_plot)


def _plot(
    name: Annotated[str, typer.Argument(help="A registered torch model.")],
    file: Annotated[Path, typer.Argument(help="Picture to write: .svg, .png or .pdf.")],
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="A=VALUE", help="One setting of the model; repeatable.")
    ] = None,
    lookback_bars: Annotated[int, typer.Option("--bars", min=1, help="Bars of a window.")] = 60,
    features: Annotated[int, typer.Option(min=1, help="Features of a bar.")] = 40,
    horizons: Annotated[int, typer.Option(min=1, help="Horizons of the labels.")] = 3,
) -> None:
    """Draw a model's network: its parts as they feed each other, with shapes and parameters."""

    def work() -> None:
        from quantfleet.plugins import load_plugins
        from quantfleet_jobs.model_picture import draw_model, model_config
        from quantfleet_jobs.recipe import BUILT_IN_PLUGINS

        load_plugins(BUILT_IN_PLUGINS)
        config = model_config(name, override or ())
        drawn = draw_model(config, file, lookback_bars=lookback_bars, features=features, horizons=horizons)
        console.print(
            f"{name}: {drawn.parameters:,} parameters at {lookback_bars} bars x {features} features and {horizons} horizons; "
            f"{len(drawn.parts)} parts drawn in {file}",
            highlight=False,
        )

    exit_with(work)
