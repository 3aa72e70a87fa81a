"""`quantfleet features drift`: have the features moved since the models were fitted?"""

from __future__ import annotations

import datetime as dt

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from quantfleet.cluster.session import ray_session
from quantfleet.config import Resolved
from quantfleet.contracts import SplitPlan
from quantfleet.errors import ConfigError
from quantfleet.evaluation.drift import Drift
from quantfleet.storage import LakeTable, TableVersion
from quantfleet_data.feature_store import feature_drift
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import open_run

__all__ = ["print_drift"]

_EVER = dt.datetime(9999, 1, 1, tzinfo=dt.UTC)


def print_drift(
    resolved: Resolved[Recipe], console: Console, *, since: str | None = None, until: str | None = None, top: int = 20
) -> None:
    """Compare the training segment's features with later ones and print those that moved most.

    Args:
        since: first bar open of the later span, ISO 8601, UTC when it names no zone; the start of the test segment when None.
        until: its end; everything there is when None.
    Raises: ConfigError: a time cannot be read. MissingInputError: a stage was not run. EmptyTableError: a span has no rows.
    """
    storage, _, record = open_run(resolved)
    features, split = (record.need(stage, of="features drift") for stage in ("features", "split"))
    plan = SplitPlan.from_json(storage.read_text(str(split.outputs["plan"])))
    version = TableVersion(str(features.outputs["table"]), int(features.outputs["version"]))
    reference = (plan.train[0].start, plan.train[-1].end)
    current = (_time(since, "since") or plan.test[0].start, _time(until, "until") or _EVER)
    with ray_session(resolved.value.cluster):
        found = feature_drift(LakeTable(storage, version.path), version, reference=reference, current=current)
    end = "now" if current[1] == _EVER else f"{current[1]:%Y-%m-%d %H:%M}"
    console.print(
        f"{version}: {reference[0]:%Y-%m-%d} to {reference[1]:%Y-%m-%d} (training) against "
        f"{current[0]:%Y-%m-%d %H:%M} to {end}, UTC, all symbols together",
        soft_wrap=True,
    )
    console.print(_table(found, top))
    counts = {verdict: sum(d.verdict == verdict for d in found.values()) for verdict in ("large", "moderate", "stable")}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    console.print(f"{len(found)} features: {said}. PSI below 0.1 is stable, above 0.25 large.")


def _table(found: dict[str, Drift], top: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name, side in (
        ("feature", "left"),
        ("PSI", "right"),
        ("KS", "right"),
        ("undefined", "right"),
        ("verdict", "left"),
    ):
        table.add_column(name, justify="left" if side == "left" else "right", no_wrap=True)
    for name, drift in list(found.items())[:top]:
        undefined = f"{drift.undefined_reference:.1%} -> {drift.undefined_current:.1%}"
        psi, ks = ("-" if np.isnan(value) else f"{value:.3f}" for value in (drift.psi, drift.ks))
        table.add_row(name, psi, ks, undefined, drift.verdict)
    return table


def _time(text: str | None, option: str) -> dt.datetime | None:
    if text is None:
        return None
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--{option} {text!r} is no time; write it as 2024-06-01 or 2024-06-01T12:00.") from error
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)
