"""Reports of trials: to Tune, which judges them by epochs, and to the terminal, as lines that say which trial is where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from quantfleet.training.loop import SCORE

__all__ = ["EpochReports", "TrialReports"]


class EpochReports(TuneReportCallback):  # type: ignore[misc, unused-ignore]
    """Runs in Ray Train's controller: hands on to Tune what was reported at the end of an epoch; a checkpoint in the middle of one
    has no validation loss to judge a trial by, and would count as an epoch.
    """

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if SCORE in metrics[0]:
            super().after_report(run_context, metrics, checkpoint)


class TrialReports(tune.Callback):  # type: ignore[misc, unused-ignore]
    """Runs in the driver; hands a line to the console for every report of a trial.

    Tune pickles its callbacks with the experiment, and a console cannot be pickled: where lines go is set on the class, for
    this process.
    """

    show: ClassVar[Callable[[str], None]] = staticmethod(lambda line: None)

    def __init__(self, trials: int) -> None:
        self._trials = trials
        self._numbers: dict[str, int] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = self._numbers.setdefault(trial.trial_id, len(self._numbers) + 1)
        epoch, loss = result["training_iteration"], result["val_loss"]
        type(self).show(f"trial {number} of {self._trials}, epoch {epoch}, validation loss {loss:.4f}")
