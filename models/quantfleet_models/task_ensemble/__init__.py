"""One network per task."""

from quantfleet_models.task_ensemble.config import TaskEnsembleConfig

__all__ = ["TaskEnsembleConfig"]
