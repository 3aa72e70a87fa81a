"""`quantfleet bench models`."""

from __future__ import annotations

from typing import Annotated

import typer

from quantfleet_jobs.cli_common import OverwriteOption, SetOption, console, exit_with

__all__ = ["bench_app"]

bench_app = typer.Typer(help="Models side by side on the same data, split and budget.", no_args_is_help=True)

_DEFAULT = "bench_models"
_ABLATION = "_ablation"


@bench_app.callback()
def _group() -> None:
    """Keeps `models` a command of its own while it is the only one."""


@bench_app.command("models")
def models(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="[RECIPE]", help=f"A file, or a shipped recipe's name; {_DEFAULT} when absent."),
    ] = None,
    chosen: Annotated[
        str | None,
        typer.Option("--models", help="These alone, such as gru,ridge: of the recipe, or any registered model."),
    ] = None,
    ablation: Annotated[
        str | None,
        typer.Option(
            help="The shipped recipe MODEL_ablation: each switch of a model against the plain one, such as hybrid."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of every torch model, instead of the recipe's.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Cut a torch model's epochs to what should fit into so long a fit.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Such as 7,8,9: every model with each of them.")] = None,
    override: SetOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Train models on the same data, split and budget; print what each costs, foretells and earns beside the naive ones.

    The budget is epochs: the recipe's, or --epochs for all torch models, cut to --minutes by the plan. Trees and lines take the
    recipe's rounds. A model that fails is a line with its reason. Killed at any moment, the same command goes on.
    """

    def work() -> None:
        from quantfleet.errors import ConfigError
        from quantfleet_jobs.bench.models import bench_models, choose_models
        from quantfleet_jobs.recipe import load_recipe

        if recipe is not None and ablation is not None:
            raise ConfigError(f"give a recipe or --ablation, not both: {recipe} and {ablation}.")
        name = recipe or (f"{ablation}{_ABLATION}" if ablation else _DEFAULT)
        asked = {"epochs": epochs, "minutes": minutes, "seeds": None if seeds is None else f"[{seeds}]"}
        given = [f"bench.{key}={value}" for key, value in asked.items() if value is not None]
        resolved = load_recipe(name, [*(override or ()), *given])
        names = [part.strip() for part in chosen.split(",") if part.strip()] if chosen is not None else []
        bench_models(choose_models(resolved, names), console, overwrite=overwrite)

    exit_with(work)
