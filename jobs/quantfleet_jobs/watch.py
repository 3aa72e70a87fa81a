"""Watching one fit: its line on the terminal, its MLflow run while it runs, its picture, and where else to look."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import quantfleet
from quantfleet.config import fingerprint, to_plain
from quantfleet.contracts import ModelConfig
from quantfleet.registry.live import LiveRun
from quantfleet.registry.store import FitRun
from quantfleet.registry.system_metrics import SystemSampler
from quantfleet.training import TrainingConfig
from quantfleet_jobs.params import flat_params
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import StageContext

if TYPE_CHECKING:
    from quantfleet.training.live import LiveChannel, LiveReport

__all__ = ["FitWatch", "fit_params", "fit_tags", "parent_tags", "watched_fit", "without_watching"]

_PICTURE = "plots/learning.png"


def without_watching(training: TrainingConfig) -> TrainingConfig:
    """The settings that what is learnt depends on. How a fit is watched, saved and rescued may change half-way, and so may its
    workers, as long as the data are dealt in the same shards.
    """
    plain = TrainingConfig()
    return replace(
        training,
        workers=1,
        shards=training.data_shards,
        report_every_s=plain.report_every_s,
        profile_steps=plain.profile_steps,
        checkpoints=plain.checkpoints,
        faults=plain.faults,
        resize_every_s=plain.resize_every_s,
        wait_for_nodes=plain.wait_for_nodes,
        cache_mb=plain.cache_mb,
    )


def parent_tags(recipe: Recipe) -> dict[str, str]:
    """Tags of the MLflow run that the models of a Quantfleet run are children of."""
    return {"quantfleet.recipe": fingerprint(recipe.models)}


def fit_tags(model: ModelConfig) -> dict[str, str]:
    """Tags of a model's MLflow run that are known before it is trained."""
    return {
        "quantfleet.version": quantfleet.__version__,
        "quantfleet.kind": model.kind,
        "quantfleet.baseline": str(model.baseline).lower(),
    }


def fit_params(model: ModelConfig, recipe: Recipe) -> dict[str, str]:
    """Parameters of a model's MLflow run: equal whenever the fit is the same, as MLflow refuses to change them."""
    return flat_params({"model": to_plain(model), "training": to_plain(without_watching(recipe.training))})


@dataclass(frozen=True, slots=True)
class FitWatch:
    """The handle of a fit that is being watched."""

    channel: LiveChannel
    _label: str
    _logged: LiveRun

    def finish(self, curves: Sequence[Mapping[str, float]]) -> bytes:
        """The fit is done: complete its MLflow run. Args: curves: as FitReport's. Returns: the picture of them, PNG."""
        from quantfleet_jobs.plots import learning_png  # matplotlib takes its time

        picture = learning_png(self._label, curves)
        self._logged.finish(curves, {_PICTURE: picture})
        return picture


@contextlib.contextmanager
def watched_fit(config: ModelConfig, context: StageContext, fit: str) -> Iterator[FitWatch]:
    """While inside the block, show what the fit says and log it to its MLflow run, which the register stage goes on in.

    Args:
        fit: its name; the same again is the same MLflow run.
    """
    from quantfleet.cluster.dashboard import dashboard_link
    from quantfleet.training.live import live_reports
    from quantfleet_jobs.fit_view import FitView, metric_row

    recipe, progress, view = context.recipe, context.progress, FitView(config.label)
    link = dashboard_link()
    if link is not None:
        progress.note(f"{config.label}: {link}")
    run = FitRun(
        experiment=recipe.run.name,
        parent=recipe.run.name,
        parent_tags=parent_tags(recipe),
        name=config.label,
        fit=fit,
        params=fit_params(config, recipe),
        tags=fit_tags(config),
    )

    def show(report: LiveReport) -> None:
        (progress.update if view.take(report) else progress.live)(view.line())
        row = metric_row(report)
        if row is not None:
            logged.log(row[1], step=row[0])

    with (
        LiveRun(context.registry, run, sampler=lambda: SystemSampler().sample) as logged,
        live_reports(show, run=recipe.run.name, model=config.label) as channel,
    ):
        yield FitWatch(channel, config.label, logged)
