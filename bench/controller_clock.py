"""A callback in Ray Train's controller that notes when its process was made; imports little, for the controller imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
from ray.train import UserCallback

__all__ = ["ControllerClock"]


class ControllerClock(UserCallback):  # type: ignore[misc, unused-ignore]
    """Writes the moment into a file. Args: file: its path."""

    def __init__(self, file: str) -> None:
        self._file = file

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        path = Path(self._file)
        if not path.exists():
            path.write_text(str(psutil.Process().create_time()))
