"""`quantfleet predict`: the job, and its answers as a table."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from quantfleet.config import Resolved
from quantfleet.storage import Storage
from quantfleet_jobs.main import perform
from quantfleet_jobs.predict import STAGE
from quantfleet_jobs.recipe import Recipe

__all__ = ["print_latest"]


def print_latest(resolved: Resolved[Recipe], console: Console) -> None:
    """Answer, and print one row per symbol and horizon.

    Raises: MissingInputError, RegistryError, ChecksumError, DataError.
    """
    made = perform([STAGE], resolved, console=console)[STAGE.name].outputs
    answers = Storage(resolved.value.storage).read_parquet(made["answers"])
    table = Table(
        title=f"{made['model_name']}: {made['chosen']}; bars {made['bars']}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for column in ("symbol", "bar (UTC)", "bars ahead", "expected return", "up", "volatility"):
        table.add_column(column, justify="left" if column in ("symbol", "bar (UTC)") else "right", no_wrap=True)
    horizons = [int(c.rsplit("_", 1)[1]) for c in answers.columns if c.startswith("expected_return_")]
    for row in answers.iter_rows(named=True):
        for h in horizons:
            table.add_row(
                row["symbol"],
                f"{row['timestamp']:%Y-%m-%d %H:%M}",
                str(h),
                f"{row[f'expected_return_{h}']:+.3%}",
                f"{row[f'direction_probability_{h}']:.1%}",
                f"{row[f'expected_volatility_{h}']:.3%}",
            )
    console.print(table)
