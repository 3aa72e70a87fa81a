"""`quantfleet sensitivity`: which settings of a finished search matter."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from quantfleet.config import Resolved
from quantfleet.errors import ConfigError
from quantfleet.evaluation.plain import json_ready
from quantfleet.tuning.sensitivity import settings_sensitivity
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import open_run

__all__ = ["losses_within", "print_sensitivity"]


def losses_within(trials: Sequence[Mapping[str, Any]], epochs: int | None) -> tuple[list[float], int]:
    """Each trial's lowest validation loss of its first epochs, so that those stopped early are judged as others are.

    Args:
        epochs: None: as many as the trial with the fewest ran, of those that finished one.
    Returns: NaN for trials that ran fewer; and the number of epochs.
    Raises: ConfigError: no trial ran so many.
    """
    curves = [[point["val_loss"] for point in trial["curve"]] for trial in trials]
    judged = epochs or min((len(curve) for curve in curves if curve), default=0)
    if not any(len(curve) >= judged > 0 for curve in curves):
        raise ConfigError(
            f"no trial ran {judged or 'a whole'} epoch(s); the longest ran {max(map(len, curves), default=0)}."
        )
    return [min(curve[:judged]) if len(curve) >= judged else math.nan for curve in curves], judged


def print_sensitivity(
    resolved: Resolved[Recipe], console: Console, *, epochs: int | None = None, least_r2: float = 0.5
) -> None:
    """Print a row per setting, the one that matters most first, and write `sensitivity.json` beside the search.

    Raises: MissingInputError: there was no search. ConfigError: the recipe has none, or searches elsewhere by now. DataError: too
        few trials, or a surrogate that knows too little to conclude anything.
    """
    recipe = resolved.value
    if recipe.search is None:
        raise ConfigError("the recipe has no `search` section; see the shipped recipe tune_quickstart.")
    storage, _, record = open_run(resolved)
    made = record.need("search", of="sensitivity")
    trials = json.loads(storage.read_text(str(made.outputs["results"])))
    losses, judged = losses_within(trials, epochs)
    found = settings_sensitivity(
        [trial["settings"] for trial in trials], losses, recipe.search.space, least_r2=least_r2, seed=recipe.run.seed
    )
    path = record.path("sensitivity.json")
    storage.write_text(path, json.dumps(json_ready({**asdict(found), "epochs": judged}), indent=1))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("setting", "alone", "95 %", "with others", "95 %"):
        table.add_column(name, justify="left" if name == "setting" else "right", no_wrap=True)
    for s in found.settings:
        alone, together = f"[{s.first_low:.2f}, {s.first_high:.2f}]", f"[{s.total_low:.2f}, {s.total_high:.2f}]"
        table.add_row(
            s.name, f"{s.first:.2f}", alone.replace("[", r"\["), f"{s.total:.2f}", together.replace("[", r"\[")
        )
    console.print(table)
    console.print(
        f"Shares of the variance of the validation loss after {judged} epoch(s), {found.trials} trials; the surrogate explains "
        f"{found.r2:.0%} of trials it has not seen. Written: {path}",
        soft_wrap=True,
        highlight=False,
    )
