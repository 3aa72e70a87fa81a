"""MLflow's way in: `mlflow.pyfunc.load_model` imports this module; files are verified and nothing is unpickled."""

from __future__ import annotations

from pathlib import Path

from quantfleet.plugins import load_plugins
from quantfleet.registry.artifact import read_artifact
from quantfleet.serving.window_model import WindowModel
from quantfleet_jobs.recipe import BUILT_IN_PLUGINS

__all__ = ["WindowModel"]


def _load_pyfunc(path: str) -> WindowModel:
    """Called by MLflow in a process that has loaded no plugins."""
    load_plugins(BUILT_IN_PLUGINS)
    return WindowModel(read_artifact(Path(path), chunk_bars=1))
