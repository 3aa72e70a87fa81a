"""What the command groups share: arguments, the console, and the way from an exception to an exit code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from quantfleet_jobs.progress import reported

if TYPE_CHECKING:
    from quantfleet.storage import Storage

__all__ = ["OverwriteOption", "RecipeArgument", "RootOption", "SetOption", "console", "exit_with", "storage_at"]

console = Console()

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML or JSON file, or a shipped recipe's name.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override one value; repeatable.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace output made with other settings.")]
RootOption = Annotated[
    str | None,
    typer.Option(
        "--root", help="Storage root, a folder or s3://bucket/prefix; QUANTFLEET_STORAGE__ROOT or .quantfleet."
    ),
]


def exit_with(work: Callable[[], None]) -> None:
    """Do the work; an error of ours becomes one line and exit code 1."""
    code = reported(work)
    if code:
        raise typer.Exit(code)


def storage_at(root: str | None) -> Storage:
    """The storage of a command that has no recipe. Raises: ConfigError."""
    from quantfleet.storage import Storage
    from quantfleet_jobs.doctor import storage_config

    return Storage(storage_config(root)).absolute()
