"""A loop that Ray workers run to be watched; here, and not in a test file, because workers must import it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import ray.train

from quantfleet.training.meter import StepMeter
from quantfleet.training.prometheus import WorkerMetrics

__all__ = ["steps_until_scraped"]


def steps_until_scraped(config: dict[str, Any]) -> None:
    """Dies once before its first step; then makes steps until somebody has read the metrics."""
    folder, attempted = Path(config["folder"]), Path(config["folder"], "attempted")
    if not attempted.exists():
        attempted.touch()
        time.sleep(
            3
        )  # until the controller watches: who dies while a loop is being started is a failure of the controller
        os._exit(1)
    meter = StepMeter(exporter=WorkerMetrics(run="watched", model="tiny", rank=0))
    give_up_at = time.monotonic() + 90
    while not (folder / "scraped").exists() and time.monotonic() < give_up_at:
        meter.wait_began()
        time.sleep(0.01)
        meter.wait_ended()
        time.sleep(0.01)
        meter.step_ended(64)
        if meter.due(0.5):
            config["live"].send({**meter.snapshot(), "train_loss": 0.5})
    ray.train.report({**meter.snapshot(), "val_loss": 0.25})
